"""Rectangles of chunks, many at once: how they are cut, and how runs of keys are put together to some."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]

DENSE = 16
"""Codes of rows that are at most so many times as many are counted, not sorted."""


@dataclass(frozen=True, eq=False, slots=True)
class Boxes:
    """Rectangles: rows q0..q1 of chunk `x` and k0..k1 of chunk `y`, counted within the chunks."""

    x: Array
    y: Array
    q0: Array
    q1: Array
    k0: Array
    k1: Array

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, chosen: NDArray[Any] | slice) -> Boxes:
        return Boxes(*(part[chosen] for part in self.parts))

    @property
    def parts(self) -> tuple[Array, ...]:
        return self.x, self.y, self.q0, self.q1, self.k0, self.k1

    @property
    def area(self) -> Array:
        return (self.q1 - self.q0 + 1) * (self.k1 - self.k0 + 1)

    @staticmethod
    def joined(parts: Sequence[Boxes]) -> Boxes:
        return Boxes(*(np.concatenate(column) for column in zip(*(part.parts for part in parts), strict=True)))

    def halves(self, q_cut: Array, k_cut: Array, by_query: NDArray[np.bool_]) -> tuple[Boxes, Boxes]:
        """Both parts of each: cut before row q_cut of the queries, or before row k_cut of the keys."""
        q_end, k_end = np.where(by_query, q_cut - 1, self.q1), np.where(by_query, self.k1, k_cut - 1)
        q_from, k_from = np.where(by_query, q_cut, self.q0), np.where(by_query, self.k0, k_cut)
        return (
            Boxes(self.x, self.y, self.q0, q_end, self.k0, k_end),
            Boxes(self.x, self.y, q_from, self.q1, k_from, self.k1),
        )


def columns_of(parts: Sequence[tuple[Array, ...]], columns: int) -> list[Array]:
    """The columns of all parts."""
    return [np.concatenate([part[i] for part in parts] or [np.zeros(0, np.int64)]) for i in range(columns)]


def quarters(ends: Array) -> Array:
    """Ranges of chunks, each side cut in two where it is longer than one."""
    x0, x1, y0, y1 = ends.T
    x, y = (x0 + x1) // 2, (y0 + y1) // 2
    parts = [
        np.stack(part, 1) for part in ((x0, x, y0, y), (x0, x, y + 1, y1), (x + 1, x1, y0, y), (x + 1, x1, y + 1, y1))
    ]
    found = np.concatenate(parts)
    return found[(found[:, 0] <= found[:, 1]) & (found[:, 2] <= found[:, 3])]


def stacked(boxes: Boxes, box: Array, k0: Array, k1: Array, times: Array, q: Array) -> tuple[Boxes, Array]:
    """Runs of keys, one a query, as rectangles: equal runs of neighbouring queries are one."""
    order = np.lexsort((q, times, k1, k0, box))
    box, k0, k1, times, q = (part[order] for part in (box, k0, k1, times, q))
    same = np.ones(len(q), bool)
    for part in (box, k0, k1, times):
        same[1:] &= part[1:] == part[:-1]
    same[1:] &= q[1:] == q[:-1] + 1
    same[0] = False
    starts = np.flatnonzero(~same)
    ends = np.append(starts[1:], len(q)) - 1
    of = box[starts]
    return Boxes(boxes.x[of], boxes.y[of], q[starts], q[ends], k0[starts], k1[starts]), times[starts]


def alike(columns: Iterable[Array], count: int) -> tuple[Array, Array, Array]:
    """Rows with equal entries in all columns: the first row of each kind, the kind of each row, rows of each kind."""
    code, size = np.zeros(count, np.int64), 1
    for column in columns:
        low, high = int(column.min()), int(column.max())
        if size * (high - low + 1) >= 2**62:
            code = np.unique(code, return_inverse=True)[1]
            size = count
            low, high, column = 0, count, np.unique(column, return_inverse=True)[1]
        code = code * (high - low + 1) + (column - low)
        size *= high - low + 1
    if size > DENSE * count:
        return np.unique(code, return_index=True, return_inverse=True, return_counts=True)[1:]
    every = np.bincount(code, minlength=size)
    used = np.flatnonzero(every)
    name = np.zeros(size, np.int64)
    name[used] = np.arange(len(used))
    of = name[code]
    first = np.zeros(len(used), np.int64)
    first[of[::-1]] = np.arange(count)[::-1]
    return first, of, every[used]


def rectangles_of(values: Array) -> tuple[Array, Array]:
    """The entries of a matrix that are not 0 as rectangles (row, row, column, column) of one value, ends included."""
    begins = np.ones(values.shape, bool)
    begins[:, 1:] = values[:, 1:] != values[:, :-1]
    place = np.flatnonzero(begins)
    row, k0 = np.divmod(place, values.shape[1])
    k1 = np.append(place[1:], values.size) - 1 - row * values.shape[1]
    times = values[row, k0]
    row, k0, k1, times = (part[times != 0] for part in (row, k0, k1, times))
    order = np.lexsort((row, times, k1, k0))
    row, k0, k1, times = (part[order] for part in (row, k0, k1, times))
    if not len(row):
        return np.zeros((0, 4), np.int64), np.zeros(0, np.int64)
    same = np.zeros(len(row), bool)
    same[1:] = (np.diff(row) == 1) & (np.diff(k0) == 0) & (np.diff(k1) == 0) & (np.diff(times) == 0)
    starts = np.flatnonzero(~same)
    ends = np.append(starts[1:], len(row)) - 1
    return np.stack([row[starts], row[ends], k0[starts], k1[starts]], 1), times[starts].astype(np.int64)
