"""Plans of grids whose last axis every rank holds wholly: among the rows of that axis, not among tokens.

grid(f, r, c) { p * s * t }, of shards of whole rows of c tokens  -->  grid(f, r) { p * s }, of n / c rows

Where t pairs every position with itself, the pairs between two ranks hold c copies of those among rows, one for each
column, which have no row in common: no cover weighs less than c times the least cover of these. And whole rows of that
one cover all pairs. So it is the least, and its certificate is tight if that among rows is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attnc.analysis.boxes import Counter, NoTermError, TooManyError
from attnc.schedule.families import MANY_RANKS
from attnc.schedule.solution import Problem, Solution
from attnlang.diagnostics import AttnError
from attnlang.parallel.dense import alike_heads, scope_of
from attnlang.pattern import algebra
from attnlang.pattern.arithmetic import literal
from attnlang.pattern.pointwise import multiplicity_at
from attnlang.pattern.values import grid_sizes
from attnlang.pattern.walk import free_names_of
from attnlang.plan import Plan, Tiles
from attnlang.rows import Rows
from attnlang.schedule import Certificate, HeadRows, Placement, Transfer


@dataclass(frozen=True, slots=True)
class Coarse:
    """A problem among rows: tokens of a row, and pairs that two rows have for each time that they meet."""

    problem: Problem
    width: int
    pairs: int


def coarse(problem: Problem) -> Coarse | None:
    """The problem among rows of the last axis; None for few ranks, and where it has none."""
    plan, n = problem.plan, problem.placement.n
    if problem.placement.ranks < MANY_RANKS or not plan.branches:
        return None
    branches: list[Tiles] = []
    sides: set[tuple[int, int]] = set()
    for branch in plan.branches:
        if not isinstance(branch, Tiles) or not isinstance(branch.relation, algebra.Grid):
            return None
        relations: set[algebra.Relation] = set()
        for heads in alike_heads(branch):
            scope = scope_of(plan, n, heads[0], problem.tables)
            part = without_last(branch.relation, n, heads[0], plan.heads, scope)
            if part is None:
                return None
            relations.add(part[0])
            sides.add(part[1:])
        if len(relations) > 1:  # heads have grids of their own
            return None
        branches.append(replace(branch, relation=relations.pop()))
    if len(sides) > 1:
        return None
    width, pairs = sides.pop()
    chunks = [chunk for of_rank in problem.placement.chunks for chunk in of_rank]
    if any(chunk.step > 1 or chunk.first % width or chunk.count % width for chunk in chunks):
        return None
    where = Placement(
        problem.placement.kind,
        n // width,
        tuple(
            tuple(Rows(chunk.first // width, chunk.count // width) for chunk in of_rank)
            for of_rank in problem.placement.chunks
        ),
    )
    return Coarse(_of(problem, Plan(plan.heads, tuple(branches)), where), width, pairs)


def _of(problem: Problem, plan: Plan, where: Placement) -> Problem:
    """A problem like this one, of which nothing is known; the same one each time."""
    kept = problem.stand_ins.get(())
    if kept is None:
        kept = problem.stand_ins[()] = Problem(
            plan, where, problem.kv_heads, problem.row, problem.backward, problem.tables, counted=problem.counted
        )
    return replace(kept, queries_stay=problem.queries_stay)


def without_last(
    relation: algebra.Grid, n: int, head: int, heads: int, scope: Mapping[str, Any]
) -> tuple[algebra.Grid, int, int] | None:
    """A grid without its last axis, the size of that, and its pairs; None where not all of it see themselves."""
    if "N" in free_names_of(relation) or len(relation.bodies) < 2:
        return None
    sizes = grid_sizes(relation.sizes, n, {**scope, "n": n}, relation.span)
    width, body = sizes[-1], relation.bodies[-1]
    every = np.arange(width)
    try:
        if not np.all(multiplicity_at(body, every, every, width, {**scope, "n": width}) > 0):
            return None
        tables = {name: content for name, content in scope.items() if name not in ("N", "H", "h")}
        counted = Counter(tables).count(body, width, head, heads)
    except (NoTermError, TooManyError, AttnError):
        return None
    if not counted.exact:
        return None
    kept = tuple(literal(size, relation.span) for size in sizes[:-1])
    return replace(relation, sizes=kept, bodies=relation.bodies[:-1]), width, counted.bag


def refined(problem: Problem, found: Solution, of: Coarse) -> Solution:
    """A solution among rows as one among their tokens."""
    width, pairs = of.width, of.pairs
    certificate = Certificate(found.certificate.minimum * width, found.certificate.bound * width)
    transfers, which = found.listed()
    fine = Solution(problem, found.gathered, [_widened(t, width) for t in transfers], which, certificate)
    for name in ("local", "at_query", "at_key", "owned"):
        setattr(fine, name, getattr(found, name) * pairs)
    for name in ("keys_in", "keys_out", "queries_in", "queries_out"):
        setattr(fine, name, getattr(found, name) * width)
    fine.kinds = found.kinds
    return fine


def _widened(transfer: Transfer, width: int) -> Transfer:
    keys, queries = (
        tuple(
            sorted(
                (HeadRows(part.heads, rows) for part in side for rows in _tokens(part.rows, width)),
                key=lambda part: (part.heads, part.rows.first, part.rows.step, part.rows.count),
            )
        )
        for side in (transfer.keys, transfer.queries)
    )
    return Transfer(keys, queries)


def _tokens(rows: Rows, width: int) -> tuple[Rows, ...]:
    """Rows of the last axis as tokens: stretches, or a progression for each column where these are fewer."""
    if rows.step == 1:
        return (Rows(rows.first * width, rows.count * width),)
    if rows.count <= width:
        return tuple(Rows((rows.first + i * rows.step) * width, width) for i in range(rows.count))
    return tuple(Rows(rows.first * width + i, rows.count, rows.step * width) for i in range(width))
