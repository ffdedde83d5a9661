"""What can be proved about a pattern, and the diagnostics for what fails: each with the smallest counterexample.

    within R      every pair lies in R                     A0203 (where R is `causal`), A0211, A0212
    queries       every query has a key                    A0401
    members       every part of a union adds some pair     A0402, A0403
    heads(a..b)   there are such heads                     A0202

Proofs are by integer sets, for every N at once, on every head of 1, 2 and 8 heads. Where a form is beyond integer
sets (random keys, lists that depend on N) small lengths are tried one by one, and a claim that only survives that is
said to be unproved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from attnc.analysis.isl_types import Set, effort
from attnc.analysis.members import Member, members
from attnc.analysis.proofs import (
    Example,
    Outside,
    Place,
    are_empty,
    covered,
    exact_sets,
    joined,
    outside,
    query_without_key,
)
from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic, Severity
from attnlang.pattern import Pattern, algebra
from attnlang.pattern.budget import limited
from attnlang.pattern.library import examined
from attnlang.pattern.pattern import value_text
from attnlang.pattern.values import head_range
from attnlang.pattern.walk import free_names_of, nodes, require_layer
from attnlang.source import Source, Span
from attnlang.syntax import tree

EFFORT = 1_000_000
"""Steps that all proofs about a file may take together, as islpy counts them: some seconds."""
TRIALS = 300_000
"""Steps that trying small lengths may take, for all patterns of a file."""
HEAD_COUNTS = (1, 2, 8)
CAUSAL = algebra.Offset(None, tree.Int(0))


def check(source: Source) -> list[Diagnostic]:
    """Everything that can be said about a text: what `attnlang.pattern.library.check` says, and what proofs add."""
    found, patterns = examined(source)
    with effort(EFFORT), limited(TRIALS):
        for pattern in patterns:
            said = {(each.code, each.span, each.message) for each in found}
            found += [each for each in findings(pattern) if (each.code, each.span, each.message) not in said]
    return sorted(found, key=lambda each: each.span.start if each.span and each.span.source == source else 0)


def findings(pattern: Pattern) -> list[Diagnostic]:
    """Everything that can be shown to be wrong, or to be in vain, in a pattern with its parameters."""
    for relation in _relations(pattern):
        require_layer(relation)
    wrong_heads = list(_heads_out_of_range(pattern))
    if wrong_heads:
        return wrong_heads
    prover = _Prover(pattern)
    try:
        return [*prover.bound(), *prover.queries(), *prover.parts()]
    except AttnError as error:  # a value that is wrong on some head only
        return list(error.diagnostics)


def _relations(pattern: Pattern) -> list[algebra.Relation]:
    """The pattern's own, and its bound's: either may differ by head and by layer."""
    return [pattern.relation] if pattern.within is None else [pattern.relation, pattern.within]


def _heads_out_of_range(pattern: Pattern) -> Iterator[Diagnostic]:
    for node in (node for relation in _relations(pattern) for node in nodes(relation)):
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
    def _places(self) -> list[Place]:
        """(heads, head) at which the pattern and its bound are looked at: one, where they are the same on all."""
        relations = _relations(self.pattern)
        found = [node for relation in relations for node in nodes(relation)]
        ranges = [node for node in found if isinstance(node, algebra.Heads)]
        by_head = ranges or any(isinstance(node, algebra.Random) for node in found)
        if not by_head and not any(free_names_of(relation) & {"h", "H"} for relation in relations):
            return [(1, 0)]
        counts = [count for count in HEAD_COUNTS if all(_fits(node, count) for node in ranges)]
        counts = counts or [next(c for c in range(1, 257) if all(_fits(node, c) for node in ranges))]
        return [(count, head) for count in counts for head in range(count)]

    @property
    def _span(self) -> Span:
        return self.pattern.relation.span

    def _where(self, example: Example) -> str:
        """The example in words: N, the head, and the parameters that are numbers."""
        values = [f"N={example.n}"]
        if self._places != [(1, 0)]:
            values += [f"h={example.head}", f"H={example.heads}"]
        values += [f"{name}={value_text(value)}" for name, value in self.pattern.parameters if type(value) is int]
        return ", ".join(values)

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
        found = outside(self.pattern.relation, claim, self._places)
        if found.example is not None:
            text = algebra.relation_text(claim)
            yield self._leaves(claim, found.example, self._culprit(claim), "error", f"restrict it with `{text} & ...`")
        elif found.unproved:
            yield self._unproved(claim, found)

    def _evident(self) -> Iterator[Diagnostic]:
        """`causal & a | b`, where b leaks: parentheses are missing, or b should be restricted too."""
        arms = _arms(self.pattern.relation)
        if not any(_is_restricted(arm) for arm in arms):
            return
        for arm in arms:
            if not _is_restricted(arm) and (example := outside(arm, CAUSAL, self._places).example):
                hint = "`causal &` in another part reaches as far as the next `|`: add parentheses"
                yield self._leaves(CAUSAL, example, arm.span, "warning", hint)

    def _leaves(
        self, claim: algebra.Relation, example: Example, span: Span, severity: Severity, hint: str
    ) -> Diagnostic:
        label = f"holds at q={example.q}, k={example.k} ({self._where(example)})"
        code, message = codes.BOUND, f"the pattern leaves its bound `{algebra.relation_text(claim)}`"
        if claim == CAUSAL:
            code, message = codes.FUTURE, "query can attend to the future"
        return Diagnostic(code, message, span, label, help=hint, severity=severity)

    def _unproved(self, claim: algebra.Relation, found: Outside) -> Diagnostic:
        tried = f"no pair leaves the bound at N up to {found.tried}" if found.tried else "nothing was tried"
        label = f"{found.unproved}; {'nothing is known of a table' if self.pattern.tables else tried}"
        hint = f"with `{algebra.relation_text(claim)} & ...` it holds by its form"
        message = f"it cannot be proved that `{self.pattern.name}` stays within its bound"
        return Diagnostic(codes.UNPROVED, message, self._span, label, help=hint, severity="warning")

    def _culprit(self, claim: algebra.Relation) -> Span:
        """The first part of the pattern that leaves the bound, where it stands in the pattern's own text."""
        for member in members(self.pattern.relation):
            if self._is_own(member.span) and outside(member.relation, claim, self._places).example is not None:
                return member.span
        return self._span

    def _is_own(self, span: Span) -> bool:
        return span.source is self.pattern.source

    # queries without keys, and parts in vain ------------------------------------------------------------------------

    def queries(self) -> Iterator[Diagnostic]:
        """Queries that no pair begins at."""
        example = query_without_key(self.pattern.relation, self._places)
        if example is not None:
            label = f"q={example.q} has none ({self._where(example)})"
            hint = "their output is 0 and their lse -inf; with `| self` every query has its own key"
            yield self._warning(codes.NO_KEY, "some queries have no key", self._span, label, hint)

    def parts(self) -> Iterator[Diagnostic]:
        """Parts of a union that hold no pair, or no pair that the others lack."""
        whole = exact_sets(self.pattern.relation, self._places)
        if whole is not None and are_empty(whole):
            yield self._warning(codes.EMPTY, "the pattern holds no pair", self._span, "on no head, at no length")
            return
        groups = self._by_place_in_text()
        for place, (span, in_union, mine) in enumerate(groups):
            if mine is None or not self._is_own(span):
                continue
            others = [found for other, (_, _, found) in enumerate(groups) if other != place and found is not None]
            if are_empty(mine):
                yield self._warning(codes.EMPTY, "this part holds no pair", span, "on no head, at no length")
                groups[place] = (span, in_union, None)
            elif in_union and covered(mine, others):
                yield self._warning(codes.DEAD, "this part adds nothing", span, "the other parts hold all its pairs")
                groups[place] = (span, in_union, None)

    def _by_place_in_text(self) -> list[tuple[Span, bool, list[Set] | None]]:
        """For each place in the text that members come from: whether they stand in a union, and their exact sets.

        The members that `any(.. for ..)` makes of one text are one part of the pattern.
        """
        found: dict[Span, list[Member]] = {}
        for part in members(self.pattern.relation):
            found.setdefault(part.span, []).append(part)
        if len(found) < 2:
            return []
        return [
            (
                span,
                all(part.in_union for part in parts),
                joined(exact_sets(part.relation, self._places) for part in parts),
            )
            for span, parts in found.items()
        ]

    def _warning(self, code: str, message: str, span: Span, label: str, hint: str | None = None) -> Diagnostic:
        return Diagnostic(code, message, span, label, help=hint, severity="warning")


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
    words = set(name.split("_"))
    return "causal" in words and not words & {"non", "not", "no", "bi", "and", "or"}
