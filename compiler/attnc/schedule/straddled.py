"""Meetings of many ranks within segments that lie across their edges, each elsewhere: by residues of their rows.

segment(w) { causal & pairs((q - k) % r == h % r) }, of shards of w tokens or more

A segment then has tokens of two ranks at most. Seen from their edge, what comes after it looks at what comes before by
residues alone, wherever in the segment the edge lies but for that place's own residue:

    queries 0 1 2 .. of the later rank, keys .. 2 1 0 of the earlier one: row i and row j by i mod r and j mod r

That is shown by the term (`attnc.analysis.terms`): it is the same one again where queries alone, or keys alone, move by
r. So thousands of meetings, each with rows of its own, are r classes a side with as many rows as each of them has, and
one flow covers all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.boxes import Counter, NoTermError
from attnc.analysis.evaluation import Evaluator
from attnc.analysis.terms import Term, steps_of
from attnc.schedule.families import MANY_RANKS, Kinds
from attnc.schedule.flows import least_cover_of_graph
from attnc.schedule.meetings import Met
from attnc.schedule.solution import Problem
from attnlang.parallel.dense import scope_of
from attnlang.pattern import algebra
from attnlang.pattern.expr import integer
from attnlang.pattern.tables import Content
from attnlang.pattern.values import at_least_one
from attnlang.pattern.walk import free_names_of
from attnlang.plan import Tiles
from attnlang.rows import Rows
from attnlang.schedule import Placement

Array = NDArray[np.int64]
Flags = NDArray[np.bool_]

LONG = 2**13
"""So many tokens of segments at the edges of all ranks are not followed token by token, on however few ranks."""
MOST_CLASSES = 128
"""So many residues are classes of their own at most."""
MAX_TABLE = 2**21
"""So many pairs of classes are looked at together."""


@dataclass(frozen=True, eq=False, slots=True)
class Across:
    """What one head has across an edge within a segment of `width`, by the edge's place in it.

    down   (residue of the place, of the query after it, of the key before it): how often they are a pair
    up     (residue of the place, of the query before it, of the key after it)
    inner  how many pairs the first 0, 1, .. width positions have among themselves

    Rows after the edge are counted from it, rows before it from `width` before it.
    """

    width: int
    down: Array
    up: Array
    inner: Array

    @staticmethod
    def of(counter: Counter, term: Term, width: int) -> Across | None:
        """What the term of a segment's positions says; None where residues do not say all."""
        terms = counter.terms
        term = counter.within(term, 0, 0, (width, width))
        period = lcm(*steps_of(term).periods)
        if term.hard or period > min(MOST_CLASSES, width) or terms.shifted(term, period, period) is not term:
            return None
        sides: list[Array] = []
        some = np.arange(period)
        evaluator = Evaluator({}, 0)
        for after_q in (True, False):
            found = np.zeros((period,) * 3, np.int64)
            for place in range(period):
                dq, dk = (place, place - width) if after_q else (place - width, place)
                part = counter.within(term, dq, dk, (width, width))
                if terms.shifted(part, period, 0) is not part or terms.shifted(part, 0, period) is not part:
                    return None
                found[place] = evaluator.at(part, some[:, None], some[None, :])
            sides.append(found)
        every = np.arange(width)
        itself = np.broadcast_to(evaluator.at(term, every, every), width)
        down, up = sides
        alone = Across(width, down, up, np.zeros(1, np.int64))
        one = np.ones(width, np.int64)
        grown = np.cumsum(itself + alone.pairs(every, one, every))
        return Across(width, down, up, np.concatenate(([0], grown)))

    @property
    def period(self) -> int:
        return len(self.down)

    def after(self, rows: Array) -> Array:
        """How many of so many rows after an edge are of each residue: (.., period)."""
        return _residues(rows, self.period)

    def before(self, rows: Array) -> Array:
        """How many of so many rows before an edge are of each residue."""
        width = np.full_like(rows, self.width)
        return _residues(width, self.period) - _residues(width - rows, self.period)

    def pairs(self, place: Array, after: Array, before: Array) -> Array:
        """How many pairs so many rows after each edge have with so many before it, either way."""
        a, b = self.after(after), self.before(before)
        total = np.zeros(len(place), np.int64)
        for residue in range(self.period):
            here = np.flatnonzero(place % self.period == residue)
            q, k = a[here], b[here]
            total[here] = ((q @ self.down[residue]) * k).sum(1) + ((k @ self.up[residue]) * q).sum(1)
        return total

    def within(self, low: Array, high: Array) -> Array:
        """How many pairs positions low..high - 1 have among themselves."""
        return self.inner[high] - self.inner[low] - self.pairs(low, high - low, low)


def _residues(rows: Array, period: int) -> Array:
    return (rows[..., None] - np.arange(period) + period - 1) // period


@dataclass(frozen=True, eq=False, slots=True)
class Straddled:
    """A plan of such segments: what each head has across an edge, and where edges lie.

    edges  (rank before it, its place in the segment, rows after it, rows before it) of those within segments
    """

    problem: Problem
    branch: int
    across: tuple[Across, ...]
    edges: Array
    shift: int
    kinds: Kinds

    def local(self, kinds: Kinds) -> Array:
        """How many pairs each rank has with itself, over all heads."""
        first, count = np.array([(chunk.first, chunk.count) for (chunk,) in self.problem.placement.chunks], np.int64).T
        total = np.zeros(len(first), np.int64)
        for across in dict.fromkeys(self.across):
            width, times = across.width, self.across.count(across)
            low, high = first + self.shift, first + count + self.shift
            start, end = low // width, (high - 1) // width
            alone = start == end
            one = across.within(low % width, np.where(alone, high - start * width, width))
            rest = across.inner[width] * (end - start - 1) + across.inner[high - end * width]
            total += times * (one + np.where(alone, 0, rest))
        return total

    def meetings(self, first: Sequence[tuple[int, int]], *, queries_stay: bool) -> dict[int, Met]:
        """What each of these meetings has, by number from 1."""
        place = {int(edge[0]): number for number, edge in enumerate(self.edges)}
        found: dict[int, Met] = {}
        for down in (True, False):
            labels = [label for label, (a, b) in enumerate(first, 1) if (a > b) == down]
            most = max(1, MAX_TABLE // (self.problem.group * self.across[0].period ** 2))
            for some in (labels[i : i + most] for i in range(0, len(labels), most)):
                edges = self.edges[[place[min(first[label - 1])] for label in some]].reshape(-1, 4)
                found |= zip(some, self._met(edges, down, queries_stay), strict=True)
        return found

    def _met(self, edges: Array, down: bool, queries_stay: bool) -> list[Met]:
        """The least covers of all meetings one way, head of k by head of k."""
        group, sizes = self.problem.group, np.array(self.problem.placement.sizes)
        rank, place, after, before = edges.T
        period = self.across[0].period
        of = place % period
        base = np.zeros(len(edges), np.int64), sizes[rank] - before
        skipped = np.zeros(len(edges), np.int64), (self.across[0].width - before) % period
        (q_base, k_base), (q_skip, k_skip) = (side if down else side[::-1] for side in (base, skipped))
        counts = self.across[0].after(after), self.across[0].before(before)
        q_count, k_count = counts if down else counts[::-1]
        mets = [_Parts(self.problem, self.branch) for _ in edges]
        kinds: dict[tuple[Across, ...], list[int]] = {}
        for kv_head in range(self.problem.plan.heads // group):
            kinds.setdefault(self.across[kv_head * group : (kv_head + 1) * group], []).append(kv_head)
        for heads, kv_heads in kinds.items():
            times = np.stack([(each.down if down else each.up)[of] for each in heads], 1)  # (edges, heads, q, k)
            times = times * (q_count[:, None, :, None] > 0) * (k_count[:, None, None, :] > 0)
            queries, keys = self._cover(times, q_count, k_count)
            every: Flags = np.any(times > 0, axis=(1, 2))
            for number in np.flatnonzero(every.any(1)).tolist():
                sent = every[number] if queries_stay else keys[number]
                shipped = queries[number] & (not queries_stay)
                pairs = times[number] * q_count[number][:, None] * k_count[number]
                mets[number].add(
                    kv_heads,
                    _rows(sent, k_base[number], k_skip[number], k_count[number]),
                    [_rows(each, q_base[number], q_skip[number], q_count[number]) for each in shipped],
                    int((keys[number] * k_count[number]).sum()),
                    int((queries[number] * q_count[number]).sum()),
                    (int(pairs.sum()), int(pairs[..., sent].sum()) if shipped.any() else int(pairs.sum())),
                )
        return [met.met() for met in mets]

    def _cover(self, times: Array, q_count: Array, k_count: Array) -> tuple[Flags, Flags]:
        """(edges, heads, classes of queries) and (edges, classes of keys) of the least cover of each meeting."""
        query, key = self.problem.weights
        edges, heads, period, _ = times.shape
        edge, head, q, k = np.nonzero(times)
        q_weights = np.broadcast_to(q_count[:, None, :] * query, (edges, heads, period)).reshape(-1)
        q_of, k_of = (edge * heads + head) * period + q, edge * period + k
        queries, keys = least_cover_of_graph(q_weights, (k_count * key).reshape(-1), q_of, k_of)
        return queries.reshape(edges, heads, period), keys.reshape(edges, period)


def _rows(chosen: Flags, base: int, skipped: int, counts: Array) -> tuple[Rows, ...]:
    """Rows of chosen residues, of a stretch from `base` on of which the first has the residue `skipped`."""
    period = len(chosen)
    if chosen[counts > 0].all():
        return (Rows(int(base), int(counts.sum())),)
    found = [
        Rows(int(base + (residue - skipped) % period), int(counts[residue]), period if counts[residue] > 1 else 1)
        for residue in np.flatnonzero(chosen & (counts > 0)).tolist()
    ]
    return tuple(sorted(found, key=lambda rows: rows.first))


class _Parts:
    """What heads have between two ranks, put together."""

    def __init__(self, problem: Problem, branch: int) -> None:
        self._problem = problem
        self._branch = branch
        self._keys: dict[tuple[Rows, ...], list[int]] = {}
        self._queries: dict[tuple[Rows, ...], list[int]] = {}
        self._weight = self._total = self._at_query = 0

    def add(
        self, kv_heads: Sequence[int], keys: tuple[Rows, ...], queries: Sequence[tuple[Rows, ...]],
        key_rows: int, query_rows: int, pairs: tuple[int, int],
    ) -> None:  # fmt: skip
        """What some heads of k have, that are alike."""
        group, (query, key) = self._problem.group, self._problem.weights
        if keys:
            self._keys.setdefault(keys, []).extend(kv_heads)
        for number, rows in enumerate(queries):
            if rows:
                self._queries.setdefault(rows, []).extend(kv_head * group + number for kv_head in kv_heads)
        self._weight += len(kv_heads) * (key_rows * key + query_rows * query)
        self._total += len(kv_heads) * pairs[0]
        self._at_query += len(kv_heads) * pairs[1]

    def met(self) -> Met:
        """All of it."""
        keys, queries = (
            tuple((tuple(sorted(heads)), rows) for rows, heads in side.items()) for side in (self._keys, self._queries)
        )
        here, there = (
            tuple(float(pairs) * (i == self._branch) for i in range(len(self._problem.plan.branches)))
            for pairs in (self._at_query, self._total - self._at_query)
        )
        return Met(keys, queries, self._weight, self._weight, here, there)


def straddled(problem: Problem, number: int) -> Straddled | None:
    """A plan of one branch of such segments; None for short ones on few ranks, and where it is none."""
    branch, where = problem.plan.branches[number], problem.placement
    if any(len(chunks) != 1 or chunks[0].step > 1 for chunks in where.chunks):
        return None
    if not isinstance(branch, Tiles) or not isinstance(branch.relation, algebra.Segment):
        return None
    relation, n, heads = branch.relation, where.n, problem.plan.heads
    if "N" in free_names_of(relation) or tuple(branch.heads) != tuple(range(heads)):
        return None
    counter, known, found = Counter({}), dict[Term, Across | None](), list[Across]()
    sizes: set[tuple[int, int]] = set()
    for head in branch.heads:
        scope = {**scope_of(problem.plan, n, head, problem.tables), "n": n}
        if any(isinstance(each, Content) for each in scope.values()):
            return None
        width = at_least_one(integer(relation.width, scope), "segment width", relation.width.span)
        if where.ranks < MANY_RANKS and width * where.ranks < LONG:
            return None
        sizes.add((width, integer(relation.shift, scope) % width))
        try:
            whole, inner = (
                counter.term(each, size, head, heads)[0] for each, size in ((relation, n), (relation.body, width))
            )
        except NoTermError:
            return None
        if len(sizes) > 1 or not _repeats(counter, whole, inner, *sizes.copy().pop()):
            return None
        if inner not in known:
            known[inner] = Across.of(counter, inner, width)
        across = known[inner]
        if across is None or (found and across.period != found[0].period):
            return None
        found.append(across)
    ((width, shift),) = sizes
    edges = _edges(where, width, shift)
    if edges is None:
        return None
    kinds = np.zeros((where.ranks, where.ranks), np.int32)
    np.fill_diagonal(kinds, 1)
    rank = edges[:, 0]
    kinds[rank + 1, rank] = 2 + np.arange(len(rank))
    kinds[rank, rank + 1] = 2 + len(rank) + np.arange(len(rank))
    return Straddled(problem, number, tuple(found), edges, shift, kinds)


def _repeats(counter: Counter, whole: Term, inner: Term, width: int, shift: int) -> bool:
    """Whether all segments are the first, moved: by the term of the sequence and that of a segment's positions."""
    if counter.terms.shifted(whole, width, width) is not whole:
        return False
    box = width, width
    return counter.within(whole, width - shift, width - shift, box) is counter.within(inner, 0, 0, box)


def _edges(where: Placement, width: int, shift: int) -> Array | None:
    """The edges of ranks that lie within segments; None where one has tokens of more than two ranks."""
    first, count = np.array([(chunk.first, chunk.count) for (chunk,) in where.chunks], np.int64).T
    edge, rank = first[1:], np.arange(len(first) - 1)
    place = (edge + shift) % width
    low, high = np.maximum(edge - place, 0), np.minimum(edge - place + width, where.n)
    some = place > 0
    if (some & ((low < first[:-1]) | (high > (first + count)[1:]))).any():
        return None
    return np.stack([rank, place, high - edge, edge - low], 1)[some]
