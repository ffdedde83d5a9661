"""A syntax tree as an indented text: one node a line, with what it holds that is no node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, cast

from attnlang.syntax.tree import Node


def tree_text(node: Node) -> str:
    """The node and everything inside it.

    >>> from attnlang.syntax.tree import Binary, Int, Name
    >>> print(tree_text(Binary("+", Name("w"), Int(1))))
    Binary op='+'
      left: Name name='w'
      right: Int value=1
    """
    return "\n".join(_lines("", node, 0))


def _lines(label: str, node: Node, depth: int) -> Iterator[str]:
    parts = [(field.name, getattr(node, field.name)) for field in fields(cast("Any", node)) if field.name != "span"]
    own = "".join(f" {name}={value!r}" for name, value in parts if not _holds_nodes(value))
    yield f"{'  ' * depth}{label}{type(node).__name__}{own}"
    for name, value in parts:
        items: list[Any] = list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else [value]
        for item in items:
            if isinstance(item, Node):
                yield from _lines(f"{name}: ", item, depth + 1)


def _holds_nodes(value: object) -> bool:
    if isinstance(value, tuple):
        return any(isinstance(item, Node) for item in cast("tuple[object, ...]", value))
    return isinstance(value, Node)
