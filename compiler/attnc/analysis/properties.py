"""What can be proved about a pattern, and the diagnostics for what fails: each with the smallest counterexample.

    within R      every pair lies in R                     A0203 (R is `causal`), A0211
    queries       every query has a key                    A0401
    members       every part of a union adds some pair     A0402, A0403
    heads(a..b)   there are such heads                     A0202

Proofs are by integer sets, for every N at once, on every head of 1, 2, 4 and 12 heads. Where a form is beyond integer
sets (random keys, lists that depend on N) small lengths are tried one by one, and a claim that only survives that is
said to be unproved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import islpy as isl
import numpy as np

from attnc.analysis.isl_types import Set
from attnc.analysis.members import Member, members
from attnc.analysis.sets import Support, frame, support
from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic, Severity, has_errors
from attnlang.pattern import Pattern, algebra
from attnlang.pattern.expr import Known
from attnlang.pattern.library import check as check_text
from attnlang.pattern.library import default_patterns
from attnlang.pattern.pattern import value_text
from attnlang.pattern.values import head_range
from attnlang.pattern.walk import free_names_of, nodes
from attnlang.source import Source, Span
from attnlang.syntax import tree

HEAD_COUNTS = (1, 2, 4, 12)
TRIED = (1, 2, 3, 5, 8, 16, 33, 64)
"""Lengths at which claims are tried that integer sets cannot decide."""
MAX_MEMBERS = 40
MAX_LEFT = 60
"""Sets of more parts than this are not subtracted from any further."""
CAUSAL = algebra.Offset(None, tree.Int(0))


@dataclass(frozen=True, slots=True)
class Pair:
    """A counterexample."""

    n: int
    heads: int
    head: int
    q: int
    k: int


def check(source: Source) -> list[Diagnostic]:
    """Everything that can be said about a text: what `attnlang.pattern.library.check` says, and what proofs add."""
    found = check_text(source)
    if has_errors(found):
        return found
    for pattern in default_patterns(source):
        found += [each for each in findings(pattern) if each not in found]
    return sorted(found, key=lambda each: each.span.start if each.span and each.span.source is source else 0)


def findings(pattern: Pattern) -> list[Diagnostic]:
    """Everything that can be shown to be wrong, or to be in vain, in a pattern with its parameters."""
    wrong_heads = list(_heads_out_of_range(pattern))
    if wrong_heads:
        return wrong_heads
    try:
        prover = _Prover(pattern)
        return [*prover.bound(), *prover.queries(), *prover.members()]
    except AttnError as error:  # a value that only fails on some head
        return list(error.diagnostics)


def _heads_out_of_range(pattern: Pattern) -> Iterator[Diagnostic]:
    for node in nodes(pattern.relation):
        if isinstance(node, algebra.Heads) and not any(_fits(node, count) for count in range(1, 257)):
            message = "there are no such heads, whatever their number"
            yield Diagnostic(codes.OUT_OF_RANGE, message, node.span, "needs 0 <= first <= last <= H")


def _fits(node: algebra.Heads, heads: int) -> bool:
    try:
        head_range(node.lo, node.hi, {"H": heads, "N": 1, "n": 1, "h": 0}, node.span)
    except AttnError:
        return False
    return True


@dataclass(frozen=True)
class _Prover:
    pattern: Pattern

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """(heads, head) at which the pattern is looked at: once, where it is the same on all."""
        counts = [count for count in HEAD_COUNTS if self._allows(count)]
        if not free_names_of(self.pattern.relation) & {"h", "H"} and not self._by_head:
            return [(1, 0)]
        return [(count, head) for count in counts for head in range(count)]

    @property
    def _by_head(self) -> bool:
        return any(isinstance(node, algebra.Heads | algebra.Random) for node in nodes(self.pattern.relation))

    def _allows(self, heads: int) -> bool:
        ranges = [node for node in nodes(self.pattern.relation) if isinstance(node, algebra.Heads)]
        return all(_fits(node, heads) for node in ranges)

    @cached_property
    def _supports(self) -> dict[tuple[int, int], Support]:
        return {(heads, head): support(self.pattern.relation, head, heads) for heads, head in self._places}

    # bounds ---------------------------------------------------------------------------------------------------------

    def bound(self) -> Iterator[Diagnostic]:
        """The claim after `within`, or the one that the name makes, or that one part of a union makes for all."""
        claim = self.pattern.within
        if claim is None and _says_causal(self.pattern.name):
            claim = CAUSAL
        if claim is not None:
            yield from self._claimed(claim)
        else:
            yield from self._evident()

    def _claimed(self, claim: algebra.Relation) -> Iterator[Diagnostic]:
        pair, unproved = self._outside(self.pattern.relation, claim)
        if pair is not None:
            yield self._leaves(claim, pair, self._culprit(claim), "error")
        elif unproved:
            message = f"it cannot be proved that `{self.pattern.name}` stays within its bound"
            label = f"{unproved}; no pair leaves the bound at N up to {TRIED[-1]}"
            if self.pattern.tables:
                label = f"{unproved}, and what a table holds is not known"
            hint = f"restrict it with `{algebra.relation_text(claim)} & ...`: then it holds by its form"
            yield Diagnostic(codes.UNPROVED, message, self._span, label, help=hint, severity="warning")

    def _evident(self) -> Iterator[Diagnostic]:
        """`causal & a | b`, where b leaks: parentheses are missing, or b should be restricted too."""
        arms = _arms(self.pattern.relation)
        restricted = [_is_restricted(arm) for arm in arms]
        for arm, is_restricted in zip(arms, restricted, strict=True):
            if any(restricted) and not is_restricted:
                pair, _ = self._outside(arm, CAUSAL)
                if pair is not None:
                    yield self._leaves(CAUSAL, pair, arm.span, "warning")

    def _leaves(self, claim: algebra.Relation, pair: Pair, span: Span, severity: Severity) -> Diagnostic:
        values = [f"N={pair.n}"]
        if self._places != [(1, 0)]:
            values += [f"h={pair.head}", f"H={pair.heads}"]
        values += [f"{name}={value_text(value)}" for name, value in self.pattern.parameters if _is_short(value)]
        label = f"holds at q={pair.q}, k={pair.k} ({', '.join(values)})"
        text = algebra.relation_text(claim)
        if claim == CAUSAL:
            message, code = "query can attend to the future", codes.FUTURE
        else:
            message, code = f"the pattern leaves its bound `{text}`", codes.BOUND
        hint = f"restrict it with `{text} & ...`"
        if severity == "warning":
            hint = f"another part is restricted by `{text} &`, which reaches as far as the next `|`: add parentheses"
        return Diagnostic(code, message, span, label, help=hint, severity=severity)

    def _culprit(self, claim: algebra.Relation) -> Span:
        """The first part of the pattern that leaves the bound, where it stands in the pattern's own text."""
        for member in members(self.pattern.relation):
            if self._is_own(member.span) and self._outside(member.relation, claim)[0] is not None:
                return member.span
        return self._span

    def _outside(self, relation: algebra.Relation, claim: algebra.Relation) -> tuple[Pair | None, str]:
        """A pair of the relation outside of the claim, the smallest there is; or why none is surely absent."""
        unproved = ""
        for heads, head in self._places:
            mine, bound = support(relation, head, heads), support(claim, head, heads)
            left = mine.pairs.subtract(bound.pairs)
            if left.is_empty():
                continue
            if mine.exact and bound.exact:
                n, q, k = _smallest(left)
                return Pair(n, heads, head, q, k), ""
            unproved = mine.reason or bound.reason
        return self._tried(relation, claim) if unproved else None, unproved

    def _tried(self, relation: algebra.Relation, claim: algebra.Relation) -> Pair | None:
        if self.pattern.tables:
            return None
        for n in TRIED:
            for heads in {heads for heads, _ in self._places}:
                try:
                    m, allowed = (Pattern("p", each).multiplicity(n, heads) for each in (relation, claim))
                except AttnError:
                    continue  # it has no meaning at this size
                found = np.argwhere((m > 0) & (allowed == 0))
                if len(found):
                    head, q, k = found[0].tolist()
                    return Pair(n, heads, head, q, k)
        return None

    # queries without keys -------------------------------------------------------------------------------------------

    def queries(self) -> Iterator[Diagnostic]:
        """Queries that no pair begins at: their output is 0."""
        for (heads, head), found in self._supports.items():
            without = _without_key(found)
            if without is None:
                continue
            if without.is_empty() or found.pairs.is_empty():
                continue
            n, q = _smallest(without)
            where = f", h={head}, H={heads}" if self._places != [(1, 0)] else ""
            hint = "their output is 0 and their lse -inf; `| self` gives every query its own key"
            message = "some queries have no key"
            yield Diagnostic(
                codes.NO_KEY, message, self._span, f"q={q} has none (N={n}{where})", help=hint, severity="warning"
            )
            return

    # members --------------------------------------------------------------------------------------------------------

    def members(self) -> Iterator[Diagnostic]:
        """Parts of a union that hold no pair, or no pair that the others lack."""
        if all(found.exact and found.pairs.is_empty() for found in self._supports.values()):
            yield self._vain(codes.EMPTY, "the pattern holds no pair", self._span, "no pair, on no head, at no length")
            return
        parts = members(self.pattern.relation)
        if not 1 < len(parts) <= MAX_MEMBERS:
            return
        sets = [self._member_sets(part) for part in parts]
        kept = list(range(len(parts)))
        for place, part in enumerate(parts):
            if sets[place] is None or not self._is_own(part.span):
                continue
            if all(each.is_empty() for each in sets[place] or ()):
                yield self._vain(codes.EMPTY, "this part holds no pair", part.span, "on no head, at no length")
                kept.remove(place)
            elif part.in_union and self._is_covered(sets, place, [other for other in kept if other != place]):
                kept.remove(place)
                yield self._vain(codes.DEAD, "this part adds nothing", part.span, "the other parts hold all its pairs")

    def _member_sets(self, member: Member) -> list[Set] | None:
        found = [support(member.relation, head, heads) for heads, head in self._places]
        return [each.pairs for each in found] if all(each.exact for each in found) else None

    def _is_covered(self, sets: list[list[Set] | None], place: int, others: list[int]) -> bool:
        for index, mine in enumerate(sets[place] or ()):
            left = mine
            for other in others:
                known = sets[other]
                if known is not None:
                    left = left.subtract(known[index])
            if not left.is_empty():
                return False
        return True

    def _vain(self, code: str, message: str, span: Span, label: str) -> Diagnostic:
        return Diagnostic(code, message, span, label, severity="warning")

    # places in the text ---------------------------------------------------------------------------------------------

    @property
    def _span(self) -> Span:
        return self.pattern.relation.span

    def _is_own(self, span: Span) -> bool:
        return span.source is self.pattern.source


def _without_key(found: Support) -> Set | None:
    """The queries that no pair begins at; None where that takes too many sets to say.

    Parts of the pattern are taken away one by one, the simplest first: the first often leaves nothing.
    """
    left = frame().intersect(found.lengths).project_out(isl.dim_type.set, 1, 1)
    parts = sorted(found.pairs.get_basic_sets(), key=lambda part: part.dim(isl.dim_type.div))
    for part in parts:
        left = left.subtract(isl.Set.from_basic_set(part).project_out(isl.dim_type.set, 1, 1))
        if left.n_basic_set() > MAX_LEFT:
            return None
        if left.is_empty():
            break
    return left


def _arms(relation: algebra.Relation) -> list[algebra.Relation]:
    """The sides of the outermost `|` and `+`."""
    match relation:
        case algebra.Union(left, right) | algebra.Plus(left, right):
            return [*_arms(left), *_arms(right)]
        case _:
            return [relation]


def _is_restricted(relation: algebra.Relation) -> bool:
    match relation:
        case algebra.Both(left, right):
            return CAUSAL in (left, right) or _is_restricted(left) or _is_restricted(right)
        case _:
            return False


def _says_causal(name: str) -> bool:
    """Whether a name claims to be causal: `causal_lm`, but not `non_causal` or `causal_and_more`."""
    words = name.split("_")
    return "causal" in words and not {"non", "not", "no", "bi", "and", "or"} & set(words)


def _is_short(value: Known) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _smallest(points: Set) -> tuple[int, ...]:
    """(N, q, ..) of the smallest point: the least N, then the least query."""
    with_n = points.project_out(isl.dim_type.set, points.dim(isl.dim_type.set) - 1, 1)
    with_n = with_n.insert_dims(isl.dim_type.set, 0, 1).equate(isl.dim_type.set, 0, isl.dim_type.param, 0)
    point = with_n.project_out(isl.dim_type.param, 0, 1).lexmin().sample_point()
    count = with_n.dim(isl.dim_type.set)
    return tuple(point.get_coordinate_val(isl.dim_type.set, axis).to_python() for axis in range(count))
