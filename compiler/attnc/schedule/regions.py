"""Where a relation has pairs, between the rows of any two ranks: disjoint rectangles in which each pair counts alike.

Rectangles of the whole matrix are classified from bounds of the relation (`attnlang.pattern.bounds`), those of many
ranks first: what is empty is not looked at again, what is full is one rectangle whatever its size, and only what is
met in part is cut in two, along the side that decides more. Small squares at the edge of the pattern are asked pair by
pair. So the work follows the outline of the pattern, not the number of its pairs.

Where that is long, two ranks that meet as two others do (`Name`) have the same rectangles: one meeting is followed for
all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from textwrap import shorten
from typing import NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.cutting import SPECK, Cutter
from attnc.schedule.folded import Folds
from attnc.schedule.folds import MOST_CHUNKS, Folder
from attnc.schedule.outline import Regions, TooFineError
from attnc.schedule.rectangles import Boxes, columns_of, quarters, stacked
from attnc.schedule.steps import steps
from attnlang.pattern.algebra import Relation, relation_text
from attnlang.pattern.bounds import Bounds, Rectangles
from attnlang.pattern.expr import Scope
from attnlang.pattern.pointwise import multiplicity_at
from attnlang.rows import Rows
from attnlang.schedule import Placement

Array = NDArray[np.int64]
Flags = NDArray[np.bool_]

Name: TypeAlias = Callable[[Rows, Rows], Hashable]
"""A name of how stretches of queries and of keys meet: the relation is the same between those of one name."""

LEAF = 1024
"""Rectangles of so many pairs are asked pair by pair."""
BATCH = 2**17
"""How many rectangles are classified at once."""
ASKED = 4096
"""How many of them at once."""
MAX_POINTS = 2**29
"""How many pairs of a branch are asked one by one: half a minute."""
MAX_RECTANGLES = 2**24
"""How many rectangles, and parts of rectangles, of a branch are kept."""
SAMPLED = 61
"""One in so many meetings is followed before the others."""
MANY = 1024
"""Where there are so many. (A prime's multiples are at all distances from the diagonal.)"""
MAX_MEETINGS = 2**20
"""Between how many ordered pairs of chunks of different ranks a branch may have pairs: each has its own transfer."""
ROW = 2**22
"""Up to so many positions of a frame, each is asked for a few meetings."""
FEW = 1024
"""Up to this share of both limits, it is sooner to follow every meeting than to name them, or to fold them."""


def regions(
    relation: Relation, n: int, scope: Scope, placement: Placement, heads: tuple[int, ...], *, own: bool = True,
    name: Name | None = None, folder: Folder | None = None, wanted: Flags | None = None,
) -> Regions:  # fmt: skip
    """The regions of a relation on a placement; `own`: whether to count the pairs of each rank with itself, too.

    name    of how stretches meet, where the outline is long
    folder  of meetings into classes, where the outline is long
    wanted  which rank's queries are to be looked at with which rank's keys, where not all are

    Raises TooFineError where there would be too many.
    """
    bounds = _bounds(relation, n, scope, wanted)
    if name is not None:
        try:
            return _Search(relation, n, scope, placement, bounds, own, wanted=wanted, share=FEW).found(heads)
        except TooFineError:
            pass
    return _Search(relation, n, scope, placement, bounds, own, name, folder, wanted).found(heads)


def _bounds(relation: Relation, n: int, scope: Scope, wanted: Flags | None) -> Bounds:
    """Bounds that do not look at every position of a long sequence for a few meetings."""
    return Bounds(relation, n, scope) if wanted is None else Bounds(relation, n, scope, ROW)


def check_meetings(relation: Relation, n: int, scope: Scope, placement: Placement, wanted: Flags | None = None) -> None:
    """Raises TooFineError where a relation has pairs between too many pairs of ranks, before anything else is done."""
    if placement.ranks**2 > MAX_MEETINGS:
        search = _Search(relation, n, scope, placement, _bounds(relation, n, scope, wanted), own=False, wanted=wanted)
        for _ in search.counted():
            pass


class _Search:
    def __init__(
        self, relation: Relation, n: int, scope: Scope, placement: Placement, bounds: Bounds, own: bool,
        name: Name | None = None, folder: Folder | None = None, wanted: Flags | None = None, share: int = 1,
    ) -> None:  # fmt: skip
        self._own = own
        self._wanted = None if wanted is None else wanted | np.eye(len(wanted), dtype=bool)
        self._relation = relation
        self._n = n
        self._scope = scope
        self._bounds = bounds
        self._name = name
        self._limits = self._most = MAX_POINTS // share, MAX_RECTANGLES // share
        self._ranks = placement.ranks
        chunks = sorted(
            (chunk.first, chunk.step, chunk.count, rank, base)
            for rank in range(placement.ranks)
            for base, chunk in placement.based(rank)
        )
        columns = np.array(chunks, np.int64).reshape(-1, 5).T
        self._first, self._step, self._count, self._rank, self._base = columns
        self._folds = None if folder is None else Folds(folder, columns, placement.ranks, own, self._wanted)
        self._furthest = np.maximum.accumulate(self._first + (self._count - 1) * self._step)
        longest_first = sorted(steps(relation, n, scope), reverse=True)
        self._cutter = Cutter(bounds, self._first, self._step, longest_first)
        self._points = self._kept = 0
        self._names: dict[Hashable, int] = {}
        # of two chunks, x * chunks + y; and which one is followed for it
        self._meetings: list[tuple[Array, Array]] = []
        self._own_counts: list[tuple[Array, Array]] = []
        self._parts: list[tuple[Array, ...]] = []

    def found(self, heads: tuple[int, ...]) -> Regions:
        self._follow_all([self._unlike(self._unfolded(boxes)) for boxes in self.counted()])
        columns = columns_of(self._parts, 6)
        order = np.lexsort((columns[3], columns[1], columns[0]))
        followed, q0, q1, k0, k1, times = (part[order] for part in columns)
        meeting, of = columns_of(self._meetings, 2)
        x, y = np.divmod(meeting, max(1, len(self._first)))
        first, last = np.searchsorted(followed, of), np.searchsorted(followed, of, side="right")
        pair = self._rank[x] * self._ranks + self._rank[y]
        held = np.flatnonzero(last > first)
        held = held[np.lexsort((meeting[held], pair[held]))]
        places = np.stack([first, last, self._base[x], self._base[y]], 1)[held]
        rectangles = np.stack([q0, q1, k0, k1], 1)
        local = self._local(meeting, of)
        if self._folds is None:
            return Regions(heads, pair[held], places, rectangles, times, local)
        local += self._folds.own
        return Regions(heads, pair[held], places, rectangles, times, local, self._folds.by_pair())

    def _local(self, meeting: Array, of: Array) -> Array:
        codes, counts = columns_of(self._own_counts, 2)
        known, place = np.unique(codes, return_inverse=True)
        total = np.zeros(len(known) + 1, np.int64)
        np.add.at(total, place, counts)
        x, y = np.divmod(meeting, max(1, len(self._first)))
        own = self._rank[x] == self._rank[y]
        at = np.searchsorted(known, of[own])
        at[~np.isin(of[own], known)] = len(known)
        local = np.zeros(self._ranks, np.int64)
        np.add.at(local, self._rank[x[own]], total[at])
        return local

    def _code(self, boxes: Boxes) -> Array:
        return boxes.x * len(self._first) + boxes.y

    def counted(self) -> Iterator[Boxes]:
        """Pairs of chunks that may have pairs, where there are not too many."""
        count = 0
        for boxes in self._chunk_pairs():
            count += int((self._rank[boxes.x] != self._rank[boxes.y]).sum())
            if count > MAX_MEETINGS:
                self._refuse(f"it has pairs between more than {MAX_MEETINGS:,} pairs of ranks. Use fewer ranks")
            yield boxes

    def _follow_all(self, parts: list[Boxes]) -> None:
        """All meetings; one in some first, so that what is much too long is refused after seconds, not a minute."""
        if not parts:
            return
        boxes = Boxes.joined(parts)
        sample = np.arange(len(boxes)) % SAMPLED == SAMPLED // 2
        if len(boxes) >= MANY and self._limits[0] == MAX_POINTS:
            most, self._most = self._most, (2 * self._most[0] // SAMPLED, 2 * self._most[1] // SAMPLED)
            self._follow(boxes[sample])
            self._most = most
            boxes = boxes[~sample]
        self._follow(boxes)

    def _unfolded(self, boxes: Boxes) -> Boxes:
        """Those of whole chunks whose rows do not fall into few classes; the others are done."""
        if self._folds is None or len(self._first) > MOST_CHUNKS or (self._step > 1).any():
            return boxes
        return boxes[self._folds.unfolded(boxes)]

    def _unlike(self, boxes: Boxes) -> Boxes:
        """Those of whole chunks that do not meet as two others did."""
        code = self._code(boxes)
        if self._name is None:
            self._meetings.append((code, code))
            return boxes
        of = code.copy()
        for place, (x, y) in enumerate(zip(boxes.x.tolist(), boxes.y.tolist(), strict=True)):
            if self._step[x] == self._step[y] == 1:
                q, k = (Rows(int(self._first[c]), int(self._count[c])) for c in (x, y))
                name = self._name(q, k), q.count, k.count, bool(self._rank[x] == self._rank[y])
                of[place] = self._names.setdefault(name, int(code[place]))
        self._meetings.append((code, of))
        return boxes[of == code]

    # many ranks at once ---------------------------------------------------------------------------------------------

    def _chunk_pairs(self) -> Iterator[Boxes]:
        """Pairs of whole chunks that may have pairs."""
        ends = np.array([[0, len(self._first) - 1] * 2], np.int64)
        waiting = [ends]
        while waiting:
            some = waiting.pop()
            if len(some) > BATCH:
                waiting += [some[: len(some) // 2], some[len(some) // 2 :]]
                continue
            x0, x1, y0, y1 = some.T
            hi = self._bounds(Rectangles(self._first[x0], self._furthest[x1], self._first[y0], self._furthest[y1]))[1]
            some = some[hi > 0]
            single = (some[:, 0] == some[:, 1]) & (some[:, 2] == some[:, 3])
            if single.any():
                x, y = some[single, 0], some[single, 2]
                if not self._own:
                    apart = self._rank[x] != self._rank[y]
                    x, y = x[apart], y[apart]
                if self._wanted is not None:
                    asked = self._wanted[self._rank[x], self._rank[y]]
                    x, y = x[asked], y[asked]
                zero = np.zeros(len(x), np.int64)
                yield Boxes(x, y, zero, self._count[x] - 1, zero, self._count[y] - 1)
            some = some[~single]
            if len(some):
                waiting.append(quarters(some))

    # within two chunks ----------------------------------------------------------------------------------------------

    def _follow(self, boxes: Boxes) -> None:
        """Boxes that may have pairs, down to the outline."""
        lo, hi = self._bounds(self._cutter.tokens(boxes))
        waiting = [(boxes, lo, hi)]
        while waiting:
            boxes, lo, hi = waiting.pop()
            if len(boxes) > BATCH:
                half = len(boxes) // 2
                waiting += [(boxes[part], lo[part], hi[part]) for part in (slice(half), slice(half, None))]
                continue
            full, some = (lo == hi) & (hi > 0), lo < hi
            if full.any():
                self._keep(boxes[full], lo[full])
            small = some & (boxes.area <= LEAF)
            small[small] = ~self._cutter.bends(boxes[small]) | (boxes.area[small] <= SPECK)
            if small.any():
                self._ask(boxes[small])
            large = boxes[some & ~small]
            if len(large):
                waiting.append(self._cutter.cut(large))

    # what is found --------------------------------------------------------------------------------------------------

    def _keep(self, boxes: Boxes, times: Array) -> None:
        own = self._rank[boxes.x] == self._rank[boxes.y]
        self._own_counts.append((self._code(boxes)[own], (boxes.area * times)[own]))
        self._store(boxes[~own], times[~own])

    def _store(self, boxes: Boxes, times: Array) -> None:
        self._kept += len(boxes)
        self._check()
        self._parts.append((self._code(boxes), boxes.q0, boxes.q1, boxes.k0, boxes.k1, times))

    def _check(self) -> None:
        points, rectangles = self._most
        if self._points > points or self._kept > rectangles:
            most = self._limits
            what = f"{most[0]:,} of its pairs one by one" if self._points > points else f"{most[1]:,} rectangles"
            where = f"on {self._ranks:,} ranks" if self._wanted is None else "for one meeting of ranks of each kind"
            self._refuse(
                f"its outline at n = {self._n:,} {where} is too long to be followed: more than {what}"
                ". Use a smaller n, larger blocks or tiles (a table of blocks for one of pairs)"
            )

    def _refuse(self, why: str) -> NoReturn:
        part = shorten(relation_text(self._relation), 60)
        raise TooFineError(
            f"a part of this pattern is no lattice (`{part}`), and {why}, or `segment`, `dilate` and `offset` "
            "where they say the same"
        )

    def _ask(self, boxes: Boxes) -> None:
        """Small boxes, pair by pair."""
        for first in range(0, len(boxes), ASKED):
            self._ask_some(boxes[first : first + ASKED])

    def _ask_some(self, boxes: Boxes) -> None:
        area, width = boxes.area, boxes.k1 - boxes.k0 + 1
        box = np.repeat(np.arange(len(boxes)), area)
        place = np.arange(len(box)) - np.repeat(np.cumsum(area) - area, area)
        row, column = np.divmod(place, width[box])
        q, k = boxes.q0[box] + row, boxes.k0[box] + column
        self._points += len(box)
        self._check()
        x, y = boxes.x[box], boxes.y[box]
        tokens = self._first[x] + q * self._step[x], self._first[y] + k * self._step[y]
        times = np.asarray(multiplicity_at(self._relation, *tokens, self._n, self._scope))
        mine = self._rank[boxes.x] == self._rank[boxes.y]
        held = np.bincount(box, times, minlength=len(boxes)).astype(np.int64)
        self._own_counts.append((self._code(boxes)[mine], held[mine]))
        own = mine[box]
        begins = (column == 0) | (times != np.concatenate(([-1], times[:-1])))
        starts = np.flatnonzero(begins)
        lengths = np.diff(np.append(starts, len(times)))
        held = (times[starts] > 0) & ~own[starts]
        starts, lengths = starts[held], lengths[held]
        if len(starts):
            runs = (box[starts], k[starts], k[starts] + lengths - 1, times[starts], q[starts])
            self._store(*stacked(boxes, *runs))
