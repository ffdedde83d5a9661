"""What two ranks see of a branch of each other, in a few numbers: where these are equal, their pairs are, row for row.

Two ranks whose shards begin at other places of the pattern's period still meet alike where that place does not matter:
where a band is open between them, only residues count; where a run covers both, or ends within one, only that end does.
So of lattices whose shards are no multiples of their periods few meetings are solved, and not every one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from attnlang.plan import Band, Columns, Lattice
from attnlang.schedule import Placement

Array = NDArray[np.int64]
Flags = NDArray[np.bool_]
Numbers = list[NDArray[Any]]


class Seen:
    """Groups of meetings that are alike, on a placement of stretches."""

    def __init__(self, branches: Sequence[Lattice | Columns], placement: Placement) -> None:
        self.branches = branches
        most = max(map(len, placement.chunks), default=0)
        sizes = [[chunk.count for chunk in chunks] + [0] * (most - len(chunks)) for chunks in placement.chunks]
        firsts = [[chunk.first for chunk in chunks] + [0] * (most - len(chunks)) for chunks in placement.chunks]
        counts = np.array(sizes, np.int64).reshape(-1, most)
        self.first = np.array(firsts, np.int64).reshape(-1, most)
        self.last = self.first + counts - 1
        self.base = np.cumsum(counts, 1) - counts

    def groups(self, a: Array, b: Array) -> Iterator[tuple[Any, Array]]:
        """(key, places) of the meetings of ranks a[i] and b[i] that are alike; none of those that have no pairs."""
        columns = np.stack([column for part in self._parts(a, b) for column in part])
        some = np.flatnonzero((columns != 0).any(0))
        for first, places in _alike(columns[:, some]):
            yield tuple(columns[:, some[first]].tolist()), some[places]

    def _parts(self, a: Array, b: Array) -> Iterator[list[Array]]:
        """The numbers of each branch between two chunks; all are 0 where it has no pairs there."""
        for i in range(self.first.shape[1]):
            for j in range(self.first.shape[1]):
                q0, q1, k0, k1 = self.first[a, i], self.last[a, i], self.first[b, j], self.last[b, j]
                for branch in self.branches:
                    match branch:
                        case Lattice():
                            live, numbers = _of_lattice(branch, q0, q1, k0, k1)
                        case Columns():
                            live, numbers = _of_columns(branch, q0, q1, k0, k1)
                        case _:
                            assert_never(branch)
                    live &= (q0 <= q1) & (k0 <= k1)
                    numbers += [self.base[a, i], self.base[b, j]] if i or j else []
                    yield [live.astype(np.int64), *(np.where(live, number, 0) for number in numbers)]


@dataclass(frozen=True, eq=False, slots=True)
class Within:
    """What pairs of stretches have of the one run of a lattice that may touch both: queries and keys low..high.

    live   whether there may be pairs
    cut    whether the band holds some of them back
    origin where the run begins
    """

    live: Flags
    cut: Flags
    origin: Array
    low_q: Array
    high_q: Array
    low_k: Array
    high_k: Array

    @staticmethod
    def of(branch: Lattice, q0: Array, q1: Array, k0: Array, k1: Array) -> Within:
        """Of the queries q0..q1 and the keys k0..k1, which have no token in common."""
        live, origin = np.ones(len(q0), bool), np.zeros(len(q0), np.int64)
        low_q, high_q, low_k, high_k = q0, q1, k0, k1
        if branch.runs is not None:
            runs, ahead = branch.runs, k0 > q1
            near, far = np.where(ahead, q1, k1), np.where(ahead, k0, q0)  # a run that touches both holds all between
            origin = runs.start + (near - runs.start) // runs.period * runs.period
            end = origin + runs.width - 1
            live = far <= end
            low_q, high_q, low_k, high_k = (
                np.maximum(q0, origin), np.minimum(q1, end), np.maximum(k0, origin), np.minimum(k1, end)
            )  # fmt: skip
        held, cut = _met(branch.band, low_k - high_q, high_k - low_q)
        return Within(live & held, cut, origin, low_q, high_q, low_k, high_k)


def _of_lattice(branch: Lattice, q0: Array, q1: Array, k0: Array, k1: Array) -> tuple[Flags, Numbers]:
    """Which stretches may have pairs, and their rows in the one run that may touch both; what of residues counts."""
    at = Within.of(branch, q0, q1, k0, k1)
    apart = at.low_k - at.low_q
    numbers: Numbers = [
        at.low_q - q0,
        at.high_q - q0,
        at.low_k - k0,
        at.high_k - k0,
        np.where(at.cut, apart, apart % branch.dilation),
        at.cut,
    ]
    if branch.phases is not None:
        numbers += [(at.low_q - at.origin) % branch.dilation]
    return at.live, numbers


def _of_columns(branch: Columns, q0: Array, q1: Array, k0: Array, k1: Array) -> tuple[Flags, Numbers]:
    p = branch.period
    held, cut = _met(branch.band, k0 // p - q1 // p, k1 // p - q0 // p)
    return held, [q1 - q0, k1 - k0, k0 % p, np.where(cut, k0 - q0, 0), cut]


def _met(band: Band, least: Array, most: Array) -> tuple[Flags, Flags]:
    """Where some of the distances least..most are in a band, and where some are not."""
    held, cut = np.ones(len(least), bool), np.zeros(len(least), bool)
    if band.lo is not None:
        held, cut = held & (most >= band.lo), cut | (least < band.lo)
    if band.hi is not None:
        held, cut = held & (least <= band.hi), cut | (most > band.hi)
    return held, cut


def _alike(columns: Array) -> Iterator[tuple[int, Array]]:
    """The first of each set of equal columns, and where they all stand."""
    if not columns.shape[1]:
        return
    if (columns == columns[:, :1]).all():
        yield 0, np.arange(columns.shape[1])
        return
    _, first, of = np.unique(_mixed(columns), return_index=True, return_inverse=True)
    if (columns != columns[:, first[of]]).any():  # two that differ were mixed to one number
        _, first, of = np.unique(columns, axis=1, return_index=True, return_inverse=True)
    order = np.argsort(of, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(of))[:-1])
    for number in np.argsort(first).tolist():
        yield int(first[number]), groups[number]


def _mixed(columns: Array) -> NDArray[np.uint64]:
    """A number for each column; of columns that differ, most likely another."""
    mixed = np.zeros(columns.shape[1], np.uint64)
    for row in columns:
        mixed = (mixed ^ row.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed
