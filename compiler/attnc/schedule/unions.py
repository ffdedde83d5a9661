"""Rectangles between many pairs of stretches at once, of few sets a side: which sets a least cover holds.

LongNet between two ranks is, of each head, one progression of queries and one of keys a branch, every query of one with
every key. A cover holds the queries of a rectangle or its keys, and what a choice weighs follows from how many rows
each union of sets has (`attnc.schedule.bicliques`). Their steps are the branches' dilations, the same everywhere. So
unions of all heads of all meetings are counted together, as arrays, and no row is listed to know what moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray

from attnlang.rows import Rows

Array = NDArray[np.int64]

FAR = 1 << 62
"""No choice weighs so much."""


@dataclass(frozen=True, eq=False, slots=True)
class Sets:
    """Sets of rows, one progression each: (.., sets). Those of one line may have rows in common, others have none.

    step, line  of each set, the same for all
    """

    first: Array
    count: Array
    step: tuple[int, ...]
    line: tuple[int, ...]

    def __getitem__(self, some: slice | Array) -> Sets:
        return Sets(self.first[some], self.count[some], self.step, self.line)

    def rows(self, place: tuple[int, ...], chosen: int) -> Iterator[tuple[int, Rows]]:
        """(number, rows) of the chosen sets at a place; `chosen` has a bit for each."""
        first, count = self.first[place].tolist(), self.count[place].tolist()
        for i, step in enumerate(self.step):
            if chosen >> i & 1 and count[i]:
                yield i, Rows(first[i], count[i], step)

    def unions(self) -> Array:
        """How many rows the union of each choice of sets has: (.., choices), of which bit i is set i."""
        sets = len(self.step)
        common: list[_Progressions | None] = [None] * (1 << sets)
        # sizes of unions, as sums of intersections with signs
        sizes = np.zeros((*self.first.shape[:-1], 1 << sets), np.int64)
        for i in range(sets):
            alone = common[1 << i] = _Progressions(self.first[..., i], self.count[..., i], self.step[i])
            sizes[..., 1 << i] = alone.count
            for rest in range(1, 1 << i):
                other = common[rest]
                if other is None or self.line[rest.bit_length() - 1] != self.line[i]:
                    continue
                both = common[rest | 1 << i] = other & alone
                sizes[..., rest | 1 << i] = both.count if rest.bit_count() % 2 == 0 else -both.count
        for i in range(sets):
            halves = sizes.reshape(-1, 2, 1 << i)
            halves[:, 1] += halves[:, 0]
        return sizes


@dataclass(frozen=True, eq=False, slots=True)
class _Progressions:
    """Many progressions of one step; those of no rows have a count of 0."""

    first: Array
    count: Array
    step: int

    def __and__(self, other: _Progressions) -> _Progressions:
        """The rows in both: the Chinese remainder theorem, as of `attnlang.rows.Rows`."""
        common, step, apart = gcd(self.step, other.step), lcm(self.step, other.step), other.first - self.first
        modulus = other.step // common
        turns = apart // common * pow(self.step // common, -1, modulus) % modulus if modulus > 1 else 0
        place = self.first + self.step * turns
        low = np.maximum(self.first, other.first)
        last, other_last = (x.first + (x.count - 1) * x.step for x in (self, other))  # of no rows: before their first
        high = np.minimum(last, other_last)
        start = low + (place - low) % step
        count = np.where((apart % common == 0) & (start <= high), (high - start) // step + 1, 0)
        return _Progressions(start, count, step)


@dataclass(frozen=True, eq=False, slots=True)
class Least:
    """Least covers, one for each place: which sets of queries and of keys they hold, as bits; arrays are (places,).

    weight           what each weighs; no cover weighs less
    q_rows, k_rows   how many rows each holds
    pairs, at_query  (places, sets): of each rectangle, and those of them that have a key that is held
    """

    queries: Array
    keys: Array
    weight: Array
    q_rows: Array
    k_rows: Array
    pairs: Array
    at_query: Array

    @staticmethod
    def of_nothing(places: int, sets: int) -> Least:
        """Of places that have no pairs."""
        none, of_sets = np.zeros(places, np.int64), np.zeros((places, sets), np.int64)
        return Least(none, none, none, none, none, of_sets, of_sets)


def least(q: Sets, k: Sets, weights: tuple[int, int], queries_stay: bool) -> Least:
    """The least cover of set i of queries with set i of keys, of all i, at each place; of equals the most keys.

    queries_stay  all keys are held and no queries; the weight is that of the least all the same

    Sets are (places, sets). `pairs` and `at_query` are too: how many each rectangle has, and how many of these have a
    key that is held.
    """
    bits, choices = 1 << np.arange(len(q.step)), np.arange(1 << len(q.step))
    some = (q.count > 0) & (k.count > 0)
    there = (some * bits).sum(-1)
    of_queries, of_keys = q.unions() * weights[0], k.unions()
    needed = there[:, None] & ~choices
    total = of_queries + np.take_along_axis(of_keys, needed, -1) * weights[1]
    total[(choices & ~there[:, None]) > 0] = FAR
    weight = total.min(-1)
    best = np.where(total == weight[:, None], of_queries, FAR).argmin(-1)
    held = np.zeros_like(best) if queries_stay else best
    keys = there & ~held
    place = np.arange(len(there))
    k_rows = of_keys[place, keys]
    beside = k.count + k_rows[:, None] - np.take_along_axis(of_keys, keys[:, None] | bits, -1)  # keys that are held
    pairs = np.where(some, q.count * k.count, 0)
    at_query = np.where(some, q.count * beside, 0)
    return Least(held, keys, weight, of_queries[place, held] // weights[0], k_rows, pairs, at_query)
