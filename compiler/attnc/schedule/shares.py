"""Covers of one side, proven without a graph: every row of the cheaper side passes all it weighs on to its partners.

If a flow takes up the whole weight of one side, no cover weighs less than that side. Such a flow is sought by shares:
a row gives to each partner in proportion to a number of the partner's, and partners that are given more than they
weigh get smaller numbers (Sinkhorn's scaling, with upper bounds). Sums over partners are differences of running sums,
so that a step looks at the ends of rectangles and at no edge. What is left over of less than one unit proves it,
since the largest flow is a whole number of units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import gcd

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.lines import Array, Line, Meeting, Words, distinct, joined

MANY_EDGES = 2**14
"""From so many edges between cells of rows a graph is worth avoiding."""
STEPS = 12
MORE_STEPS = 64
"""Where there are too many rectangles for a graph."""
BATCH = 2**20
"""Rectangles that are looked at at once."""
AIM = 0.98
"""Partners that are given more than they weigh are aimed at this share of it."""
MOST_IN_TURN = 2**17
"""Up to so many rectangles partners are given what weighs in turn."""
LARGEST = 2**30
"""Up to so many units running sums are exact enough."""

DIGITS = 52
"""Binary digits of a running sum; the others of 64 are for rows that lie in several rectangles."""
TINY = 2.0**-900

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class _Side:
    """Cells of one side: what each weighs in units, its job of so many, and where rectangles begin and end."""

    weights: Floats
    jobs: int
    job: Array
    first: Array
    end: Array

    @staticmethod
    def of(line: Line, weights: Array, starts: Array, first: Array, last: Array) -> _Side:
        job = np.searchsorted(starts, line.edges[:-1], side="right") - 1
        return _Side(weights.astype(float), len(starts), job, line.cell(first), line.cell(last + 1))

    def sums(self, other: _Side, values: Floats, some: NDArray[np.bool_]) -> Floats:
        """The sum of the values of each cell's partners, as `rounded` has them; `some`: cells that have any.

        Whole numbers of units, so that running sums may overflow and their differences are exact: what one job or one
        cell has many of takes no digits from another.
        """
        unit, size = other.units(values), len(self.weights) + 1
        whole = np.floor(values / unit[other.job]).astype(np.uint64)
        before = np.concatenate((np.zeros(1, np.uint64), whole.cumsum(dtype=np.uint64)))
        held = before[other.end] - before[other.first]
        change = np.zeros(size, np.uint64)
        np.add.at(change, self.first, held)
        np.subtract.at(change, self.end, held)
        return np.where(some, change.cumsum(dtype=np.uint64)[:-1] * unit[self.job], 0.0)

    def units(self, values: Floats) -> Floats:
        """A power of two for each job: some 2^-52 of the sum of its values."""
        total = np.bincount(self.job, values, minlength=self.jobs)
        return 2.0 ** (np.ceil(np.log2(np.maximum(total, TINY))) - DIGITS)

    def rounded(self, values: Floats) -> Floats:
        """Values rounded down to units."""
        unit = self.units(values)[self.job]
        return np.floor(values / unit) * unit

    def degrees(self, other: _Side) -> Array:
        """How many partners each cell has."""
        held, size = other.end - other.first, len(self.weights) + 1
        change = np.bincount(self.first, held, minlength=size) - np.bincount(self.end, held, minlength=size)
        return np.cumsum(change)[:-1].round().astype(np.int64)


def one_sided(jobs: Sequence[Sequence[Meeting]], query_weight: int, key_weight: int) -> list[str]:
    """'keys' or 'queries' where a job's rows of that side are a least cover, and '' where that is not shown."""
    large = [number for number, job in enumerate(jobs) if _is_large(job)]
    found = [""] * len(jobs)
    for some in _batches(large, jobs):
        part = [jobs[number] for number in some]
        for number, side in zip(some, _one_sided(part, query_weight, key_weight, STEPS), strict=True):
            found[number] = side or _in_turn(jobs[number], query_weight, key_weight)
    for number in large:
        if not found[number] and _boxes_of(jobs[number]) > MOST_IN_TURN:
            (found[number],) = _one_sided([jobs[number]], query_weight, key_weight, MORE_STEPS)
    return found


def _boxes_of(job: Sequence[Meeting]) -> int:
    return sum(len(m.boxes) for m in job)


def _batches(numbers: Sequence[int], jobs: Sequence[Sequence[Meeting]]) -> Iterator[list[int]]:
    """Jobs by their numbers, of not too many rectangles at once."""
    some: list[int] = []
    size = 0
    for number in numbers:
        more = _boxes_of(jobs[number])
        if some and size + more > BATCH:
            yield some
            some, size = [], 0
        some.append(number)
        size += more
    if some:
        yield some


def _in_turn(job: Sequence[Meeting], query_weight: int, key_weight: int) -> str:
    """The side that is a least cover by itself, where the partners of each of its cells follow one another.

    Then passing on what weighs to partners in turn, first what has the nearest last partner (Glover's rule), is the
    largest flow: block staircases, bands and triangles are proven so.
    """
    if _boxes_of(job) > MOST_IN_TURN:
        return ""
    q_line, k_line, m = joined([job])
    q, k = _sides(q_line, k_line, m, query_weight, key_weight)
    of_q, of_k = float(_needs(q, k, 1)[0]), float(_needs(k, q, 1)[0])
    if of_q < of_k:
        return "queries" if _passed_on(q, k, q_line.sums(k_line, m), k_line.words) else ""
    return "keys" if _passed_on(k, q, k_line.sums(q_line, m.turned()), q_line.words) else ""


def _passed_on(side: _Side, other: _Side, sums: Words, words: Words) -> bool:
    """Whether partners that follow one another take up all, as they lie or by how many partners they have themselves.

    `sums` of the partners' words tell whether they do follow one another.
    """
    for order, (first, end) in _orders(side, other):
        before = np.concatenate((np.zeros(1, np.uint64), words[order].cumsum(dtype=np.uint64)))
        some = np.flatnonzero(end > first)
        if (before[end[some]] - before[first[some]] == sums[some]).all():
            return _flows(side.weights, first, end, other.weights[order])
    return False


def _orders(side: _Side, other: _Side) -> Iterator[tuple[Array, tuple[Array, Array]]]:
    """Orders of the partners, with the first partner of each cell and one past the last if none is left out."""
    yield np.arange(len(other.weights)), _spans(side, other)
    degrees = side.degrees(other)
    yield np.argsort(-other.degrees(side), kind="stable"), (np.zeros(len(degrees), np.int64), degrees)


def _flows(weights: Floats, first: Array, end: Array, rooms: Floats) -> bool:
    """Whether all that cells weigh finds room at partners first..end - 1."""
    left, lows, ends = weights.tolist(), first.tolist(), end.tolist()
    some = np.flatnonzero(end > first)
    begun = some[np.argsort(first[some], kind="stable")].tolist()[::-1]
    waiting: list[tuple[int, int]] = []
    for partner, room in enumerate(rooms.tolist()):
        while begun and lows[begun[-1]] == partner:
            cell = begun.pop()
            heappush(waiting, (ends[cell], cell))
        while waiting and room > 0:
            last, cell = waiting[0]
            if last <= partner:
                return False
            given = min(room, left[cell])
            left[cell] -= given
            room -= given
            if left[cell] == 0:
                heappop(waiting)
    return not begun and not waiting


def _spans(side: _Side, other: _Side) -> tuple[Array, Array]:
    """The first partner of each cell, and one past the last, over all rectangles that it lies in; 0, 0 for none."""
    cells = len(side.weights)
    first, end = np.zeros(cells, np.int64), np.zeros(cells, np.int64)
    order = np.argsort(side.first, kind="stable")[::-1].tolist()
    starts, done, lows, highs = (part.tolist() for part in (side.first, side.end, other.first, other.end))
    low: list[tuple[int, int]] = []
    high: list[tuple[int, int]] = []
    for cell in range(cells):
        while order and starts[order[-1]] == cell:
            box = order.pop()
            heappush(low, (lows[box], done[box]))
            heappush(high, (-highs[box], done[box]))
        for heap in (low, high):
            while heap and heap[0][1] <= cell:
                heappop(heap)
        if low:
            first[cell], end[cell] = low[0][0], -high[0][0]
    return first, end


def _is_large(job: Sequence[Meeting]) -> bool:
    """Whether many cells meet many others: judged by how often the ends of rectangles differ."""
    if any(m.strided for m in job):
        return False
    boxes = np.concatenate([m.boxes for m in job])
    if len(boxes) * len(boxes) < MANY_EDGES:
        return False
    q, k = (distinct(np.concatenate([boxes[:, 2 * i], boxes[:, 2 * i + 1] + 1])) for i in (0, 1))
    q0, q1, k0, k1 = (
        np.searchsorted(cuts, ends)
        for cuts, ends in ((q, boxes[:, 0]), (q, boxes[:, 1] + 1), (k, boxes[:, 2]), (k, boxes[:, 3] + 1))
    )
    return int(((q1 - q0) * (k1 - k0)).sum()) >= MANY_EDGES


def _one_sided(jobs: Sequence[Sequence[Meeting]], query_weight: int, key_weight: int, most: int) -> list[str]:
    q, k = _sides(*joined(jobs), query_weight, key_weight)
    of_q, of_k = _needs(q, k, len(jobs)), _needs(k, q, len(jobs))
    by_query = of_q < of_k
    queries = _proven(q, k, of_q, by_query, most)
    keys = _proven(k, q, of_k, ~by_query, most)
    return ["queries" if a else "keys" if b else "" for a, b in zip(queries.tolist(), keys.tolist(), strict=True)]


def _sides(q_line: Line, k_line: Line, m: Meeting, query_weight: int, key_weight: int) -> tuple[_Side, _Side]:
    unit = gcd(query_weight, key_weight)
    q0, q1, k0, k1 = m.boxes.T
    starts = [np.array([of_pair[0] for of_pair in line.stretches], np.int64) for line in (q_line, k_line)]
    q = _Side.of(q_line, q_line.weights * (query_weight // unit), starts[0], q0, q1)
    k = _Side.of(k_line, k_line.weights * (key_weight // unit), starts[1], k0, k1)
    return q, k


def _needs(side: _Side, other: _Side, jobs: int) -> Floats:
    """What the cells of one side with any partner weigh, by job."""
    weights: Floats = np.where(side.degrees(other) > 0, side.weights, 0.0)
    return np.bincount(side.job, weights, minlength=jobs).astype(float)


def _proven(side: _Side, other: _Side, needs: Floats, wanted: NDArray[np.bool_], most: int) -> NDArray[np.bool_]:
    """Whether partners can take up all that a side weighs, by job."""
    done = np.zeros(len(needs), bool)
    wanted = wanted & (needs < LARGEST)
    if not wanted.any():
        return done
    numbers = other.rounded(other.weights)
    some, of_other = side.degrees(other) > 0, other.degrees(side) > 0
    for _ in range(most):
        among = side.sums(other, numbers, some)
        share = np.where(some & (among > 0), side.weights / np.where(among > 0, among, 1.0), 0.0)
        load = numbers * other.sums(side, share, of_other)
        taken = np.bincount(other.job, np.minimum(load, other.weights), minlength=len(needs))
        done |= wanted & (needs - taken < 0.5)
        if done[wanted].all():
            break
        over = load > other.weights
        numbers[over] *= AIM * other.weights[over] / load[over]
        numbers = other.rounded(numbers)
    return done
