"""The kinds of thing an expression can denote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = int | bool | tuple["Value", ...]
"""A known integer, boolean or list."""

Argument: TypeAlias = int | bool | str | Sequence["Argument"]
"""What Python code may give for a parameter."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`integer`, `boolean`, `relation`, `table`, `list` (of one item kind), `tuple` (one item kind a place).

    `anything` is the kind of a parameter without default or annotation: it fits everywhere, and is replaced by the
    kind of the given value when a pattern is built.
    """

    name: str
    items: tuple[Kind, ...] = ()

    def __str__(self) -> str:
        if self.name == "list":
            return f"list of {self.items[0].plural}"
        if self.name == "tuple":
            return f"group of {len(self.items)} values"
        return self.name

    @property
    def plural(self) -> str:
        return "anything" if self.name == "anything" else f"{self}s"

    @property
    def a(self) -> str:
        """The kind with its article: 'an integer'."""
        return str(self) if self == ANYTHING else f"{'an' if self.name[0] in 'aeiou' else 'a'} {self}"

    def fits(self, wanted: Kind) -> bool:
        """Whether an expression of this kind may stand where `wanted` is asked for."""
        if ANYTHING in (self, wanted):
            return True
        if self.name != wanted.name or len(self.items) != len(wanted.items):
            return False
        return all(mine.fits(other) for mine, other in zip(self.items, wanted.items, strict=True))


ANYTHING = Kind("anything")
INTEGER = Kind("integer")
BOOLEAN = Kind("boolean")
RELATION = Kind("relation")
TABLE = Kind("table")


def list_of(item: Kind) -> Kind:
    """The kind of a list."""
    return Kind("list", (item,))


def kind_of(value: Value) -> Kind:
    """The kind of a known value."""
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int):
        return INTEGER
    return list_of(kind_of(value[0]) if value else ANYTHING)


ANNOTATIONS = {"int": INTEGER, "bool": BOOLEAN, "list": list_of(ANYTHING), "table": TABLE}
"""What may be written after a parameter's colon."""
