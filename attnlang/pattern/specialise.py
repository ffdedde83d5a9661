"""A relation as it is on one head: `h` and `H` replaced by their values, and choices between heads made."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, cast

from attnlang.pattern import algebra
from attnlang.pattern.algebra import Relation, RelationNode
from attnlang.pattern.arithmetic import known
from attnlang.pattern.expr import Scope, bindings, fold
from attnlang.pattern.values import head_range
from attnlang.syntax import tree


@lru_cache(maxsize=1024)
def on_head(relation: Relation, head: int, heads: int) -> Relation:
    """The relation on one head:  `dilate(2, shift=h % 2) if h < H // 2 else all`, h=1, H=4  -->  `dilate(2, shift=1)`

    Two heads that give equal relations have the same pairs, if nothing is drawn by `random`.
    """
    return _on_head(relation, {"h": head, "H": heads})


def _on_head(relation: Relation, scope: Scope) -> Relation:
    match relation:
        case algebra.Heads(lo, hi, body):
            heads = head_range(lo, hi, scope, relation.span)
            return _on_head(body, scope) if scope["h"] in heads else algebra.Nothing(span=relation.span)
        case algebra.Choice(condition, then, otherwise) if (value := known(fold(condition, scope))) is not None:
            return _on_head(then if value else otherwise, scope)
        case algebra.Fold(_, _, clauses) if bindings(clauses, scope) is None:
            return relation  # its list depends on the length; names of its own stand in its body
        case algebra.Fold(kind, body, clauses):
            return _folded(kind, [_on_head(body, inner) for inner in bindings(clauses, scope) or ()])
        case _:
            changed = {part.name: _part(getattr(relation, part.name), scope) for part in fields(relation)}
            return replace(relation, **changed)


def _folded(kind: str, parts: list[Relation]) -> Relation:
    if not parts:
        return algebra.Nothing()
    result = parts[0]
    for part in parts[1:]:
        result = algebra.Plus(result, part) if kind == "mix" else algebra.Union(result, part)
    return result


def _part(value: Any, scope: Scope) -> Any:
    if isinstance(value, tuple):
        return tuple(_part(item, scope) for item in cast("tuple[Any, ...]", value))
    if isinstance(value, RelationNode):
        return _on_head(cast("Relation", value), scope)
    return fold(cast("tree.Expr", value), scope) if isinstance(value, tree.Node) else value
