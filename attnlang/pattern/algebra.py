"""Relations: the forms of language.md with parameters filled in, as frozen data.

Each node denotes a multiplicity m(q, k) on a *frame* of positions 0..n-1, for a head h of H in a sequence of N. What a
node means is written once, in `attnlang.pattern.oracle`. Expressions inside nodes are integers wherever the
parameters decide them, and otherwise still speak of `n`, `N`, `h`, `H` (and `pos` in `Same`, `Key` and `Query`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, assert_never

from attnlang.source import NOWHERE, Span
from attnlang.syntax.printer import clauses_text, expression_text, range_text
from attnlang.syntax.tree import Clause, Expr


@dataclass(frozen=True, slots=True)
class RelationNode:
    """What all relations share: the place in the text that they come from."""

    span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Everything(RelationNode):
    """`all`: every pair once."""


@dataclass(frozen=True, slots=True)
class Nothing(RelationNode):
    """`none`: no pair."""


@dataclass(frozen=True, slots=True)
class Offset(RelationNode):
    """`offset(lo..hi step s)`: lo <= k - q <= hi and s divides k - q. An open end is None."""

    lo: Expr | None
    hi: Expr | None
    step: Expr | None = None


@dataclass(frozen=True, slots=True)
class Same(RelationNode):
    """`same(e)`: e at q equals e at k."""

    value: Expr


@dataclass(frozen=True, slots=True)
class Key(RelationNode):
    """`key(b)`: every query with the keys where b holds."""

    condition: Expr


@dataclass(frozen=True, slots=True)
class Query(RelationNode):
    """`query(b)`: the queries where b holds, with every key."""

    condition: Expr


@dataclass(frozen=True, slots=True)
class Pairs(RelationNode):
    """`pairs(b)`: the pairs for whose query position `q` and key position `k` the condition b holds."""

    condition: Expr


@dataclass(frozen=True, slots=True)
class Neighborhood(RelationNode):
    """`neighborhood(w, stride=s, causal=c)`: NATTEN's window of w keys, moved inwards at the borders of the frame."""

    width: Expr
    stride: Expr
    causal: Expr


@dataclass(frozen=True, slots=True)
class Random(RelationNode):
    """`random(count, seed=s) { body }`: for every head and query that many distinct keys of those that the body holds.

    The keys are drawn by `attnlang.pattern.random_keys`; without a body, from all.
    """

    count: Expr
    seed: Expr
    body: Relation | None = None


@dataclass(frozen=True, slots=True)
class Grid(RelationNode):
    """`grid(a, b, ..) { p * q * .. }`: row-major axes of these sizes, one relation an axis."""

    sizes: tuple[Expr, ...]
    bodies: tuple[Relation, ...]


@dataclass(frozen=True, slots=True)
class Segment(RelationNode):
    """`segment(w, shift=s) { body }`: position t stands in run (t + s) // w at coordinate (t + s) % w."""

    width: Expr
    shift: Expr
    body: Relation


@dataclass(frozen=True, slots=True)
class Dilate(RelationNode):
    """`dilate(r, shift=e) { body }`: body on the quotients t // r of one residue class; of each without shift."""

    rate: Expr
    shift: Expr | None
    body: Relation


@dataclass(frozen=True, slots=True)
class Blocks(RelationNode):
    """`blocks(b) { body }`: body on the block numbers t // b."""

    size: Expr
    body: Relation


@dataclass(frozen=True, slots=True)
class Heads(RelationNode):
    """`heads(lo..hi) { body }`: body for lo <= h < hi, nothing for other heads."""

    lo: Expr | None
    hi: Expr | None
    body: Relation


@dataclass(frozen=True, slots=True)
class Union(RelationNode):
    """`left | right`: the larger multiplicity."""

    left: Relation
    right: Relation


@dataclass(frozen=True, slots=True)
class Both(RelationNode):
    """`left & right`: the product of the multiplicities."""

    left: Relation
    right: Relation


@dataclass(frozen=True, slots=True)
class Without(RelationNode):
    """`left - right`: left where right is 0."""

    left: Relation
    right: Relation


@dataclass(frozen=True, slots=True)
class Not(RelationNode):
    """`~body`: 1 where body is 0, else 0."""

    body: Relation


@dataclass(frozen=True, slots=True)
class Plus(RelationNode):
    """`left + right`: the sum of the multiplicities."""

    left: Relation
    right: Relation


@dataclass(frozen=True, slots=True)
class Choice(RelationNode):
    """`then if condition else otherwise`, the condition over h, H, n and N."""

    condition: Expr
    then: Relation
    otherwise: Relation


@dataclass(frozen=True, slots=True)
class Fold(RelationNode):
    """`mix(body for ..)` (sum) or `any(body for ..)` (union) over a list that depends on n, N, h or H."""

    kind: Literal["mix", "any"]
    body: Relation
    clauses: tuple[Clause, ...]


Relation: TypeAlias = (
    Everything | Nothing | Offset | Same | Key | Query | Pairs | Neighborhood | Random
    | Grid | Segment | Dilate | Blocks | Heads | Union | Both | Without | Not | Plus | Choice | Fold
)  # fmt: skip


def children(relation: Relation) -> tuple[Relation, ...]:
    """The relations directly inside a relation."""
    match relation:
        case Union(left, right) | Both(left, right) | Without(left, right) | Plus(left, right):
            return (left, right)
        case Choice(_, then, otherwise):
            return (then, otherwise)
        case Segment() | Dilate() | Blocks() | Heads() | Not() | Fold():
            return (relation.body,)
        case Grid(_, bodies):
            return bodies
        case Random(_, _, body):
            return () if body is None else (body,)
        case Everything() | Nothing() | Offset() | Same() | Key() | Query() | Pairs() | Neighborhood():
            return ()
        case _:
            assert_never(relation)


def relation_text(relation: Relation, outer: int = 0) -> str:
    """The relation in the language's own words, in parentheses where precedence `outer` needs them."""
    text, precedence = _text(relation)
    return f"({text})" if precedence < outer else text


def _text(relation: Relation) -> tuple[str, int]:
    match relation:
        case Everything():
            return "all", 12
        case Nothing():
            return "none", 12
        case Offset():
            return _offset_text(relation), 12
        case Same(value):
            return f"same({expression_text(value)})", 12
        case Key(condition):
            return f"key({expression_text(condition)})", 12
        case Query(condition):
            return f"query({expression_text(condition)})", 12
        case Pairs(condition):
            return f"pairs({expression_text(condition)})", 12
        case Neighborhood(width, stride, causal):
            extras = (("stride", stride, "1"), ("causal", causal, "False"))
            return f"neighborhood({expression_text(width)}{_keywords(extras)})", 12
        case Random(count, seed, body):
            among = "" if body is None else f" {{ {relation_text(body)} }}"
            return f"random({expression_text(count)}{_keywords((('seed', seed, '0'),))}){among}", 12
        case Grid(sizes, bodies):
            axes = " * ".join(relation_text(body, 9) for body in bodies)
            return f"grid({', '.join(map(expression_text, sizes))}) {{ {axes} }}", 12
        case Segment() | Dilate() | Blocks() | Heads():
            return _frame_text(relation), 12
        case Union(left, right):
            return f"{relation_text(left, 5)} | {relation_text(right, 6)}", 5
        case Both(left, right):
            return f"{relation_text(left, 6)} & {relation_text(right, 7)}", 6
        case Without(left, right):
            return f"{relation_text(left, 7)} - {relation_text(right, 8)}", 7
        case Plus(left, right):
            return f"{relation_text(left, 7)} + {relation_text(right, 8)}", 7
        case Not(body):
            return f"~{relation_text(body, 9)}", 9
        case Choice(condition, then, otherwise):
            parts = relation_text(then, 1), expression_text(condition, 1), relation_text(otherwise)
            return f"{parts[0]} if {parts[1]} else {parts[2]}", 0
        case Fold(kind, body, clauses):
            return f"{kind}({relation_text(body)} {clauses_text(clauses)})", 12
        case _:
            assert_never(relation)


def _keywords(extras: tuple[tuple[str, Expr, str], ...]) -> str:
    """`, name=value` for every argument that is not its default."""
    shown = ((name, expression_text(value), default) for name, value, default in extras)
    return "".join(f", {name}={text}" for name, text, default in shown if text != default)


def _offset_text(relation: Offset) -> str:
    match relation:
        case Offset(None, hi, None) if hi is not None and expression_text(hi) == "0":
            return "causal"
        case Offset(lo, hi, step):
            text = range_text(lo, hi, step)
            return "self" if text == "0..0" else f"offset({text})"


def _frame_text(relation: Segment | Dilate | Blocks | Heads) -> str:
    body = relation_text(relation.body)
    match relation:
        case Segment(width, shift):
            moved = "" if (text := expression_text(shift)) == "0" else f", shift={text}"
            head = f"segment({expression_text(width)}{moved})"
        case Dilate(rate, shift):
            moved = "" if shift is None else f", shift={expression_text(shift)}"
            head = f"dilate({expression_text(rate)}{moved})"
        case Blocks(size):
            return f"blocks({expression_text(size)}) {{ {body} }}"
        case Heads(lo, hi):
            return f"heads({range_text(lo, hi, None)}) {{ {body} }}"
    return head if body == "all" else f"{head} {{ {body} }}"
