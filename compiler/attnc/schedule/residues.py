"""Two ranks that meet under one lattice of all residue classes (a stride): classes with equally many rows are alike.

Each class is a graph by itself, of whole rectangles between the stretches of the two ranks. Of a stretch it has as many
rows as any other, or one more: so there are few kinds of classes, and one of each kind is covered for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.covers import Cover, at_query_home, every_key, least_cover
from attnc.schedule.progressions import Node
from attnlang.plan import Branch, Lattice
from attnlang.rows import Rows
from attnlang.runtime.pairs import Pairs

Array = NDArray[np.int64]
Flags = NDArray[np.bool_]

FEW_CLASSES = 16
"""Up to so many, classes are taken one by one."""


@dataclass(frozen=True, eq=False, slots=True)
class Kind:
    """Classes that are alike, and the pairs of the first of them."""

    classes: Array
    pairs: tuple[Pairs, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Residues:
    """All classes of a lattice between some stretches of queries and some of keys."""

    q: tuple[Rows, ...]
    k: tuple[Rows, ...]
    dilation: int
    kinds: tuple[Kind, ...]

    @staticmethod
    def of(branch: Branch, q: Sequence[Rows], k: Sequence[Rows]) -> Residues | None:
        """The classes of a branch; None where they are few, or where its band or its runs cut a stretch."""
        if not isinstance(branch, Lattice) or branch.runs or branch.phases or branch.dilation <= FEW_CLASSES:
            return None
        if any(rows.step != 1 for rows in (*q, *k)):
            return None
        lo, hi = branch.band.lo, branch.band.hi
        meeting: list[tuple[int, int]] = []
        for i, queries in enumerate(q):
            for j, keys in enumerate(k):
                least, most = keys.first - queries.last, keys.last - queries.first
                if (lo is None or lo <= least) and (hi is None or most <= hi):
                    meeting.append((i, j))
                elif (lo is None or lo <= most) and (hi is None or least <= hi):
                    return None
        r, classes = branch.dilation, np.arange(branch.dilation)
        (q_first, q_count), (k_first, k_count) = _rows(q, classes, r), _rows(k, classes, r)
        q_seen, k_seen = (sorted({pair[side] for pair in meeting}) for side in (0, 1))
        _, first, of = np.unique(
            np.concatenate([q_count[q_seen], k_count[k_seen]]), axis=1, return_index=True, return_inverse=True
        )
        kinds: list[Kind] = []
        for number, c in enumerate(first.tolist() if meeting else ()):
            pairs = tuple(
                Pairs(branch.heads, Rows(int(q_first[i, c]), int(q_count[i, c]), r),
                      Rows(int(k_first[j, c]), int(k_count[j, c]), r))
                for i, j in meeting if q_count[i, c] and k_count[j, c]
            )  # fmt: skip
            if pairs:
                kinds.append(Kind(np.flatnonzero(of.reshape(-1) == number), pairs))
        return Residues(tuple(q), tuple(k), r, tuple(kinds))

    def cover(self, group: int, weights: tuple[int, int], queries_stay: bool) -> tuple[Cover, int, int]:
        """The least cover, or all keys with its weight; how many pairs there are, and how many where queries live."""
        keys: dict[tuple[int, int], Flags] = {}
        queries: dict[tuple[int, int], Flags] = {}
        weight = bound = total = here = 0
        for kind in self.kinds:
            times, pairs = len(kind.classes), kind.pairs
            cover = least_cover(pairs, group, *weights)
            weight, bound = weight + times * cover.weight, bound + times * cover.bound
            if queries_stay:
                cover = Cover(tuple(every_key(pairs, group)), ())
            self._mark(keys, cover.keys, self.k, kind.classes)
            self._mark(queries, cover.queries, self.q, kind.classes)
            total += times * sum(part.count for part in pairs)
            here += times * at_query_home(pairs, cover, group)
        return Cover(self._nodes(keys, self.k), self._nodes(queries, self.q), weight, bound), total, here

    def _mark(
        self, held: dict[tuple[int, int], Flags], nodes: Sequence[Node], stretches: Sequence[Rows], classes: Array
    ) -> None:
        """That these classes of the stretches are held in which nodes of the first of them lie."""
        for head, rows in nodes:
            for number, stretch in enumerate(stretches):
                if rows.within(stretch.first, stretch.last) is not None:
                    flags = held.setdefault((head, number), np.zeros(self.dilation, bool))
                    flags[classes] = True

    def _nodes(self, held: dict[tuple[int, int], Flags], stretches: Sequence[Rows]) -> tuple[Node, ...]:
        """Rows of classes that are held; a stretch of which all are is one."""
        found: list[Node] = []
        for (head, number), flags in held.items():
            stretch = stretches[number]
            if int(flags.sum()) == min(self.dilation, stretch.count):
                found.append((head, stretch))
                continue
            for c in np.flatnonzero(flags).tolist():
                rows = stretch.congruent(c, self.dilation)
                if rows is not None:
                    found.append((head, rows))
        return tuple(found)


def _rows(stretches: Sequence[Rows], classes: Array, dilation: int) -> tuple[Array, Array]:
    """The first row of each class in each stretch, and how many there are: (stretches, classes)."""
    low, high = (
        np.array([[end] for end in ends]) for ends in zip(*((s.first, s.last) for s in stretches), strict=True)
    )
    first = low + (classes - low) % dilation
    return first, np.maximum(0, (high - first) // dilation + 1)
