"""From a plan and a placement to transfers: every ordered pair of ranks gets its least cover.

Structure, not enumeration: two ordered pairs of ranks that look alike (the same residues of where they begin, the same
lengths, the same distance as far as the pattern can see) have the same transfer, and one of them is solved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.covers import Cover, every_key, least_cover
from attnc.schedule.placements import period
from attnc.schedule.support import dense_pairs, every_dense_key, grouped, least_dense_cover
from attnlang.parallel.units import inner_rows, units
from attnlang.plan import Columns, Lattice, Plan
from attnlang.rows import Rows
from attnlang.runtime.calls import resolve
from attnlang.runtime.pairs import Pairs, band_count, branch_pairs, exact, local_plan
from attnlang.schedule import Certificate, Exchange, HeadRows, Placement, RowBytes, Schedule, Transfer

Array = NDArray[Any]
NOTHING = Transfer((), ())


@dataclass(frozen=True)
class Problem:
    """What is to be scheduled: a plan on a placement, and what a row costs.

    queries_stay  every pair is computed where its query lives: more may move, but work stays as the placement has it
    """

    plan: Plan
    placement: Placement
    kv_heads: int
    row: RowBytes
    backward: bool = True
    tables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    queries_stay: bool = False

    @property
    def group(self) -> int:
        return self.plan.heads // self.kv_heads

    @cached_property
    def weights(self) -> tuple[int, int]:
        """Bytes that a row of q costs, and a row of k and v."""
        return self.row.query(self.backward), self.row.key(self.backward)


@dataclass(frozen=True, slots=True)
class Picture:
    """One ordered pair of ranks: its transfer, what that weighs, and pairs computed at either home, by branch."""

    transfer: Transfer
    weight: int
    bound: int
    at_query: tuple[float, ...]
    at_key: tuple[float, ...]


@dataclass
class Solution:
    """Transfers for all ranks, and what every rank computes and moves. Arrays are by rank; rows are over all heads."""

    problem: Problem
    gathered: tuple[int, ...]
    transfers: list[Transfer] = field(default_factory=list[Transfer])
    which: Array = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    certificate: Certificate = field(default_factory=lambda: Certificate(0, 0))
    local: Array = field(default_factory=lambda: np.zeros(0))
    at_query: Array = field(default_factory=lambda: np.zeros(0))
    at_key: Array = field(default_factory=lambda: np.zeros(0))
    owned: Array = field(default_factory=lambda: np.zeros(0))
    keys_in: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    keys_out: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    queries_in: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    queries_out: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    peers: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    kinds: list[set[str]] = field(default_factory=list[set[str]])

    @property
    def bytes_total(self) -> int:
        """Bytes that cross between ranks, forward and, where counted, backward, for one sequence."""
        query, key = self.problem.weights
        return int(self.keys_in.sum()) * key + int(self.queries_in.sum()) * query

    @property
    def bytes_busiest(self) -> int:
        """The most that any rank receives and sends, as the larger of the two."""
        row, backward = self.problem.row, self.problem.backward
        key_back = row.key_backward_back if backward else 0
        back = row.query_forward_back + (row.query_backward_back if backward else 0)
        there = row.query_forward + (row.query_backward if backward else 0)
        received = (
            self.keys_in * row.key_forward
            + self.queries_in * there
            + self.keys_out * key_back
            + self.queries_out * back
        )
        sent = (
            self.keys_out * row.key_forward
            + self.queries_out * there
            + self.keys_in * key_back
            + self.queries_in * back
        )
        return int(max(received.max(initial=0), sent.max(initial=0)))

    def exchanges(self) -> tuple[tuple[Exchange, ...], ...]:
        """The transfers of each rank by ranges of ranks."""
        return tuple(tuple(_ranges(self.which[a])) for a in range(self.problem.placement.ranks))

    def schedule(self, **more: Any) -> Schedule:
        """The solution as plain data."""
        problem = self.problem
        return Schedule(
            problem.plan, problem.placement, problem.kv_heads, problem.row.head_dim, backward=problem.backward,
            transfers=tuple(self.transfers), exchanges=self.exchanges(), gathered=self.gathered,
            certificate=self.certificate, **more,
        )  # fmt: skip


def _ranges(row: Array) -> Iterator[Exchange]:
    edges = np.flatnonzero(np.diff(row)) + 1
    for low, high in zip((0, *edges), (*edges, len(row)), strict=True):
        if row[low] >= 0:
            yield Exchange(int(low), int(high) - 1, int(row[low]))


def solve(problem: Problem, gathered: Sequence[int] = ()) -> Solution:
    """The least covers of all ordered pairs of ranks, but for the branches that are gathered, which owners compute."""
    ranks = problem.placement.ranks
    solution = Solution(problem, tuple(gathered), which=np.full((ranks, ranks), -1, np.int32))
    for name in ("local", "at_query", "at_key", "owned"):
        setattr(solution, name, np.zeros(ranks))
    for name in ("keys_in", "keys_out", "queries_in", "queries_out", "peers"):
        setattr(solution, name, np.zeros(ranks, np.int64))
    solution.kinds = [set() for _ in problem.plan.branches]
    _Solver(problem, solution).run()
    return solution


class _Solver:
    def __init__(self, problem: Problem, solution: Solution) -> None:
        self.problem = problem
        self.solution = solution
        self.placement = problem.placement
        self.branches = [i for i in range(len(problem.plan.branches)) if i not in solution.gathered]
        self.structured = all(isinstance(problem.plan.branches[i], Lattice | Columns) for i in self.branches)
        chosen = tuple(problem.plan.branches[i] for i in self.branches)
        self.alike = _Alike(chosen, problem.placement) if self.structured else None
        self.numbers: dict[Transfer, int] = {}
        self.pictures: dict[Any, Picture] = {}
        self.weight = self.bound = 0

    def run(self) -> None:
        self._local()
        for number in self.solution.gathered:
            self._gathered(number)
        for distance in self._distances():
            self._pairs_at(distance)
        self.solution.certificate = Certificate(self.weight, self.bound)

    def _local(self) -> None:
        found: dict[Any, float] = {}
        for rank in range(self.placement.ranks):
            kind = rank if self.alike is None or self.solution.gathered else self.alike.kind(rank)
            if kind not in found:
                found[kind] = float(self._local_pairs(rank))
            self.solution.local[rank] = found[kind]

    def _local_pairs(self, rank: int) -> int:
        plan, total = self.problem.plan, 0
        for number, branch in enumerate(plan.branches):
            if number in self.solution.gathered:
                assert isinstance(branch, Lattice)
                rows = inner_rows(self.placement, branch, rank)
                total += 0 if rows is None else stretch_pairs(Plan(plan.heads, (branch,)), rows)
            elif isinstance(branch, Lattice | Columns):
                chunks = self.placement.chunks[rank]
                total += sum(stretch_pairs(Plan(plan.heads, (branch,)), chunk) for chunk in chunks)
                total += sum(
                    pairs.count for q in chunks for k in chunks if q != k for pairs in branch_pairs(branch, q, k)
                )
            else:
                total += int(dense_pairs(plan, [number], self.placement, rank, rank, self.problem.tables).sum())
        return total

    def _gathered(self, number: int) -> None:
        branch, s = self.problem.plan.branches[number], self.solution
        assert isinstance(branch, Lattice)
        heads = branch.phases is not None or branch.dilation == 1
        s.kinds[number].add("all-to-all by head" if heads else "re-shard by residue")
        for unit in units(self.placement, branch, self.problem.group):
            s.owned[unit.owner] += Pairs(unit.heads, unit.queries, unit.keys, unit.band).count
            for rank, tokens in unit.key_parts:
                if rank != unit.owner:
                    s.keys_in[unit.owner] += tokens.count
                    s.keys_out[rank] += tokens.count
                    s.peers[unit.owner] += 1
                    s.peers[rank] += 1
            for rank, tokens in unit.query_parts:
                if rank != unit.owner:
                    s.queries_in[unit.owner] += tokens.count * len(unit.heads)
                    s.queries_out[rank] += tokens.count * len(unit.heads)

    def _distances(self) -> Iterator[int]:
        """B - a for which ranks a and b can have anything to do with each other."""
        ranks = self.placement.ranks
        down = up = ranks - 1
        if self.structured and self.placement.kind == "contiguous":
            shortest = max(1, min(self.placement.sizes[:-1], default=1))
            plan = self.problem.plan
            reaches = [reach(plan.branches[i]) for i in self.branches]
            down = (
                min(down, max((-(-low // shortest) for low, _ in reaches), default=0))
                if all(low < UNBOUNDED for low, _ in reaches)
                else down
            )
            up = (
                min(up, max((-(-high // shortest) for _, high in reaches), default=0))
                if all(high < UNBOUNDED for _, high in reaches)
                else up
            )
        return (d for d in range(-down, up + 1) if d)

    def _pairs_at(self, distance: int) -> None:
        ranks = self.placement.ranks
        a = np.arange(max(0, -distance), min(ranks, ranks - distance))
        if self.alike is None:
            groups = [((distance, int(rank)), np.array([rank])) for rank in a]
        else:
            groups = self.alike.groups(a, distance)
        for key, queries in groups:
            first = int(queries[0])
            picture = self.pictures.get(key)
            if picture is None:
                picture = self.pictures[key] = self._picture(first, first + distance)
            if picture.transfer is not NOTHING:
                self._count(picture, queries, queries + distance, distance)

    def _count(self, picture: Picture, a: Array, b: Array, distance: int) -> None:
        s, transfer = self.solution, picture.transfer
        s.which[a, b] = self._number(transfer)
        self.weight += picture.weight * len(a)
        self.bound += picture.bound * len(a)
        s.at_query[a] += sum(picture.at_query)
        s.at_key[b] += sum(picture.at_key)
        s.keys_in[a] += transfer.key_rows
        s.keys_out[b] += transfer.key_rows
        s.queries_out[a] += transfer.query_rows
        s.queries_in[b] += transfer.query_rows
        s.peers[a] += 1
        s.peers[b] += 1
        for number, (here, there) in enumerate(zip(picture.at_query, picture.at_key, strict=True)):
            if here or there:
                near = "near" if abs(distance) == 1 and self.placement.kind == "contiguous" else "far"
                s.kinds[number] |= {near} | ({"keys"} if here else set()) | ({"queries"} if there else set())

    def _number(self, transfer: Transfer) -> int:
        number = self.numbers.get(transfer)
        if number is None:
            number = self.numbers[transfer] = len(self.solution.transfers)
            self.solution.transfers.append(transfer)
        return number

    def _picture(self, a: int, b: int) -> Picture:
        return self._structured(a, b) if self.structured else self._dense(a, b)

    def _structured(self, a: int, b: int) -> Picture:
        plan, group = self.problem.plan, self.problem.group
        of_branch: list[list[Pairs]] = [[] for _ in plan.branches]
        for number in self.branches:
            branch = plan.branches[number]
            assert isinstance(branch, Lattice | Columns)
            of_branch[number] = [
                pairs
                for q in self.placement.chunks[a]
                for k in self.placement.chunks[b]
                for pairs in branch_pairs(branch, q, k)
            ]
        every = [pairs for found in of_branch for pairs in found]
        if not every:
            return Picture(NOTHING, 0, 0, (), ())
        cover = least_cover(every, group, *self.problem.weights)
        if self.problem.queries_stay:
            cover = replace(cover, keys=tuple(every_key(every, group)), queries=())
        totals = [sum(pairs.count for pairs in found) for found in of_branch]
        here = [at_query_home(found, cover, group) for found in of_branch]
        there = tuple(float(total - at) for total, at in zip(totals, here, strict=True))
        keys = self._local_rows(b, cover.keys)
        queries = self._local_rows(a, cover.queries)
        return Picture(Transfer(keys, queries), cover.weight, cover.bound, tuple(map(float, here)), there)

    def _local_rows(self, rank: int, nodes: Sequence[tuple[int, Rows]]) -> tuple[HeadRows, ...]:
        return _head_rows([(head, self.placement.local(rank, tokens)) for head, tokens in nodes])

    def _dense(self, a: int, b: int) -> Picture:
        problem = self.problem
        by_branch = {
            number: dense_pairs(problem.plan, [number], self.placement, a, b, problem.tables)
            for number in self.branches
        }
        total: Array = sum(
            by_branch.values(), np.zeros((problem.plan.heads, *(self.placement.sizes[r] for r in (a, b))))
        )
        if not total.any():
            return Picture(NOTHING, 0, 0, (), ())
        cover = least_dense_cover(total, problem.group, *problem.weights)
        if problem.queries_stay:
            cover = replace(cover, keys=tuple(every_dense_key(total, problem.group)), queries=())
        sent = np.zeros((problem.kv_heads, self.placement.sizes[b]), bool)
        for kv_head, rows in cover.keys:
            sent[kv_head, rows.first : rows.last + 1 : rows.step] = True
        here = [0.0] * len(problem.plan.branches)
        there = list(here)
        for number, pairs in by_branch.items():
            at_keys = pairs.sum(1)  # (heads, rows of b)
            of_sent = np.repeat(sent, problem.group, 0)
            here[number], there[number] = float(at_keys[of_sent].sum()), float(at_keys[~of_sent].sum())
        transfer = Transfer(_head_rows(cover.keys), _head_rows(cover.queries))
        return Picture(transfer, cover.weight, cover.bound, tuple(here), tuple(there))


def _head_rows(nodes: Sequence[tuple[int, Rows]]) -> tuple[HeadRows, ...]:
    parts = [HeadRows(heads, rows) for heads, rows in grouped(nodes)]
    return tuple(sorted(parts, key=lambda part: (part.heads, part.rows.first, part.rows.step, part.rows.count)))


def at_query_home(pairs: Sequence[Pairs], cover: Cover, group: int) -> int:
    """How many of the pairs are computed where their query lives: those whose key's row is sent."""
    if not cover.queries:
        return sum(part.count for part in pairs)
    if not cover.keys:
        return 0
    sent: dict[int, list[Rows]] = {}
    for kv_head, rows in cover.keys:
        sent.setdefault(kv_head, []).append(rows)
    total = 0
    for part in pairs:
        by_kv: dict[int, int] = {}
        for head in part.heads:
            by_kv[head // group] = by_kv.get(head // group, 0) + 1
        alike: dict[tuple[Rows, ...], int] = {}
        for kv_head, count in by_kv.items():
            rows = tuple(sent.get(kv_head, ()))
            alike[rows] = alike.get(rows, 0) + count
        for rows_sent, count in alike.items():
            for rows in rows_sent:
                common = part.k & rows
                if common is not None:
                    total += count * sum(e.count for e in exact(Pairs((0,), part.q, common, part.band)))
    return total


def stretch_pairs(plan: Plan, rows: Rows) -> int:
    """How many pairs of a plan have both ends in one stretch of tokens."""
    local = local_plan(plan, rows)
    if local is None:
        return sum(
            pairs.count
            for b in plan.branches
            if isinstance(b, Lattice | Columns)
            for pairs in branch_pairs(b, rows, rows)
        )
    return sum(band_count(call.q_len, call.k_len, call.band) * call.copies for call in resolve(local, rows.count))


UNBOUNDED = 1 << 60


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


class _Alike:
    """Which ordered rank pairs look alike: as far as the branches that reach from one to the other can see."""

    def __init__(self, branches: Sequence[Any], placement: Placement) -> None:
        self.branches = branches
        self.placement = placement
        self.whole = _Likeness(branches, placement)
        self.by_reach: dict[tuple[bool, ...], _Likeness] = {(True,) * len(branches): self.whole}

    def kind(self, rank: int) -> int:
        """Ranks of one kind hold alike rows."""
        return int(self.whole.kinds[rank])

    def groups(self, a: Array, distance: int) -> Iterator[tuple[Any, Array]]:
        """(key, ranks a) of those whose pairs with a + distance look alike."""
        if not len(a):
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
