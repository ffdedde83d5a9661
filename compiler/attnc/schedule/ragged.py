"""Meetings of ranks on a grid whose last axis is cut anywhere: among rows between the cuts, among tokens beside them.

grid(r, c) { p * t }, where t looks a few columns to either side, and every column sees itself:

    columns   0 . . . . . . | cut | . . . . . . | cut | . . . . c
              middle         window    middle    window    middle

Between two cuts a rank holds the same rows in every column: a cover of these rows, in each column, covers all pairs
there. Beside a cut, in a window, tokens are covered as they are. No two of these parts have a token in common, so that
their least covers add up to what no cover of the whole can undercut: the pairs that a column has with itself are a copy
of those among rows, and those in a window are a part of all. Where the outermost columns of a window, as many as t
looks far, are covered as the columns beyond them are, pairs across its end are covered as well. Then what was put
together covers everything and is the least. A window grows until that is so.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.boxes import Counter, NoTermError, TooManyError
from attnc.schedule.columns import Columns, Span
from attnc.schedule.flows import least_cover_of_graph
from attnc.schedule.lines import rows_of
from attnc.schedule.meetings import Met, Moved
from attnc.schedule.solution import Problem
from attnlang.pattern import algebra
from attnlang.pattern.expr import Scope
from attnlang.pattern.pointwise import multiplicity_at
from attnlang.pattern.tables import Content
from attnlang.plan import Tiles
from attnlang.rows import Rows

Array = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_ROWS = 2**14
"""How many pairs of rows two ranks have at most."""
MAX_EDGES = 2**20
"""How many pairs of tokens a window has at most."""


@dataclass(frozen=True, eq=False, slots=True)
class _Side:
    """What one rank holds: tokens first..end - 1, of rows from `row` on."""

    first: int
    end: int
    width: int

    @staticmethod
    def of(chunk: Rows, width: int) -> _Side:
        return _Side(chunk.first, chunk.first + chunk.count, width)

    @property
    def rows(self) -> Array:
        return np.arange(self.first // self.width, (self.end - 1) // self.width + 1)

    def held(self, columns: Array) -> Flags:
        """(rows, columns): whether it holds the token there."""
        token = self.rows[:, None] * self.width + columns
        return (token >= self.first) & (token < self.end)

    def span(self, row: int) -> Span:
        """The columns that it holds of a row."""
        start = row * self.width
        return max(self.first - start, 0), min(self.end - start, self.width)

    def spans(self) -> list[tuple[int, Span]]:
        """All of its rows, and what it holds of them."""
        return [(row, self.span(row)) for row in self.rows.tolist()]


@dataclass(frozen=True, eq=False, slots=True)
class _Cover:
    """Chosen tokens of a, and of b, by (row, column); and all tokens of b that have a partner."""

    queries: Flags
    keys: Flags
    every: Flags


class Ragged:
    """A grid with narrow last axis that all heads share, one stretch of tokens a rank.

    others  the rows of other grids of the same sizes, of which it is the union with this one. What covers a part of the
            pairs, and the others too, is the least for all: two ranks are met where that is so
    """

    def __init__(
        self, problem: Problem, branch: int, rows: algebra.Grid | Columns, columns: Columns, scope: Scope,
        others: tuple[algebra.Grid, ...] = (),
    ) -> None:  # fmt: skip
        self._placement = problem.placement
        self._plan = problem.plan
        self._group = problem.group
        query, key = problem.weights
        self._weights = query * problem.group, key
        self._branch = branch
        self._rows = rows
        self._columns = columns
        self._scope = scope
        self.others = others
        self._counter = Counter({name: each for name, each in scope.items() if isinstance(each, Content)})
        self._covers: dict[Hashable, _Cover | None] = {}
        self._parts: dict[Hashable, _Parts | None] = {}

    def pairs(self, rank: int) -> int | None:
        """How many pairs a rank has with itself, over all heads; None where they are too many to count."""
        chunk = self._placement.chunks[rank][0]
        side = _Side.of(chunk, self._columns.width)
        if self.others:
            counted = self._counted(chunk, chunk)
            return None if counted is None else counted * self._plan.heads
        return self._count(side, self._times(self._rows, side, side), side.spans(), side) * self._plan.heads

    def met(self, a: int, b: int, queries_stay: bool) -> Met | None:
        """The least cover of the pairs with queries at a and keys at b; None where it is not found so."""
        width, chunks = self._columns.width, (self._placement.chunks[a][0], self._placement.chunks[b][0])
        q, k = (_Side.of(chunk, width) for chunk in chunks)
        if len(q.rows) * len(k.rows) > MAX_ROWS:
            return None
        times = self._times(self._rows, q, k)
        name = q.first % width, q.end - q.first, k.first % width, k.end - k.first, times.tobytes()
        if name not in self._parts:
            self._parts[name] = self._covering(q, k, times > 0)
        parts = self._parts[name]
        beside = [seen for seen in (self._times(rows, q, k) > 0 for rows in self.others) if seen.any()]
        if parts is None or not beside:
            return None if parts is None else self._as_met(q, k, times, parts, queries_stay)
        if not all(_covers_rows(q, k, parts, seen, queries_stay) for seen in beside):
            return None
        total = self._counted(*chunks)
        return None if total is None else self._as_met(q, k, times, parts, queries_stay, total)

    def _counted(self, q: Rows, k: Rows) -> int | None:
        """All pairs between two stretches, those of the others, too."""
        relation = self._plan.branches[self._branch]
        assert isinstance(relation, Tiles)
        try:
            return self._counter.rectangle(
                relation.relation, self._placement.n, relation.heads[0], self._plan.heads, q, k
            )
        except (NoTermError, TooManyError):
            return None

    def _times(self, relation: algebra.Grid | Columns, q: _Side, k: _Side) -> Array:
        """How often rows of queries see rows of keys."""
        shape = len(q.rows), len(k.rows)
        rows, keys = (np.broadcast_to(each, shape) for each in (q.rows[:, None], k.rows[None, :]))
        if isinstance(relation, Columns):
            return relation.between(rows, keys)
        n = self._placement.n // self._columns.width
        return np.asarray(multiplicity_at(relation, rows, keys, n, {**self._scope, "n": n}), np.int64)

    # covers of parts ------------------------------------------------------------------------------------------------

    def _covering(self, q: _Side, k: _Side, seen: Flags) -> _Parts | None:
        margin = margin_of(self._columns)
        while is_narrow(self._columns, margin):
            found = self._put_together(q, k, seen, margin)
            if found is not None:
                return found
            margin *= 2
        return None

    def _put_together(self, q: _Side, k: _Side, seen: Flags, margin: int) -> _Parts | None:
        """The covers of all parts, from column to column; None where two beside one another do not fit."""
        windows = self._windows(q, k, margin)
        ends = [0, *(end for window in windows for end in window), self._columns.width]
        found: list[tuple[Span, _Cover]] = []
        for number, span in enumerate(pairwise(ends)):
            if span[0] == span[1]:
                continue
            cover = self._window(q, k, seen, span) if number % 2 else self._middle(q, k, seen, span)
            if cover is None or (found and not self._fit(found[-1][1], cover)):
                return None
            found.append((span, cover))
        return found

    def _windows(self, q: _Side, k: _Side, margin: int) -> list[Span]:
        """Columns beside the cuts, apart from one another by more than a column looks."""
        width = self._columns.width
        cuts = sorted({end % width for side in (q, k) for end in (side.first, side.end)} - {0})
        found: list[Span] = []
        for cut in cuts:
            low, high = max(0, cut - margin), min(width, cut + margin)
            if found and low - found[-1][1] <= margin:
                low = found.pop()[0]
            found.append((low, high))
        if found and found[0][0] <= margin:
            found[0] = 0, found[0][1]
        if found and width - found[-1][1] <= margin:
            found[-1] = found[-1][0], width
        return found

    def _fit(self, one: _Cover, other: _Cover) -> bool:
        """Whether columns on either side of an end, as many as a column looks far, are covered alike."""
        reach = self._columns.reach
        edges = (
            np.concatenate((left[:, -reach:], right[:, :reach]), 1)
            for left, right in ((one.queries, other.queries), (one.keys, other.keys))
        )
        return all(bool((edge == edge[:, :1]).all()) for edge in edges)

    def _middle(self, q: _Side, k: _Side, seen: Flags, span: Span) -> _Cover | None:
        """Columns of which each rank holds the same rows: as one, of which all others are copies."""
        column, itself = np.array([span[0]]), np.zeros(1, np.int64)
        return self._covered(seen, q.held(column), k.held(column), itself, itself)

    def _window(self, q: _Side, k: _Side, seen: Flags, span: Span) -> _Cover | None:
        columns = np.arange(*span)
        return self._covered(seen, q.held(columns), k.held(columns), *self._columns.within(*span))

    def _covered(self, seen: Flags, of_q: Flags, of_k: Flags, c: Array, d: Array) -> _Cover | None:
        """The least cover of tokens (row, column) that are held, of which rows and columns see one another."""
        name = seen.shape, of_q.shape, of_k.shape, *(x.tobytes() for x in (seen, of_q, of_k, c, d))
        if name not in self._covers:
            self._covers[name] = self._cover(seen, of_q, of_k, c, d)
        return self._covers[name]

    def _cover(self, seen: Flags, of_q: Flags, of_k: Flags, c: Array, d: Array) -> _Cover | None:
        rows, keys = np.nonzero(seen)
        if len(rows) * len(c) > MAX_EDGES:
            return None
        held = of_q[rows[:, None], c] & of_k[keys[:, None], d]
        pair, edge = np.nonzero(held)
        q_of, k_of = (
            of[pair] * flags.shape[1] + column[edge] for of, flags, column in ((rows, of_q, c), (keys, of_k, d))
        )
        of_query, of_key = self._weights
        q_weights, k_weights = np.full(of_q.size, of_query), np.full(of_k.size, of_key)
        chosen = least_cover_of_graph(q_weights, k_weights, q_of, k_of, from_keys=True)
        every = np.zeros(of_k.size, bool)
        every[k_of] = True
        return _Cover(chosen[0].reshape(of_q.shape), chosen[1].reshape(of_k.shape), every.reshape(of_k.shape))

    # what is found --------------------------------------------------------------------------------------------------

    def _as_met(
        self, q: _Side, k: _Side, times: Array, parts: _Parts, queries_stay: bool, of_all: int | None = None
    ) -> Met | None:
        """What is chosen, as rows of both ranks; `of_all`: how many pairs there are, where others stand beside."""
        weight = self._weight(parts)
        keys = _tokens(k, [(span, cover.every if queries_stay else cover.keys) for span, cover in parts])
        queries = np.zeros((0, 2), np.int64) if queries_stay else _tokens(q, [(s, cover.queries) for s, cover in parts])
        if of_all is not None and len(queries) and len(keys):
            return None  # of the others' pairs it is not known at which home they are
        total = self._count(q, times, k.spans(), k) if of_all is None else of_all
        at_query = self._count(q, times, list(_by_row(keys, k.width)), k) if len(queries) else total
        heads = self._plan.heads
        return Met(
            _moved(keys - k.first, heads // self._group),
            _moved(queries - q.first, heads),
            weight * (heads // self._group),
            weight * (heads // self._group),
            self._of_branch(at_query * heads),
            self._of_branch((total - at_query) * heads),
        )

    def _of_branch(self, pairs: int) -> tuple[float, ...]:
        return tuple(float(pairs) * (number == self._branch) for number in range(len(self._plan.branches)))

    def _weight(self, parts: _Parts) -> int:
        """What the parts weigh, for one head of k: columns of a middle are as many as it has."""
        query, key = self._weights
        total = 0
        for (low, high), cover in parts:
            copies = (high - low) // cover.queries.shape[1]
            total += copies * (int(cover.queries.sum()) * query + int(cover.keys.sum()) * key)
        return total

    def _count(self, q: _Side, times: Array, keys: Sequence[tuple[int, Span]], k: _Side) -> int:
        """The pairs of all queries with keys given by row and columns."""
        total = 0
        for row, span in keys:
            of_row = times[:, row - k.rows[0]]
            for place in np.flatnonzero(of_row).tolist():
                total += int(of_row[place]) * self._columns.count(q.span(int(q.rows[place])), span)
        return total


def _covers_rows(q: _Side, k: _Side, parts: _Parts, seen: Flags, queries_stay: bool) -> bool:
    """Whether of rows that see one another one is chosen wholly; where queries stay, that of the keys."""
    if queries_stay:
        return not (seen & ~_whole(k, [(span, cover.every) for span, cover in parts])).any()
    of_q, of_k = (
        _whole(side, [(span, cover.queries if side is q else cover.keys) for span, cover in parts]) for side in (q, k)
    )
    return not (seen & ~of_q[:, None] & ~of_k).any()


def _whole(side: _Side, parts: Sequence[tuple[Span, Flags]]) -> Flags:
    """Rows of which everything that is held is chosen."""
    found = np.ones(len(side.rows), bool)
    for (low, _), chosen in parts:
        found &= (chosen | ~side.held(low + np.arange(chosen.shape[1]))).all(1)
    return found


def margin_of(columns: Columns) -> int:
    """How many columns a window has to either side of a cut at first: more than twice as many as a column looks."""
    return 2 * columns.reach + 1


def is_narrow(columns: Columns, margin: int) -> bool:
    """Whether such a window leaves half of the columns between them, or more."""
    return 4 * margin <= columns.width


_Parts: TypeAlias = Sequence[tuple[Span, _Cover]]


def _tokens(side: _Side, parts: Sequence[tuple[Span, Flags]]) -> Array:
    """Chosen tokens of all parts as stretches (first, last)."""
    found = [np.zeros((0, 2), np.int64)]
    for (low, high), chosen in parts:
        row, column = np.nonzero(chosen)
        first = side.rows[row] * side.width + low + column
        wide = (high - low) // chosen.shape[1]
        found.append(np.stack([first, first + wide - 1], 1))
    return np.concatenate(found)


def _by_row(ends: Array, width: int) -> Iterator[tuple[int, Span]]:
    """Stretches of tokens, each within one row, as columns of that row."""
    for first, last in ends.tolist():
        row = first // width
        yield row, (first - row * width, last + 1 - row * width)


def _moved(ends: Array, heads: int) -> Moved:
    return ((tuple(range(heads)), rows_of(ends)),) if len(ends) else ()
