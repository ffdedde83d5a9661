"""The parts whose union (or sum) a relation is: what a picture colours and what a lint calls dead.

a | b, a + b            -->  the members of a, those of b
p & (a | b)             -->  p & a, p & b          (also on the left)
(a | b) - c             -->  a - c, b - c
segment(w) { a | b }    -->  segment(w) { a }, segment(w) { b }        (also dilate, blocks, heads)
a if c else b           -->  a if c else none, none if c else b            (a side that is `none` is no member)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attnlang.pattern import algebra
from attnlang.source import Span

MAX_MEMBERS = 40
"""A relation of more parts is its own only member."""


@dataclass(frozen=True, slots=True)
class Member:
    """One part. `core` is what stands in the union itself, `in_union` whether that is `|` and not `+`."""

    relation: algebra.Relation
    core: algebra.Relation
    in_union: bool = False

    @property
    def span(self) -> Span:
        """Where the part stands in the text."""
        return self.core.span

    @property
    def label(self) -> str:
        """The part in few words, without what restricts all parts alike."""
        text = algebra.relation_text(self.core)
        return text if len(text) <= 60 else f"{text[:57]}..."


def members(relation: algebra.Relation) -> tuple[Member, ...]:
    """The members of a relation, in the order in which they stand in the text."""
    found = tuple(_members(relation))
    return found if len(found) <= MAX_MEMBERS else (Member(relation, relation),)


def _members(relation: algebra.Relation) -> Iterator[Member]:
    match relation:
        case algebra.Union(left, right) | algebra.Plus(left, right):
            in_union = isinstance(relation, algebra.Union)
            for part in (*_members(left), *_members(right)):
                yield replace(part, in_union=part.in_union or in_union)
        case algebra.Both(left, right):
            yield from _product(relation, members(left), members(right))
        case algebra.Without(left, right):
            for part in members(left):
                yield replace(part, relation=algebra.Without(part.relation, right, span=relation.span))
        case algebra.Segment() | algebra.Dilate() | algebra.Blocks() | algebra.Heads():
            yield from _in_frame(relation)
        case algebra.Choice(condition, then, otherwise):
            none = algebra.Nothing()
            for part in _members_but_none(then):
                yield replace(part, relation=algebra.Choice(condition, part.relation, none, span=relation.span))
            for part in _members_but_none(otherwise):
                yield replace(part, relation=algebra.Choice(condition, none, part.relation, span=relation.span))
        case _:
            yield Member(relation, relation)


def _members_but_none(branch: algebra.Relation) -> tuple[Member, ...]:
    """The members of one side of a choice; who writes `none` there means it."""
    return () if isinstance(branch, algebra.Nothing) else members(branch)


def _product(whole: algebra.Both, left: tuple[Member, ...], right: tuple[Member, ...]) -> Iterator[Member]:
    """Members of a product: of whichever side has several; of neither, where both have."""
    if len(left) > 1 and len(right) == 1:
        for part in left:
            yield replace(part, relation=algebra.Both(part.relation, whole.right, span=whole.span))
    elif len(right) > 1 and len(left) == 1:
        for part in right:
            yield replace(part, relation=algebra.Both(whole.left, part.relation, span=whole.span))
    else:
        yield Member(whole, whole)


def _in_frame(relation: algebra.Segment | algebra.Dilate | algebra.Blocks | algebra.Heads) -> Iterator[Member]:
    parts = members(relation.body)
    if len(parts) == 1:
        yield Member(relation, relation)
        return
    for part in parts:
        whole = replace(relation, body=part.relation)
        yield replace(part, relation=whole, core=replace(relation, body=part.core, span=part.core.span))
