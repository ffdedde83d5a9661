"""The functions over integers and lists that expressions may call, and the limits that keep lists small."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import NoReturn

from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic
from attnlang.pattern.kinds import Value
from attnlang.source import Span

MAX_ITEMS = 65_536


def fail(code: str, message: str, span: Span, label: str, help: str | None = None) -> NoReturn:  # noqa: A002 - rustc's word
    """Raise one diagnostic."""
    raise AttnError(Diagnostic(code, message, span, label, help=help))


def too_long(span: Span) -> NoReturn:
    """Refuse a list of more than `MAX_ITEMS` items."""
    fail(codes.LIST_TOO_LONG, "list too long", span, f"more than {MAX_ITEMS} items")


def bounded(items: tuple[Value, ...], span: Span) -> tuple[Value, ...]:
    """The items, if they are not too many."""
    if len(items) > MAX_ITEMS:
        too_long(span)
    return items


def _range(values: list[Value], span: Span) -> Value:
    ends = [value for value in values if isinstance(value, int)]
    if len(ends) == 3 and ends[2] == 0:
        fail(codes.OUT_OF_RANGE, "a range cannot step by 0", span, "the step is 0")
    numbers = range(*ends)
    if len(numbers) > MAX_ITEMS:
        too_long(span)
    return tuple(numbers)


def _zip(values: list[Value], span: Span) -> Value:
    lists = [value for value in values if isinstance(value, tuple)]
    lengths = [len(items) for items in lists]
    if len(set(lengths)) > 1:
        label = f"lengths {' and '.join(map(str, lengths))}"
        fail(codes.UNEQUAL_LENGTHS, "lists of different lengths", span, label, help="give lists of equal length")
    return tuple(tuple(group) for group in zip(*lists, strict=True))


def _extreme(pick: Callable[[tuple[int, ...]], int]) -> Callable[[list[Value], Span], Value]:
    def apply(values: list[Value], span: Span) -> Value:
        flat = values[0] if len(values) == 1 and isinstance(values[0], tuple) else tuple(values)
        numbers = tuple(value for value in flat if isinstance(value, int))
        if not numbers:
            fail(codes.OUT_OF_RANGE, "the list is empty", span, "has no smallest and no largest item")
        return pick(numbers)

    return apply


def _numbers(value: Value) -> list[int]:
    return [item for item in value if isinstance(item, int)] if isinstance(value, tuple) else []


def _small(value: int, span: Span) -> int:
    if abs(value) >= 2**63:
        fail(codes.OVERFLOW, "integer overflow", span, "does not fit in 63 bits")
    return value


def _ceildiv(values: list[Value], span: Span) -> Value:
    """The smallest integer that is at least a / b."""
    a, b = _numbers(tuple(values))
    if b == 0:
        fail(codes.DIVISION_BY_ZERO, "division by zero", span, "the second argument is 0")
    return -(-a // b)


def _log2(values: list[Value], span: Span) -> Value:
    """The largest t with 2**t <= value."""
    (value,) = _numbers(tuple(values))
    if value < 1:
        fail(codes.OUT_OF_RANGE, "only numbers of at least 1 have a logarithm", span, f"is of {value}")
    return value.bit_length() - 1


def _isqrt(values: list[Value], span: Span) -> Value:
    """The largest s with s * s <= value."""
    (value,) = _numbers(tuple(values))
    if value < 0:
        fail(codes.OUT_OF_RANGE, "only numbers of at least 0 have a square root", span, f"is of {value}")
    return isqrt(value)


FUNCTIONS: dict[str, Callable[[list[Value], Span], Value]] = {
    "len": lambda values, span: len(values[0]) if isinstance(values[0], tuple) else 0,
    "range": _range,
    "zip": _zip,
    "min": _extreme(min),
    "max": _extreme(max),
    "sum": lambda values, span: _small(sum(_numbers(values[0])), span),
    "ceildiv": _ceildiv,
    "log2": _log2,
    "isqrt": _isqrt,
    "abs": lambda values, span: abs(values[0]) if isinstance(values[0], int) else values[0],
}
"""By name: the values of all arguments, and the place of the call."""
