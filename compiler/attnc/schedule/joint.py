"""What is known by classes of rows between two ranks, put together: of several relations, and of several chunks.

Rows that have the same partners in all of them are one class; sorted by class they are stretches, and what is chosen
among them is put back where it was. Beside lattices rows stay as they are, and rectangles of classes fall into those of
neighbours.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.folds import Classes, Patch
from attnc.schedule.progressions import progressions_of, stretches_of
from attnc.schedule.rectangles import alike
from attnlang.parallel.dense import numbers
from attnlang.rows import Rows

Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Placed:
    """The patches of two chunks, which begin at these rows of their ranks."""

    patches: tuple[Patch, ...]
    q_base: int
    k_base: int

    @property
    def name(self) -> Hashable:
        return id(self.patches), self.q_base, self.k_base


@dataclass(frozen=True, eq=False, slots=True)
class Order:
    """Rows of a rank sorted by class: the class of each, and how many come before each class."""

    of: Array
    ends: Array


@dataclass(frozen=True, eq=False, slots=True)
class Joined:
    """What some relations have between two ranks: (rectangles, times) of each, in rows sorted by `q` and by `k`.

    In rows as they are where there is no order.
    """

    parts: tuple[tuple[Array, Array], ...]
    q: Order | None
    k: Order | None


_Label = tuple[int, int]
"""Where a stretch begins, and the identity of its classes."""


def joined(relations: tuple[tuple[Placed, ...], ...], q_rows: int, k_rows: int, *, as_they_are: bool) -> Joined:
    """Rows of both ranks that have the same partners in all relations as one class; or as they are."""
    every = [(placed, patch) for relation in relations for placed in relation for patch in placed.patches]
    q_columns = _columns([(placed.q_base + patch.q_first, patch.q) for placed, patch in every], q_rows)
    k_columns = _columns([(placed.k_base + patch.k_first, patch.k) for placed, patch in every], k_rows)
    q = k = None
    if not as_they_are:
        q, q_columns = _sorted(q_columns, q_rows)
        k, k_columns = _sorted(k_columns, k_rows)
    q_runs, k_runs = ({name: _Runs.of(column) for name, column in side.items()} for side in (q_columns, k_columns))
    parts: list[tuple[Array, Array]] = []
    for relation in relations:
        boxes = [np.zeros((0, 4), np.int64)]
        times = [np.zeros(0, np.int64)]
        for placed in relation:
            for patch in placed.patches:
                of_q = q_runs[placed.q_base + patch.q_first, id(patch.q)]
                of_k = k_runs[placed.k_base + patch.k_first, id(patch.k)]
                found, count = _spread(patch, of_q, of_k)
                boxes.append(found)
                times.append(count)
        parts.append((_in_rows(np.concatenate(boxes), q, k), np.concatenate(times)))
    return Joined(tuple(parts), q, k)


def _columns(stretches: list[tuple[int, Classes]], rows: int) -> dict[_Label, Array]:
    """The class of every row of a rank, -1 beside the stretch, of each that differs; those of most classes first."""
    found: dict[_Label, Array] = {}
    for first, classes in sorted(stretches, key=lambda each: -len(each[1].first)):
        if (first, id(classes)) not in found:
            column = np.full(rows, -1, np.int64)
            column[first : first + len(classes.of)] = classes.of
            found[first, id(classes)] = column
    return found


def _sorted(columns: dict[_Label, Array], rows: int) -> tuple[Order, dict[_Label, Array]]:
    """Rows with equal entries in all columns as classes, and the columns by these classes."""
    first, of, counts = alike(columns.values(), rows)
    ends = np.concatenate(([0], np.cumsum(counts)))
    return Order(of, ends), {name: column[first] for name, column in columns.items()}


@dataclass(frozen=True, eq=False, slots=True)
class _Runs:
    """Neighbours of one label as runs, by label: first and last place; `whole`: labels follow one another."""

    label: Array
    first: Array
    last: Array
    whole: bool

    @staticmethod
    def of(labels: Array) -> _Runs:
        starts = np.flatnonzero(np.concatenate(([True], labels[1:] != labels[:-1])))
        ends = np.append(starts[1:], len(labels)) - 1
        order = np.argsort(labels[starts], kind="stable")
        order = order[labels[starts][order] >= 0]
        first, last = starts[order], ends[order]
        return _Runs(labels[starts][order], first, last, bool((first[1:] == last[:-1] + 1).all()))

    def among(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Which runs have labels low..high: the first, and one past the last."""
        return np.searchsorted(self.label, low), np.searchsorted(self.label, high, side="right")


def _spread(patch: Patch, q: _Runs, k: _Runs) -> tuple[Array, Array]:
    """Rectangles of a patch's own classes as rectangles of the runs that are of these classes."""
    q0, q1, k0, k1 = patch.boxes.T
    box = np.arange(len(q0))
    q_first, q_last, box = _runs_of(q, q0, q1, box)
    k_first, k_last, more = _runs_of(k, k0[box], k1[box], np.arange(len(box)))
    return np.stack([q_first[more], q_last[more], k_first, k_last], 1), patch.times[box[more]]


def _runs_of(runs: _Runs, low: Array, high: Array, box: Array) -> tuple[Array, Array, Array]:
    """First and last place of each run, and the box that it is of."""
    start, end = runs.among(low, high)
    if runs.whole:
        return runs.first[start], runs.last[end - 1], box
    sizes = end - start
    of = np.repeat(np.arange(len(box)), sizes)
    place = start[of] + np.arange(len(of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return runs.first[place], runs.last[place], box[of]


def _in_rows(boxes: Array, q: Order | None, k: Order | None) -> Array:
    q0, q1, k0, k1 = boxes.T
    if q is not None and k is not None:
        q0, q1, k0, k1 = q.ends[q0], q.ends[q1 + 1] - 1, k.ends[k0], k.ends[k1 + 1] - 1
    return np.stack([q0, q1, k0, k1], 1)


def put_back(order: Order, parts: tuple[Rows, ...]) -> tuple[Rows, ...]:
    """Sorted rows as those that they are, in few progressions."""
    if sum(part.count for part in parts) == len(order.of):
        return (Rows(0, len(order.of)),)
    chosen = np.zeros(len(order.of), bool)
    chosen[np.argsort(order.of, kind="stable")[np.concatenate([numbers(part) for part in parts])]] = True
    stretches = stretches_of(np.flatnonzero(chosen))
    alone = progressions_of(part.first for part in stretches if part.count == 1)
    return (*(part for part in stretches if part.count > 1), *alone)
