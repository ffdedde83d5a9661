"""Which ordered pairs of ranks look alike, so that one of them is solved for all; and how far a branch reaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.placements import period
from attnc.schedule.seen import Seen
from attnlang.plan import Columns, Lattice
from attnlang.schedule import Placement

Array = NDArray[Any]

UNBOUNDED = 1 << 60
FEW_KINDS = 4
"""From more kinds of ranks on, meetings are told apart by what two ranks see of each other, and not by their kinds."""


def reach(branch: object) -> tuple[int, int]:
    """How far before and after its queries a branch's keys can lie, in tokens."""
    match branch:
        case Lattice(runs=runs, band=band):
            widest = UNBOUNDED if runs is None else runs.width - 1
            down = widest if band.lo is None else min(widest, max(0, -band.lo))
            return down, widest if band.hi is None else min(widest, max(0, band.hi))
        case Columns(period=p, band=band):
            down = UNBOUNDED if band.lo is None else max(0, (1 - band.lo) * p)
            return down, UNBOUNDED if band.hi is None else max(0, (1 + band.hi) * p)
        case _:
            return UNBOUNDED, UNBOUNDED


class Alike:
    """Which ordered rank pairs look alike: as far as the branches that reach from one to the other can see."""

    def __init__(self, branches: Sequence[Any], placement: Placement) -> None:
        self.branches = branches
        self.placement = placement
        self.whole = _Likeness(branches, placement)
        self.by_reach: dict[tuple[bool, ...], _Likeness] = {(True,) * len(branches): self.whole}
        stretches = all(chunk.step == 1 for chunks in placement.chunks for chunk in chunks)
        self.seen = Seen(branches, placement) if branches and stretches and self.whole.count > FEW_KINDS else None

    def kind(self, rank: int) -> int:
        """Ranks of one kind hold alike rows."""
        return int(self.whole.kinds[rank])

    def groups(self, a: Array, distance: int) -> Iterator[tuple[Any, Array]]:
        """(key, ranks a) of those whose pairs with a + distance look alike."""
        if not len(a):
            return
        if self.seen is not None:
            for key, places in self.seen.groups(a, a + distance):
                yield key, a[places]
            return
        masks = self._reaching(a, distance)
        for mask, index in _unique(masks):
            active = tuple(bool(mask >> i & 1) for i in range(len(self.branches)))
            if not any(active):
                continue
            likeness = self.by_reach.get(active)
            if likeness is None:
                chosen = [branch for branch, is_active in zip(self.branches, active, strict=True) if is_active]
                likeness = self.by_reach[active] = _Likeness(chosen, self.placement)
            ranks = a[index]
            keys = likeness.keys(ranks, ranks + distance)
            for key, places in _unique(keys):
                yield (active, int(key)), ranks[places]

    def _reaching(self, a: Array, distance: int) -> Array:
        """Which branches can reach from a to a + distance, as bits."""
        found = np.zeros(len(a), np.int64)
        if self.placement.kind != "contiguous" or len(self.branches) > 60:
            return found - 1
        first, last = self.whole.starts[:, 0], self.whole.ends
        b = a + distance
        gap = first[b] - last[a] if distance > 0 else first[a] - last[b]
        for number, branch in enumerate(self.branches):
            down, up = reach(branch)
            found |= (gap <= (up if distance > 0 else down)).astype(np.int64) << number
        return found


def _unique(values: Array) -> Iterator[tuple[Any, Array]]:
    """Each distinct value and the places where it stands."""
    if (values == values[0]).all():
        yield int(values[0]), np.arange(len(values))
        return
    distinct, inverse = np.unique(values, return_inverse=True)
    for number, value in enumerate(distinct.tolist()):
        yield value, np.flatnonzero(inverse == number)


class _Likeness:
    """Keys of ordered rank pairs under some branches: where they are equal, the pairs look alike."""

    def __init__(self, branches: Sequence[Any], placement: Placement) -> None:
        cycle = period(branches)
        ends = [end for branch in branches for end in (*reach(branch), *_far_ends(branch)) if end < UNBOUNDED]
        extent = max((c.last - c.first + 1 for chunks in placement.chunks for c in chunks), default=1)
        self.limit = max(ends, default=0) + 2 * extent + 1
        names: dict[Any, int] = {}
        kinds: list[int] = []
        for chunks in placement.chunks:
            name = tuple((c.first % cycle, c.count, c.step) for c in chunks)
            apart = tuple(self._clip(c.first - chunks[0].first) for c in chunks[1:])
            kinds.append(names.setdefault((name, apart), len(names)))
        self.kinds = np.array(kinds, np.int64)
        self.count = len(names)
        most = max((len(chunks) for chunks in placement.chunks), default=1)
        self.starts = np.array(
            [[chunks[min(i, len(chunks) - 1)].first for i in range(most)] for chunks in placement.chunks], np.int64
        )
        self.ends = np.array([chunks[-1].last for chunks in placement.chunks], np.int64)
        self.seen: dict[Any, int] = {}

    def _clip(self, distance: int) -> int:
        return max(-self.limit, min(self.limit, distance))

    def keys(self, a: Array, b: Array) -> Array:
        """One number for each pair (a, b)."""
        key = self.kinds[a] * self.count + self.kinds[b]
        for i in range(self.starts.shape[1]):
            for j in range(self.starts.shape[1]):
                distance = np.clip(self.starts[b, j] - self.starts[a, i], -self.limit, self.limit)
                numbers = np.empty(len(a), np.int64)
                for apart, places in _unique(distance):
                    for old, among in _unique(key[places]):
                        numbers[places[among]] = self.seen.setdefault((i, j, old, apart), len(self.seen))
                key = numbers
        return key


def _far_ends(branch: object) -> tuple[int, ...]:
    """Distances at which a band begins or ends, in tokens."""
    match branch:
        case Lattice(band=band):
            return tuple(abs(end) for end in (band.lo, band.hi) if end is not None)
        case Columns(period=p, band=band):
            return tuple((abs(end) + 1) * p for end in (band.lo, band.hi) if end is not None)
        case _:
            return ()
