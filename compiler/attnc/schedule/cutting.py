"""Where rectangles between two ranks are cut in two: along the side that decides more, at the pattern's own steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.rectangles import Boxes
from attnlang.pattern.bounds import Bounds, Rectangles

Array = NDArray[np.int64]

SPECK = 64
"""Rectangles of so few pairs are asked in any case."""


@dataclass(frozen=True, eq=False, slots=True)
class Cutter:
    """Cuts boxes of a relation with these bounds.

    first, step  first token of each chunk of rows, and tokens from row to row
    steps        of the pattern (`attnc.schedule.steps`), the longest first
    """

    bounds: Bounds
    first: Array
    step: Array
    steps: Sequence[int]

    def tokens(self, boxes: Boxes) -> Rectangles:
        """Boxes in tokens, whose rows are those of their chunks."""
        (q_first, q_step), (k_first, k_step) = ((self.first[c], self.step[c]) for c in (boxes.x, boxes.y))
        return Rectangles(
            q_first + boxes.q0 * q_step, q_first + boxes.q1 * q_step,
            k_first + boxes.k0 * k_step, k_first + boxes.k1 * k_step,
        )  # fmt: skip

    def bends(self, boxes: Boxes) -> NDArray[np.bool_]:
        """Whether one of the pattern's longer steps ends within a box: it is better cut there than asked."""
        at = self.tokens(boxes)
        found = np.zeros(len(boxes), bool)
        for step in self.steps:
            if step * step >= SPECK:
                found |= (at.q0 // step < at.q1 // step) | (at.k0 // step < at.k1 // step)
        return found

    def cut(self, boxes: Boxes) -> tuple[Boxes, Array, Array]:
        """Each box cut in two along the side that leaves less undecided, with the bounds of the parts."""
        q_cut, k_cut = self._middle(boxes.x, boxes.q0, boxes.q1), self._middle(boxes.y, boxes.k0, boxes.k1)
        everywhere = np.ones(len(boxes), bool)
        options = [*boxes.halves(q_cut, k_cut, everywhere), *boxes.halves(q_cut, k_cut, ~everywhere)]
        q_can, k_can = boxes.q1 > boxes.q0, boxes.k1 > boxes.k0
        legal = [q_can, q_can, k_can, k_can]
        los, his = [], []
        for option, can in zip(options, legal, strict=True):
            lo, hi = np.zeros(len(boxes), np.int64), np.ones(len(boxes), np.int64)
            if can.any():
                lo[can], hi[can] = self.bounds(self.tokens(option[can]))
            los.append(lo)
            his.append(hi)
        decided = [np.where(lo == hi, option.area, 0) for option, lo, hi in zip(options, los, his, strict=True)]
        of_query, of_key = decided[0] + decided[1], decided[2] + decided[3]
        by_query = ~k_can | (q_can & (of_query > of_key))
        open_ = np.flatnonzero(q_can & k_can & (of_query == of_key))
        by_query[open_] = self._along_queries(boxes[open_])
        parts = boxes.halves(q_cut, k_cut, by_query)
        lo = np.concatenate([np.where(by_query, los[i], los[i + 2]) for i in (0, 1)])
        hi = np.concatenate([np.where(by_query, his[i], his[i + 2]) for i in (0, 1)])
        left = hi > 0
        return Boxes.joined(parts)[left], lo[left], hi[left]

    def _along_queries(self, boxes: Boxes) -> NDArray[np.bool_]:
        """Whether to cut between queries where both cuts decide equally much.

        If one query's row through a box is still open while one key's column is decided, keys differ and queries do
        not: only keys are cut, and the other way round. Else the longer side is.
        """
        at = self.tokens(boxes)
        row_lo, row_hi = self.bounds(Rectangles(at.q0, at.q0, at.k0, at.k1))
        column_lo, column_hi = self.bounds(Rectangles(at.q0, at.q1, at.k0, at.k0))
        row, column = row_lo == row_hi, column_lo == column_hi
        longer = boxes.q1 - boxes.q0 >= boxes.k1 - boxes.k0
        return np.where(row == column, longer, row)

    def _middle(self, chunk: Array, first: Array, last: Array) -> Array:
        """The row before which to cut: near the middle, at a multiple of the longest of the pattern's steps within."""
        middle = (first + last + 1) // 2
        start = self.first[chunk]
        open_ = (self.step[chunk] == 1) & (last > first)
        for step in self.steps:
            low, high = ((start + first) // step + 1) * step - start, (start + last) // step * step - start
            here = open_ & (low <= high)
            nearest = (start + middle + step // 2) // step * step - start
            middle = np.where(here, np.clip(nearest, low, high), middle)
            open_ = open_ & ~here
        return middle
