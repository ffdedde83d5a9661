"""Schedules made at the call: for the content of runtime tables, and for sequences shorter than the placement's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from attnc.schedule.placements import at_length, placement
from attnc.schedule.solution import Problem
from attnc.schedule.solver import solve
from attnlang.plan import Plan
from attnlang.schedule import ITEM_SIZES, Placement, RowBytes, Schedule


def placement_for(plan: Plan, n: int, ranks: int, kind: str) -> Placement:
    """Where tokens lie when what a pattern needs is known at the call only: 'auto' is contiguous.

    Raises ValueError for a kind that does not exist, and for fewer tokens than ranks.
    """
    return placement("contiguous" if kind == "auto" else kind, plan, n, ranks)


def schedule_on(
    plan: Plan, where: Placement, kv_heads: int, head_dim: int, dtype: str, tables: Mapping[str, Any], pattern: str
) -> Schedule:
    """The transfers of fewest bytes on a placement, of which the last ranks may hold nothing.

    Each pair is computed at one of its two homes; what is merely said of a schedule (times, alternatives) is left out.
    """
    held = sum(size > 0 for size in where.sizes)
    part = Placement(where.kind, where.n, where.chunks[:held])
    row = RowBytes(head_dim, ITEM_SIZES[dtype])
    solution = solve(Problem(at_length(plan, where.n), part, kv_heads, row, tables=tables, counted=False))
    found = solution.schedule(
        dtype=dtype, pattern=pattern, tables=tuple(sorted((name, content) for name, content in tables.items()))
    )
    return replace(found, placement=where, exchanges=found.exchanges.and_idle(where.ranks - held))
