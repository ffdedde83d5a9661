"""What ranks have to do with each other where a branch is no lattice: by the regions of its relation.

Rectangles of tiled branches and the progressions of lattices are put together for each ordered pair of ranks, heads
with equal pairs once, and covered head of k by head of k.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.boxes import Counter, NoTermError, TooManyError
from attnc.schedule.classes import Chosen, Job, every_key, least_covers
from attnc.schedule.lines import Meeting, Strided
from attnc.schedule.regions import Regions, regions
from attnlang.parallel.dense import alike_heads, numbers, scope_of
from attnlang.plan import Columns, Lattice, Plan, Tiles
from attnlang.rows import Rows
from attnlang.runtime.pairs import branch_pairs
from attnlang.schedule import Placement

Array = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Met:
    """One ordered pair of ranks: rows that move, by head; what they weigh; pairs at either home, by branch."""

    keys: tuple[tuple[int, Rows], ...]
    queries: tuple[tuple[int, Rows], ...]
    weight: int
    bound: int
    at_query: tuple[float, ...]
    at_key: tuple[float, ...]


@dataclass(frozen=True, eq=False, slots=True)
class _Between:
    """The pairs between two ranks: `name` says all of them, in local rows.

    tiles     (branch, its regions, which of these); boxes: (q0, q1, k0, k1) of each, as bytes
    lattices  (branch, heads, progressions)
    """

    name: Any
    tiles: list[tuple[int, Regions, slice]]
    boxes: list[bytes]
    lattices: tuple[tuple[int, tuple[int, ...], Strided], ...]


_Alike: TypeAlias = tuple[tuple[tuple[bytes, ...], tuple[Strided, ...], tuple[int, ...]], ...]


class Tiled:
    """The tiled branches of a plan on a placement."""

    def __init__(
        self, plan: Plan, branches: Sequence[int], placement: Placement, group: int, tables: Mapping[str, Any],
        counted: bool = True,
    ) -> None:  # fmt: skip
        self.plan = plan
        self.placement = placement
        self.group = group
        self.counted = counted
        self.lattices = [i for i in branches if isinstance(plan.branches[i], Lattice | Columns)]
        self.found: list[tuple[int, Regions]] = []
        self.local = np.zeros(placement.ranks)
        self.has = np.zeros((placement.ranks, placement.ranks), bool)
        for number in branches:
            branch = plan.branches[number]
            if isinstance(branch, Tiles):
                for heads in alike_heads(branch):
                    self._add(number, branch, heads, tables)
        self._known: dict[Any, Met] = {}
        self._covers: dict[Any, tuple[Chosen, tuple[Rows, ...]]] = {}

    def _add(self, number: int, branch: Tiles, heads: tuple[int, ...], tables: Mapping[str, Any]) -> None:
        n = self.placement.n
        scope = scope_of(self.plan, n, heads[0], tables)
        own = self._own(branch, heads[0], scope) if self.counted else self.local
        found = regions(branch.relation, n, scope, self.placement, heads, own=own is None)
        self.local += (found.local if own is None else own) * len(heads)
        self.found.append((number, found))
        a, b = np.divmod(np.unique(found.pair), self.placement.ranks)
        self.has[a, b] = True

    def _own(self, branch: Tiles, head: int, scope: Mapping[str, Any]) -> Array | None:
        """The pairs of each rank with itself, counted by structure; None where the pattern has none."""
        tables = {name: content for name, content in scope.items() if name not in ("N", "H", "h")}
        counter, n = Counter(tables), self.placement.n
        total = np.zeros(self.placement.ranks, np.int64)
        try:
            for rank, chunks in enumerate(self.placement.chunks):
                for q in chunks:
                    for k in chunks:
                        if q.step > 1 or k.step > 1:
                            return None
                        total[rank] += counter.rectangle(branch.relation, n, head, self.plan.heads, q, k)
        except (NoTermError, TooManyError):
            return None
        return total

    def cover(self, weights: tuple[int, int]) -> None:
        """Find the least covers of all pairs of ranks that have tiles, many at once."""
        jobs: dict[Any, Job] = {}
        for a, b in np.argwhere(self.has):
            between = self._between(int(a), int(b))
            for kv_head in range(self.plan.heads // self.group):
                alike = self._alike(kv_head, between)
                key = _name(alike, weights)
                if alike and key not in self._covers and key not in jobs:
                    jobs[key] = _job(alike)
        least = least_covers(list(jobs.values()), *weights)
        mixed = [number for number, chosen in enumerate(least) if chosen.queries]
        listed = list(jobs.values())
        every = dict(zip(mixed, every_key([listed[number] for number in mixed]), strict=True))
        for number, (key, chosen) in enumerate(zip(jobs, least, strict=True)):
            self._covers[key] = chosen, every.get(number, chosen.keys)

    def between(self, a: int, b: int, weights: tuple[int, int], queries_stay: bool) -> Met:
        """The least cover of the pairs with queries at a and keys at b; every key, where queries are to stay.

        Of weights for which `cover` was called.
        """
        between = self._between(a, b)
        key = between.name, weights, queries_stay
        met = self._known.get(key)
        if met is None:
            met = self._known[key] = self._met(between, weights, queries_stay)
        return met

    def _between(self, a: int, b: int) -> _Between:
        pair = a * self.placement.ranks + b
        tiles = [(number, r, r.between(pair)) for number, r in self.found]
        tiles = [(number, r, part) for number, r, part in tiles if part.start < part.stop]
        boxes = [np.stack([x[part] for x in (r.q0, r.q1, r.k0, r.k1)], 1) for _, r, part in tiles]
        name = tuple(
            (number, r.heads, box.tobytes(), r.times[part].tobytes())
            for (number, r, part), box in zip(tiles, boxes, strict=True)
        )
        lattices = tuple(self._lattices(a, b))
        return _Between((name, lattices), tiles, [box.tobytes() for box in boxes], lattices)

    def _lattices(self, a: int, b: int) -> Iterator[tuple[int, tuple[int, ...], Strided]]:
        for number in self.lattices:
            branch = self.plan.branches[number]
            assert isinstance(branch, Lattice | Columns)
            for q_base, q in self.placement.based(a):
                for k_base, k in self.placement.based(b):
                    for pairs in branch_pairs(branch, q, k):
                        band = pairs.band if pairs.band.lo is None and pairs.band.hi is None else pairs.index_band
                        part = Strided(q.numbered(pairs.q, q_base), k.numbered(pairs.k, k_base), band)
                        yield number, pairs.heads, part

    def _met(self, between: _Between, weights: tuple[int, int], queries_stay: bool) -> Met:
        keys: list[tuple[int, Rows]] = []
        queries: list[tuple[int, Rows]] = []
        weight = bound = 0
        here, there = [0.0] * len(self.plan.branches), [0.0] * len(self.plan.branches)
        for kv_head in range(self.plan.heads // self.group):
            alike = self._alike(kv_head, between)
            if not alike:
                continue
            chosen, every = self._covers[_name(alike, weights)]
            sent, shipped = (every, ()) if queries_stay else (chosen.keys, chosen.queries)
            heads = range(kv_head * self.group, (kv_head + 1) * self.group)
            keys += [(kv_head, rows) for rows in sent]
            queries += [(heads[place], rows) for places, parts in shipped for rows in parts for place in places]
            weight, bound = weight + chosen.weight, bound + chosen.bound
            _count(heads, between, sent, bool(shipped), (here, there))
        return Met(tuple(keys), tuple(queries), weight, bound, tuple(here), tuple(there))

    def _alike(self, kv_head: int, between: _Between) -> _Alike:
        """The pairs of heads of q that share a head of k: (rectangles, progressions) and whose they are."""
        found: dict[tuple[tuple[bytes, ...], tuple[Strided, ...]], list[int]] = {}
        for place in range(self.group):
            head = kv_head * self.group + place
            boxes = tuple(text for (_, r, _), text in zip(between.tiles, between.boxes, strict=True) if head in r.heads)
            strided = tuple(part for _, heads, part in between.lattices if head in heads)
            if boxes or strided:
                found.setdefault((boxes, strided), []).append(place)
        return tuple((*content, tuple(places)) for content, places in found.items())


def _name(alike: _Alike, weights: tuple[int, int]) -> Any:
    return alike, weights


def _job(alike: _Alike) -> Job:
    return tuple(
        Meeting(places, np.frombuffer(b"".join(boxes), np.int64).reshape(-1, 4), strided)
        for boxes, strided, places in alike
    )


def _count(
    heads: range, between: _Between, sent: tuple[Rows, ...], shipped: bool, homes: tuple[list[float], list[float]]
) -> None:
    """Add the pairs of a head of k that are computed at either home, by branch."""
    rows = np.sort(np.concatenate([numbers(part) for part in sent])) if sent and shipped else np.zeros(0, np.int64)
    here, there = homes
    for number, r, part in between.tiles:
        count = sum(head in r.heads for head in heads)
        if not count:
            continue
        tall = (r.q1[part] - r.q0[part] + 1) * r.times[part] * count
        total = at_query = int((tall * (r.k1[part] - r.k0[part] + 1)).sum())
        if shipped:
            among = np.searchsorted(rows, r.k1[part] + 1) - np.searchsorted(rows, r.k0[part])
            at_query = int((tall * among).sum())
        here[number] += at_query
        there[number] += total - at_query
    for number, of, strided in between.lattices:
        count = sum(head in of for head in heads)
        if not count:
            continue
        low, high = strided.keys_of()
        total = at_query = int((high - low).sum())
        if shipped:
            before = np.concatenate(([0], np.cumsum(np.isin(numbers(strided.k), rows))))
            at_query = int((before[high] - before[low]).sum())
        here[number] += count * at_query
        there[number] += count * (total - at_query)
