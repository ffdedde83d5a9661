"""Which meetings of chunks are folded, for one relation on a placement."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.folds import Folder, Patch
from attnc.schedule.joint import Placed
from attnc.schedule.rectangles import Boxes
from attnlang.rows import Rows

Array = NDArray[np.int64]


class Folds:
    """Meetings of chunks of step 1, given by columns (first, step, count, rank, where it begins in the rank).

    own     pairs of each rank with itself, as far as they are asked for and folded
    wanted  which rank's queries are to be looked at with which rank's keys, where not all are
    """

    def __init__(
        self, folder: Folder, columns: Array, ranks: int, own: bool, wanted: NDArray[np.bool_] | None = None
    ) -> None:
        self._folder = folder
        self._first, _, self._count, self._rank, self._base = (column.tolist() for column in columns)
        self._ranks = ranks
        rank = columns[3]
        self._wanted = np.ones((len(rank), len(rank)), bool) if wanted is None else wanted[np.ix_(rank, rank)]
        self._wanted &= own | (rank[:, None] != rank)
        self._placed: dict[int, list[Placed]] = {}
        self.own = np.zeros(ranks, np.int64)

    def unfolded(self, boxes: Boxes) -> NDArray[np.bool_]:
        """Which meetings of whole chunks do not fold; the others are kept."""
        left = np.ones(len(boxes), bool)
        for place, meeting in enumerate(zip(boxes.x.tolist(), boxes.y.tolist(), strict=True)):
            patches = self._patches.get(meeting, ())
            left[place] = patches is None
            if patches:
                self._keep(*meeting, patches)
        return left

    def by_pair(self) -> dict[int, tuple[Placed, ...]]:
        """What was kept, by ordered pair of ranks."""
        return {pair: tuple(parts) for pair, parts in self._placed.items()}

    @cached_property
    def _patches(self) -> dict[tuple[int, int], tuple[Patch, ...] | None]:
        """The patches of meetings; none where there are no pairs, None where they are not known."""
        chunks = [Rows(first, count) for first, count in zip(self._first, self._count, strict=True)]
        return self._folder.meetings(chunks, self._wanted)

    def _keep(self, x: int, y: int, patches: tuple[Patch, ...]) -> None:
        a, b = self._rank[x], self._rank[y]
        if a == b:
            self.own[a] += sum(patch.pairs for patch in patches)
        else:
            placed = Placed(patches, self._base[x], self._base[y])
            self._placed.setdefault(a * self._ranks + b, []).append(placed)
