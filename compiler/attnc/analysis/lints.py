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
from dataclasses import replace
from itertools import pairwise

import numpy as np

from attnc.analysis.boxes import Counter, TooManyError
from attnc.analysis.reach import connected
from attnc.analysis.relation_terms import NoTermError
from attnc.analysis.travel import Dependency
from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic, Severity
from attnlang.pattern import Pattern, algebra
from attnlang.plan import Band, Lattice, Plan, Runs

TILE = 64
"""Rows of the smallest tile that keeps tensor cores busy."""
SHOWN = 8
"""How many candidates for a counterexample are tried."""
WASTE = 0.1
"""The share of idle rows from which on it is worth a word."""


def lints(
    pattern: Pattern,
    plan: Plan | None,
    n: int,
    heads: int,
    bag: int,
    distinct: int | None,
    dependency: Dependency | None,
) -> list[Diagnostic]:
    """All findings about a pattern at these sizes, with its plan, counts (None: not exact) and dependency."""
    found = _Linter(pattern)
    return [
        *(found.unreachable(dependency) if dependency is not None else ()),
        *found.unread(n, heads),
        *(found.uncovered(plan) if plan is not None else ()),
        *(found.counted_twice(bag, distinct) if distinct is not None else ()),
        *(found.undivided(plan) if plan is not None else ()),
        *(found.idle_rows(plan) if plan is not None else ()),
    ]


class _Linter:
    def __init__(self, pattern: Pattern) -> None:
        self._pattern = pattern

    def _finding(self, code: str, severity: Severity, message: str, label: str, hint: str) -> Diagnostic:
        return Diagnostic(code, message, self._pattern.relation.span, label, help=hint, severity=severity)

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

    def uncovered(self, plan: Plan) -> Iterator[Diagnostic]:
        """Branches of which some residue class belongs to no head."""
        classes: dict[tuple[Runs | None, int, Band], set[int]] = {}
        for branch in plan.branches:
            if isinstance(branch, Lattice) and branch.phases is not None and branch.dilation > 1:
                classes.setdefault((branch.runs, branch.dilation, branch.band), set()).update(branch.phases)
        for (runs, dilation, _), covered in classes.items():
            if len(covered) < dilation:
                where = "the sequence" if runs is None else f"segments of {runs.width}"
                message = f"{dilation - len(covered)} of {dilation} residue classes belong to no head"
                label = f"{where} at dilation {dilation}, with {plan.heads} heads"
                hint = f"take {dilation} heads or more, a smaller dilation, or a shift that visits every class"
                yield self._finding(codes.UNCOVERED, "warning", message, label, hint)

    def counted_twice(self, bag: int, distinct: int) -> Iterator[Diagnostic]:
        """What a sum counts more than once, and what counting it once would save."""
        if bag <= distinct:
            return
        share = (bag - distinct) / bag
        message = f"{share:.1%} of the pairs are counted more than once"
        label = f"{bag:,} pairs with multiplicity, {distinct:,} different ones"
        hint = f"`|` or `any` instead of `+` or `mix` counts each once, and computes {share:.1%} less"
        yield self._finding(codes.COUNTED_TWICE, "note", message, label, hint)

    def undivided(self, plan: Plan) -> Iterator[Diagnostic]:
        """Segments of lengths that do not divide one another."""
        widths = {branch.runs.width for branch in plan.branches if isinstance(branch, Lattice) and branch.runs}
        for narrow, wide in pairwise(sorted(widths)):
            if wide % narrow:
                message = f"segments of {narrow} do not divide segments of {wide}"
                label = f"{wide} = {wide // narrow} * {narrow} + {wide % narrow}"
                hint = f"with segments of {narrow * max(1, round(wide / narrow))} their borders would coincide"
                yield self._finding(codes.UNDIVIDED, "note", message, label, hint)

    def idle_rows(self, plan: Plan) -> Iterator[Diagnostic]:
        """Dilated segments whose classes fill no whole number of tiles."""
        seen: set[tuple[int, int]] = set()
        for branch in plan.branches:
            if not isinstance(branch, Lattice) or branch.runs is None or branch.dilation == 1:
                continue
            size = (branch.runs.width, branch.dilation)
            rows = -(-size[0] // size[1])
            idle = 1 - rows / (-(-rows // TILE) * TILE)
            if idle >= WASTE and size not in seen:
                seen.add(size)
                message = f"a class of segments of {size[0]} at dilation {size[1]} has {rows} rows"
                label = f"tiles of {TILE} rows are {idle:.0%} idle"
                hint = f"segments of {-(-rows // TILE) * TILE * size[1]} would fill them"
                yield self._finding(codes.IDLE_ROWS, "note", message, label, hint)


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
