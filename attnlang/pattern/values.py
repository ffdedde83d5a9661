"""Checks of single values that only become known with the head or the length."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from attnlang import codes
from attnlang.pattern.expr import Scope, integer
from attnlang.pattern.functions import fail
from attnlang.source import Span
from attnlang.syntax.tree import Expr


def at_least_one(value: int, what: str, span: Span) -> int:
    """Refuse widths, rates and steps below 1."""
    if value < 1:
        fail(codes.OUT_OF_RANGE, f"{what} must be at least 1", span, f"is {value}")
    return value


def grid_sizes(sizes: Sequence[Expr], n: int, scope: Scope, span: Span) -> list[int]:
    """The sizes of a grid's axes, whose product must be the frame's n."""
    found = [at_least_one(integer(size, scope), "size of an axis", size.span) for size in sizes]
    positions = prod(found)
    if positions != n:
        label = f"{' x '.join(map(str, found))} = {positions} positions, but the frame has {n}"
        length = f" (--n {positions})" if n == scope.get("N") else ""
        hint = f"choose sizes whose product is {n}, or a sequence of {positions} positions{length}"
        fail(codes.OUT_OF_RANGE, "the grid does not fit the sequence", span, label, hint)
    return found


def scope_integer(scope: Scope, name: str) -> int:
    """The value of a name that is always an integer: h, H, n or N."""
    value = scope[name]
    assert isinstance(value, int)
    return value


def head_range(lo: Expr | None, hi: Expr | None, scope: Scope, span: Span) -> range:
    """The heads lo, .., hi - 1, checked against the number of heads."""
    heads = scope_integer(scope, "H")
    first = 0 if lo is None else integer(lo, scope)
    last = heads if hi is None else integer(hi, scope)
    if not 0 <= first <= last <= heads:
        fail(codes.OUT_OF_RANGE, "heads out of range", span, f"heads {first}..{last} of {heads}")
    return range(first, last)
