"""Pattern and placement to Schedule. One rank so far: compute every branch."""

from __future__ import annotations

from attnc.lower import lower
from attnlang.pattern import Pattern
from attnlang.schedule import Compute, Schedule

__all__ = ["single_rank"]


def single_rank(pattern: Pattern, n: int, heads: int) -> Schedule:
    """The schedule of one rank, which holds every row and computes every branch."""
    plan = lower(pattern, heads)
    return Schedule(plan, n, 1, (Compute(0, tuple(range(len(plan.branches)))),))
