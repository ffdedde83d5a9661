"""The last axis of a grid, where it looks a few columns to either side: which columns see which, and how many do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnlang.pattern import algebra
from attnlang.pattern.expr import Scope
from attnlang.pattern.pointwise import multiplicity_at

Array = NDArray[np.int64]
Span: TypeAlias = tuple[int, int]
"""Columns from the first to one before the second."""

MAX_TABLE = 2**22
"""Of so many pairs of columns an axis is asked."""


@dataclass(frozen=True, eq=False, slots=True)
class Columns:
    """Which columns see which: times[c, j] is how often c sees c + j - reach; before[c] how many pairs columns below
    c have.
    """

    reach: int
    times: Array
    before: Array

    @staticmethod
    def of(body: algebra.Relation, width: int, pairs: int, scope: Scope) -> Columns | None:
        """Those of a relation that has so many pairs, all of them within some reach; None for what looks far."""
        reach = 1
        while reach < 2 * width and (2 * reach + 1) * width <= MAX_TABLE:
            times = _times(body, width, reach, {**scope, "n": width})
            if int(times.sum()) == pairs:
                return Columns(reach, times, np.concatenate(([0], np.cumsum(times.sum(1)))))
            reach *= 2
        return None

    @property
    def width(self) -> int:
        return len(self.times)

    def between(self, c: Array, d: Array) -> Array:
        """How often each column c sees the column d beside it."""
        far = d - c
        return np.where(abs(far) <= self.reach, self.times[c, np.clip(far, -self.reach, self.reach) + self.reach], 0)

    def count(self, c: Span, d: Span) -> int:
        """How many pairs some columns have with others as keys."""
        if d[0] >= d[1]:
            return 0
        low, high = max(c[0], d[0] - self.reach), min(c[1], d[1] + self.reach)
        inner = max(low, d[0] + self.reach), min(high, d[1] - self.reach)  # these see nothing but d
        if inner[0] >= inner[1]:
            return self._count(low, high, d)
        between = int(self.before[inner[1]] - self.before[inner[0]])
        return self._count(low, inner[0], d) + between + self._count(inner[1], high, d)

    def _count(self, low: int, high: int, d: Span) -> int:
        if low >= high:
            return 0
        place = self._keys(low, high)
        return int(self.times[low:high][(place >= d[0]) & (place < d[1])].sum())

    def within(self, low: int, high: int) -> tuple[Array, Array]:
        """Pairs (query, key) of columns low..high - 1, each once, counted from low."""
        place = self._keys(low, high)
        c, j = np.nonzero((self.times[low:high] > 0) & (place >= low) & (place < high))
        return c, place[c, j] - low

    def _keys(self, low: int, high: int) -> Array:
        return np.arange(low, high)[:, None] + np.arange(-self.reach, self.reach + 1)


def _times(body: algebra.Relation, width: int, reach: int, scope: Scope) -> Array:
    c = np.arange(width)[:, None]
    d = c + np.arange(-reach, reach + 1)
    inside = (d >= 0) & (d < width)
    found = multiplicity_at(body, np.broadcast_to(c, d.shape), np.clip(d, 0, width - 1), width, scope)
    return np.where(inside, found, 0).astype(np.int64)
