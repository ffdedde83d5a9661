"""Two ranks that meet under one lattice of all residue classes (a stride): classes with equally many rows are alike.

Each class is a graph by itself, of whole rectangles between the stretches of the two ranks. Of a stretch it has as many
rows as any other, or one more: so there are few kinds of classes, and one of each kind is covered for all.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.covers import Cover, at_query_home, every_key, least_cover
from attnc.schedule.progressions import Node
from attnlang.plan import Branch, Lattice
from attnlang.rows import Rows
from attnlang.runtime.pairs import Pairs

Array = NDArray[np.int64]
Flags = NDArray[np.bool_]

Stretch: TypeAlias = tuple[int, int]
"""A head, and the number of a stretch."""

FEW_CLASSES = 16
"""Up to so many, classes are taken one by one."""


@dataclass(frozen=True, eq=False, slots=True)
class Kind:
    """Classes that are alike, and the pairs of the first of them.

    name  which stretches of theirs meet, and how many rows of a class they have: all that a cover depends on
    """

    name: Hashable
    classes: Array
    pairs: tuple[Pairs, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Held:
    """What is moved of a class: (head, number) of stretches of keys and of queries; its weight, bound and pairs.

    here  pairs that are computed where their query lives, of `total`
    """

    keys: tuple[Stretch, ...]
    queries: tuple[Stretch, ...]
    weight: int
    bound: int
    total: int
    here: int


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
            rows = tuple(
                (i, j, int(q_count[i, c]), int(k_count[j, c])) for i, j in meeting if q_count[i, c] and k_count[j, c]
            )
            pairs = tuple(
                Pairs(branch.heads, Rows(int(q_first[i, c]), of_q, r), Rows(int(k_first[j, c]), of_k, r))
                for i, j, of_q, of_k in rows
            )
            if pairs:
                kinds.append(Kind(rows, np.flatnonzero(of.reshape(-1) == number), pairs))
        return Residues(tuple(q), tuple(k), r, tuple(kinds))

    def cover(
        self, group: int, weights: tuple[int, int], queries_stay: bool, known: dict[Hashable, Held]
    ) -> tuple[Cover, int, int]:
        """The least cover, or all keys with its weight; how many pairs there are, and how many where queries live.

        known  what was found of classes of this branch, with this group and these weights, between whichever ranks
        """
        keys: dict[Stretch, Flags] = {}
        queries: dict[Stretch, Flags] = {}
        weight = bound = total = here = 0
        for kind in self.kinds:
            name, times = (kind.name, queries_stay), len(kind.classes)
            if name not in known:
                known[name] = self._held(kind, group, weights, queries_stay)
            one = known[name]
            weight, bound = weight + times * one.weight, bound + times * one.bound
            total, here = total + times * one.total, here + times * one.here
            for flags, held in ((keys, one.keys), (queries, one.queries)):
                for stretch in held:
                    flags.setdefault(stretch, np.zeros(self.dilation, bool))[kind.classes] = True
        return Cover(self._nodes(keys, self.k), self._nodes(queries, self.q), weight, bound), total, here

    def _held(self, kind: Kind, group: int, weights: tuple[int, int], queries_stay: bool) -> Held:
        cover, pairs = least_cover(kind.pairs, group, *weights), kind.pairs
        held = Cover(tuple(every_key(pairs, group)), ()) if queries_stay else cover
        total = sum(part.count for part in pairs)
        keys, queries = _stretches_of(held.keys, self.k), _stretches_of(held.queries, self.q)
        return Held(keys, queries, cover.weight, cover.bound, total, at_query_home(pairs, held, group))

    def _nodes(self, held: dict[Stretch, Flags], stretches: Sequence[Rows]) -> tuple[Node, ...]:
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


def _stretches_of(nodes: Sequence[Node], stretches: Sequence[Rows]) -> tuple[Stretch, ...]:
    """The stretches in which rows of nodes lie, in the order of the nodes."""
    return tuple(
        (head, number)
        for head, rows in nodes
        for number, stretch in enumerate(stretches)
        if rows.within(stretch.first, stretch.last) is not None
    )


def _rows(stretches: Sequence[Rows], classes: Array, dilation: int) -> tuple[Array, Array]:
    """The first row of each class in each stretch, and how many there are: (stretches, classes)."""
    low, high = (
        np.array([[end] for end in ends]) for ends in zip(*((s.first, s.last) for s in stretches), strict=True)
    )
    first = low + (classes - low) % dilation
    return first, np.maximum(0, (high - first) // dilation + 1)
