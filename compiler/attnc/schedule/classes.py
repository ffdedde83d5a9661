"""Row classes of what two ranks have to do with each other, and the cheapest rows that cover it.

Rows of either rank are cut where any rectangle begins or ends; between two cuts all rows have the same partners. A cell
of rows carries the sum of its partners' random words, so equal sums are equal partners, and cells of equal partners are
one node of the graph whose least cover is sought (`attnc.schedule.flows`). That what is chosen covers every pair is
checked, cell by cell: minimality rests on 64-bit words, correctness on nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.flows import least_cover_of_graph
from attnc.schedule.progressions import progressions_of
from attnlang.parallel.dense import numbers
from attnlang.plan import FULL, Band
from attnlang.rows import Rows

Array = NDArray[np.int64]
Words = NDArray[np.uint64]
Flags = NDArray[np.bool_]

MAX_EDGES = 2**23
"""Edges between row classes of two ranks that are weighed; beyond, all rows of the cheaper side move."""


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


@dataclass(frozen=True, eq=False, slots=True)
class Chosen:
    """Rows that cover all pairs; the weight of the cover, and what none can undercut. Queries are of (head, rows)."""

    keys: tuple[Rows, ...]
    queries: tuple[tuple[tuple[int, ...], tuple[Rows, ...]], ...]
    weight: int
    bound: int


@dataclass(slots=True)
class _Line:
    """One side's rows as cells between cuts, with a word for each."""

    edges: Array
    words: Words

    @staticmethod
    def of(cuts: Sequence[Array], seed: int) -> _Line:
        edges = np.unique(np.concatenate(cuts))
        cells = max(len(edges) - 1, 0)
        return _Line(edges, np.random.Generator(np.random.PCG64(seed)).integers(2**64, size=cells, dtype=np.uint64))

    def cell(self, rows: Array) -> Array:
        return np.searchsorted(self.edges, rows)

    @property
    def lengths(self) -> Array:
        return np.diff(self.edges)

    def rows(self, chosen: Flags) -> tuple[Rows, ...]:
        """Chosen cells as few progressions."""
        edge = np.flatnonzero(np.diff(np.concatenate(([False], chosen, [False]))))
        first, last = self.edges[edge[::2]], self.edges[edge[1::2]]
        single = last == first + 1
        spans = [Rows(low, high - low) for low, high in zip(first[~single].tolist(), last[~single].tolist(), strict=True)]
        return (*spans, *progressions_of(first[single]))


def every_key(meetings: Sequence[Meeting]) -> tuple[Rows, ...]:
    """All keys that have a pair."""
    line = _Line.of([_cuts(m, 1) for m in meetings], 0)
    held = np.zeros(len(line.edges), np.int64)
    for m in meetings:
        np.add.at(held, line.cell(m.boxes[:, 2]), 1)
        np.subtract.at(held, line.cell(m.boxes[:, 3] + 1), 1)
    used = held.cumsum()[:-1] > 0
    for m in meetings:
        for part in m.strided:
            used[line.cell(numbers(part.k))] = True
    return line.rows(used)


def least_cover(meetings: Sequence[Meeting], query_weight: int, key_weight: int) -> Chosen:
    """The cover of all pairs of heads that share one head of k; weights are bytes a row."""
    k_line = _Line.of([_cuts(m, 1) for m in meetings], 0)
    q_lines = [_Line.of([_cuts(m, 0)], 1 + number) for number, m in enumerate(meetings)]
    bases = np.cumsum([0, *(len(line.words) for line in q_lines)])
    q_sums, k_sum = [], np.zeros(len(k_line.words), np.uint64)
    for line, m in zip(q_lines, meetings, strict=True):
        q_sums.append(_sums(line, k_line, m))
        k_sum += _sums(k_line, line, _turned(m))
    q_sum = np.concatenate(q_sums)
    q_class, q_first = _classes(q_sum)
    k_class, k_first = _classes(k_sum)
    lengths = np.concatenate([len(m.heads) * line.lengths for line, m in zip(q_lines, meetings, strict=True)])
    q_weights, k_weights = (
        np.bincount(of[of >= 0], size[of >= 0], minlength=len(first)).astype(np.int64) * weight
        for of, size, first, weight in (
            (q_class, lengths, q_first, query_weight),
            (k_class, k_line.lengths, k_first, key_weight),
        )
    )
    edges = [
        _edges(line, k_line, m, q_first[(q_first >= base) & (q_first < base + len(line.words))] - base, k_first, base)
        for line, m, base in zip(q_lines, meetings, bases, strict=False)
    ]
    if any(found is None for found in edges):
        bound = max(_alone(m, query_weight, key_weight) for m in meetings)
        return _one_side(q_lines, k_line, meetings, (q_class, k_class), (q_weights, k_weights), bound)
    q_cells, k_cells = (np.concatenate([found[i] for found in edges if found is not None]) for i in (0, 1))
    names = np.unique(q_class[q_cells] * len(k_first) + k_class[k_cells])
    q_of, k_of = np.divmod(names, max(len(k_first), 1))
    queries, keys, weight = least_cover_of_graph(q_weights, k_weights, q_of, k_of)
    chosen_q, chosen_k = np.append(queries, False)[q_class], np.append(keys, False)[k_class]
    by_head = [chosen_q[base : base + len(line.words)] for line, base in zip(q_lines, bases, strict=False)]
    for line, m, mine in zip(q_lines, meetings, by_head, strict=True):
        _check(line, k_line, m, mine, chosen_k)
    return _chosen(q_lines, k_line, meetings, by_head, chosen_k, weight, weight)


def _chosen(
    q_lines: Sequence[_Line], k_line: _Line, meetings: Sequence[Meeting], by_head: Sequence[Flags], keys: Flags,
    weight: int, bound: int,
) -> Chosen:  # fmt: skip
    queries = [
        (m.heads, line.rows(mine)) for line, m, mine in zip(q_lines, meetings, by_head, strict=True) if mine.any()
    ]
    return Chosen(k_line.rows(keys), tuple(queries), weight, bound)


def _one_side(
    q_lines: Sequence[_Line], k_line: _Line, meetings: Sequence[Meeting], classes: tuple[Array, Array],
    weights: tuple[Array, Array], bound: int,
) -> Chosen:  # fmt: skip
    """Too many edges to weigh: all rows of the cheaper side. The bound is that of the largest rectangle alone."""
    (q_class, k_class), (of_q, of_k) = classes, (int(part.sum()) for part in weights)
    bases = np.cumsum([0, *(len(line.words) for line in q_lines)])
    by_head = [
        (q_class[base : base + len(line.words)] >= 0) & (of_q < of_k)
        for line, base in zip(q_lines, bases, strict=False)
    ]
    keys = (k_class >= 0) & (of_q >= of_k)
    return _chosen(q_lines, k_line, meetings, by_head, keys, min(of_q, of_k), bound)


def _alone(m: Meeting, query_weight: int, key_weight: int) -> int:
    """What the largest rectangle needs by itself."""
    q0, q1, k0, k1 = m.boxes.T
    needs = np.minimum((q1 - q0 + 1) * query_weight * len(m.heads), (k1 - k0 + 1) * key_weight)
    full = [part for part in m.strided if part.band == FULL]
    strided = [min(p.q.count * query_weight * len(m.heads), p.k.count * key_weight) for p in full]
    return max(int(needs.max(initial=0)), *strided, 0)


def _turned(m: Meeting) -> Meeting:
    return Meeting(m.heads, m.boxes[:, [2, 3, 0, 1]], tuple(part.turned() for part in m.strided))


def _cuts(m: Meeting, side: int) -> Array:
    """Where the rows of one side are cut: at the ends of rectangles, and at every row of what is strided."""
    first, last = m.boxes[:, 2 * side], m.boxes[:, 2 * side + 1]
    every = [np.arange(rows.first, rows.last + 2) for part in m.strided for rows in [part.k if side else part.q]]
    return np.concatenate([first, last + 1, *every])


def _sums(mine: _Line, other: _Line, m: Meeting) -> Words:
    """The sum of the words of each cell's partners. Queries stand in `q`, here too where `mine` is of keys."""
    before = np.concatenate((np.zeros(1, np.uint64), other.words.cumsum(dtype=np.uint64)))
    change = np.zeros(len(mine.edges), np.uint64)
    q0, q1, k0, k1 = m.boxes.T
    held = before[other.cell(k1 + 1)] - before[other.cell(k0)]
    np.add.at(change, mine.cell(q0), held)
    np.subtract.at(change, mine.cell(q1 + 1), held)
    total = change.cumsum(dtype=np.uint64)[:-1]
    for part in m.strided:
        words = other.words[other.cell(numbers(part.k))]
        of_part = np.concatenate((np.zeros(1, np.uint64), words.cumsum(dtype=np.uint64)))
        low, high = part.keys_of()
        total[mine.cell(numbers(part.q))] += of_part[high] - of_part[low]
    return total


def _classes(sums: Words) -> tuple[Array, Array]:
    """The class of each cell, -1 without partners; and the first cell of each class."""
    _, first, of = np.unique(sums, return_index=True, return_inverse=True)
    order = np.argsort(first)
    name = np.empty(len(first), np.int64)
    name[order] = np.arange(len(first))
    of, first = name[of], first[order]
    empty = np.flatnonzero(sums[first] == 0)
    if len(empty):
        of = np.where(of == empty[0], -1, of - (of > empty[0]))
        first = np.delete(first, empty[0])
    return of, first


def _edges(q_line: _Line, k_line: _Line, m: Meeting, q_first: Array, k_first: Array, base: int) -> tuple[Array, Array] | None:
    """Cells of q and of k that meet, of those that stand for their class; None where there are too many."""
    q0, q1, k0, k1 = m.boxes.T
    low_q, high_q = (np.searchsorted(q_first, q_line.cell(rows)) for rows in (q0, q1 + 1))
    low_k, high_k = (np.searchsorted(k_first, k_line.cell(rows)) for rows in (k0, k1 + 1))
    parts = [_product(low_q, high_q, low_k, high_k)]
    for part in m.strided:
        of_q, of_k = q_line.cell(numbers(part.q)), k_line.cell(numbers(part.k))
        (rows, at), (columns, place) = (
            np.intersect1d(of, first, return_indices=True)[1:] for of, first in ((of_q, q_first), (of_k, k_first))
        )
        low, high = part.keys_of()
        low, high = (np.searchsorted(columns, end[rows]) for end in (low, high))
        found = _product(np.arange(len(rows)), np.arange(len(rows)) + 1, low, high)
        parts.append(None if found is None else (at[found[0]], place[found[1]]))
    if any(found is None for found in parts):
        return None
    q, k = (np.concatenate([found[i] for found in parts if found is not None]) for i in (0, 1))
    return q_first[q] + base, k_first[k]


def _product(low_q: Array, high_q: Array, low_k: Array, high_k: Array) -> tuple[Array, Array] | None:
    """Every place low_q..high_q - 1 with every place low_k..high_k - 1, of each rectangle."""
    tall, wide = high_q - low_q, high_k - low_k
    sizes = np.where((tall > 0) & (wide > 0), tall * wide, 0)
    total = int(sizes.sum())
    if total > MAX_EDGES:
        return None
    of = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    row, column = np.divmod(place, np.maximum(wide[of], 1))
    return low_q[of] + row, low_k[of] + column


def _check(q_line: _Line, k_line: _Line, m: Meeting, queries: Flags, keys: Flags) -> None:
    """Every pair has one of its rows among the chosen."""
    open_q, open_k = (np.concatenate(([0], np.cumsum(~chosen))) for chosen in (queries, keys))
    q0, q1, k0, k1 = m.boxes.T
    of_q = open_q[q_line.cell(q1 + 1)] - open_q[q_line.cell(q0)]
    of_k = open_k[k_line.cell(k1 + 1)] - open_k[k_line.cell(k0)]
    good = not ((of_q > 0) & (of_k > 0)).any()
    for part in m.strided:
        before = np.concatenate(([0], np.cumsum(~keys[k_line.cell(numbers(part.k))])))
        low, high = part.keys_of()
        good &= not ((before[high] > before[low]) & ~queries[q_line.cell(numbers(part.q))]).any()
    if not good:
        raise AssertionError("a cover leaves out pairs: two row classes were taken for one")
