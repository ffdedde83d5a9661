"""Rectangles between many pairs of stretches at once, of many sets a side: one flow through the classes of their rows.

As `attnc.schedule.unions`, for heads of q that share a head of k: those have a set each, of every branch, and the
choices of twenty sets are too many to be weighed. But rows that lie in the same sets are one class, and of two ranks
there are few: between two ends of branches, and of the residues of the branches' dilations, rows are alike. How many
there are of each is a number, so that no row is listed; and the classes of all pairs of stretches are one graph, whose
parts have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.flows import LARGEST, least_cover_of_sets
from attnc.schedule.unions import Least, Sets

Array = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_STEP = 128
"""Classes are told by residues of a common step that is at most this."""
MAX_SETS = 40
"""Different sets of keys that a class is told by, a bit each, beside the place."""
MAX_CELLS = 2**21
"""So many cells are looked at at once."""


def can_flow(sets: int, steps: tuple[int, ...]) -> bool:
    """Whether so many sets of such steps have few classes."""
    return sets <= MAX_SETS and lcm(*steps) <= MAX_STEP


@dataclass(frozen=True, eq=False, slots=True)
class _Classes:
    """Rows of one line that lie in the same sets at a place: how many, and in which, as bits. By place and line."""

    place: Array
    line: Array
    within: Array
    count: Array

    @staticmethod
    def of(sets: Sets, there: Flags, branches: int, bit: Sequence[int]) -> _Classes:
        """Of the sets that are `there`, (places, sets). Sets of one branch have one range, and follow each other.

        bit  by which each is told: sets of one line and one bit are the same rows
        """
        step = lcm(*sets.step)
        low, high = _ranges(sets, there, branches)
        cuts = np.sort(np.concatenate([low, high], 1), 1)  # (places, cuts)
        begin, end, residue = cuts[:, :-1, None], cuts[:, 1:, None], np.arange(step)
        count = (end - 1 - residue) // step - (begin - 1 - residue) // step  # (places, stretches, residues)
        bits, lines = max(bit) + 1, max(sets.line) + 1
        parts: list[tuple[Array, Array]] = []
        for line in range(lines):
            within = np.zeros(count.shape, np.int64)
            for i in (i for i, of in enumerate(sets.line) if of == line):
                branch = i * branches // len(sets.step)
                inside = (low[:, branch, None] <= cuts[:, :-1]) & (cuts[:, 1:] <= high[:, branch, None])
                inside &= there[:, i, None]
                congruent = residue % sets.step[i] == sets.first[:, i, None] % sets.step[i]
                within |= (inside[:, :, None] & congruent[:, None]).astype(np.int64) << bit[i]
            some = np.nonzero((within != 0) & (count > 0))
            parts.append(((some[0] * lines + line) << bits | within[some], count[some]))
        names, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
        name, of = np.unique(names, return_inverse=True)
        sizes = np.bincount(of.reshape(-1), counts, len(name)).astype(np.int64)
        place, line = np.divmod(name >> bits, lines)
        return _Classes(place, line, name & (1 << bits) - 1, sizes)

    def members(self, box: Array) -> tuple[Array, Array]:
        """(class, place and box as one number) of every class in every set that it is in; boxes by (line, bit)."""
        of, i = np.nonzero(self.within[:, None] >> np.arange(box.shape[1]) & 1)
        return of, self.place[of] * (int(box.max()) + 1) + box[self.line[of], i]

    def rows(self, places: int, chosen: Flags) -> Array:
        """How many rows the chosen classes have at each place."""
        return np.bincount(self.place[chosen], self.count[chosen], places).astype(np.int64)


def _ranges(sets: Sets, there: Flags, branches: int) -> tuple[Array, Array]:
    """From where and up to where the sets of each branch have rows: (places, branches); 0 and 0 where it has none."""
    far, last = np.iinfo(np.int64).max, sets.first + (sets.count - 1) * np.array(sets.step)
    low = np.where(there, sets.first, far).reshape(len(there), branches, -1).min(2)
    high = np.where(there, last + 1, 0).reshape(len(there), branches, -1).max(2)
    return np.where(low == far, 0, low), high


def least_by_flow(
    q: Sets, k: Sets, weights: tuple[int, int], queries_stay: bool, branches: int, same: Sequence[int]
) -> Least | None:
    """What `attnc.schedule.unions.least` finds of sets (places, sets), but for which are held: those are 0.

    branches  how many: the sets of each follow one another, one a line, and end where their common range does
    same      a number for each set of keys, from 0: those of one number are the same rows at every place

    None where a place weighs more than 32 bits hold.
    """
    unit = gcd(*weights)
    heaviest = np.maximum(q.count.sum(-1) * (weights[0] // unit), k.count.sum(-1) * (weights[1] // unit))
    if heaviest.max(initial=0) >= LARGEST:
        return None
    cells = len(set(q.line)) * (2 * branches - 1) * lcm(*q.step)
    parts = [_least(q[some], k[some], weights, queries_stay, branches, same) for some in _parts(heaviest, cells)]
    return Least(*(np.concatenate([getattr(part, name) for part in parts]) for name in Least.__slots__))


def _parts(heaviest: Array, cells: int) -> Iterator[slice]:
    """Places one after another that weigh less than 32 bits hold together, and have few cells."""
    most, first, weight = max(1, MAX_CELLS // cells), 0, 0
    for place, more in enumerate(heaviest.tolist()):
        if place - first == most or weight + more >= LARGEST:
            yield slice(first, place)
            first, weight = place, 0
        weight += more
    yield slice(first, len(heaviest))


def _least(q: Sets, k: Sets, weights: tuple[int, int], queries_stay: bool, branches: int, same: Sequence[int]) -> Least:
    places, sets = q.first.shape
    some, unit = (q.count > 0) & (k.count > 0), gcd(*weights)
    boxes, group = max(same) + 1, sets // branches
    of_queries = _Classes.of(q, some, branches, np.repeat(np.arange(branches), group).tolist())
    of_keys = _Classes.of(k, some, branches, same)
    q_of, q_box = of_queries.members(np.array(same).reshape(branches, group).T)
    k_of, k_box = of_keys.members(np.arange(boxes)[None])
    queries, keys = least_cover_of_sets(
        of_queries.count * (weights[0] // unit), of_keys.count * (weights[1] // unit), (q_of, q_box), (k_of, k_box),
        places * boxes,
    )  # fmt: skip
    weight = of_queries.rows(places, queries) * weights[0] + of_keys.rows(places, keys) * weights[1]
    if queries_stay:
        queries, keys = np.zeros_like(queries), np.ones_like(keys)
    held = np.bincount(k_box, np.where(keys, of_keys.count, 0)[k_of], places * boxes).astype(np.int64)
    held = held.reshape(places, boxes)[:, same]
    pairs, at_query = (np.where(some, q.count * count, 0) for count in (k.count, held))
    nothing, rows = np.zeros(places, np.int64), (of_queries.rows(places, queries), of_keys.rows(places, keys))
    return Least(nothing, nothing, weight, *rows, pairs, at_query)
