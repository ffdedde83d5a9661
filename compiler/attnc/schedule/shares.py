"""Covers of one side, proven without a graph: every row of the cheaper side passes all it weighs on to its partners.

If a flow takes up the whole weight of one side, no cover weighs less than that side. Such a flow is sought by shares:
a row gives to each partner in proportion to a number of the partner's, and partners that are given more than they
weigh get smaller numbers (Sinkhorn's scaling, with upper bounds). Sums over partners are differences of running sums,
so that a step looks at the ends of rectangles and at no edge. What is left over of less than one unit proves it,
since the largest flow is a whole number of units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.lines import Array, Line, Meeting, distinct, joined

MANY_EDGES = 2**14
"""From so many edges between cells of rows a graph is worth avoiding."""
STEPS = 12
AIM = 0.98
"""Partners that are given more than they weigh are aimed at this share of it."""
LARGEST = 2**30
"""Up to so many units running sums are exact enough."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class _Side:
    """Cells of one side: what each weighs in units, its job, and where rectangles begin and end."""

    weights: Floats
    job: Array
    first: Array
    end: Array

    @staticmethod
    def of(line: Line, weights: Array, starts: Array, first: Array, last: Array) -> _Side:
        job = np.searchsorted(starts, line.edges[:-1], side="right") - 1
        return _Side(weights.astype(float), job, line.cell(first), line.cell(last + 1))

    def sums(self, other: _Side, values: Floats) -> Floats:
        """The sum of the values of each cell's partners."""
        before = np.concatenate(([0.0], np.cumsum(values)))
        held = before[other.end] - before[other.first]
        size = len(self.weights) + 1
        change = np.bincount(self.first, held, minlength=size) - np.bincount(self.end, held, minlength=size)
        return np.where(self.degrees(other) > 0, np.maximum(np.cumsum(change)[:-1], 0.0), 0.0)

    def degrees(self, other: _Side) -> Array:
        """How many partners each cell has."""
        held, size = other.end - other.first, len(self.weights) + 1
        change = np.bincount(self.first, held, minlength=size) - np.bincount(self.end, held, minlength=size)
        return np.cumsum(change)[:-1].round().astype(np.int64)


def one_sided(jobs: Sequence[Sequence[Meeting]], query_weight: int, key_weight: int) -> list[str]:
    """'keys' or 'queries' where a job's rows of that side are a least cover, and '' where that is not shown."""
    large = [number for number, job in enumerate(jobs) if _is_large(job)]
    found = [""] * len(jobs)
    if large:
        for number, side in zip(
            large, _one_sided([jobs[number] for number in large], query_weight, key_weight), strict=True
        ):
            found[number] = side
    return found


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


def _one_sided(jobs: Sequence[Sequence[Meeting]], query_weight: int, key_weight: int) -> list[str]:
    q_line, k_line, m = joined(jobs)
    unit = gcd(query_weight, key_weight)
    q0, q1, k0, k1 = m.boxes.T
    starts = [np.array([of_pair[0] for of_pair in line.stretches], np.int64) for line in (q_line, k_line)]
    q = _Side.of(q_line, q_line.weights * (query_weight // unit), starts[0], q0, q1)
    k = _Side.of(k_line, k_line.weights * (key_weight // unit), starts[1], k0, k1)
    of_q, of_k = _needs(q, k, len(jobs)), _needs(k, q, len(jobs))
    by_query = of_q < of_k
    queries = _proven(q, k, of_q, by_query)
    keys = _proven(k, q, of_k, ~by_query)
    return ["queries" if a else "keys" if b else "" for a, b in zip(queries.tolist(), keys.tolist(), strict=True)]


def _needs(side: _Side, other: _Side, jobs: int) -> Floats:
    """What the cells of one side with any partner weigh, by job."""
    weights: Floats = np.where(side.degrees(other) > 0, side.weights, 0.0)
    return np.bincount(side.job, weights, minlength=jobs).astype(float)


def _proven(side: _Side, other: _Side, needs: Floats, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether partners can take up all that a side weighs, by job."""
    done = np.zeros(len(needs), bool)
    wanted = wanted & (needs < LARGEST)
    if not wanted.any():
        return done
    numbers = other.weights.copy()
    some = side.degrees(other) > 0
    for _ in range(STEPS):
        among = side.sums(other, numbers)
        share = np.where(some & (among > 0), side.weights / np.where(among > 0, among, 1.0), 0.0)
        load = numbers * other.sums(side, share)
        taken = np.bincount(other.job, np.minimum(load, other.weights), minlength=len(needs))
        done |= wanted & (needs - taken < 0.5)
        if done[wanted].all():
            break
        over = load > other.weights
        numbers[over] *= AIM * other.weights[over] / load[over]
    return done
