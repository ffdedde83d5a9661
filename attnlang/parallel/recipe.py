"""From a Schedule to what one rank does: which rows it sends, which it receives, and what it computes on them.

As `attnlang.runtime.calls` is for a plan, a recipe is for a schedule: plain integers, derived from it at the first call
and kept. Rows are numbered flat: row i of head h of a rank with C rows is h * C + i. Rows that arrive are numbered in
the order of arrival, by sender and then as the sender's message has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attnlang.parallel.dense import Places
from attnlang.parallel.groups import Flat, Group, Work, flat
from attnlang.parallel.tile_items import TileItems, sorted_places
from attnlang.parallel.units import Unit, inner_rows, units
from attnlang.plan import FULL, Band, Columns, Lattice, Plan, Tiles
from attnlang.rows import Rows
from attnlang.runtime.pairs import Pairs, branch_pairs, exact, local_plan
from attnlang.schedule import HeadRows, Schedule


@dataclass(frozen=True, eq=False, slots=True)
class Recipe:
    """What one rank does.

    rows             how many tokens it holds
    key_sends        flat rows of k and v for each rank; query_sends likewise of q
    keys_from        how many rows of k and v come from each rank; queries_from likewise of q
    key_parts        how the rows of each message fall into parts that hold a row once; query_parts likewise
    local            plans to run on stretches of its own rows
    own              queries and keys of its own that are no such plan
    foreign_queries  queries that came here, with keys of its own
    gathered         queries and keys that came here
    foreign_keys     its own queries, with keys that came here
    """

    rank: int
    rows: int
    key_sends: tuple[Places, ...]
    query_sends: tuple[Places, ...]
    keys_from: tuple[int, ...]
    queries_from: tuple[int, ...]
    key_parts: tuple[tuple[int, ...], ...]
    query_parts: tuple[tuple[int, ...], ...]
    local: tuple[tuple[Rows, Plan], ...]
    own: tuple[Group, ...]
    foreign_queries: tuple[Group, ...]
    gathered: tuple[Group, ...]
    foreign_keys: tuple[Group, ...]

    @property
    def silent(self) -> bool:
        """Whether this rank neither sends nor receives anything, its own copies included."""
        moved = (*map(len, self.key_sends), *map(len, self.query_sends), *self.keys_from, *self.queries_from)
        return not any(moved)


def recipe(schedule: Schedule, rank: int) -> Recipe:
    """What a rank does. Raises ValueError for a rank that the schedule does not have."""
    if not 0 <= rank < schedule.ranks:
        raise ValueError(f"rank {rank} is not one of the schedule's {schedule.ranks}")
    return _Builder(schedule, rank).build()


def _counts(parts: list[list[Rows]]) -> tuple[int, ...]:
    return tuple(sum(rows.count for rows in part) for part in parts)


@dataclass(slots=True)
class _Arrival:
    """Rows of one head of one sender: its tokens, and where they stand among all that arrived."""

    rank: int
    tokens: Rows
    base: int


class _Builder:
    def __init__(self, schedule: Schedule, rank: int) -> None:
        self.s = schedule
        self.rank = rank
        self.placement = schedule.placement
        self.rows = schedule.placement.sizes[rank]
        self.group = schedule.group
        self.ranks = range(schedule.ranks)
        self.tiles = TileItems(schedule, rank)
        self.units: list[list[Unit]] = []  # by gathered branch
        for number in schedule.gathered:
            branch = schedule.plan.branches[number]
            assert isinstance(branch, Lattice)
            self.units.append(list(units(self.placement, branch, self.group, rank)))
        self.owned = [unit for of_branch in self.units for unit in of_branch if unit.owner == rank]
        self.keys: dict[tuple[int, int], list[_Arrival]] = {}  # (sender, head of k)
        self.queries: dict[tuple[int, int], list[_Arrival]] = {}  # (sender, head of q)
        self.unit_keys: list[Flat] = []
        self.unit_queries: list[dict[int, Flat]] = []
        self.plain = [
            (number, branch) for number, branch in enumerate(schedule.plan.branches) if number not in schedule.gathered
        ]

    def build(self) -> Recipe:
        sent = [self._sent(p) for p in self.ranks]
        keys_from, queries_from = self._arrivals()
        local, own = self._own()
        foreign_queries = self._foreign_queries()
        return Recipe(
            self.rank,
            self.rows,
            tuple(flat(tuple(rows for part in keys for rows in part)) for keys, _ in sent),
            tuple(flat(tuple(rows for part in queries for rows in part)) for _, queries in sent),
            keys_from,
            queries_from,
            tuple(_counts(keys) for keys, _ in sent),
            tuple(_counts(queries) for _, queries in sent),
            local,
            own.groups(),
            foreign_queries.groups(),
            self._gathered().groups(),
            self._foreign_keys().groups(),
        )

    # what moves --------------------------------------------------------------------------------------------------

    def _sent(self, to: int) -> tuple[list[list[Rows]], list[list[Rows]]]:
        """Flat rows that go to a rank, of k and v, and of q: those of transfers, then those of each gathered branch."""
        mine, theirs = self.s.transfer(self.rank, to), self.s.transfer(to, self.rank)
        keys = [[rows for part in (theirs.keys if theirs else ()) for rows in self._of_heads(part)]]
        queries = [[rows for part in (mine.queries if mine else ()) for rows in self._of_heads(part)]]
        for of_branch in self.units:
            keys.append([])
            queries.append([])
            for unit in of_branch:
                if unit.owner == to:
                    keys[-1] += [self._flat_own(tokens, unit.kv_head) for r, tokens in unit.key_parts if r == self.rank]
                    queries[-1] += [
                        self._flat_own(tokens, head)
                        for r, tokens in unit.query_parts
                        if r == self.rank
                        for head in unit.heads
                    ]
        return keys, queries

    def _of_heads(self, part: HeadRows) -> Iterator[Rows]:
        return (part.rows.moved(head * self.rows) for head in part.heads)

    def _arrivals(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Number everything that arrives; how many rows of k, and of q, come from each rank."""
        key_base = query_base = 0
        owned = self.owned
        unit_keys: list[list[Rows]] = [[] for _ in owned]
        unit_queries: list[dict[int, list[Rows]]] = [{head: [] for head in unit.heads} for unit in owned]
        keys_from: list[int] = []
        queries_from: list[int] = []
        for sender in self.ranks:
            first_key, first_query = key_base, query_base
            mine, theirs = self.s.transfer(self.rank, sender), self.s.transfer(sender, self.rank)
            key_base = self._number(self.keys, sender, mine.keys if mine else (), key_base)
            query_base = self._number(self.queries, sender, theirs.queries if theirs else (), query_base)
            for place, unit in enumerate(owned):
                for tokens in (tokens for r, tokens in unit.key_parts if r == sender):
                    unit_keys[place].append(Rows(key_base, tokens.count))
                    key_base += tokens.count
                for tokens in (tokens for r, tokens in unit.query_parts if r == sender):
                    for head in unit.heads:
                        unit_queries[place][head].append(Rows(query_base, tokens.count))
                        query_base += tokens.count
            keys_from.append(key_base - first_key)
            queries_from.append(query_base - first_query)
        self.unit_keys = [tuple(rows) for rows in unit_keys]
        self.unit_queries = [{head: tuple(rows) for head, rows in by_head.items()} for by_head in unit_queries]
        return tuple(keys_from), tuple(queries_from)

    def _number(
        self, found: dict[tuple[int, int], list[_Arrival]], sender: int, parts: tuple[HeadRows, ...], base: int
    ) -> int:
        for part in parts:
            for head in part.heads:
                at = base
                for tokens in self.placement.tokens(sender, part.rows):
                    found.setdefault((sender, head), []).append(_Arrival(sender, tokens, at))
                    at += tokens.count
                base += part.rows.count
        return base

    # what is computed ----------------------------------------------------------------------------------------------

    def _own(self) -> tuple[tuple[tuple[Rows, Plan], ...], Work]:
        local: list[tuple[Rows, Plan]] = []
        work = Work()
        plan = self.s.plan
        if self.s.ranks == 1:
            return ((Rows(0, self.rows), plan),), work
        strided = [branch for _, branch in self.plain if not isinstance(branch, Tiles)]
        for base, chunk in self.placement.based(self.rank):
            fitting = [b for b in strided if local_plan(Plan(plan.heads, (b,)), chunk) is not None]
            whole = local_plan(Plan(plan.heads, tuple(fitting)), chunk)
            branches = (*(() if whole is None else whole.branches), *self._tiles_within(chunk))
            if branches:
                local.append((Rows(base, chunk.count), Plan(plan.heads, branches)))
            for branch in strided:
                if branch not in fitting:
                    self._own_pairs(work, branch, (base, chunk), (base, chunk))
            for other in self.placement.based(self.rank):
                if other[0] != base:
                    for branch in strided:
                        self._own_pairs(work, branch, (base, chunk), other)
        for number in self.s.gathered:
            branch = plan.branches[number]
            assert isinstance(branch, Lattice)
            inside = inner_rows(self.placement, branch, self.rank)
            if inside is not None:
                inner = local_plan(Plan(plan.heads, (branch,)), inside)
                assert inner is not None
                local.append((self.placement.local(self.rank, inside), inner))
        for q_base, q in self.placement.based(self.rank):
            for k_base, k in self.placement.based(self.rank):
                if q_base != k_base or q.step > 1:
                    self._own_tiles(work, Rows(q_base, q.count), Rows(k_base, k.count))
        return tuple(local), work

    def _tiles_within(self, chunk: Rows) -> Iterator[Tiles]:
        """Tiled branches on one stretch, for a backend to run; on every s-th token none can."""
        for _, branch in self.plain:
            if isinstance(branch, Tiles) and chunk.step == 1:
                yield replace(branch, part=(chunk.first, self.s.n))

    def _own_tiles(self, work: Work, q: Rows, k: Rows) -> None:
        for _, branch in self.plain:
            if isinstance(branch, Tiles):
                for head in branch.heads:
                    rows = self.tiles.own(head, among=q), self.tiles.own(head // self.group, among=k)
                    self.tiles.add(work, branch, head, *rows)

    def _own_pairs(self, work: Work, branch: Lattice | Columns, of_q: tuple[int, Rows], of_k: tuple[int, Rows]) -> None:
        for pairs in branch_pairs(branch, of_q[1], of_k[1]):
            for head in pairs.heads:
                q = of_q[1].numbered(pairs.q, of_q[0] + head * self.rows)
                k = of_k[1].numbered(pairs.k, of_k[0] + head // self.group * self.rows)
                work.add((q,), (k,), _index_band(pairs))

    def _foreign_keys(self) -> Work:
        work = Work()
        for sender in self.ranks:
            if not any((sender, kv_head) in self.keys for kv_head in range(self.s.kv_heads)):
                continue
            for _, branch in self.plain:
                if isinstance(branch, Tiles):
                    self._tiles_of_keys(work, branch, sender)
                    continue
                for pairs in self._between(branch, self.rank, sender):
                    for head in pairs.heads:
                        for arrival in self.keys.get((sender, head // self.group), ()):
                            common = pairs.k & arrival.tokens
                            if common is not None:
                                for part in exact(Pairs((head,), pairs.q, common, pairs.band)):
                                    q = self._flat_own(part.q, head)
                                    k = arrival.tokens.numbered(part.k, arrival.base)
                                    work.add((q,), (k,), _index_band(part))
        return work

    def _foreign_queries(self) -> Work:
        work = Work()
        for sender in self.ranks:
            if not any((sender, head) in self.queries for head in range(self.s.heads)):
                continue
            sent = self._keys_sent(sender)
            for _, branch in self.plain:
                if isinstance(branch, Tiles):
                    self._tiles_of_queries(work, branch, sender, sent)
                    continue
                for pairs in self._between(branch, sender, self.rank):
                    for head in pairs.heads:
                        arrivals = self.queries.get((sender, head), ())
                        if not arrivals:
                            continue
                        kept = [pairs.k]
                        for rows in sent.get(head // self.group, ()):
                            kept = [rest for part in kept for rest in part.minus(rows)]
                        for keys in kept:
                            for arrival in arrivals:
                                common = pairs.q & arrival.tokens
                                if common is not None:
                                    for part in exact(Pairs((head,), common, keys, pairs.band)):
                                        q = arrival.tokens.numbered(part.q, arrival.base)
                                        k = self._flat_own(part.k, head // self.group)
                                        work.add((q,), (k,), _index_band(part))
        return work

    def _gathered(self) -> Work:
        work = Work()
        for unit, keys, queries in zip(self.owned, self.unit_keys, self.unit_queries, strict=True):
            band = _index_band(Pairs(unit.heads, unit.queries, unit.keys, unit.band))
            for head in unit.heads:
                work.add(queries[head], keys, band)
        return work

    def _tiles_of_keys(self, work: Work, branch: Tiles, sender: int) -> None:
        for head in branch.heads:
            keys = sorted_places((a.tokens, a.base) for a in self.keys.get((sender, head // self.group), ()))
            if keys is not None:
                self.tiles.add(work, branch, head, self.tiles.own(head), keys)

    def _tiles_of_queries(self, work: Work, branch: Tiles, sender: int, sent: dict[int, list[Rows]]) -> None:
        for head in branch.heads:
            queries = sorted_places((a.tokens, a.base) for a in self.queries.get((sender, head), ()))
            if queries is not None:
                kept = self.tiles.own(head // self.group, sent.get(head // self.group, ()))
                self.tiles.add(work, branch, head, queries, kept)

    def _between(self, branch: Lattice | Columns, a: int, b: int) -> Iterator[Pairs]:
        for q in self.placement.chunks[a]:
            for k in self.placement.chunks[b]:
                yield from branch_pairs(branch, q, k)

    def _flat_own(self, tokens: Rows, head: int) -> Rows:
        return self.placement.local(self.rank, tokens).moved(head * self.rows)

    def _keys_sent(self, to: int) -> dict[int, list[Rows]]:
        """Tokens whose k and v go to a rank, by head of k."""
        transfer = self.s.transfer(to, self.rank)
        sent: dict[int, list[Rows]] = {}
        for part in transfer.keys if transfer else ():
            for head in part.heads:
                sent.setdefault(head, []).extend(self.placement.tokens(self.rank, part.rows))
        return sent


def _index_band(pairs: Pairs) -> Band:
    if pairs.band == FULL:
        return FULL
    band = pairs.index_band
    low = None if band.lo is not None and band.lo <= 1 - pairs.q.count else band.lo
    return Band(low, None if band.hi is not None and band.hi >= pairs.k.count - 1 else band.hi)
