"""Pattern to Plan: what strided views can hold as lattices and columns, and the rest as tiles.

p + q              -->  the split of both
p | q | r (sets)   -->  the members that are lattices, made disjoint, and  (the other members) - (those)
neighborhood(w)    -->  the window that it is away from the borders, and  neighborhood(w) - (that)
anything else      -->  lattices alone, or tiles alone
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

from attnc.analysis.members import members
from attnc.lower.lowering import is_set, merge_heads, relation_pieces, union
from attnc.lower.pieces import Inexpressible, Piece
from attnlang import codes
from attnlang.diagnostics import AttnError
from attnlang.pattern import Pattern, algebra
from attnlang.pattern.arithmetic import known, literal
from attnlang.pattern.expr import fold
from attnlang.pattern.values import head_range
from attnlang.pattern.walk import nodes, require_layer
from attnlang.plan import Plan, Tiles


def lower(pattern: Pattern, heads: int) -> Plan:
    """The plan of a pattern for a number of heads, for every N.

    Raises AttnError where the pattern has no meaning for that many heads.
    """
    if heads < 1:
        raise ValueError(f"heads must be at least 1, not {heads}")
    require_layer(pattern.relation)
    parts = [split(pattern.relation, head, heads) for head in range(heads)]
    rests: dict[algebra.Relation, list[int]] = {}
    for head, (_, rest) in enumerate(parts):
        if rest is not None:
            rests.setdefault(rest, []).append(head)
    tiles = tuple(Tiles(tuple(members), rest) for rest, members in rests.items())
    return Plan(heads, (*merge_heads([pieces for pieces, _ in parts]), *tiles))


def split(relation: algebra.Relation, head: int, heads: int) -> tuple[list[Piece], algebra.Relation | None]:
    """Pieces and a rest whose sum is the relation on one head; the rest is None where there is none."""
    pieces = _pieces(relation, head, heads)
    if pieces is not None:
        return pieces, None
    match relation:
        case algebra.Plus(left, right):
            (mine, rest), (others, other_rest) = (split(side, head, heads) for side in (left, right))
            both = rest if other_rest is None else other_rest if rest is None else algebra.Plus(rest, other_rest)
            return mine + others, both
        case algebra.Heads(lo, hi, body):
            chosen = head in head_range(lo, hi, {"h": head, "H": heads}, relation.span)
            return split(body, head, heads) if chosen else ([], None)
        case algebra.Choice(condition, then, otherwise):
            value = known(fold(condition, {"h": head, "H": heads}))
            return ([], relation) if value is None else split(then if value else otherwise, head, heads)
        case _:
            return _split_set(relation, head, heads) if _never_counts_twice(relation) else ([], relation)


def _split_set(relation: algebra.Relation, head: int, heads: int) -> tuple[list[Piece], algebra.Relation | None]:
    taken: list[Piece] = []
    lattices: list[algebra.Relation] = []
    others: list[algebra.Relation] = []
    for member in members(relation):
        inside, exact = windows_inside(member.relation)
        pieces = _pieces(inside, head, heads)
        joined = None if pieces is None else _joined(taken, pieces)
        if joined is not None:
            taken = joined
            lattices.append(inside)
        if joined is None or not exact:
            others.append(member.relation)
    if not taken:
        return [], relation
    if not others:
        return taken, None
    return taken, algebra.Without(reduce(algebra.Union, others), reduce(algebra.Union, lattices))


def windows_inside(relation: algebra.Relation) -> tuple[algebra.Relation, bool]:
    """The relation with every neighborhood replaced by a window that it holds, and whether both are the same.

    At the borders a neighborhood is moved inwards and a window is cut, so it holds the window, and more only there;
    in a causal one nothing moves. What queries of a stride share is no window.
    """
    match relation:
        case algebra.Neighborhood(width, stride, causal):
            w, shared, backwards = (known(fold(part, {})) for part in (width, stride, causal))
            if shared != 1 or not isinstance(w, int) or backwards is None:
                return relation, True
            behind = w - 1 if backwards else w // 2
            lo, hi = (literal(end, relation.span) for end in (-behind, w - 1 - behind))
            return algebra.Offset(lo, hi, span=relation.span), bool(backwards)
        case algebra.Dilate() | algebra.Segment() | algebra.Blocks():
            body, exact = windows_inside(relation.body)
            return (relation if body is relation.body else replace(relation, body=body)), exact
        case algebra.Union(left, right) | algebra.Both(left, right):
            (a, first), (b, second) = windows_inside(left), windows_inside(right)
            same = a is left and b is right
            return (relation if same else replace(relation, left=a, right=b)), first and second
        case _:
            return relation, True


def _pieces(relation: algebra.Relation, head: int, heads: int) -> list[Piece] | None:
    """The pieces of a relation, or None where pieces cannot say it."""
    try:
        return relation_pieces(relation, head, heads)
    except AttnError as error:
        if any(found.code != codes.CANNOT_LOWER for found in error.diagnostics):
            raise
        return None


def _joined(taken: list[Piece], pieces: list[Piece]) -> list[Piece] | None:
    """Disjoint pieces of both, or None where pieces cannot say it."""
    try:
        return union(taken, pieces) if is_set(pieces) else None
    except Inexpressible:
        return None


def _never_counts_twice(relation: algebra.Relation) -> bool:
    return not any(
        isinstance(node, algebra.Plus) or (isinstance(node, algebra.Fold) and node.kind == "mix")
        for node in nodes(relation)
    )
