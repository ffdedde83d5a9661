"""What a relation speaks of: all expressions inside it, and the runtime tables among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, cast

from attnlang import codes
from attnlang.pattern.algebra import Relation, RelationNode
from attnlang.pattern.expr import GIVE_LAYER, LAYER_NAMES, table_entry
from attnlang.pattern.functions import fail
from attnlang.syntax import tree


def subnodes(root: tree.Node) -> Iterator[tree.Node]:
    """A piece of syntax and everything inside it."""
    return (node for node in nodes(root) if isinstance(node, tree.Node))


def nodes(root: Relation | tree.Node) -> Iterator[RelationNode | tree.Node]:
    """A relation or expression and everything inside it, outermost first."""
    stack: list[Any] = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(cast("tuple[Any, ...]", item)[::-1])
        elif isinstance(item, RelationNode | tree.Node):
            yield item
            assert is_dataclass(item)
            stack.extend(getattr(item, part.name) for part in reversed(fields(item)) if part.name != "span")


def free_names_of(relation: Relation) -> frozenset[str]:
    """The names that a relation speaks of: `h`, `N`, `pos` and the like."""
    return frozenset(node.name for node in nodes(relation) if isinstance(node, tree.Name))


def require_layer(relation: Relation) -> None:
    """Raise AttnError (A0101) for a relation that differs by layer, and has been given none."""
    for node in nodes(relation):
        if isinstance(node, tree.Name) and node.name in LAYER_NAMES:
            fail(codes.UNKNOWN_NAME, f"`{node.name}` has no value here", node.span, "is asked for here", GIVE_LAYER)


def table_axes(relation: Relation) -> tuple[tuple[str, int], ...]:
    """Every runtime table of a relation, with the number of indices it is used with: the axes of its content."""
    axes: dict[str, int] = {}
    inner: set[int] = set()
    for node in nodes(relation):
        if isinstance(node, tree.Index) and id(node) not in inner and (entry := table_entry(node)):
            inner |= {id(part) for part in _chain(node)}
            name, indices = entry
            if axes.setdefault(name, len(indices)) != len(indices):
                label = f"{len(indices)} here, and {axes[name]} elsewhere"
                fail(codes.TABLE, f"table `{name}` is used with differing numbers of indices", node.span, label)
        elif isinstance(node, tree.Table) and id(node) not in inner:
            label = f"write `{node.name}[pos]`"
            fail(codes.TABLE, f"table `{node.name}` is used without an index", node.span, label)
    return tuple(sorted(axes.items()))


def _chain(node: tree.Expr) -> Iterator[tree.Expr]:
    """`t[a][b]`  -->  t[a][b], t[a], t"""
    while isinstance(node, tree.Index):
        yield node
        node = node.base
    yield node
