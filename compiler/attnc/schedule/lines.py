"""Rows of many pairs of ranks along two lines, one of queries and one of keys, cut into cells of equal rows.

Every pair of ranks, and on the line of queries every set of heads with pairs of its own, has a stretch of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.progressions import progressions_of
from attnlang.parallel.dense import numbers
from attnlang.plan import FULL, Band
from attnlang.rows import Rows

Array = NDArray[np.int64]
Words = NDArray[np.uint64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Strided:
    """Queries and keys in progressions, and which row i and column j of them are pairs, by j - i."""

    q: Rows
    k: Rows
    band: Band = FULL

    def keys_of(self) -> tuple[Array, Array]:
        """For each row of q the first of its keys, and one past the last, as places in k."""
        i = np.arange(self.q.count)
        low = np.zeros(len(i), np.int64) if self.band.lo is None else np.clip(i + self.band.lo, 0, self.k.count)
        high = np.full(len(i), self.k.count) if self.band.hi is None else np.clip(i + self.band.hi + 1, 0, self.k.count)
        return low, np.maximum(low, high)

    @property
    def distances(self) -> Band:
        """The band in rows, k - q; both sides have one step where it is not full."""
        step, moved = self.q.step if self.q.count > 1 else self.k.step, self.k.first - self.q.first
        return Band(*(None if end is None else moved + end * step for end in (self.band.lo, self.band.hi)))

    def turned(self) -> Strided:
        """The same with queries and keys exchanged."""
        lo, hi = (None if end is None else -end for end in (self.band.hi, self.band.lo))
        return Strided(self.k, self.q, Band(lo, hi))


@dataclass(frozen=True, eq=False, slots=True)
class Meeting:
    """Pairs of some heads between two ranks, in their local rows: rectangles (q0, q1, k0, k1), and strided ones."""

    heads: tuple[int, ...]
    boxes: Array
    strided: tuple[Strided, ...] = ()

    def turned(self) -> Meeting:
        """The same with queries and keys exchanged."""
        return Meeting(self.heads, self.boxes[:, [2, 3, 0, 1]], tuple(part.turned() for part in self.strided))


@dataclass(frozen=True, eq=False, slots=True)
class Line:
    """Rows as cells between cuts.

    edges     where cells begin, ascending; the last one ends the line
    words     a random word for each cell
    weights   rows of each cell, as often as they count
    stretches where the stretch of each (pair of ranks, heads) begins; by pair
    """

    edges: Array
    words: Words
    weights: Array
    stretches: tuple[tuple[int, ...], ...]

    def cell(self, rows: Array) -> Array:
        """The number of the cell that begins at a row."""
        return np.searchsorted(self.edges, rows)

    def cells(self, rows: Rows) -> Array:
        """The cells of rows of which each is one."""
        return np.searchsorted(self.edges, numbers(rows))

    def sums(self, other: Line, m: Meeting) -> Words:
        """The sum of the words of each cell's partners on the other line; `m` has this line's rows as queries."""
        before = np.concatenate((np.zeros(1, np.uint64), other.words.cumsum(dtype=np.uint64)))
        change = np.zeros(len(self.edges), np.uint64)
        q0, q1, k0, k1 = m.boxes.T
        held = before[other.cell(k1 + 1)] - before[other.cell(k0)]
        np.add.at(change, self.cell(q0), held)
        np.subtract.at(change, self.cell(q1 + 1), held)
        total = change.cumsum(dtype=np.uint64)[:-1]
        for part in m.strided:
            of_part = np.concatenate((np.zeros(1, np.uint64), other.words[other.cells(part.k)].cumsum(dtype=np.uint64)))
            low, high = part.keys_of()
            total[self.cells(part.q)] += of_part[high] - of_part[low]
        return total

    def rows(self, chosen: Flags) -> list[list[tuple[Rows, ...]]]:
        """Chosen cells as few progressions, by pair of ranks and heads, in rows of the stretch."""
        edge = np.flatnonzero(np.diff(np.concatenate(([False], chosen, [False]))))
        first, last = self.edges[edge[::2]], self.edges[edge[1::2]]
        starts = np.array([start for of_pair in self.stretches for start in of_pair], np.int64)
        bounds = np.append(np.searchsorted(first, starts), len(first)).tolist()
        found: list[tuple[Rows, ...]] = []
        for start, low, high in zip(starts.tolist(), bounds, bounds[1:], strict=False):
            ends = zip((first[low:high] - start).tolist(), (last[low:high] - start).tolist(), strict=True)
            found.append(_progressions(list(ends)) if low < high else ())
        parts = iter(found)
        return [[next(parts) for _ in of_pair] for of_pair in self.stretches]


def _progressions(spans: list[tuple[int, int]]) -> tuple[Rows, ...]:
    single = [low for low, high in spans if high == low + 1]
    return (*(Rows(low, high - low) for low, high in spans if high > low + 1), *progressions_of(single))


def rows_of(ends: Array) -> tuple[Rows, ...]:
    """Stretches (first, last) that have no row in common as few progressions."""
    if not len(ends):
        return ()
    first, last = ends[np.argsort(ends[:, 0], kind="stable")].T
    begins = np.concatenate(([True], first[1:] > last[:-1] + 1))
    until = last[np.concatenate((begins[1:], [True]))] + 1
    return _progressions(list(zip(first[begins].tolist(), until.tolist(), strict=True)))


def joined(jobs: Sequence[Sequence[Meeting]]) -> tuple[Line, Line, Meeting]:
    """The lines of queries and of keys of many jobs, and all their pairs on these lines."""
    boxes: list[Array] = []
    strided: list[Strided] = []
    q_starts: list[tuple[int, ...]] = []
    k_starts: list[tuple[int, ...]] = []
    times: list[int] = []
    q_base = k_base = 0
    for job in jobs:
        starts: list[int] = []
        wide = 0
        for m in job:
            starts.append(q_base)
            times.append(len(m.heads))
            boxes.append(m.boxes + np.array([q_base, q_base, k_base, k_base]))
            strided += [Strided(p.q.moved(q_base), p.k.moved(k_base), p.band) for p in m.strided]
            tall, wide = _beyond(m, 0), max(wide, _beyond(m, 1))
            q_base += tall + 1
        q_starts.append(tuple(starts))
        k_starts.append((k_base,))
        k_base += wide + 1
    m = Meeting((), np.concatenate(boxes), tuple(strided))
    q_edges, k_edges = distinct(_cuts(m, 0)), distinct(_cuts(m, 1))
    of = np.searchsorted(np.array([start for starts in q_starts for start in starts]), q_edges[:-1], side="right") - 1
    q_weights = np.diff(q_edges) * np.array(times, np.int64)[of]
    lines = (
        Line(edges, _words(len(edges) - 1, seed), weights, tuple(starts))
        for seed, edges, weights, starts in (
            (0, q_edges, q_weights, q_starts),
            (1, k_edges, np.diff(k_edges), k_starts),
        )
    )
    q_line, k_line = lines
    return q_line, k_line, m


def distinct(numbers: Array) -> Array:
    """Each once, ascending. (By sorting: numpy's `unique` hashes, which takes ten times as long for millions.)"""
    ordered = np.sort(numbers)
    return ordered[np.concatenate((np.ones(min(1, len(ordered)), bool), ordered[1:] != ordered[:-1]))]


def _words(count: int, seed: int) -> Words:
    return np.random.Generator(np.random.PCG64(seed)).integers(2**64, size=count, dtype=np.uint64)


def _beyond(m: Meeting, side: int) -> int:
    """One more than the last row of a side."""
    strided = [(part.k if side else part.q).last for part in m.strided]
    return 1 + max(int(m.boxes[:, 2 * side + 1].max(initial=-1)), *strided, -1)


def _cuts(m: Meeting, side: int) -> Array:
    """Where the rows of one side are cut: at the ends of rectangles, and at every row of what is strided."""
    first, last = m.boxes[:, 2 * side], m.boxes[:, 2 * side + 1]
    every = [np.arange(rows.first, rows.last + 2) for part in m.strided for rows in [part.k if side else part.q]]
    return np.concatenate([first, last + 1, *every])
