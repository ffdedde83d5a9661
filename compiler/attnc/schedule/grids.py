"""All meetings of many ranks on a grid whose last axis they cut anywhere (`attnc.schedule.ragged`), by their kinds.

Two meetings are of one kind where both ranks begin at the same columns as the two others, hold as many tokens, and
their rows see one another as the others' do. On a grid of two axes that is read off: where ranks begin, and a table of
which rows see which. On one of more the pattern's terms say it (`attnc.schedule.families`).

Beside such a grid others may stand, `|` between them: axial attention is met by its columns wherever two ranks have no
row in common, which is nearly everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.boxes import Counter, NoTermError, TooManyError
from attnc.schedule.coarse import without_last
from attnc.schedule.columns import Columns
from attnc.schedule.families import MANY_RANKS, Kinds
from attnc.schedule.meetings import Met
from attnc.schedule.quotient import quotient
from attnc.schedule.ragged import Ragged, is_narrow, margin_of
from attnc.schedule.solution import Problem
from attnc.schedule.straddled import Straddled, straddled
from attnlang.diagnostics import AttnError
from attnlang.parallel.dense import alike_heads, scope_of
from attnlang.pattern import algebra
from attnlang.pattern.expr import Scope
from attnlang.pattern.tables import Content
from attnlang.pattern.values import grid_sizes
from attnlang.pattern.walk import free_names_of
from attnlang.plan import Tiles
from attnlang.schedule import Placement

Array = NDArray[np.int64]

MAX_MET = 2**21
"""Of so many meetings rows are compared, each with all of the other."""


@dataclass(frozen=True, eq=False, slots=True)
class Grid:
    """A plan of one such grid, and the kinds of its meetings where they can be read off."""

    ragged: Ragged
    kinds: Kinds | None

    def meetings(self, first: Sequence[tuple[int, int]], *, queries_stay: bool) -> dict[int, Met]:
        """What is found between these ranks, by number from 1; the others are not covered among rows and windows."""
        found = ((label, self.ragged.met(a, b, queries_stay)) for label, (a, b) in enumerate(first, 1))
        return {label: met for label, met in found if met is not None}

    def local(self, kinds: Kinds) -> Array | None:
        """How many pairs each rank has with itself; None where that is not found."""
        _, ranks, of = np.unique(kinds.diagonal(), return_index=True, return_inverse=True)
        pairs = [self.ragged.pairs(rank) for rank in ranks.tolist()]
        return None if None in pairs else np.array(pairs, np.int64)[of]


def grid_of(problem: Problem, branches: Sequence[int]) -> Grid | Straddled | None:
    """The plan as such a grid, or as segments across edges; None for few ranks, and where it is neither."""
    name = tuple(branches)
    if name not in problem.grids:
        problem.grids[name] = (_grid(problem, *name) or straddled(problem, *name)) if len(name) == 1 else None
    return problem.grids[name]


def _grid(problem: Problem, number: int) -> Grid | None:
    plan, n, where = problem.plan, problem.placement.n, problem.placement
    branch = plan.branches[number]
    if where.ranks < MANY_RANKS or any(len(chunks) != 1 or chunks[0].step > 1 for chunks in where.chunks):
        return None
    if not isinstance(branch, Tiles):
        return None
    alike = alike_heads(branch)
    if len(alike) > 1 or len(alike[0]) < plan.heads:
        return None
    head, scope = alike[0][0], scope_of(plan, n, alike[0][0], problem.tables)
    parts = _grids(branch.relation)
    if not _are_alike(parts, n, scope) or quotient(branch.relation, n, scope) is not None:
        return None
    for place, part in enumerate(parts):
        found = without_last(part, n, head, plan.heads, scope)
        columns = None if found is None else Columns.of(part.bodies[-1], *found[1:], scope)
        if found is None or columns is None or not is_narrow(columns, margin_of(columns)):
            continue
        others = tuple(replace(found[0], bodies=other.bodies[:-1]) for other in (*parts[:place], *parts[place + 1 :]))
        rows = None if others else _one_axis(found[0], n // columns.width, head, plan.heads, scope)
        kinds = None if rows is None else _kinds(rows, columns, where)
        return Grid(Ragged(problem, number, rows or found[0], columns, scope, others), kinds)
    return None


def _grids(relation: algebra.Relation) -> list[algebra.Grid]:
    """The grids that a relation is the union of; none where it is anything else."""
    match relation:
        case algebra.Grid():
            return [relation]
        case algebra.Union(left, right):
            found = _grids(left), _grids(right)
            return [*found[0], *found[1]] if all(found) else []
        case _:
            return []


def _are_alike(parts: Sequence[algebra.Grid], n: int, scope: Scope) -> bool:
    """Whether grids have one and the same sizes, whatever N is."""
    sizes = {tuple(grid_sizes(part.sizes, n, {**scope, "n": n}, part.span)) for part in parts}
    return len(sizes) == 1 and not any("N" in free_names_of(part) for part in parts)


def _one_axis(rows: algebra.Grid, size: int, head: int, heads: int, scope: Scope) -> Columns | None:
    """Which rows see which, where these are one narrow axis."""
    body, *others = rows.bodies
    if others:
        return None
    tables = {name: content for name, content in scope.items() if isinstance(content, Content)}
    try:
        counted = Counter(tables).count(body, size, head, heads)
    except (NoTermError, TooManyError, AttnError):
        return None
    return Columns.of(body, size, counted.bag, scope) if counted.exact else None


def _kinds(rows: Columns, columns: Columns, where: Placement) -> Kinds | None:
    """The kinds of all meetings; None where there are too many."""
    width = columns.width
    first, count = np.array([(chunk.first, chunk.count) for (chunk,) in where.chunks], np.int64).T
    end = first + count
    top, bottom = first // width, (end - 1) // width
    low = np.searchsorted(bottom, top - rows.reach)
    high = np.searchsorted(top, bottom + rows.reach, side="right")
    most = int((bottom - top).max()) + 1
    if int((high - low).sum()) * most**2 > MAX_MET:
        return None
    a = np.repeat(np.arange(where.ranks), high - low)
    b = np.arange(len(a)) - np.repeat(np.cumsum(high - low) - (high - low), high - low) + low[a]
    side = np.unique(first % width * (int(count.max()) + 1) + count, return_inverse=True)[1]
    code, some = side[a] * where.ranks + side[b], np.zeros(len(a), bool)
    for i in range(most):
        for j in range(most):
            row, key = top[a] + i, top[b] + j
            held = (row <= bottom[a]) & (key <= bottom[b])
            from_a, from_b = (
                np.maximum(first[a], row * width) - row * width,
                np.maximum(first[b], key * width) - key * width,
            )
            to_a, to_b = np.minimum(end[a] - row * width, width), np.minimum(end[b] - key * width, width)
            held &= (from_b < to_a + columns.reach) & (from_a < to_b + columns.reach)
            times = np.where(held, rows.between(np.minimum(row, bottom[a]), np.minimum(key, bottom[b])), 0)
            some |= times > 0
            code = np.unique(code * (int(times.max(initial=0)) + 1) + times, return_inverse=True)[1]
    found = np.zeros((where.ranks, where.ranks), np.int32)
    found[a[some], b[some]] = code[some] + 1
    return found
