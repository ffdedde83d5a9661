"""What is found of a relation's outline: rectangles by ordered pair of ranks, and what is said where it is too long."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.joint import Placed

Array = NDArray[np.int64]


class TooFineError(ValueError):
    """The pattern's outline is too long to be followed at this length."""


@dataclass(frozen=True, eq=False, slots=True)
class Regions:
    """Rectangles by ordered pair of ranks, for heads that have the same pairs; and how many pairs a rank has by itself.

    pair        a * ranks + b, queries at a, keys at b, of each meeting of two of their chunks; ascending
    places      (first rectangle, one past the last, where the chunks begin in the rows of a and of b), by meeting
    rectangles  (q0, q1, k0, k1), ends included, in the rows of two chunks
    times       how often each of its pairs counts
    local       the number of pairs with both ends at a rank, by rank, where it was asked for
    folded      by ordered pair of ranks, what is known by classes of rows instead
    """

    heads: tuple[int, ...]
    pair: Array
    places: Array
    rectangles: Array
    times: Array
    local: Array
    folded: Mapping[int, tuple[Placed, ...]] = field(default_factory=dict[int, tuple[Placed, ...]])

    def name(self, pair: int) -> Hashable:
        """Pairs of ranks of one name have the same rectangles; None where they have none."""
        first, last = np.searchsorted(self.pair, (pair, pair + 1))
        return self.places[first:last].tobytes() or None

    def between(self, name: Hashable) -> tuple[Array, Array]:
        """The rectangles of a name, in local rows of both ranks, and how often their pairs count."""
        assert isinstance(name, bytes)
        parts = np.frombuffer(name, np.int64).reshape(-1, 4).tolist()
        boxes = np.concatenate([self.rectangles[i:j] + np.array([q, q, k, k]) for i, j, q, k in parts])
        times = np.concatenate([self.times[i:j] for i, j, _, _ in parts])
        order = np.lexsort((boxes[:, 2], boxes[:, 0]))
        return boxes[order], times[order]
