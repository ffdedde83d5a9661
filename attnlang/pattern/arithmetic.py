"""What operators do to literals: Python's integers within 63 bits; every failure is a diagnostic at its expression."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from attnlang import codes
from attnlang.pattern.functions import bounded, fail
from attnlang.pattern.kinds import Value
from attnlang.source import Span
from attnlang.syntax import tree

MAX_INT = 2**63 - 1


def literal(value: Value, span: Span) -> tree.Expr:
    """A known value as an expression, standing where `span` says."""
    if isinstance(value, bool):
        return tree.Bool(value, span=span)
    if isinstance(value, int):
        return tree.Int(value, span=span)
    return tree.List(tuple(literal(item, span) for item in value), span=span)


def known(node: tree.Expr) -> Value | None:
    """The value of an expression that is a literal, else None."""
    match node:
        case tree.Int(value) | tree.Bool(value):
            return value
        case tree.List(items):
            values = [known(item) for item in items]
            return None if None in values else tuple(value for value in values if value is not None)
        case _:
            return None


def fold_unary(op: str, operand: tree.Expr, span: Span) -> tree.Expr:
    """`op operand`, computed if the operand is a literal."""
    match known(operand):
        case bool(value) if op == "not":
            return tree.Bool(not value, span=span)
        case int(value) if op == "-":
            return tree.Int(-value, span=span)
        case int(value) if op == "+":
            return tree.Int(value, span=span)
        case _:
            return tree.Unary(op, operand, span=span)


def _floor(op: Callable[[int, int], int]) -> Callable[[int, int, Span], int]:
    def apply(left: int, right: int, span: Span) -> int:
        if right == 0:
            _divided_by_zero(span)
        return op(left, right)

    return apply


def _divided_by_zero(span: Span) -> NoReturn:
    fail(codes.DIVISION_BY_ZERO, "division by zero", span, "the right side is 0")


def _power(left: int, right: int, span: Span) -> int:
    if right < 0:
        label = f"the exponent is {right}"
        fail(
            codes.OUT_OF_RANGE,
            "negative exponent",
            span,
            label,
            help="powers are integers: use an exponent of 0 or more",
        )
    if abs(left) > 1 and right > 63:
        _overflow(span)
    return left**right


_ARITHMETIC: dict[str, Callable[[int, int, Span], int]] = {
    "+": lambda left, right, span: left + right,
    "-": lambda left, right, span: left - right,
    "*": lambda left, right, span: left * right,
    "//": _floor(lambda left, right: left // right),
    "%": _floor(lambda left, right: left % right),
    "**": _power,
}


def _overflow(span: Span) -> NoReturn:
    fail(codes.OVERFLOW, "integer overflow", span, "does not fit in 63 bits")


def fold_binary(op: str, left: tree.Expr, right: tree.Expr, span: Span) -> tree.Expr:
    """`left op right`, computed if both are literals; `and` and `or` are not among the operators."""
    match known(left), known(right):
        case int(a), int(b) if op in _ARITHMETIC:
            value = _ARITHMETIC[op](a, b, span)
            if abs(value) > MAX_INT:
                _overflow(span)
            return tree.Int(value, span=span)
        case tuple(a), tuple(b) if op == "+":
            return literal(bounded((*a, *b), span), span)
        case _, 0 if op in ("//", "%"):
            _divided_by_zero(span)
        case _:
            return tree.Binary(op, left, right, span=span)


_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _holds(op: str, left: Value, right: Value, span: Span) -> bool:
    if op in ("==", "!="):
        return (left == right) == (op == "==")
    if isinstance(left, int) and isinstance(right, int):
        return _COMPARE[op](left, right)
    fail(codes.WRONG_KIND, f"`{op}` compares integers", span, "compares a list")


def fold_compare(first: tree.Expr, ops: tuple[str, ...], rest: tuple[tree.Expr, ...], span: Span) -> tree.Expr:
    """`first ops[0] rest[0] ..`, computed if all are literals."""
    values = [known(part) for part in (first, *rest)]
    if any(value is None for value in values):
        return tree.Compare(first, ops, rest, span=span)
    sides = [value for value in values if value is not None]
    holds = all(_holds(op, left, right, span) for left, op, right in zip(sides, ops, sides[1:], strict=False))
    return tree.Bool(holds, span=span)
