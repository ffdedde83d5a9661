"""`Schedule`: how R ranks compute a pattern on a sequence of n tokens, step by step.

So far a schedule has one rank and one step, which computes the whole plan; the steps that move rows between ranks are
to come with sequence parallelism. The type is here because everything that runs a pattern runs a schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attnlang.plan import Plan


@dataclass(frozen=True, slots=True)
class Compute:
    """A rank computes branches of the plan, by their numbers, on rows it holds."""

    rank: int
    branches: tuple[int, ...]

    def __str__(self) -> str:
        return f"rank {self.rank} computes branches {', '.join(str(number + 1) for number in self.branches) or 'none'}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps in order, for sequences of n tokens on `ranks` ranks."""

    plan: Plan
    n: int
    ranks: int
    steps: tuple[Compute, ...]

    @property
    def bytes_moved(self) -> int:
        """Bytes that cross between ranks: none on one rank."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        steps = [{"kind": "compute", "rank": step.rank, "branches": list(step.branches)} for step in self.steps]
        moved = self.bytes_moved
        return {"n": self.n, "ranks": self.ranks, "bytes_moved": moved, "steps": steps, "plan": self.plan.to_json()}

    def __str__(self) -> str:
        lines = [f"schedule for n = {self.n} on {self.ranks} rank: {self.bytes_moved} bytes move"]
        return "\n".join((*lines, *(f"{number:>3}  {step}" for number, step in enumerate(self.steps, 1))))
