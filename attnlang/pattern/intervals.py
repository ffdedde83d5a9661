"""Expressions over stretches of positions: between which values they lie there, for many stretches at once.

Interval arithmetic on integers; a boolean is 0 or 1, so (0, 0) is false throughout, (1, 1) true throughout, and (0, 1)
open. Bounds may be wider than the truth and are never narrower. What has no useful bound is `UNKNOWN`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnlang.pattern.expr import Scope, fold, table_entry
from attnlang.pattern.ranges import Extremes
from attnlang.pattern.tables import Content, key
from attnlang.syntax import tree

Array: TypeAlias = NDArray[np.int64]

INFINITE = 2**61
"""Stands for every value of 2**60 and more."""


class Interval(NamedTuple):
    """lo <= value <= hi, elementwise; arrays of one shape, or numbers."""

    lo: Any
    hi: Any


UNKNOWN = Interval(-INFINITE, INFINITE)
Places: TypeAlias = Mapping[str, Interval]


def interval(node: tree.Expr, scope: Scope, places: Places) -> Interval:
    """Bounds of an expression for positions within `places` (of `pos`, or of `q` and `k`)."""
    folded = fold(node, {name: found for name, found in scope.items() if name not in places})
    return _interval(folded, scope, places)


def truth(node: tree.Expr, scope: Scope, places: Places) -> Interval:
    """Bounds of a condition, within 0 and 1."""
    lo, hi = interval(node, scope, places)
    return Interval(np.clip(lo, 0, 1), np.clip(hi, 0, 1))


def _interval(node: tree.Expr, scope: Scope, places: Places) -> Interval:
    match node:
        case tree.Int(value) | tree.Bool(value):
            return _saturated(int(value), int(value))
        case tree.Name(name) if name in places:
            return places[name]
        case tree.Unary("not", operand):
            lo, hi = _interval(operand, scope, places)
            return Interval(1 - np.clip(hi, 0, 1), 1 - np.clip(lo, 0, 1))
        case tree.Unary("-", operand):
            lo, hi = _interval(operand, scope, places)
            return Interval(-hi, -lo)
        case tree.Binary(op, left, right):
            return _binary(op, _interval(left, scope, places), _interval(right, scope, places))
        case tree.Compare(first, ops, rest):
            sides = [_interval(side, scope, places) for side in (first, *rest)]
            steps = [_compared(op, a, b) for a, op, b in zip(sides, ops, sides[1:], strict=False)]
            return _all(steps)
        case tree.Conditional(condition, then, otherwise):
            return _chosen(*(_interval(part, scope, places) for part in (condition, then, otherwise)))
        case tree.Call("min" | "max" | "abs" as name, arguments):
            parts = [_interval(part, scope, places) for part in _operands(arguments)]
            return _function(name, parts)
        case tree.Index() if (entry := table_entry(node)) and isinstance(table := scope.get(key(entry[0])), Content):
            return _entry(table, [_interval(index, scope, places) for index in entry[1]])
        case _:
            return UNKNOWN


def _operands(arguments: Sequence[tree.Expr | tree.Range | tree.Keyword]) -> list[tree.Expr]:
    if len(arguments) == 1 and isinstance(arguments[0], tree.List):
        return list(arguments[0].items)
    return [part for part in arguments if not isinstance(part, tree.Range | tree.Keyword)]


def _saturated(lo: Any, hi: Any) -> Interval:
    return Interval(np.clip(lo, -INFINITE, INFINITE), np.clip(hi, -INFINITE, INFINITE))


def _binary(op: str, a: Interval, b: Interval) -> Interval:
    match op:
        case "+":
            return _saturated(a.lo + b.lo, a.hi + b.hi)
        case "-":
            return _saturated(a.lo - b.hi, a.hi - b.lo)
        case "*":
            return _hull([_times(x, y) for x in a for y in b])
        case "//":
            return _divided(a, b)
        case "%":
            return _remainder(a, b)
        case "and":
            return _all([a, b])
        case "or":
            return Interval(np.maximum(a.lo > 0, b.lo > 0) + 0, np.maximum(a.hi > 0, b.hi > 0) + 0)
        case _:
            return UNKNOWN


def _all(parts: Sequence[Interval]) -> Interval:
    lo, hi = parts[0]
    lo, hi = lo > 0, hi > 0
    for part in parts[1:]:
        lo, hi = lo & (part.lo > 0), hi & (part.hi > 0)
    return Interval(lo + 0, hi + 0)


def _hull(corners: Sequence[Any]) -> Interval:
    lo = hi = corners[0]
    for corner in corners[1:]:
        lo, hi = np.minimum(lo, corner), np.maximum(hi, corner)
    return Interval(lo, hi)


def _times(x: Any, y: Any) -> Any:
    """The product, or infinity where it passes 2**60."""
    large = np.abs(np.asarray(x, float) * np.asarray(y, float)) >= 2.0**60
    sign = np.sign(x) * np.sign(y)
    return np.where(large, sign * INFINITE, np.where(large, 0, x) * np.where(large, 0, y))


def _divided(a: Interval, b: Interval) -> Interval:
    """Floor division; where the divisor may be 0 nothing is known."""
    usable = (b.lo > 0) | (b.hi < 0)
    low, high = np.where(usable, b.lo, 1), np.where(usable, b.hi, 1)
    found = _hull([x // y for x in a for y in (low, high)])
    return Interval(np.where(usable, found.lo, -INFINITE), np.where(usable, found.hi, INFINITE))


def _remainder(a: Interval, b: Interval) -> Interval:
    """The remainder of a positive divisor: exact while a stays within one period of a divisor that is one number."""
    positive = b.lo > 0
    d = np.where(positive, b.lo, 1)
    within = positive & (b.lo == b.hi) & (a.lo // d == a.hi // d)
    lo = np.where(within, a.lo % d, np.where(positive, 0, -INFINITE))
    hi = np.where(within, a.hi % d, np.where(positive, np.minimum(b.hi - 1, INFINITE), INFINITE))
    return Interval(lo, hi)


def _compared(op: str, a: Interval, b: Interval) -> Interval:
    """Whether a comparison holds throughout, and whether it may hold."""
    match op:
        case "<":
            return Interval((a.hi < b.lo) + 0, (a.lo < b.hi) + 0)
        case "<=":
            return Interval((a.hi <= b.lo) + 0, (a.lo <= b.hi) + 0)
        case ">":
            return _compared("<", b, a)
        case ">=":
            return _compared("<=", b, a)
        case "==":
            equal = (a.lo == a.hi) & (b.lo == b.hi) & (a.lo == b.lo) & (np.abs(a.lo) < INFINITE)
            return Interval(equal + 0, ((a.lo <= b.hi) & (b.lo <= a.hi)) + 0)
        case _:
            lo, hi = _compared("==", a, b)
            return Interval(1 - hi, 1 - lo)


def _chosen(condition: Interval, then: Interval, otherwise: Interval) -> Interval:
    always, never = condition.lo > 0, condition.hi <= 0
    lo = np.where(always, then.lo, np.where(never, otherwise.lo, np.minimum(then.lo, otherwise.lo)))
    hi = np.where(always, then.hi, np.where(never, otherwise.hi, np.maximum(then.hi, otherwise.hi)))
    return Interval(lo, hi)


def _function(name: str, parts: Sequence[Interval]) -> Interval:
    if name == "abs":
        lo, hi = parts[0]
        crosses = (lo <= 0) & (hi >= 0)
        least = np.where(crosses, 0, np.minimum(np.abs(lo), np.abs(hi)))
        return Interval(least, np.maximum(np.abs(lo), np.abs(hi)))
    pick = np.minimum if name == "min" else np.maximum
    lo, hi = parts[0]
    for part in parts[1:]:
        lo, hi = pick(lo, part.lo), pick(hi, part.hi)
    return Interval(lo, hi)


def _entry(table: Content, indices: list[Interval]) -> Interval:
    """Bounds of the entries of a table: of a row or point of it. An index that may leave it says nothing.

    Where it *does* leave the table at the positions that count, looking the entry up says so.
    """
    *points, last = indices
    if not all(np.ndim(point.lo) == 0 and point.lo == point.hi for point in points):
        return _points(table, indices)
    place = tuple(int(point.lo) for point in points)
    if any(not 0 <= i < size for i, size in zip(place, table.array.shape, strict=False)):
        return UNKNOWN
    row = table.array[place]
    inside = (last.lo < len(row)) & (last.hi >= 0)
    if not len(row):
        return UNKNOWN
    found = Extremes(row)(np.clip(last.lo, 0, len(row) - 1), np.clip(last.hi, 0, len(row) - 1))
    return Interval(np.where(inside, found[0], -INFINITE), np.where(inside, found[1], INFINITE))


def _points(table: Content, indices: list[Interval]) -> Interval:
    """The entries where every index is one number inside of the table; elsewhere nothing is known."""
    exact: Any = True
    for index, size in zip(indices, table.array.shape, strict=True):
        exact = exact & (index.lo == index.hi) & (index.lo >= 0) & (index.lo < size)
    if not table.array.size:
        return UNKNOWN
    values = table.array[tuple(np.where(exact, index.lo, 0) for index in indices)]
    return Interval(np.where(exact, values, -INFINITE), np.where(exact, values, INFINITE))
