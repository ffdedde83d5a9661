"""Lattices that lie in one another, as LongNet's do: found here, computed pair by pair once in `streams.outer`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from attnlang.plan import FULL, Band, Lattice

CAUSAL = Band(None, 0)
MOST_PARTS = 6
"""How many nested lattices one launch can hold."""
TILE = 64
"""Rows that are masked together: of a consumer, of a program of the kernel for all GPUs."""
CARRIED = 330
"""Keys that take as long as a row's results there and back: 512 bytes at 3 TB/s, 4 D operations at 500 TFLOP/s each."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What launches are made for: length, heads of q and of k and v, rows of a tile on each side.

    nest     whether nested lattices become one launch
    squares  whether work is cut into squares, each level's at its own step: then nesting costs no masked pairs
    joined   whether columns and lists share launches with a lattice on the same heads
    """

    n: int
    heads: int
    kv_heads: int
    fixed: int
    streamed: int
    nest: bool = True
    squares: bool = False
    joined: bool = True

    @property
    def group(self) -> int:
        """How many heads of q share a head of k and v."""
        return self.heads // self.kv_heads


def chains(lattices: Sequence[Lattice], shape: Shape) -> Iterator[tuple[Lattice, ...]]:
    """Nested lattices together, each chain as long as it can be; every other lattice by itself."""
    rest = sorted(lattices, key=lambda lattice: (lattice.runs.width if lattice.runs else shape.n, lattice.dilation))
    while rest:
        chain = [rest.pop(0)]
        for lattice in list(rest):
            if shape.nest and len(chain) < MOST_PARTS and _nests([*chain, lattice], shape):
                chain.append(lattice)
                rest.remove(lattice)
        yield tuple(chain)


def _nests(chain: Sequence[Lattice], shape: Shape) -> bool:
    """Whether these lattices are one in another, and tiles fit their runs: see `outer` and `weights` in `streams`."""
    first, last = chain[0], chain[-1]
    if any(lattice.heads != first.heads or lattice.band != first.band for lattice in chain):
        return False
    if first.band not in (FULL, CAUSAL) or any(not _segments(lattice) for lattice in chain):
        return False
    residues = last.dilation
    if width_of(first) % residues or width_of(first) // residues < shape.fixed or shape.streamed % residues:
        return False
    if first.band == CAUSAL and not shape.squares and not _pays(chain, shape):
        return False
    return all(_inside(fine, coarse, shape) for fine, coarse in pairwise(chain))


def _pays(chain: Sequence[Lattice], shape: Shape) -> bool:
    """Whether causal lattices are sooner done together, by keys that a query meets, on average.

    Together, the rows of a tile are as far apart as those of the coarsest lattice, and half of what a tile spans beyond
    the diagonal is masked. One by one, a query meets the keys of inner runs again in every lattice that it is in, and
    results are carried from one to the next.
    """
    spanned = min(shape.fixed, TILE) * chain[-1].dilation / 2
    again = sum((width_of(fine) / coarse.dilation / 2 + CARRIED) / coarse.dilation for fine, coarse in pairwise(chain))
    return spanned <= again


def _segments(lattice: Lattice) -> bool:
    runs = lattice.runs
    return runs is not None and runs.width == runs.period and runs.start == 0


def width_of(lattice: Lattice) -> int:
    """The width of the runs of a lattice that has some."""
    assert lattice.runs is not None
    return lattice.runs.width


def _inside(fine: Lattice, coarse: Lattice, shape: Shape) -> bool:
    """Whether the runs of one make up those of the other, and its residue class holds the other's, for every head."""
    if width_of(coarse) % width_of(fine) or coarse.dilation % fine.dilation or coarse.dilation == fine.dilation:
        return False
    if width_of(fine) // coarse.dilation % shape.streamed or coarse.phases is None:  # (each class is many lattices)
        return False
    phases = zip(phases_of(fine), phases_of(coarse), strict=True)
    return (fine.dilation == 1 or fine.phases is not None) and all(b % fine.dilation == a for a, b in phases)


def phases_of(lattice: Lattice) -> tuple[int, ...]:
    """The residue class of each head; 0 where each class is by itself."""
    return lattice.phases or (0,) * len(lattice.heads)
