"""What ranks have to do with each other where a branch is no lattice: by the regions of its relation.

Rectangles of tiled branches and the progressions of lattices are put together for each ordered pair of ranks, heads
with equal pairs once, and covered head of k by head of k. Where nothing but tiles of one quotient stands in a plan
(`attnc.schedule.quotient`), rows are taken in the order of their classes, and what is chosen is put back.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.boxes import Counter, NoTermError, TooManyError
from attnc.analysis.terms import looks_up_distances
from attnc.schedule.classes import Chosen, Job, every_key, least_covers
from attnc.schedule.counts import tiled_pairs
from attnc.schedule.drawn import check_count, drawn_regions, draws_of
from attnc.schedule.folds import Folder
from attnc.schedule.joint import Joined, Order, Placed, joined, put_back
from attnc.schedule.lines import Strided
from attnc.schedule.meetings import (
    Between,
    Homes,
    Met,
    TilesBetween,
    count_homes,
    heads_alike,
    job_of,
    name_of,
    namer,
    within,
)  # fmt: skip
from attnc.schedule.quotient import Sorted, quotient
from attnc.schedule.regions import Regions, check_meetings, regions
from attnc.schedule.steps import steps
from attnlang.parallel.dense import alike_heads, scope_of
from attnlang.pattern.algebra import Relation
from attnlang.pattern.expr import Scope
from attnlang.pattern.tables import Content
from attnlang.plan import Columns, Lattice, Plan, Tiles
from attnlang.rows import Rows
from attnlang.runtime.pairs import branch_pairs
from attnlang.schedule import Placement, Transfer

Array = NDArray[np.int64]


class Tiled:
    """The tiled branches of a plan on a placement."""

    def __init__(
        self, plan: Plan, branches: Sequence[int], placement: Placement, group: int, tables: Mapping[str, Any],
        counted: bool = True, like: Tiled | None = None, wanted: NDArray[np.bool_] | None = None,
    ) -> None:  # fmt: skip
        """The branches on all meetings of ranks, or on those that are wanted.

        like  the same tiled branches with other lattices beside them, of which what was found is taken over
        """
        self.plan = plan
        self.placement = placement
        self.group = group
        self.counted = counted
        self.wanted = wanted
        self.lattices = [i for i in branches if isinstance(plan.branches[i], Lattice | Columns)]
        self.found: list[tuple[int, Regions]] = []
        self.local = np.zeros(placement.ranks)
        self.has = np.zeros((placement.ranks, placement.ranks), bool)
        self._tiles: dict[Any, TilesBetween] = {}
        self.within: dict[Any, tuple[Transfer, Homes | None]] = {}
        self._known: dict[Any, Met] = {}
        self._covers: dict[Any, tuple[Chosen, tuple[Rows, ...]]] = {}
        self._joined: dict[Hashable, Joined] = {}
        self._rows: dict[Hashable, tuple[Rows, ...]] = {}
        self.sorted: Sorted | None = None
        if like is not None and bool(like.lattices) == bool(self.lattices):
            self.found, self.local, self.has, self.sorted = like.found, like.local, like.has, like.sorted
            return
        tiles = [(i, branch) for i in branches if isinstance(branch := plan.branches[i], Tiles)]
        self._search(tiles, tables)

    def _search(self, tiles: list[tuple[int, Tiles]], tables: Mapping[str, Any]) -> None:
        n, ranks = self.placement.n, self.placement.ranks
        parts = [
            part
            for i, branch in tiles
            for undrawn in self._drawn(i, branch, tables)
            for part in self._parts_of(i, undrawn, tables)
        ]
        quotients = [quotient(branch.relation, n, scope) for _, branch, _, scope in parts]
        first = quotients[0] if quotients else None
        alike = first is not None and all(q is not None and q.axes == first.axes for q in quotients)
        owns: dict[int, Array | None] = {}
        if first is not None and alike and not self.lattices and not self.found:
            owns = {
                number: self._own(branch, heads[0], scope) for number, (_, branch, heads, scope) in enumerate(parts)
            }
            self.sorted = None if any(own is None for own in owns.values()) else Sorted(first, self.placement)
        for number, ((i, branch, heads, scope), q) in enumerate(zip(parts, quotients, strict=True)):
            if number not in owns:
                check_meetings(branch.relation, n, scope, self.placement, self.wanted)
            own = owns[number] if number in owns else self._own(branch, heads[0], scope)
            relation, length, where = branch.relation, n, self.placement
            if self.sorted is not None and q is not None:
                relation, length, where = q.relation, q.n, self.sorted.classes
            name = namer(relation, length, heads[0], self.plan.heads, scope)
            folder = None if name is None or self.sorted is not None else self._folder(relation, heads[0], scope)
            found = regions(
                relation, length, scope, where, heads, own=own is None, name=name, folder=folder, wanted=self.wanted
            )
            self.local += (found.local if own is None else own) * len(heads)
            self.found.append((i, found))
        for _, found in self.found:
            a, b = np.divmod(np.union1d(found.pair, np.array(list(found.folded), np.int64)), ranks)
            self.has[a, b] = True

    def _drawn(self, number: int, branch: Tiles, tables: Mapping[str, Any]) -> list[Tiles]:
        """The branch without the pairs that it draws, which are listed."""
        n = self.placement.n
        scopes = {head: scope_of(self.plan, n, head, tables) for head in branch.heads}
        draws = draws_of(branch.relation, n, scopes[branch.heads[0]])
        if draws is None:
            return [branch]
        check_count(draws, len(branch.heads), scopes[branch.heads[0]], self.placement.ranks, n)
        listed = [drawn_regions(draws, n, scope, self.placement, (head,)) for head, scope in scopes.items()]
        if any(found is None for found in listed):
            return [branch]
        for found in listed:
            if found is not None:
                self.found.append((number, found))
                self.local += found.local
        return [replace(branch, relation=draws.without)]

    def _parts_of(
        self, number: int, branch: Tiles, tables: Mapping[str, Any]
    ) -> list[tuple[int, Tiles, tuple[int, ...], Scope]]:
        groups = self._alike_heads(branch, tables)
        return [(number, branch, heads, scope_of(self.plan, self.placement.n, heads[0], tables)) for heads in groups]

    def _alike_heads(self, branch: Tiles, tables: Mapping[str, Any]) -> list[tuple[int, ...]]:
        """Heads that have the same pairs at this length, together: those of one term."""
        n, heads = self.placement.n, self.plan.heads
        content = {name: each for name, each in scope_of(self.plan, n, 0, tables).items() if isinstance(each, Content)}
        counter = Counter(content)
        found: dict[Hashable, list[int]] = {}
        for alike in alike_heads(branch):
            try:
                term, draws = counter.term(branch.relation, n, alike[0], heads)
            except NoTermError:
                term, draws = None, True
            found.setdefault(alike if draws else term, []).extend(alike)
        return [tuple(sorted(alike)) for alike in found.values()]

    def _own(self, branch: Tiles, head: int, scope: Mapping[str, Any]) -> Array | None:
        """The pairs of each rank with itself, counted by structure; None where the pattern has none."""
        if not self.counted:
            return np.zeros(self.placement.ranks, np.int64)
        tables = {name: content for name, content in scope.items() if name not in ("N", "H", "h")}
        counter, n = Counter(tables), self.placement.n
        folder = Folder(branch.relation, n, head, self.plan.heads, tables, ())
        total = np.zeros(self.placement.ranks, np.int64)
        known: dict[Hashable, int] = {}
        what = branch.relation, n, head, self.plan.heads
        try:
            if looks_up_distances(counter.term(*what)[0]):
                return None
            for rank, chunks in enumerate(self.placement.chunks):
                for q in chunks:
                    for k in chunks:
                        if q.step > 1 or k.step > 1:
                            return None
                        name = counter.meeting(branch.relation, n, head, self.plan.heads, q, k), q.count, k.count
                        if name not in known:
                            known[name] = tiled_pairs(
                                counter, folder, (branch.relation, n, head, self.plan.heads), q, k
                            )
                        total[rank] += known[name]
        except (NoTermError, TooManyError):
            return None
        return total

    def _folder(self, relation: Relation, head: int, scope: Mapping[str, Any]) -> Folder:
        tables = {name: content for name, content in scope.items() if name not in ("N", "H", "h")}
        longest_first = tuple(sorted(steps(relation, self.placement.n, scope), reverse=True))
        return Folder(relation, self.placement.n, head, self.plan.heads, tables, longest_first)

    def covered(self, a: int, b: int, transfer: Transfer) -> Homes | None:
        """Pairs of tiles at either home, by branch, where a transfer covers all of them from one side; else None."""
        parts = self._parts(a, b)[0]
        name = tuple(part.name for part in parts), id(transfer)
        if name not in self.within:
            self.within[name] = transfer, self._homes(parts, transfer)
        return self.within[name][1]

    def _homes(self, parts: tuple[TilesBetween, ...], transfer: Transfer) -> Homes | None:
        homes = [0.0] * len(self.plan.branches), [0.0] * len(self.plan.branches)
        for part in parts:
            kv_heads = {head // self.group for head in part.heads}
            by_keys = all(within(part.boxes[:, 2:], transfer.keys, head) for head in kv_heads)
            by_queries = not transfer.keys and all(
                within(part.boxes[:, :2], transfer.queries, head) for head in part.heads
            )
            if not by_keys and not by_queries:
                return None
            q0, q1, k0, k1 = part.boxes.T
            pairs = int(((q1 - q0 + 1) * (k1 - k0 + 1) * part.times).sum()) * len(part.heads)
            homes[0 if by_keys else 1][part.branch] += pairs
        return tuple(homes[0]), tuple(homes[1])

    def cover(self, weights: tuple[int, int], meetings: Sequence[tuple[int, int]]) -> None:
        """Find the least covers of these pairs of ranks, many at once."""
        jobs: dict[Any, Job] = {}
        for a, b in meetings:
            for alike in heads_alike(self.plan.heads, self.group, self._between(a, b)):
                key = name_of(alike, weights)
                if key not in self._covers and key not in jobs:
                    jobs[key] = job_of(alike)
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
            met = self._met(between, weights, queries_stay)
            met = self._known[key] = met if between.orders is None else self._put_back(met, between.orders)
        if self.sorted is None:
            return met
        keys, queries = (
            tuple((heads, self.sorted.rows(rank, parts)) for heads, parts in moved)
            for rank, moved in ((b, met.keys), (a, met.queries))
        )
        return replace(met, keys=keys, queries=queries)

    def _put_back(self, met: Met, orders: tuple[Order, Order]) -> Met:
        """Rows sorted by class as those that they are."""
        queries, keys = (
            tuple((heads, self._rows_of(order, parts)) for heads, parts in moved)
            for order, moved in zip(orders, (met.queries, met.keys), strict=True)
        )
        return replace(met, keys=keys, queries=queries)

    def _rows_of(self, order: Order, parts: tuple[Rows, ...]) -> tuple[Rows, ...]:
        if (id(order), parts) not in self._rows:
            self._rows[id(order), parts] = put_back(order, parts)
        return self._rows[id(order), parts]

    def _between(self, a: int, b: int) -> Between:
        lattices = tuple(self._lattices(a, b))
        tiles, orders = self._parts(a, b, as_they_are=bool(lattices))
        return Between((tuple(part.name for part in tiles), lattices), tiles, lattices, orders)

    def _parts(
        self, a: int, b: int, *, as_they_are: bool = True
    ) -> tuple[tuple[TilesBetween, ...], tuple[Order, Order] | None]:
        """The rectangles of all tiled branches, and what rows are sorted by."""
        pair = a * self.placement.ranks + b
        names = [found.name(pair) for _, found in self.found]
        folded = tuple(
            (place, found.folded[pair]) for place, (_, found) in enumerate(self.found) if pair in found.folded
        )
        as_they_are |= any(name is not None for name in names)
        joint = self._joint(folded, a, b, as_they_are) if folded else None
        tiles: list[TilesBetween] = []
        for place, rectangles in enumerate(names):
            if rectangles is None:
                continue
            name = place, rectangles, self.sorted and (self.sorted.kinds[a], self.sorted.kinds[b])
            if name not in self._tiles:
                self._tiles[name] = self._part(name, a, b)
            tiles.append(self._tiles[name])
        if joint is not None:
            for number, (place, _) in enumerate(folded):
                name = place, id(joint)
                if name not in self._tiles:
                    branch, found = self.found[place]
                    boxes, times = joint.parts[number]
                    self._tiles[name] = TilesBetween(name, branch, found.heads, boxes, times, boxes.tobytes())
                tiles.append(self._tiles[name])
            if joint.q is not None and joint.k is not None:
                return tuple(tiles), (joint.q, joint.k)
        return tuple(tiles), None

    def _joint(self, folded: tuple[tuple[int, tuple[Placed, ...]], ...], a: int, b: int, as_they_are: bool) -> Joined:
        sizes = self.placement.sizes[a], self.placement.sizes[b]
        name = tuple((place, *(each.name for each in of)) for place, of in folded), sizes, as_they_are
        if name not in self._joined:
            self._joined[name] = joined(tuple(of for _, of in folded), *sizes, as_they_are=as_they_are)
        return self._joined[name]

    def _part(self, name: Any, a: int, b: int) -> TilesBetween:
        number, found = self.found[name[0]]
        boxes, times = found.between(name[1])
        if self.sorted is not None:
            boxes = self.sorted.boxes(a, b, boxes)
        return TilesBetween(name, number, found.heads, boxes, times, boxes.tobytes())

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

    def _met(self, between: Between, weights: tuple[int, int], queries_stay: bool) -> Met:
        keys: dict[tuple[Rows, ...], list[int]] = {}
        queries: dict[tuple[Rows, ...], list[int]] = {}
        weight = bound = 0
        here, there = [0.0] * len(self.plan.branches), [0.0] * len(self.plan.branches)
        for alike, kv_heads in heads_alike(self.plan.heads, self.group, between).items():
            chosen, every = self._covers[name_of(alike, weights)]
            sent, shipped = (every, ()) if queries_stay else (chosen.keys, chosen.queries)
            firsts = [kv_head * self.group for kv_head in kv_heads]
            if sent:
                keys.setdefault(sent, []).extend(kv_heads)
            for places, parts in shipped:
                queries.setdefault(parts, []).extend(first + place for first in firsts for place in places)
            weight, bound = weight + chosen.weight * len(kv_heads), bound + chosen.bound * len(kv_heads)
            heads = {first + place for first in firsts for place in range(self.group)}
            count_homes(heads, between, sent, bool(shipped), (here, there))
        of_keys, of_queries = (
            tuple((tuple(heads), parts) for parts, heads in side.items()) for side in (keys, queries)
        )
        return Met(of_keys, of_queries, weight, bound, tuple(here), tuple(there))
