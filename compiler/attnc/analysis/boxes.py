"""Exact numbers of pairs of any pattern at any N: a term is counted over a box by cutting the box in two, and again.

What a box decides is replaced by its value; a box on which the term is constant is counted at once; equal terms over
boxes of equal size are one and counted once, wherever they lie. Cuts fall on multiples of the pattern's own periods, so
nearly all boxes are equal, and N = 10^9 takes some hundreds of them. Small boxes are counted point by point.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from math import lcm
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.evaluation import Evaluator, random_keys
from attnc.analysis.expression_terms import NoTermError
from attnc.analysis.relation_terms import term_of
from attnc.analysis.simplifier import Simplifier
from attnc.analysis.terms import Box, Term, Terms, steps_of, subterms
from attnlang.pattern import algebra
from attnlang.pattern.expr import integer
from attnlang.pattern.tables import Content
from attnlang.pattern.values import at_least_one
from attnlang.rows import Rows

POINTS = 2**12
"""A box of no more points is counted point by point."""
MAX_BOXES = 150_000
MAX_POINTS = 2**27
"""How many boxes and points one head may take: some tens of seconds."""
MAX_DRAWN = 2**22
"""How many random keys a head may draw; beyond, a bound is given."""

Pairs: TypeAlias = tuple[int, int]
"""Pairs counted with multiplicity, and counted once."""


class TooManyError(Exception):
    """The pattern has too little structure to be counted at this length; one phrase."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Pairs of one head. `exact` is False where both are upper bounds."""

    bag: int
    distinct: int
    exact: bool = True


def count(relation: algebra.Relation, n: int, head: int, heads: int, tables: Mapping[str, Content]) -> Counted:
    """The pairs of a relation on one head at length n.

    Raises TooManyError for a pattern without structure, NoTermError for one that no term expresses, AttnError for one
    that has no meaning at this size.
    """
    counter = Counter(tables)
    return counter.count(relation, n, head, heads)


class Counter:
    """Counts the heads of a pattern; heads that have equal terms are counted once."""

    def __init__(self, tables: Mapping[str, Content]) -> None:
        self._tables = tables
        self.terms = Terms()
        self._counts: dict[tuple[Term, int, int, int], Pairs] = {}
        self._boxes = _Boxes(self.terms, Evaluator(tables, 0))
        self._last: tuple[object, Term, bool] | None = None

    def count(self, relation: algebra.Relation, n: int, head: int, heads: int) -> Counted:
        """The pairs of one head."""
        scope = {**self._tables, "N": n, "H": heads, "h": head}
        size, inner, length = without_blocks(relation, n, {**scope, "n": n})
        term = term_of(self.terms, inner, length, scope)
        drawn = _random_parts(term)
        if not drawn:
            return Counted(*self._weighed(term, length, size, n))
        return self._with_random(term, drawn, length, size, n, head)

    def rectangle(self, relation: algebra.Relation, n: int, head: int, heads: int, q: Rows, k: Rows) -> int:
        """The pairs of one head with queries in one stretch and keys in another, with multiplicity.

        Raises TooManyError for a pattern that draws its keys at random, too.
        """
        term, draws = self.term(relation, n, head, heads)
        if draws:
            raise TooManyError("it draws keys at random")
        moved = self.terms.shifted(term, q.first, k.first)
        return self._boxes.count(moved, (q.count, k.count), (q.first, k.first))[0]

    def meeting(self, relation: algebra.Relation, n: int, head: int, heads: int, q: Rows, k: Rows) -> Term:
        """The simplest term of one head between two stretches: where it is one and the same, so are their pairs."""
        term, _ = self.term(relation, n, head, heads)
        return self.within(term, q.first, k.first, (q.count, k.count))

    def within(self, term: Term, dq: int, dk: int, box: Box) -> Term:
        """The simplest form of a term within a box that begins at (dq, dk)."""
        return self._boxes.simple(self.terms.shifted(term, dq, dk), box)

    def term(self, relation: algebra.Relation, n: int, head: int, heads: int) -> tuple[Term, bool]:
        """The term of a head, and whether it draws keys; the last one is kept."""
        name = relation, n, head, heads
        if self._last is None or self._last[0] != name:
            term = term_of(self.terms, relation, n, {**self._tables, "N": n, "n": n, "H": heads, "h": head})
            self._last = name, term, bool(_random_parts(term))
        return self._last[1:]

    def any_head(self, relation: algebra.Relation, n: int, heads: int) -> tuple[Terms, Term]:
        """The term of the pairs that any head holds."""
        scopes = ({**self._tables, "N": n, "H": heads, "h": head} for head in range(heads))
        found = list(dict.fromkeys(term_of(self.terms, relation, n, scope) for scope in scopes))
        while len(found) > 1:  # two by two, for thousands of heads are deeper than terms may nest
            found = [reduce(self.terms.larger, found[at : at + 2]) for at in range(0, len(found), 2)]
        return self.terms, self.terms.larger(self.terms.constant(0), found[0])

    def over(self, term: Term, box: Box) -> int:
        """In how many points of a box a term is above 0."""
        return self._boxes.count(term, box)[1]

    def _weighed(self, term: Term, length: int, size: int, n: int) -> Pairs:
        """The count of a term over blocks of `size` tokens, of which the last may be shorter."""
        if (found := self._counts.get((term, length, size, n))) is not None:
            return found
        last = n - (length - 1) * size
        parts = [(0, length, size)] if size == 1 or last == size else [(0, length - 1, size), (length - 1, 1, last)]
        bag = distinct = 0
        for q, rows, height in parts:
            for k, columns, width in parts:
                if rows and columns:
                    box = self._boxes.count(self.terms.shifted(term, q, k), (rows, columns))
                    bag += box[0] * height * width
                    distinct += box[1] * height * width
        self._counts[term, length, size, n] = bag, distinct
        return bag, distinct

    # random keys are few: without them a pattern has structure, and they are looked at one by one

    def _with_random(self, term: Term, drawn: list[Term], length: int, size: int, n: int, head: int) -> Counted:
        terms = self.terms
        if any(part.args[0] is not terms.q or part.args[1] is not terms.k for part in drawn):
            return self._one_by_one(term, length, size, n, head)
        without = _replaced(terms, term, set(drawn), terms.constant(0))
        bag, distinct = self._weighed(without, length, size, n)
        total = sum(length * part.args[2][0] for part in drawn)
        if total > MAX_DRAWN:
            most = Simplifier(terms, (length, length), self._boxes.extremes).range(term)[1]
            more = total * size * size
            return Counted(min(bag + most * more, n * n * most), min(distinct + more, n * n), exact=False)
        q, k = self._drawn_pairs(drawn, length, head)
        evaluator = Evaluator(self._tables, head)
        here, there = (np.broadcast_to(evaluator.at(each, q, k), q.shape) for each in (term, without))
        sizes = _sizes(length, size, n)
        weight = sizes[q] * sizes[k]
        more_bag = int(((here - there) * weight).sum())
        more_distinct = int((((here > 0).astype(np.int64) - (there > 0)) * weight).sum())
        return Counted(bag + more_bag, distinct + more_distinct)

    def _one_by_one(self, term: Term, length: int, size: int, n: int, head: int) -> Counted:
        """Every pair is looked at, a chunk of rows at a time: keys drawn inside a frame have no structure."""
        if length * length > MAX_POINTS:
            raise TooManyError("random keys are drawn inside a frame")
        evaluator, sizes = Evaluator(self._tables, head), _sizes(length, size, n)
        bag = distinct = 0
        step = max(1, 2**20 // length)
        for first in range(0, length, step):
            queries = np.arange(first, min(length, first + step))
            values = evaluator.at(term, queries[:, None], np.arange(length)[None, :])
            values = np.broadcast_to(values, (len(queries), length))
            bag += int(sizes[queries] @ (values @ sizes))
            distinct += int(sizes[queries] @ ((values > 0) @ sizes))
        return Counted(bag, distinct)

    def _drawn_pairs(self, drawn: list[Term], length: int, head: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        queries = np.arange(length)
        pairs: list[NDArray[np.int64]] = []
        for part in drawn:
            keys = random_keys(part.args[2], head, queries)
            pairs.append((queries[:, None] * length + keys).reshape(-1))
        return np.divmod(np.unique(np.concatenate(pairs)), max(1, length))


def without_blocks(
    relation: algebra.Relation, n: int, scope: Mapping[str, object]
) -> tuple[int, algebra.Relation, int]:
    """`blocks(a) { blocks(b) { p } }`  -->  a b, p, and the number of blocks"""
    size = 1
    while isinstance(relation, algebra.Blocks):
        b = at_least_one(integer(relation.size, scope), "block size", relation.size.span)  # pyright: ignore[reportArgumentType]
        size, n, relation = size * b, -(-n // b), relation.body
        scope = {**scope, "n": n}
    return size, relation, n


def _sizes(length: int, size: int, n: int) -> NDArray[np.int64]:
    """How many tokens each block holds."""
    sizes = np.full(length, size, np.int64)
    sizes[-1:] = n - (length - 1) * size
    return sizes


def _random_parts(term: Term) -> list[Term]:
    found: dict[Term, None] = {}
    seen: set[Term] = set()
    waiting = [term]
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        if each.kind == "random":
            found[each] = None
        waiting += subterms(each.args)
    return list(found)


def _replaced(terms: Terms, term: Term, gone: set[Term], by: Term) -> Term:
    done: dict[Term, Term] = {}

    def replaced(each: Term) -> Term:
        if each in gone:
            return by
        if each not in done:
            done[each] = terms.rebuilt(each, replaced)
        return done[each]

    return replaced(term)


class _Boxes:
    """Counts terms over boxes."""

    def __init__(self, terms: Terms, evaluator: Evaluator) -> None:
        self._terms = terms
        self._evaluator = evaluator
        self._known: dict[tuple[Term, int, int], Pairs] = {}
        self._simplifiers: dict[Box, Simplifier] = {}
        self._sizes: list[int] = [1]
        self._points = 0
        self.extremes = evaluator.extremes

    def count(self, term: Term, box: Box, origin: tuple[int, int] = (0, 0)) -> Pairs:
        """(bag, distinct) of a term over a box. Boxes of many origins have parts in common if these are given."""
        self._sizes = cut_sizes(steps_of(term).periods, max(box))
        self._points = 0
        budget = len(self._known) + MAX_BOXES
        return self._count(term, box, origin, budget)

    def simple(self, term: Term, box: Box) -> Term:
        """The simplest equal term within a box."""
        simplifier = self._simplifiers.get(box)
        if simplifier is None:
            simplifier = self._simplifiers[box] = Simplifier(self._terms, box, self.extremes)
        return simplifier.simple(term)

    def _count(self, term: Term, box: Box, origin: tuple[int, int], budget: int) -> Pairs:
        term = self.simple(term, box)
        rows, columns = box
        value = self._terms.value(term)
        if value is not None:
            return value * rows * columns, (rows * columns if value > 0 else 0)
        if not term.uses_q and rows > 1:
            return _times(self._count(term, (1, columns), origin, budget), rows)
        if not term.uses_k and columns > 1:
            return _times(self._count(term, (rows, 1), origin, budget), columns)
        found = self._known.get((term, rows, columns))
        if found is None:
            if len(self._known) > budget:
                raise TooManyError(f"it falls into more than {MAX_BOXES:,} different boxes")
            found = self._points_of(term, box) if rows * columns <= POINTS else self._halves(term, box, origin, budget)
            self._known[term, rows, columns] = found
        return found

    def _points_of(self, term: Term, box: Box) -> Pairs:
        self._points += box[0] * box[1]
        if self._points > MAX_POINTS:
            raise TooManyError(f"more than {MAX_POINTS:,} of its pairs would have to be looked at one by one")
        values = self._evaluator.at(term, np.arange(box[0])[:, None], np.arange(box[1])[None, :])
        values = np.broadcast_to(values, box)
        return int(values.sum()), int((values > 0).sum())

    def _halves(self, term: Term, box: Box, origin: tuple[int, int], budget: int) -> Pairs:
        size = max(each for each in self._sizes if each < max(box))
        bag = distinct = 0
        for q, rows in _cut(box[0], size, origin[0]):
            for k, columns in _cut(box[1], size, origin[1]):
                inner = origin[0] + q, origin[1] + k
                part = self._count(self._terms.shifted(term, q, k), (rows, columns), inner, budget)
                bag += part[0]
                distinct += part[1]
        return bag, distinct


def _times(pairs: Pairs, factor: int) -> Pairs:
    return pairs[0] * factor, pairs[1] * factor


def _cut(length: int, size: int, origin: int) -> list[tuple[int, int]]:
    """(start, length) of two parts, cut where `origin` and the start are a multiple of `size`; of one without any."""
    first, last = size - origin % size, (origin + length - 1) // size * size - origin
    if first >= length:
        return [(0, length)]
    middle = first + (last - first) // size // 2 * size
    return [(0, middle), (middle, length - middle)]


def cut_sizes(steps: Collection[int], longest: int) -> list[int]:
    """1, .., each dividing the next: through as many of the steps as fit, then on by twos."""
    sizes = [1]
    for period in sorted(steps):
        wanted = lcm(sizes[-1], period)
        if wanted > longest:
            continue
        for factor in _factors(wanted // sizes[-1]):
            sizes.append(sizes[-1] * factor)
    while sizes[-1] < longest:
        sizes.append(sizes[-1] * 2)
    return sizes


def _factors(number: int) -> list[int]:
    """The prime factors, ascending."""
    found: list[int] = []
    divisor = 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found + ([number] if number > 1 else [])


__all__ = ["Counted", "Counter", "NoTermError", "TooManyError", "count", "cut_sizes"]
