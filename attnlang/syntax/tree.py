"""The syntax tree: one frozen node class a form, every node with its span. Spans take no part in equality.

Expressions over integers, booleans, lists and relations share these classes, as they share one grammar; which of
them a node denotes is the checker's business. Patterns keep using the expression classes for what is still unknown
when a pattern is built (`pos`, `h`, `N`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from attnlang.source import NOWHERE, Source, Span


@dataclass(frozen=True, slots=True)
class Node:
    """What all nodes share."""

    span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Int(Node):
    value: int


@dataclass(frozen=True, slots=True)
class Bool(Node):
    value: bool


@dataclass(frozen=True, slots=True)
class Name(Node):
    name: str


@dataclass(frozen=True, slots=True)
class List(Node):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """`op` is one of `-`, `+`, `~`, `not`."""

    op: str
    operand: Expr


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """`op` is one of `** * // % + - & | and or`."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Compare(Node):
    """`first ops[0] rest[0] ops[1] rest[1] ...`, chained as in Python."""

    first: Expr
    ops: tuple[str, ...]
    rest: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Conditional(Node):
    """`then if condition else otherwise`"""

    condition: Expr
    then: Expr
    otherwise: Expr


@dataclass(frozen=True, slots=True)
class Index(Node):
    """`base[index]`"""

    base: Expr
    index: Expr


@dataclass(frozen=True, slots=True)
class Range(Node):
    """`lo..hi step s`; an end left open is None."""

    lo: Expr | None
    hi: Expr | None
    step: Expr | None


@dataclass(frozen=True, slots=True)
class Keyword(Node):
    """`name=value` in a call."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Clause(Node):
    """`for targets in iterable if condition ...`"""

    targets: tuple[str, ...]
    iterable: Expr
    conditions: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Comprehension(Node):
    """`element for .. in ..`, in square brackets or as the only argument of a call."""

    element: Expr
    clauses: tuple[Clause, ...]


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`name(arguments) { body }`"""

    name: str
    arguments: tuple[Expr | Range | Keyword, ...]
    body: Expr | None = None


@dataclass(frozen=True, slots=True)
class Table(Node):
    """A runtime table, by the name under which its content is given. Made by the elaborator, never by the parser."""

    name: str


Expr: TypeAlias = (
    Int | Bool | Name | Table | List | Unary | Binary | Compare | Conditional | Index | Comprehension | Call
)


@dataclass(frozen=True, slots=True)
class Param(Node):
    """`name: kind = default`; `kind` is None unless written."""

    name: str
    kind: str | None
    default: Expr | None


@dataclass(frozen=True, slots=True)
class PatternDef(Node):
    """`pattern name(params) where condition within bound = body`; `name_span` is the name's own place."""

    name: str
    params: tuple[Param, ...]
    where: Expr | None
    within: Expr | None
    body: Expr
    doc: str
    name_span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Import(Node):
    """`import "path"` (names is None: everything) or `from "path" import names`."""

    path: str
    names: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class File(Node):
    """A whole text: its patterns and imports in order, and all of its comments with their places.

    `faulty` are the names of definitions that do not follow the grammar: they are no items, but their names exist.
    """

    source: Source = field(compare=False)
    items: tuple[PatternDef | Import, ...]
    comments: tuple[tuple[Span, str], ...] = field(compare=False, repr=False)
    faulty: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    @property
    def patterns(self) -> tuple[PatternDef, ...]:
        """The pattern definitions, in order."""
        return tuple(item for item in self.items if isinstance(item, PatternDef))
