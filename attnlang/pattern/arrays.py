"""Expressions at many positions at once: what the oracle asks of `key(b)`, `same(e)` and `pairs(b)`.

The values are those of `attnlang.pattern.expr`, position by position: the right side of `and` and `or`, and the
branches of `if else`, are looked at only where they count, so a guard protects what stands behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from attnlang.pattern.arithmetic import MAX_INT
from attnlang.pattern.expr import Scope, evaluate, fold, table_entry
from attnlang.pattern.tables import Content, key
from attnlang.syntax import tree

Places: TypeAlias = Mapping[str, NDArray[np.int64]]
"""For each of `pos`, or `q` and `k`, its value at every position: arrays of one length."""

Values: TypeAlias = NDArray[Any]
"""Integers (int64) or booleans."""


def evaluate_at(node: tree.Expr, scope: Scope, places: Places) -> Values:
    """The value of an expression at every position."""
    folded = fold(node, {name: found for name, found in scope.items() if name not in places})
    return _values(folded, scope, places)


def _values(node: tree.Expr, scope: Scope, places: Places) -> Values:
    match node:
        case tree.Int(value) | tree.Bool(value):
            return np.full(_size(places), value)
        case tree.Name(name) if name in places:
            return places[name]
        case tree.Unary("not", operand):
            return ~_values(operand, scope, places)
        case tree.Unary("-", operand):
            return -_values(operand, scope, places)
        case tree.Binary("and" | "or" as op, left, right):
            result = _values(left, scope, places).copy()
            open_ = result if op == "and" else ~result
            result[open_] = _values(right, scope, _chosen(places, open_))
            return result
        case tree.Binary(op, left, right) if op in _OPERATORS:
            return _operated(node, _values(left, scope, places), _values(right, scope, places), scope, places)
        case tree.Compare(first, ops, rest):
            sides = [_values(side, scope, places) for side in (first, *rest)]
            steps = [_COMPARE[op](left, right) for left, op, right in zip(sides, ops, sides[1:], strict=False)]
            return np.logical_and.reduce(steps)
        case tree.Conditional(condition, then, otherwise):
            chosen = _values(condition, scope, places)
            return _joined(
                chosen,
                _values(then, scope, _chosen(places, chosen)),
                _values(otherwise, scope, _chosen(places, ~chosen)),
            )
        case tree.Call("abs", (tree.Node() as operand,)):
            return np.abs(_values(cast("tree.Expr", operand), scope, places))
        case tree.Call("min" | "max" as name, (_, _, *_) as operands):
            sides = [_values(cast("tree.Expr", side), scope, places) for side in operands]
            return (np.minimum if name == "min" else np.maximum).reduce(sides)
        case tree.Index() if (entry := table_entry(node)) and isinstance(table := scope.get(key(entry[0])), Content):
            return table.entries([_values(index, scope, places) for index in entry[1]], node.span)
        case _:
            return _one_by_one(node, scope, places)


_COMPARE = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
_OPERATORS = {"+": np.add, "-": np.subtract, "*": np.multiply, "//": np.floor_divide, "%": np.mod}


def _operated(node: tree.Binary, left: Values, right: Values, scope: Scope, places: Places) -> Values:
    """`left op right`; where it may fail it is computed one by one, for the diagnostic."""
    most, other = (int(np.abs(side).max(initial=0)) for side in (left, right))
    may_overflow = (most * other if node.op == "*" else most + other) > MAX_INT
    if may_overflow or (node.op in ("//", "%") and not right.all()):
        return _one_by_one(node, scope, places)
    return _OPERATORS[node.op](left, right)


def _size(places: Places) -> int:
    return len(next(iter(places.values())))


def _chosen(places: Places, mask: Values) -> Places:
    return {name: values[mask] for name, values in places.items()}


def _joined(chosen: Values, then: Values, otherwise: Values) -> Values:
    result = np.empty(len(chosen), np.result_type(then, otherwise))
    result[chosen], result[~chosen] = then, otherwise
    return result


def _one_by_one(node: tree.Expr, scope: Scope, places: Places) -> Values:
    names = list(places)
    distinct, inverse = np.unique(np.stack([places[name] for name in names]), axis=1, return_inverse=True)
    found = [evaluate(node, {**scope, **dict(zip(names, column, strict=True))}) for column in distinct.T.tolist()]
    return np.array(found, bool if found and isinstance(found[0], bool) else np.int64)[inverse.reshape(-1)]
