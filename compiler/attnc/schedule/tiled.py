"""What ranks have to do with each other where a branch is no lattice: by the regions of its relation.

Rectangles of tiled branches and the progressions of lattices are put together for each ordered pair of ranks, heads
with equal pairs once, and covered head of k by head of k.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.boxes import Counter, NoTermError, TooManyError
from attnc.schedule.classes import Chosen, Meeting, Strided, every_key, least_cover
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


class Tiled:
    """The tiled branches of a plan on a placement."""

    def __init__(
        self, plan: Plan, branches: Sequence[int], placement: Placement, group: int, tables: Mapping[str, Any]
    ) -> None:
        self.plan = plan
        self.placement = placement
        self.group = group
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
        self._covers: dict[Any, Chosen] = {}

    def _add(self, number: int, branch: Tiles, heads: tuple[int, ...], tables: Mapping[str, Any]) -> None:
        n = self.placement.n
        scope = scope_of(self.plan, n, heads[0], tables)
        own = self._counted(branch, heads[0], scope)
        found = regions(branch.relation, n, scope, self.placement, heads, own=own is None)
        self.local += (found.local if own is None else own) * len(heads)
        self.found.append((number, found))
        a, b = np.divmod(np.unique(found.pair), self.placement.ranks)
        self.has[a, b] = True

    def _counted(self, branch: Tiles, head: int, scope: Mapping[str, Any]) -> Array | None:
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

    def between(self, a: int, b: int, weights: tuple[int, int], queries_stay: bool) -> Met:
        """The least cover of the pairs with queries at a and keys at b; every key, where queries are to stay."""
        pair = a * self.placement.ranks + b
        tiles = [(number, r, r.between(pair)) for number, r in self.found]
        tiles = [(number, r, part) for number, r, part in tiles if part.start < part.stop]
        lattices = list(self._lattices(a, b))
        boxes = [np.stack([x[part] for x in (r.q0, r.q1, r.k0, r.k1)], 1) for _, r, part in tiles]
        contents = [
            (number, r.heads, box.tobytes(), r.times[part].tobytes())
            for (number, r, part), box in zip(tiles, boxes, strict=True)
        ]
        key = tuple(contents), tuple(lattices), weights, queries_stay
        met = self._known.get(key)
        if met is None:
            met = self._known[key] = self._met(tiles, boxes, contents, lattices, weights, queries_stay)
        return met

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

    def _met(
        self, tiles: list[tuple[int, Regions, slice]], boxes: list[Array], contents: list[Any],
        lattices: list[tuple[int, tuple[int, ...], Strided]], weights: tuple[int, int], queries_stay: bool,
    ) -> Met:  # fmt: skip
        keys: list[tuple[int, Rows]] = []
        queries: list[tuple[int, Rows]] = []
        weight = bound = 0
        here, there = [0.0] * len(self.plan.branches), [0.0] * len(self.plan.branches)
        for kv_head in range(self.plan.heads // self.group):
            heads = range(kv_head * self.group, (kv_head + 1) * self.group)
            chosen = self._of_group(heads, tiles, boxes, contents, lattices, weights, queries_stay)
            if chosen is None:
                continue
            keys += [(kv_head, rows) for rows in chosen.keys]
            queries += [
                (heads[place], rows) for places, parts in chosen.queries for rows in parts for place in places
            ]
            weight, bound = weight + chosen.weight, bound + chosen.bound
            self._count(heads, tiles, lattices, chosen.keys, bool(chosen.queries), here, there)
        return Met(tuple(keys), tuple(queries), weight, bound, tuple(here), tuple(there))

    def _of_group(
        self, heads: range, tiles: list[tuple[int, Regions, slice]], boxes: list[Array], contents: list[Any],
        lattices: list[tuple[int, tuple[int, ...], Strided]], weights: tuple[int, int], queries_stay: bool,
    ) -> Chosen | None:  # fmt: skip
        """The cover for heads of q that share a head of k; heads with equal pairs are one."""
        alike: dict[Any, list[int]] = {}
        for place, head in enumerate(heads):
            mine = tuple(i for i, (_, r, _) in enumerate(tiles) if head in r.heads)
            strided = tuple(part for _, of, part in lattices if head in of)
            if mine or strided:
                alike.setdefault((tuple(contents[i][2] for i in mine), strided), []).append(place)
        if not alike:
            return None
        key = tuple((name, tuple(places)) for name, places in alike.items())
        found = self._covers.get((key, weights, queries_stay))
        if found is None:
            empty = np.zeros((0, 4), np.int64)
            meetings = [
                Meeting(tuple(places), np.concatenate([empty, *(np.frombuffer(x, np.int64).reshape(-1, 4) for x in texts)]), strided)
                for (texts, strided), places in alike.items()
            ]  # fmt: skip
            found = self._cover(meetings, weights, queries_stay)
            if len(self._covers) < 4096:
                self._covers[key, weights, queries_stay] = found
        return found

    @staticmethod
    def _cover(meetings: list[Meeting], weights: tuple[int, int], queries_stay: bool) -> Chosen:
        least = least_cover(meetings, *weights)
        return Chosen(every_key(meetings), (), least.weight, least.bound) if queries_stay else least

    def _count(
        self, heads: range, tiles: list[tuple[int, Regions, slice]],
        lattices: list[tuple[int, tuple[int, ...], Strided]], sent: tuple[Rows, ...], shipped: bool,
        here: list[float], there: list[float],
    ) -> None:  # fmt: skip
        """Add the pairs of a head of k that are computed at either home, by branch."""
        rows = np.sort(np.concatenate([numbers(part) for part in sent])) if sent else np.zeros(0, np.int64)
        for number, r, part in tiles:
            count = sum(head in r.heads for head in heads)
            if not count:
                continue
            tall = (r.q1[part] - r.q0[part] + 1) * r.times[part] * count
            total = int((tall * (r.k1[part] - r.k0[part] + 1)).sum())
            at_query = total
            if shipped:
                at_query = int((tall * (np.searchsorted(rows, r.k1[part] + 1) - np.searchsorted(rows, r.k0[part]))).sum())
            here[number] += at_query
            there[number] += total - at_query
        for number, of, strided in lattices:
            count = sum(head in of for head in heads)
            if not count:
                continue
            low, high = strided.keys_of()
            total = int((high - low).sum())
            at_query = total
            if shipped:
                among = np.concatenate(([0], np.cumsum(np.isin(numbers(strided.k), rows))))
                at_query = int((among[high] - among[low]).sum())
            here[number] += count * at_query
            there[number] += count * (total - at_query)
