"""A schedule in an emitted module: plain data that one can read, and what the module does with it."""

from __future__ import annotations

from collections.abc import Iterator
from pprint import pformat

from attnlang.schedule import Schedule, counted


def literal(schedule: Schedule) -> Iterator[str]:
    """SCHEDULE = {..}, after a comment that says what it is."""
    yield f"# {schedule.n:,} tokens on {counted(schedule.ranks, 'rank')} ({schedule.placement}); by branch of its plan:"
    for number, choice in enumerate(schedule.choices, 1):
        yield f"#   {number}  {choice}"
    yield "# `attnlang.parallel.distribute(module, mesh)` runs it."
    yield f"SCHEDULE = {pformat(schedule.to_json(), width=118, compact=True, sort_dicts=False)}"
