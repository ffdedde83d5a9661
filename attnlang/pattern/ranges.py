"""Questions about stretches of a row of numbers, each answered in constant time after one pass over the row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GRAIN = 16
"""Extremes are kept for stretches of this many numbers: a sixteenth of the memory, for bounds a little too wide."""


class Extremes:
    """Bounds of the smallest and largest of row[first..last]: exact where the ends are multiples of `GRAIN`.

    A sparse table over grains: level j holds the extremes of 2**j grains in a row, and two of them cover any stretch.
    """

    def __init__(self, row: NDArray[Any]) -> None:
        row = row.astype(np.int64)
        starts = np.arange(0, len(row), GRAIN)
        self._levels = [(np.minimum.reduceat(row, starts), np.maximum.reduceat(row, starts))]
        reach = 1
        while 2 * reach <= len(starts):
            low, high = self._levels[-1]
            self._levels.append((np.minimum(low[:-reach], low[reach:]), np.maximum(high[:-reach], high[reach:])))
            reach *= 2

    def __call__(self, first: Any, last: Any) -> tuple[Any, Any]:
        """(at most the smallest, at least the largest) of row[first..last], for arrays of ends, 0 <= first <= last."""
        first, last = np.asarray(first) // GRAIN, np.asarray(last) // GRAIN
        level = np.frexp((last - first + 1).astype(float))[1] - 1
        low, high = np.zeros(level.shape, np.int64), np.zeros(level.shape, np.int64)
        for j in np.unique(level).tolist():
            mine = level == j
            a, b = first[mine], last[mine] - (1 << j) + 1
            smallest, largest = self._levels[j]
            low[mine] = np.minimum(smallest[a], smallest[b])
            high[mine] = np.maximum(largest[a], largest[b])
        return low, high


class Counts:
    """How many of flags[first..last] are set."""

    def __init__(self, flags: NDArray[np.bool_]) -> None:
        self._before = np.concatenate(([0], np.cumsum(flags, dtype=np.int64)))

    def __call__(self, first: Any, last: Any) -> Any:
        """The number, for arrays of ends."""
        return self._before[last + 1] - self._before[first]


class Cells:
    """How many of the places (row, column) of a square lie in rows first..last and columns left..right."""

    def __init__(self, size: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        held = np.zeros((size + 1, size + 1), np.int32)
        np.add.at(held, (rows + 1, columns + 1), 1)
        self._before = held.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)

    def __call__(self, first: Any, last: Any, left: Any, right: Any) -> Any:
        """The number, for arrays of ends."""
        b = self._before
        return b[last + 1, right + 1] - b[first, right + 1] - b[last + 1, left] + b[first, left]
