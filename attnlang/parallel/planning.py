"""Schedules by what a call brings: the content of runtime tables, and the length of a sequence.

All ranks plan for themselves, from the same tables, and so come to the same schedule. The last few schedules are kept,
by content: documents packed anew at every step are planned at every step, a table that stays is planned once.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnlang.plan import Plan
from attnlang.runtime.contents import Contents
from attnlang.schedule import Placement, Schedule

KEPT = 16
"""How many schedules of a module are kept."""

Tables: TypeAlias = Mapping[str, NDArray[np.int64]]
Name: TypeAlias = tuple[int, str]
"""A length, and a digest of tables."""


class Planner:
    """Schedules of one plan on one placement.

    plan       the branches, for any length
    placement  of n tokens; a shorter sequence lies on its first ones
    fixed      a schedule that was written before: for calls without tables, of n tokens
    """

    def __init__(
        self, plan: Plan | None, placement: Placement, kv_heads: int, head_dim: int, dtype: str, pattern: str,
        fixed: Schedule | None = None,
    ) -> None:  # fmt: skip
        self.placement = placement
        self.fixed = fixed
        self._plan = plan
        self._weights = kv_heads, head_dim, dtype
        self._pattern = pattern
        self._kept: OrderedDict[Name, Schedule] = OrderedDict()

    @staticmethod
    def of(schedule: Schedule, plan: Plan | None) -> Planner:
        """For calls of one schedule, and of others on its placement."""
        of = schedule.kv_heads, schedule.head_dim, schedule.dtype
        return Planner(plan, schedule.placement, *of, schedule.pattern, schedule)

    @property
    def kv_heads(self) -> int:
        return self._weights[0]

    @cached_property
    def digest(self) -> str:
        """A fingerprint of what ranks must agree on before any call."""
        if self.fixed is not None:
            return self.fixed.digest
        text = repr((self._plan, self.placement, self._weights))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def schedule(self, n: int, tables: Tables) -> Schedule:
        """The schedule of the first n tokens, with these tables. Raises ValueError without the compiler."""
        name = n, Contents(tables).digest
        found = self._kept.get(name)
        if found is None:
            found = self._made(n, tables)
        self._kept[name] = found
        self._kept.move_to_end(name)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found

    def _made(self, n: int, tables: Tables) -> Schedule:
        fixed = self.fixed
        if fixed is not None and n == fixed.n and (not tables or _same(dict(fixed.tables), tables)):
            return fixed
        if fixed is not None and not tables:
            tables = {name: np.asarray(content, np.int64) for name, content in fixed.tables}
        compiler = compiler_part("attnc.schedule.percall")
        assert self._plan is not None
        return compiler.schedule_on(self._plan, _cut(self.placement, n), *self._weights, tables, self._pattern)


def _same(known: Mapping[str, Any], given: Tables) -> bool:
    return known.keys() == given.keys() and all(np.array_equal(np.asarray(known[name]), given[name]) for name in given)


def _cut(placement: Placement, n: int) -> Placement:
    """The placement of its first n tokens: every rank keeps its first rows."""
    if n == placement.n:
        return placement
    chunks = (tuple(part for chunk in of_rank if (part := chunk.within(0, n - 1))) for of_rank in placement.chunks)
    return Placement(placement.kind, n, tuple(chunks))


def compiler_part(name: str) -> Any:
    """A module of the compiler, if it is installed: what runs a schedule does without. Raises ValueError otherwise."""
    if find_spec("attnc") is None:
        raise ValueError(
            "the compiler `attnc` is not installed here: give schedule=, written where it is; runtime tables "
            "and lengths that change with the call need it"
        )
    return import_module(name)
