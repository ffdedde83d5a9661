"""What the mask explorer shows: the whole pattern where it is small enough to be seen pair by pair, else the pattern at
a length that is, with its own parameters and with the long ones divided.

Every view is some pattern at some length, computed by the oracle. Its title and note say which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from attnlang.diagnostics import AttnError
from attnlang.pattern import Pattern, algebra
from attnlang.pattern.arguments import LAYER_NAMES
from attnlang.pattern.expr import Known, integer
from attnlang.pattern.kinds import Value
from attnlang.pattern.library import loads
from attnlang.pattern.pattern import value_text
from attnlang.pattern.walk import nodes

SIZE = 512
"""How many positions a view shows where the whole is longer."""
MAX_WHOLE = 1024
"""Up to this length the whole pattern is shown."""
MAX_CORNER = 4096
"""Up to this length the first positions of a pattern that has no shorter form are cut out of the whole."""
UNSCALED = LAYER_NAMES | {"seed"}


@dataclass(frozen=True, slots=True)
class View:
    """A pattern at length n, of which the first `shown` positions are shown."""

    title: str
    note: str
    pattern: Pattern
    n: int
    shown: int
    tables: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)


def views(pattern: Pattern, n: int, tables: Mapping[str, Any] | None = None, size: int = SIZE) -> tuple[View, ...]:
    """What to show of a pattern at length n, the most telling view first; nothing if no short length has a meaning."""
    given = dict(tables or {})
    if n <= max(size, MAX_WHOLE):
        return (View("The whole pattern", f"All {n:,} positions.", pattern, n, n, given),) if n else ()
    if pattern.tables:
        return tuple(_corner(pattern, n, given, size))
    if any(isinstance(node, algebra.Grid) for node in nodes(pattern.relation)):
        return (*_smaller_grid(pattern, size), *_corner(pattern, n, given, size))
    own = View("Its own parameters", f"The same pattern at N = {size:,}.", pattern, size, size)
    scaled = _scaled_to(pattern, n, size)
    return (own,) if scaled is None else (scaled, own)


def _corner(pattern: Pattern, n: int, tables: dict[str, Any], size: int) -> Iterator[View]:
    if n <= MAX_CORNER:
        note = f"Positions 0 to {size - 1:,} of {n:,}. Paths through later positions are not followed."
        yield View("The first positions", note, pattern, n, size, tables)


def _scaled_to(pattern: Pattern, n: int, size: int) -> View | None:
    """The long parameters divided, until the longest is about a quarter of what is shown.

    They are left as they are where the longest fills less than half of it, and never divided by more than brings the
    whole sequence into view.
    """
    longest = max((_largest(value) for name, value in pattern.parameters if name not in UNSCALED), default=0)
    if longest <= size // 2:
        return None
    least = max(2, min(-(-longest // (size // 4)), -(-n // size)))
    divisor = max(range(least, 4 * least), key=lambda each: len(_scalable(pattern, each)))
    scaled = _divided(pattern, divisor)
    if scaled is None:
        return None
    changes = _changes(pattern, scaled)
    length = f" It stands for {divisor * size:,} of {n:,} positions." if divisor * size < n else ""
    return View(f"Scaled by 1/{divisor}", f"{changes}, at N = {size:,}.{length}", scaled, size, size)


def _largest(value: Known) -> int:
    if isinstance(value, tuple):
        return max((_largest(item) for item in value), default=0)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _changes(before: Pattern, after: Pattern) -> str:
    old = dict(before.parameters)
    changed = [f"{name} = {value_text(value)}" for name, value in after.parameters if old.get(name) != value]
    return f"With {', '.join(changed)}"


def _divided(pattern: Pattern, divisor: int) -> Pattern | None:
    """The pattern with its long parameters divided: those that stay whole, and at least 2. None if there are none."""
    changed = _scalable(pattern, divisor)
    if not changed or not pattern.source.text:
        return None
    values = {name: _argument(changed.get(name, value)) for name, value in pattern.parameters}
    files = dict(pattern.imports) or None
    try:
        return loads(pattern.source.text, name=pattern.name, source_name=pattern.source.name, files=files, **values)
    except (AttnError, ValueError):
        return None  # a condition of the pattern does not hold for these


def _scalable(pattern: Pattern, divisor: int) -> dict[str, Value]:
    """The parameters that a divisor divides, divided."""
    return {
        name: _quotient(value, divisor)
        for name, value in pattern.parameters
        if name not in UNSCALED and _divides(value, divisor)
    }


def _divides(value: Known, divisor: int) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(_divides(item, divisor) for item in value)
    return isinstance(value, int) and not isinstance(value, bool) and value % divisor == 0 and value >= 2 * divisor


def _quotient(value: Known, divisor: int) -> Value:
    if isinstance(value, tuple):
        return tuple(_quotient(item, divisor) for item in value)
    assert isinstance(value, int)
    return value // divisor


def _argument(value: Known) -> Any:
    return value if isinstance(value, int | tuple) else value_text(value)


def _smaller_grid(pattern: Pattern, size: int) -> Iterator[View]:
    """A grid whose axes are all divided alike: the largest that has at most `MAX_WHOLE` positions."""
    axes = _axes(pattern)
    for divisor in range(2, 65):
        scaled = _divided(pattern, divisor)
        shorter = () if scaled is None else _axes(scaled)
        n = prod(shorter)
        alike = tuple(axis * divisor for axis in shorter) == axes
        if scaled is not None and alike and 0 < n <= max(size, MAX_WHOLE):
            note = f"{_changes(pattern, scaled)}: all {n:,} positions of the smaller grid."
            yield View(f"Scaled by 1/{divisor}", note, scaled, n, n)
            return


def _axes(pattern: Pattern) -> tuple[int, ...]:
    """The lengths of the outermost grid's axes; nothing where they depend on the length of the sequence."""
    grid = next(node for node in nodes(pattern.relation) if isinstance(node, algebra.Grid))
    try:
        return tuple(integer(each, {}) for each in grid.sizes)
    except AttnError:
        return ()
