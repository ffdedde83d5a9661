"""Row classes of what ranks have to do with each other, and the cheapest rows that cover it.

Rows of either side are cut where any rectangle begins or ends; between two cuts all rows have the same partners. A cell
of rows carries the sum of its partners' random words, so equal sums are equal partners, and cells of equal partners are
one node of the graph whose least cover is sought (`attnc.schedule.flows`). That what is chosen covers every pair is
checked, cell by cell: minimality rests on 64-bit words, correctness on nothing.

Many pairs of ranks are covered at once, each with rows of its own along one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.covers import cover_of_items
from attnc.schedule.flows import least_cover_of_boxes, least_cover_of_graph
from attnc.schedule.lines import Array, Flags, Line, Meeting, Strided, distinct, joined, rows_of
from attnc.schedule.progressions import tidied
from attnc.schedule.shares import one_sided
from attnlang.plan import FULL, Band
from attnlang.rows import Rows

MAX_EDGES = 2**22
"""Edges between row classes weighed at once; with more, of two ranks alone, rectangles are nodes as well."""
MAX_THROUGH = 2**22
"""Row classes of all such rectangles; with more, the rows of the cheaper side move."""
BATCH = 2**18
"""Rectangles that are covered at once."""
MANY_ROWS = 1024
"""From so many rows in bands, blocks are tried before cells."""
MANY_BOXES = 2**12
"""From so many rectangles it is looked whether they have any row in common at all."""
FEW_ITEMS = 192
"""Up to so many rectangles and bands."""

Job = tuple[Meeting, ...]
"""The pairs between two ranks of heads that share one head of k, by heads that have equal ones."""


@dataclass(frozen=True, eq=False, slots=True)
class Chosen:
    """Rows that cover all pairs; the weight of the cover, and what none can undercut.

    Queries are of (heads, their rows).
    """

    keys: tuple[Rows, ...]
    queries: tuple[tuple[tuple[int, ...], tuple[Rows, ...]], ...]
    weight: int
    bound: int


def least_covers(jobs: Sequence[Job], query_weight: int, key_weight: int) -> list[Chosen]:
    """The least cover of each job; weights are bytes a row.

    Few bands of many rows are weighed as blocks first (`attnc.schedule.covers`), which is exact for most of them.
    """
    found = [_apart(job, query_weight, key_weight) or _by_blocks(job, query_weight, key_weight) for job in jobs]
    rest = [number for number, chosen in enumerate(found) if chosen is None or chosen.weight > chosen.bound]
    for number, chosen in zip(
        rest, _by_cells([jobs[number] for number in rest], query_weight, key_weight), strict=True
    ):
        blocks = found[number]
        if blocks is None:
            found[number] = chosen
        else:
            best = min(blocks, chosen, key=lambda cover: cover.weight)
            found[number] = replace(best, bound=max(blocks.bound, chosen.bound))
    return [chosen for chosen in found if chosen is not None]


def _apart(job: Job, query_weight: int, key_weight: int) -> Chosen | None:
    """Of many rectangles that have no row in common: of each the cheaper side."""
    (m, *others) = job
    if others or m.strided or len(m.boxes) < MANY_BOXES:
        return None
    q, k = (m.boxes[np.argsort(m.boxes[:, 2 * side], kind="stable")][:, 2 * side : 2 * side + 2] for side in (0, 1))
    if any((side[1:, 0] <= side[:-1, 1]).any() for side in (q, k)):
        return None
    q0, q1, k0, k1 = m.boxes.T
    of_q, of_k = (q1 - q0 + 1) * query_weight * len(m.heads), (k1 - k0 + 1) * key_weight
    by_query = of_q < of_k
    keys, queries = rows_of(m.boxes[~by_query, 2:]), rows_of(m.boxes[by_query, :2])
    weight = int(np.minimum(of_q, of_k).sum())
    return Chosen(keys, ((m.heads, queries),) if queries else (), weight, weight)


def _by_blocks(job: Job, query_weight: int, key_weight: int) -> Chosen | None:
    rows = sum(part.q.count for m in job for part in m.strided)
    if rows < MANY_ROWS or sum(len(m.heads) * (len(m.boxes) + len(m.strided)) for m in job) > FEW_ITEMS:
        return None
    items = [
        (head, q, k, band)
        for m in job
        for q, k, band in (*_rectangles(m), *((part.q, part.k, part.distances) for part in m.strided))
        for head in m.heads
    ]
    cover = cover_of_items(items, query_weight, key_weight)
    queries: dict[int, list[Rows]] = {}
    for head, part in tidied(cover.queries):
        queries.setdefault(head, []).append(part)
    keys = tuple(part for _, part in tidied(cover.keys))
    shipped = tuple(((head,), tuple(parts)) for head, parts in queries.items())
    return Chosen(keys, shipped, cover.weight, cover.bound)


def _rectangles(m: Meeting) -> Iterator[tuple[Rows, Rows, Band]]:
    for q0, q1, k0, k1 in m.boxes.tolist():
        yield Rows(q0, q1 - q0 + 1), Rows(k0, k1 - k0 + 1), FULL


def _by_cells(jobs: Sequence[Job], query_weight: int, key_weight: int) -> list[Chosen]:
    """Those of which one side is a least cover by itself first, without a graph; then the others, many at once."""
    sides = one_sided(jobs, query_weight, key_weight)
    rest = iter(_by_graph([job for job, side in zip(jobs, sides, strict=True) if not side], query_weight, key_weight))
    whole = iter(
        _whole_sides([(job, side) for job, side in zip(jobs, sides, strict=True) if side], query_weight, key_weight)
    )
    return [next(whole if side else rest) for side in sides]


def _whole_sides(jobs: Sequence[tuple[Job, str]], query_weight: int, key_weight: int) -> list[Chosen]:
    """Every row of one side that has a partner."""
    if not jobs:
        return []
    q_line, k_line, m = joined([job for job, _ in jobs])
    q_of, k_of = q_line.sums(k_line, m) != 0, k_line.sums(q_line, m.turned()) != 0
    q_starts, k_starts = (np.array([of_pair[0] for of_pair in line.stretches]) for line in (q_line, k_line))
    by_query = np.array([side == "queries" for _, side in jobs])
    q_of &= by_query[np.searchsorted(q_starts, q_line.edges[:-1], side="right") - 1]
    k_of &= ~by_query[np.searchsorted(k_starts, k_line.edges[:-1], side="right") - 1]
    _check(q_line, k_line, m, q_of, k_of)
    return _chosen([job for job, _ in jobs], q_line, k_line, q_of, k_of, (query_weight, key_weight), None)


def _by_graph(jobs: Sequence[Job], query_weight: int, key_weight: int) -> list[Chosen]:
    found: list[Chosen] = []
    start = size = 0
    for end, job in enumerate(jobs, 1):
        size += sum(len(m.boxes) + sum(part.q.count for part in m.strided) for m in job)
        if size > BATCH or end == len(jobs):
            found += _covers(jobs[start:end], query_weight, key_weight)
            start, size = end, 0
    return found


def every_key(jobs: Sequence[Job]) -> list[tuple[Rows, ...]]:
    """All keys that have a pair, of each job."""
    if not jobs:
        return []
    q_line, k_line, m = joined(jobs)
    sums = k_line.sums(q_line, m.turned())
    return [parts[0] for parts in k_line.rows(sums != 0)]


@dataclass(frozen=True, eq=False, slots=True)
class _Classes:
    """The class of each cell of a line, -1 where it has no partner; the first cell of each class, and its rows."""

    of: Array
    first: Array
    rows: Array

    @staticmethod
    def among(line: Line, sums: NDArray[np.uint64]) -> _Classes:
        _, first, of = np.unique(sums, return_index=True, return_inverse=True)
        order = np.argsort(first)
        name = np.empty(len(first), np.int64)
        name[order] = np.arange(len(first))
        of, first = name[of], first[order]
        empty = np.flatnonzero(sums[first] == 0)
        if len(empty):
            of = np.where(of == empty[0], -1, of - (of > empty[0]))
            first = np.delete(first, empty[0])
        some = of >= 0
        rows = np.bincount(of[some], line.weights[some], minlength=len(first))
        return _Classes(of, first, rows.astype(np.int64))


def _covers(jobs: Sequence[Job], query_weight: int, key_weight: int) -> list[Chosen]:
    q_line, k_line, m = joined(jobs)
    q, k = _Classes.among(q_line, q_line.sums(k_line, m)), _Classes.among(k_line, k_line.sums(q_line, m.turned()))
    edges = _edges(q_line, k_line, m, q.first, k.first)
    if edges is None and len(jobs) > 1:
        half = len(jobs) // 2
        return [c for part in (jobs[:half], jobs[half:]) for c in _covers(part, query_weight, key_weight)]
    by_box = _by_box(jobs[0], q_line, k_line, m, q, k, query_weight, key_weight) if edges is None else None
    if by_box is not None:
        chosen_q, chosen_k = np.append(by_box[0], False)[q.of], np.append(by_box[1], False)[k.of]
        bound = None
    elif edges is None:
        of_q, of_k = int(q.rows.sum()) * query_weight, int(k.rows.sum()) * key_weight
        chosen_q, chosen_k = (q.of >= 0) & (of_q < of_k), (k.of >= 0) & (of_q >= of_k)
        bound = max(_alone(part, query_weight, key_weight) for part in jobs[0])
    else:
        names = distinct(q.of[edges[0]] * max(len(k.first), 1) + k.of[edges[1]])
        q_of, k_of = np.divmod(names, max(len(k.first), 1))
        queries, keys = least_cover_of_graph(q.rows * query_weight, k.rows * key_weight, q_of, k_of)
        chosen_q, chosen_k = np.append(queries, False)[q.of], np.append(keys, False)[k.of]
        bound = None
    _check(q_line, k_line, m, chosen_q, chosen_k)
    return _chosen(jobs, q_line, k_line, chosen_q, chosen_k, (query_weight, key_weight), bound)


def _chosen(
    jobs: Sequence[Job], q_line: Line, k_line: Line, queries: Flags, keys: Flags, weights: tuple[int, int],
    bound: int | None,
) -> list[Chosen]:  # fmt: skip
    """What was chosen of each job. Without a bound the weight is one: it equals a flow."""
    found: list[Chosen] = []
    for job, of_q, (of_k,) in zip(jobs, q_line.rows(queries), k_line.rows(keys), strict=True):
        shipped = tuple((m.heads, rows) for m, rows in zip(job, of_q, strict=True) if rows)
        weight = sum(rows.count for rows in of_k) * weights[1]
        weight += sum(len(heads) * part.count for heads, rows in shipped for part in rows) * weights[0]
        found.append(Chosen(of_k, shipped, weight, weight if bound is None else bound))
    return found


def _alone(m: Meeting, query_weight: int, key_weight: int) -> int:
    """What the largest rectangle needs by itself."""
    q0, q1, k0, k1 = m.boxes.T
    needs = np.minimum((q1 - q0 + 1) * query_weight * len(m.heads), (k1 - k0 + 1) * key_weight)
    full = [part for part in m.strided if part.band == FULL]
    strided = [min(p.q.count * query_weight * len(m.heads), p.k.count * key_weight) for p in full]
    return max(int(needs.max(initial=0)), *strided, 0)


def _edges(q_line: Line, k_line: Line, m: Meeting, q_first: Array, k_first: Array) -> tuple[Array, Array] | None:
    """Cells of q and of k that meet, of those that stand for their class; None where there are too many."""
    q0, q1, k0, k1 = m.boxes.T
    low_q, high_q = (np.searchsorted(q_first, q_line.cell(rows)) for rows in (q0, q1 + 1))
    low_k, high_k = (np.searchsorted(k_first, k_line.cell(rows)) for rows in (k0, k1 + 1))
    parts = [_product(low_q, high_q, low_k, high_k)]
    for part in m.strided:
        found = _strided_edges(part, q_line, k_line, q_first, k_first)
        parts.append(found)
    if any(found is None for found in parts) or sum(len(found[0]) for found in parts if found) > MAX_EDGES:
        return None
    q, k = (np.concatenate([found[i] for found in parts if found is not None]) for i in (0, 1))
    return q_first[q], k_first[k]


def _by_box(
    job: Job, q_line: Line, k_line: Line, m: Meeting, q: _Classes, k: _Classes, query_weight: int, key_weight: int
) -> tuple[Flags, Flags] | None:
    """The least cover by a flow through rectangles; None for bands, and where these have too many rows."""
    q0, q1, k0, k1 = m.boxes.T
    low_q, high_q = (np.searchsorted(q.first, q_line.cell(rows)) for rows in (q0, q1 + 1))
    low_k, high_k = (np.searchsorted(k.first, k_line.cell(rows)) for rows in (k0, k1 + 1))
    some = (high_q > low_q) & (high_k > low_k)
    boxes = low_q[some], high_q[some], low_k[some], high_k[some]
    if any(part.strided for part in job) or int((boxes[1] - boxes[0] + boxes[3] - boxes[2]).sum()) > MAX_THROUGH:
        return None
    return least_cover_of_boxes(q.rows * query_weight, k.rows * key_weight, boxes)


def _strided_edges(
    part: Strided, q_line: Line, k_line: Line, q_first: Array, k_first: Array
) -> tuple[Array, Array] | None:
    (rows, at), (columns, place) = (
        np.intersect1d(line.cells(progression), first, return_indices=True)[1:]
        for line, progression, first in ((q_line, part.q, q_first), (k_line, part.k, k_first))
    )
    low, high = (np.searchsorted(columns, end[rows]) for end in part.keys_of())
    found = _product(np.arange(len(rows)), np.arange(len(rows)) + 1, low, high)
    return None if found is None else (at[found[0]], place[found[1]])


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


def _check(q_line: Line, k_line: Line, m: Meeting, queries: Flags, keys: Flags) -> None:
    """Every pair has one of its rows among the chosen."""
    open_q, open_k = (np.concatenate(([0], np.cumsum(~chosen))) for chosen in (queries, keys))
    q0, q1, k0, k1 = m.boxes.T
    of_q = open_q[q_line.cell(q1 + 1)] - open_q[q_line.cell(q0)]
    of_k = open_k[k_line.cell(k1 + 1)] - open_k[k_line.cell(k0)]
    good = not ((of_q > 0) & (of_k > 0)).any()
    for part in m.strided:
        before = np.concatenate(([0], np.cumsum(~keys[k_line.cells(part.k)])))
        low, high = part.keys_of()
        good &= not ((before[high] > before[low]) & ~queries[q_line.cells(part.q)]).any()
    if not good:
        raise AssertionError("a cover leaves out pairs: two row classes were taken for one")
