"""How much a text may cost to check: lists, loops and matrices are counted, and beyond a limit there is a diagnostic.

Counts and no clock: a text is found too large on every machine, or on none. Nothing is limited unless someone asks for
it, as checking does: who wants a large matrix of a pattern that he knows shall have it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic
from attnlang.source import Span


@dataclass
class Budget:
    """`left` steps of a few microseconds each."""

    left: int
    total: int


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def limited(steps: int) -> Generator[Budget, None, None]:
    """At most so many steps inside, and no more than a limit outside leaves."""
    outer = _current.get()
    allowed = steps if outer is None else min(steps, outer.left)
    budget = Budget(allowed, allowed)
    token = _current.set(budget)
    try:
        yield budget
    finally:
        _current.reset(token)
        if outer is not None:
            outer.left -= allowed - max(budget.left, 0)


def spend(steps: int, span: Span) -> None:
    """Count steps. Raises AttnError (A0209) where more are taken than allowed."""
    budget = _current.get()
    if budget is None:
        return
    budget.left -= steps
    if budget.left < 0:
        label, hint = f"more than {budget.total:,} steps", "shorten the lists that it runs through"
        message = "the pattern takes too long to write out"
        raise AttnError(Diagnostic(codes.PATTERN_TOO_LARGE, message, span, label, help=hint))
