"""Integer terms over one query position q and one key position k: what a multiplicity is made of at a fixed length.

Terms are interned: equal terms are one object, so they compare and hash by identity. Constructors keep them in a normal
form in which a term that is shifted by whole periods is the same term again: this lets equal blocks be counted once.

A truth value is a term that is 0 or 1. The kinds:

    lin    constant + sum of coefficient * term           floor  floor(term / m)        mod   term - m floor(term / m)
    ge     term >= 0                                      eq     term == 0              and   the product of truths
    mul    product                                        max    the larger of two      if    test, then, otherwise
    table  entry of a runtime table at terms              random whether key is drawn for query, both as terms
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import gcd, lcm
from typing import Any, TypeAlias, cast

Box: TypeAlias = tuple[int, int]
"""q in 0..box[0]-1, k in 0..box[1]-1."""
Range: TypeAlias = tuple[int, int]


class Term:
    """One interned term: its kind, its parts, and which of q and k it looks at."""

    __slots__ = ("args", "hard", "kind", "number", "uses_k", "uses_q")

    def __init__(self, kind: str, args: tuple[Any, ...], number: int) -> None:
        parts = subterms(args)
        self.kind = kind
        self.args = args
        self.number = number
        self.uses_q = kind == "q" or any(part.uses_q for part in parts)
        self.uses_k = kind == "k" or any(part.uses_k for part in parts)
        self.hard = kind in ("table", "random") or any(part.hard for part in parts)

    def __repr__(self) -> str:
        return f"{self.kind}{self.args}" if self.args else self.kind


def subterms(args: Iterable[Any]) -> list[Term]:
    """The terms directly inside the parts of a term."""
    found: list[Term] = []
    for part in args:
        if isinstance(part, Term):
            found.append(part)
        elif isinstance(part, tuple):
            found += subterms(cast("tuple[Any, ...]", part))
    return found


def looks_up_distances(term: Term) -> bool:
    """Whether a table is asked for what a query and a key say together: such a pattern has no boxes to count."""
    if term.kind == "table" and any(index.uses_q and index.uses_k for index in term.args[1]):
        return True
    return term.hard and any(looks_up_distances(part) for part in subterms(term.args))


def draws(term: Term) -> bool:
    """Whether keys are drawn at random in it."""
    return term.kind == "random" or any(part.hard and draws(part) for part in subterms(term.args))


def _number(term: Term) -> int:
    return term.number


class Terms:
    """A world of interned terms."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Term] = {}
        self._shifted: dict[tuple[Term, int, int], Term] = {}
        self.q = self._make("q")
        self.k = self._make("k")

    def _make(self, kind: str, *args: Any) -> Term:
        found = self._known.get((kind, *args))
        if found is None:
            found = self._known[(kind, *args)] = Term(kind, args, len(self._known))
        return found

    # sums -----------------------------------------------------------------------------------------------------------

    def constant(self, value: int) -> Term:
        """An integer."""
        return self._make("lin", int(value), ())

    def parts(self, term: Term) -> tuple[int, tuple[tuple[Term, int], ...]]:
        """A term as constant and (term, coefficient)s."""
        return (term.args[0], term.args[1]) if term.kind == "lin" else (0, ((term, 1),))

    def value(self, term: Term) -> int | None:
        """The value of a constant."""
        return term.args[0] if term.kind == "lin" and not term.args[1] else None

    def total(self, constant: int, weighted: Iterable[tuple[Term, int]]) -> Term:
        """Constant + sum of coefficient * term."""
        found: dict[Term, int] = {}
        for term, factor in weighted:
            more, inner = self.parts(term)
            constant += factor * more
            for atom, coefficient in inner:
                found[atom] = found.get(atom, 0) + factor * coefficient
        kept = tuple(sorted(((a, c) for a, c in found.items() if c), key=lambda each: each[0].number))
        if constant == 0 and len(kept) == 1 and kept[0][1] == 1:
            return kept[0][0]
        return self._make("lin", constant, kept)

    def add(self, a: Term, b: Term) -> Term:
        """A + b."""
        return self.total(0, ((a, 1), (b, 1)))

    def sub(self, a: Term, b: Term) -> Term:
        """A - b."""
        return self.total(0, ((a, 1), (b, -1)))

    def plus(self, a: Term, constant: int) -> Term:
        """A + constant."""
        return self.total(constant, ((a, 1),))

    def scaled(self, a: Term, factor: int) -> Term:
        """Factor * a."""
        return self.total(0, ((a, factor),))

    # division -------------------------------------------------------------------------------------------------------

    def floor(self, a: Term, m: int) -> Term:
        """`a // m`, m >= 1.  (m x + y + c) // m  -->  x + c // m + (y + c % m) // m"""
        if m == 1:
            return a
        constant, weighted = self.parts(a)
        whole = [(atom, c // m) for atom, c in weighted if c % m == 0]
        rest = [(atom, c) for atom, c in weighted if c % m]
        if not rest:
            return self.total(constant // m, whole)
        if len(rest) == 1 and rest[0][1] == 1 and rest[0][0].kind == "floor":
            inner, by = rest[0][0].args  # floor((floor(x / a) + c) / m) = floor((x + c a) / (a m))
            return self.total(0, [*whole, (self.floor(self.plus(inner, constant * by), by * m), 1)])
        inner = self.total(constant % m, rest)
        return self.total(constant // m, [*whole, (self._make("floor", inner, m), 1)])

    def mod(self, a: Term, m: int) -> Term:
        """A modulo m, for m >= 1.  (x + a) (y + b) % m  -->  (x + a % m) (y + b % m) % m"""
        constant, weighted = self.parts(self._reduced(a, m) if any(x.kind == "mul" for x, _ in self.parts(a)[1]) else a)
        rest = [(atom, c) for atom, c in weighted if c % m]
        if not rest:
            return self.constant(constant % m)
        if len(rest) == 1 and rest[0][1] == 1 and rest[0][0].kind == "mod" and rest[0][0].args[1] % m == 0:
            return self.mod(self.plus(rest[0][0].args[0], constant), m)
        return self._make("mod", self.total(constant % m, rest), m)

    def _reduced(self, a: Term, m: int) -> Term:
        """The same modulo m, factors of products with constants below m: moved by m, they are the same again."""
        if a.kind == "mul":
            return self.mul(*(self._reduced(factor, m) for factor in a.args))
        constant, weighted = self.parts(a)
        if weighted == ((a, 1),):
            return a
        return self.total(constant % m, ((self._reduced(atom, m), c) for atom, c in weighted))

    # truths ---------------------------------------------------------------------------------------------------------

    def ge(self, a: Term) -> Term:
        """A >= 0."""
        constant, weighted = self.parts(a)
        if not weighted:
            return self.constant(constant >= 0)
        common = gcd(*(c for _, c in weighted))
        return self._make("ge", self.total(constant // common, ((atom, c // common) for atom, c in weighted)))

    def eq(self, a: Term) -> Term:
        """A == 0."""
        constant, weighted = self.parts(a)
        if not weighted:
            return self.constant(constant == 0)
        common = gcd(*(c for _, c in weighted)) * (1 if weighted[0][1] > 0 else -1)
        if constant % common:
            return self.constant(0)
        return self._make("eq", self.total(constant // common, ((atom, c // common) for atom, c in weighted)))

    def negated(self, a: Term) -> Term:
        """1 - a, for a truth."""
        return self.total(1, ((a, -1),))

    def both(self, a: Term, b: Term) -> Term:
        """A and b: b counts only where a holds."""
        if self.value(a) == 0 or self.value(b) == 1 or a is b:
            return a
        if self.value(a) == 1:
            return b
        return self.constant(0) if self.value(b) == 0 else self._make("and", a, b)

    def either(self, a: Term, b: Term) -> Term:
        """A or b: b counts only where a does not hold."""
        return self.negated(self.both(self.negated(a), self.negated(b)))

    # the rest -------------------------------------------------------------------------------------------------------

    def mul(self, a: Term, b: Term) -> Term:
        """A * b."""
        for one, other in ((a, b), (b, a)):
            if (value := self.value(one)) is not None:
                return self.scaled(other, value)
        return self._make("mul", *sorted((a, b), key=_number))

    def larger(self, a: Term, b: Term) -> Term:
        """max(a, b)."""
        if not self.parts(difference := self.sub(a, b))[1]:
            return a if self.parts(difference)[0] >= 0 else b
        return self._make("max", *sorted((a, b), key=_number))

    def smaller(self, a: Term, b: Term) -> Term:
        """min(a, b)."""
        return self.scaled(self.larger(self.scaled(a, -1), self.scaled(b, -1)), -1)

    def choice(self, test: Term, then: Term, otherwise: Term) -> Term:
        """Then where the test holds."""
        decided = self.value(test)
        if decided is not None:
            return then if decided else otherwise
        return then if then is otherwise else self._make("if", test, then, otherwise)

    def table(self, name: str, indices: Iterable[Term]) -> Term:
        """An entry of a runtime table."""
        return self._make("table", name, tuple(indices))

    def random(self, q: Term, k: Term, drawn: tuple[int, int, int]) -> Term:
        """Whether k is among the keys of q, for drawn = (count, length, seed)."""
        return self._make("random", q, k, drawn)

    # moving and deciding --------------------------------------------------------------------------------------------

    def rebuilt(self, term: Term, part: Callable[[Term], Term]) -> Term:
        """The same term of other parts, in normal form."""
        args = term.args
        match term.kind:
            case "lin":
                return self.total(args[0], [(part(atom), c) for atom, c in args[1]])
            case "floor":
                return self.floor(part(args[0]), args[1])
            case "mod":
                return self.mod(part(args[0]), args[1])
            case "ge":
                return self.ge(part(args[0]))
            case "eq":
                return self.eq(part(args[0]))
            case "and":
                return self.both(part(args[0]), part(args[1]))
            case "mul":
                return self.mul(part(args[0]), part(args[1]))
            case "max":
                return self.larger(part(args[0]), part(args[1]))
            case "if":
                return self.choice(part(args[0]), part(args[1]), part(args[2]))
            case "table":
                return self.table(args[0], tuple(part(index) for index in args[1]))
            case "random":
                return self.random(part(args[0]), part(args[1]), args[2])
            case _:
                return term

    def shifted(self, term: Term, dq: int, dk: int) -> Term:
        """The term seen from (dq, dk): q becomes q + dq, k becomes k + dk."""
        found = self._shifted.get((term, dq, dk))
        if found is None:
            if term is self.q or term is self.k:
                found = self.plus(term, dq if term is self.q else dk)
            else:
                found = self.rebuilt(term, lambda part: self.shifted(part, dq, dk))
            self._shifted[term, dq, dk] = found
        return found


@dataclass(frozen=True, slots=True)
class Steps:
    """What terms look like from afar, in steps of q and k.

    periods   after so many steps a `floor` or `mod` inside repeats, but for a constant
    reaches   so many steps make up for a constant inside
    """

    periods: frozenset[int]
    reaches: frozenset[int]


def steps_of(*roots: Term) -> Steps:
    """The steps of everything inside terms."""
    known: dict[Term, tuple[int, int]] = {}
    found: set[int] = set()
    reaches: set[int] = set()

    def period(term: Term) -> tuple[int, int]:
        """(steps, by how much the term grows in so many steps)"""
        if term not in known:
            steps, grown = known[term] = _period(term, [period(part) for part in subterms(term.args)])
            if term.kind in ("floor", "mod"):
                found.add(steps)
            if term.kind == "lin":
                reaches.add(abs(term.args[0]) * steps // max(1, abs(grown)))
        return known[term]

    for root in roots:
        period(root)
    return Steps(frozenset(found), frozenset(reaches))


def _period(term: Term, parts: list[tuple[int, int]]) -> tuple[int, int]:
    steps = lcm(*(each for each, _ in parts))
    if term.kind in ("q", "k"):
        return 1, 1
    if term.kind == "lin":
        slopes = [
            steps // each * grown * factor for (each, grown), (_, factor) in zip(parts, term.args[1], strict=True)
        ]
        return steps, gcd(*slopes)
    grown = max((abs(steps // each * rate) for each, rate in parts), default=0)
    if term.kind in ("floor", "mod"):
        m = term.args[1]
        times = m // gcd(m, grown)
        return steps * times, grown * times // m if term.kind == "floor" else 0
    return steps, grown
