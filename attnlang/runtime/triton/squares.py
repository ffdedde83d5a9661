"""Squares of 64 keys and 64 queries: what the gradients on Hopper GPUs are computed in, in plain integers.

The rows of nested lattices (or of one) are cut into blocks of 64 that lie in the same lattices: those of level a are in
the a + 1 finest and in no other, a residue class each. A square is a block of keys and a block of queries that meet,
and all its pairs count the same; only at the edges of a band some of them are masked. The pattern repeats itself after
the widest run (a *unit*), so squares are enumerated once for a unit and a phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from attnlang.plan import Band, Lattice, Plan
from attnlang.runtime.triton.nesting import Shape, chains, phases_of

Ints: TypeAlias = npt.NDArray[np.int64]
SQUARE, TILE = 64, 128


@dataclass(frozen=True, slots=True)
class Chain:
    """Nested lattices on some heads, the finest of which holds every row.

    phases   the residue class of each head, modulo the last dilation
    widths   of the runs; the last is the length of a unit
    rates    dilations, the first of which is 1
    band     of distances k - q in tokens
    """

    heads: tuple[int, ...]
    phases: tuple[int, ...]
    widths: tuple[int, ...]
    rates: tuple[int, ...]
    band: Band

    @property
    def unit(self) -> int:
        """Tokens after which the pattern repeats itself."""
        return self.widths[-1]

    @property
    def steps(self) -> tuple[int, ...]:
        """By level: tokens from one row of a class to the next."""
        return (*self.rates[1:], self.rates[-1])

    @property
    def matrices(self) -> tuple[int, ...]:
        """The rates of the matrices that rows are read from."""
        return tuple(dict.fromkeys(self.steps))


def chains_of(plan: Plan, shape: Shape, most_rates: int) -> tuple[Chain, ...] | None:
    """The lattices of a plan as chains; None if some tile would not be whole."""
    lattices = [branch for branch in plan.branches if isinstance(branch, Lattice)]
    nested = chains(lattices, Shape(shape.n, shape.heads, shape.kv_heads, TILE, SQUARE, squares=True))
    found = [_chain(chain, shape.n) for chain in nested]
    whole = [chain for chain in found if chain is not None and len(chain.matrices) <= most_rates]
    return tuple(whole) if len(whole) == len(found) else None


def _chain(chain: Sequence[Lattice], n: int) -> Chain | None:
    """A chain whose runs lie side by side from 0 to n, and whose classes have whole tiles in every run."""
    first = chain[0]
    widths = tuple(lattice.runs.width if lattice.runs else n for lattice in chain)
    starts = [lattice.runs.start % lattice.runs.period for lattice in chain if lattice.runs]
    apart = [lattice.runs.period - lattice.runs.width for lattice in chain if lattice.runs]
    rates = tuple(lattice.dilation for lattice in chain)
    if any(starts) or any(apart) or rates[0] != 1 or n % widths[-1]:
        return None
    if rates[-1] & (rates[-1] - 1) or widths[0] % (TILE * rates[-1]):
        return None
    return Chain(first.heads, tuple(phases_of(chain[-1])), widths, rates, first.band)


# squares of a unit ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of 64 rows of a unit, tile by tile: their level, first token, and tokens from row to row."""

    level: Ints
    token: Ints
    step: Ints

    @property
    def last(self) -> Ints:
        """Their last tokens."""
        return self.token + (SQUARE - 1) * self.step


def blocks(chain: Chain, phase: int) -> Blocks:
    """All blocks, run after run of the finest lattice, and in a run level after level."""
    level: list[int] = []
    token: list[int] = []
    for number, step in enumerate(chain.steps):
        last = number == len(chain.steps) - 1
        for shift in (0,) if last else range(chain.rates[number], step, chain.rates[number]):
            firsts = range((phase + shift) % step, chain.widths[0], step * SQUARE)
            level += [number] * len(firsts)
            token += firsts
    runs = np.arange(chain.unit // chain.widths[0])
    levels = np.tile(np.array(level, np.int64), len(runs))
    tokens = (runs[:, None] * chain.widths[0] + np.array(token, np.int64)).ravel()
    return Blocks(levels, tokens, np.array(chain.steps, np.int64)[levels])


@dataclass(frozen=True, slots=True)
class Squares:
    """Blocks of keys and of queries that meet, how often their pairs count, and whether all of them do."""

    key: Ints
    query: Ints
    times: Ints
    whole: npt.NDArray[np.bool_]


def squares(chain: Chain, made: Blocks) -> Squares:
    """All squares of a unit."""
    if len(chain.rates) == 1:
        key, query = _banded(chain, len(made.token))
        times = np.ones_like(key)
    else:
        key, query, times = _nested(chain, made)
    least, most = made.token[key] - made.last[query], made.last[key] - made.token[query]
    met, whole = np.ones(len(key), np.bool_), np.ones(len(key), np.bool_)
    if chain.band.lo is not None:
        met, whole = met & (most >= chain.band.lo), whole & (least >= chain.band.lo)
    if chain.band.hi is not None:
        met, whole = met & (least <= chain.band.hi), whole & (most <= chain.band.hi)
    return Squares(key[met], query[met], times[met], whole[met])


def _banded(chain: Chain, count: int) -> tuple[Ints, Ints]:
    """Blocks of consecutive rows, at distances that a band may hold."""
    key = np.arange(count)
    first, end = np.zeros_like(key), np.full_like(key, count)
    if chain.band.hi is not None:
        first = np.maximum((key * SQUARE - chain.band.hi) // SQUARE, 0)
    if chain.band.lo is not None:
        end = np.minimum((key * SQUARE + SQUARE - 1 - chain.band.lo) // SQUARE + 1, count)
    many = np.maximum(end - first, 0)
    ahead = np.repeat(np.cumsum(many) - many, many)
    return np.repeat(key, many), np.repeat(first, many) + np.arange(many.sum()) - ahead


def _nested(chain: Chain, made: Blocks) -> tuple[Ints, Ints, Ints]:
    """Blocks of one run of lattice p, and of different runs of the lattice before: 1 + min(a, b) - p times."""
    found: list[tuple[Ints, Ints, Ints]] = []
    for part, width in enumerate(chain.widths):
        members = np.flatnonzero(made.level >= part).reshape(chain.unit // width, -1)
        key, query = np.broadcast_arrays(members[:, :, None], members[:, None, :])
        if part:
            inner = made.token // chain.widths[part - 1]
            apart = inner[key] != inner[query]
            key, query = key[apart], query[apart]
        key, query = key.ravel(), query.ravel()
        found.append((key, query, 1 + np.minimum(made.level[key], made.level[query]) - part))
    key, query, times = (np.concatenate(column) for column in zip(*found, strict=True))
    return key, query, times


def count_squares(chain: Chain) -> int:
    """About how many squares a unit has, without enumerating them."""
    if len(chain.rates) > 1:
        return sum(
            chain.unit * width // (SQUARE * rate) ** 2 for width, rate in zip(chain.widths, chain.rates, strict=True)
        )
    lo, hi = chain.band.lo, chain.band.hi
    reach = chain.unit if lo is None or hi is None else min(chain.unit, max(hi - lo, 0) + 2 * SQUARE)
    return chain.unit * reach // SQUARE**2
