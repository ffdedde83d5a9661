"""What is legal and hardly meant, at a number of heads and a length: findings of `attnc report`.

A0405  keys that no query reads
A0406  residue classes that no head covers
A0407  pairs that no number of layers connects, with the repair
A0408  pairs that a sum counts twice
A0409  segments that do not divide one another
A0410  dilations that leave tensor-core tiles half empty
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from attnc.analysis.boxes import Counter, TooManyError
from attnc.analysis.expression_terms import NoTermError
from attnc.analysis.reach import connected
from attnc.analysis.travel import Dependency
from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic, Severity
from attnlang.pattern import Pattern, algebra
from attnlang.pattern.arithmetic import known
from attnlang.pattern.expr import Scope, fold
from attnlang.pattern.values import head_range, scope_integer
from attnlang.source import Span
from attnlang.syntax import tree

TILE = 64
"""Rows of the smallest tile that keeps tensor cores busy."""
SHOWN = 8
"""How many candidates for a counterexample are tried."""
WASTE = 0.1
"""The share of idle rows from which on it is worth a word."""


def lints(
    pattern: Pattern,
    n: int,
    heads: int,
    bag: int,
    distinct: int | None,
    dependency: Dependency | None,
) -> list[Diagnostic]:
    """All findings about a pattern at these sizes, with its counts (None: not exact) and dependency."""
    found = _Linter(pattern)
    scopes = ({"N": n, "n": n, "H": heads, "h": head} for head in range(heads))
    frames = [each for scope in scopes for each in _frames(pattern.relation, scope, None, outermost=True)]
    dilated = [each for each in frames if isinstance(each, Dilated)]
    return [
        *(found.unreachable(dependency) if dependency is not None else ()),
        *found.unread(n, heads),
        *found.uncovered(dilated, heads),
        *(found.counted_twice(bag, distinct) if distinct is not None else ()),
        *found.undivided([each for each in frames if isinstance(each, Width)]),
        *found.idle_rows(dilated),
    ]


class _Linter:
    def __init__(self, pattern: Pattern) -> None:
        self._pattern = pattern

    def _finding(
        self, code: str, severity: Severity, message: str, label: str, hint: str, span: Span | None = None
    ) -> Diagnostic:
        where = span or self._pattern.relation.span
        return Diagnostic(code, message, where, label, help=hint, severity=severity)

    def unreachable(self, found: Dependency) -> Iterator[Diagnostic]:
        """Pairs that no number of layers connects."""
        if not found.unreachable_pairs or not found.unreachable_distances or not found.examples:
            return
        query, key = found.examples[0]
        first, last = found.unreachable_distances
        apart = f"{first} apart" if first == last else f"{first} to {last} apart"
        label = f"key {key} never reaches query {query} (N={found.n}); {apart}"
        message = f"{found.unreachable_pairs:,} pairs never meet, in any number of layers"
        hint = "" if found.repair is None else f"`... | {found.repair.text}`: {found.repair.why}"
        yield replace(self._finding(codes.UNREACHABLE, "warning", message, label, hint), note=found.cause or None)

    def unread(self, n: int, heads: int) -> Iterator[Diagnostic]:
        """Keys that no query reads on any head; found at a short length, and shown at the length asked for."""
        if self._pattern.tables or n == 0:
            return
        try:
            key = _unread_key(self._pattern.relation, n, heads)
        except (AttnError, TooManyError, NoTermError):  # a grid has no shorter length, and so on: nothing to say
            return
        if key is not None:
            message = "some keys are read by no query, on no head"
            label = f"nothing attends to key {key} (N={n}, H={heads})"
            hint = "their values enter no output; with `| self` every position reads its own"
            yield self._finding(codes.UNREAD, "warning", message, label, hint)

    def uncovered(self, found: list[Dilated], heads: int) -> Iterator[Diagnostic]:
        """Branches of which some residue class belongs to no head."""
        classes: dict[tuple[int | None, int, Span], set[int]] = {}
        for each in found:
            if each.residue is not None and each.rate > 1:
                classes.setdefault((each.width, each.rate, each.span), set()).add(each.residue)
        for (width, rate, span), covered in classes.items():
            reached = rate if width is None else min(rate, width)  # a class has no position in shorter segments
            if len(covered) < reached:
                first = min(set(range(reached)) - covered)
                where = "the sequence" if width is None else f"segments of {width}"
                message = f"{reached - len(covered)} of {reached} residue classes belong to no head"
                label = f"of {where} at dilation {rate}, no head takes class {first}, with {heads} heads"
                hint = f"take {rate} heads or more, a smaller dilation, or a shift that visits every class"
                yield self._finding(codes.UNCOVERED, "warning", message, label, hint, span)

    def counted_twice(self, bag: int, distinct: int) -> Iterator[Diagnostic]:
        """What a sum counts more than once, and what counting it once would save."""
        if bag <= distinct:
            return
        share = (bag - distinct) / bag
        message = f"{share:.1%} of the pairs are counted more than once"
        label = f"{bag:,} pairs with multiplicity, {distinct:,} different ones"
        hint = f"`|` or `any` instead of `+` or `mix` counts each once, and computes {share:.1%} less"
        yield self._finding(codes.COUNTED_TWICE, "note", message, label, hint)

    def undivided(self, found: list[Width]) -> Iterator[Diagnostic]:
        """Segments of lengths that do not divide one another."""
        places = {each.width: each.span for each in found}
        for narrow, wide in pairwise(sorted(places)):
            if wide % narrow:
                message = f"segments of {narrow} do not divide segments of {wide}"
                label = (
                    f"a border at {wide} = {wide // narrow} * {narrow} + {wide % narrow}, inside a segment of {narrow}"
                )
                hint = f"with segments of {narrow * max(1, round(wide / narrow))} their borders would coincide"
                yield self._finding(codes.UNDIVIDED, "note", message, label, hint, places[wide])

    def idle_rows(self, found: list[Dilated]) -> Iterator[Diagnostic]:
        """Dilated segments whose classes fill no whole number of tiles."""
        sizes = {(each.width, each.rate): each.span for each in found if each.width is not None and each.rate > 1}
        for (width, rate), span in sizes.items():
            assert width is not None
            rows = -(-width // rate)
            idle = 1 - rows / (-(-rows // TILE) * TILE)
            if idle >= WASTE:
                message = f"a class of segments of {width} at dilation {rate} has {rows} rows"
                label = f"tiles of {TILE} rows are {idle:.0%} idle"
                hint = f"segments of {-(-rows // TILE) * TILE * rate} would fill them"
                yield self._finding(codes.IDLE_ROWS, "note", message, label, hint, span)


@dataclass(frozen=True, slots=True)
class Dilated:
    """A dilation on one head: the segment it stands in, its rate, its residue class (None: every class)."""

    width: int | None
    rate: int
    residue: int | None
    span: Span


@dataclass(frozen=True, slots=True)
class Width:
    """The width of segments of the whole sequence."""

    width: int
    span: Span


def _frames(relation: algebra.Relation, scope: Scope, width: int | None, outermost: bool) -> Iterator[Dilated | Width]:
    """Segments of the sequence, and dilations of it or of its segments, where their numbers are known on this head."""
    match relation:
        case algebra.Segment(size, _, body):
            known_width = _known(size, scope)
            if outermost and known_width is not None:
                yield Width(known_width, relation.span)
            yield from _frames(body, scope, known_width if outermost else None, outermost=False)
        case algebra.Dilate(rate, shift, body):
            if (r := _known(rate, scope)) is not None and (outermost or width is not None):
                moved = None if shift is None else _known(shift, scope)
                yield Dilated(width, r, None if moved is None else moved % r, relation.span)
            yield from _frames(body, scope, None, outermost=False)
        case algebra.Heads(lo, hi, body):
            if scope_integer(scope, "h") in head_range(lo, hi, scope, relation.span):
                yield from _frames(body, scope, width, outermost)
        case algebra.Union() | algebra.Plus() | algebra.Both():
            for side in (relation.left, relation.right):
                yield from _frames(side, scope, width, outermost)
        case algebra.Without(left, _):
            yield from _frames(left, scope, width, outermost)
        case algebra.Choice(condition, then, otherwise):
            chosen = known(fold(condition, scope))
            if chosen is not None:
                yield from _frames(then if chosen else otherwise, scope, width, outermost)
        case _:
            return


def _known(node: tree.Expr, scope: Scope) -> int | None:
    value = known(fold(node, scope))
    return value if type(value) is int else None


TRIED = 256
"""The length at which keys that nobody reads are looked for."""


def _unread_key(relation: algebra.Relation, n: int, heads: int) -> int | None:
    """The first key that no query reads, of those that are not read at a short length either."""
    _, keys = connected(Pattern("tried", relation), min(n, TRIED), heads)
    candidates = np.setdiff1d(np.arange(min(n, TRIED)), keys)
    if len(candidates) == 0 or n <= TRIED:
        return int(candidates[0]) if len(candidates) else None
    counter = Counter({})
    terms, held = counter.any_head(relation, n, heads)
    for key in map(int, candidates[:SHOWN]):
        if counter.over(terms.shifted(held, 0, key), (n, 1)) == 0:
            return key
    return None
