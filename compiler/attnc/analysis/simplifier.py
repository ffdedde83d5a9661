"""What a box of positions decides about a term: ranges, and the simplest equal term inside the box."""

from __future__ import annotations

from collections.abc import Callable

from attnc.analysis.terms import Box, Range, Term, Terms


class Simplifier:
    """Decides what a box decides: terms in their simplest form for q and k within it, with their ranges."""

    def __init__(self, terms: Terms, box: Box, extremes: Callable[[str, list[Range]], Range]) -> None:
        self._terms = terms
        self._box = box
        self._extremes = extremes
        self._done: dict[Term, Term] = {}
        self._ranges: dict[Term, Range] = {}

    def simple(self, term: Term) -> Term:
        """The simplest equal term."""
        found = self._done.get(term)
        if found is None:
            found = self._done[term] = self._decided(self._terms.rebuilt(term, self.simple))
        return found

    def range(self, term: Term) -> Range:
        """The least and the largest value, or something outside of them."""
        found = self._ranges.get(term)
        if found is None:
            found = self._ranges[term] = self._range(term)
        return found

    def _decided(self, term: Term) -> Term:
        low, high = self.range(term)
        terms = self._terms
        if low == high:
            return terms.constant(low)
        match term.kind:
            case "mod":
                inner, m = term.args
                least, most = self.range(inner)
                return terms.plus(inner, -(least // m) * m) if least // m == most // m else term
            case "max":
                a, b = term.args
                least, most = self.range(terms.sub(a, b))
                if least >= 0 or most <= 0:
                    return a if least >= 0 else b
                return term
            case _:
                return term

    def _range(self, term: Term) -> Range:
        args = term.args
        match term.kind:
            case "q":
                return 0, self._box[0] - 1
            case "k":
                return 0, self._box[1] - 1
            case "lin":
                low = high = args[0]
                for atom, factor in args[1]:
                    least, most = self.range(atom)
                    low += factor * (least if factor > 0 else most)
                    high += factor * (most if factor > 0 else least)
                return low, high
            case "floor":
                least, most = self.range(args[0])
                return least // args[1], most // args[1]
            case "mod":
                least, most = self.range(args[0])
                m = args[1]
                return (least % m, most % m) if least // m == most // m else (0, m - 1)
            case "ge":
                least, most = self.range(args[0])
                return int(least >= 0), int(most >= 0)
            case "eq":
                least, most = self.range(args[0])
                return int(least == most == 0), int(least <= 0 <= most)
            case _:
                return self._range_of_two(term)

    def _range_of_two(self, term: Term) -> Range:
        args = term.args
        match term.kind:
            case "and":
                (a, b), (c, d) = map(self.range, args)
                return int(bool(a) and bool(c)), int(bool(b) and bool(d))
            case "mul":
                (a, b), (c, d) = map(self.range, args)
                products = (a * c, a * d, b * c, b * d)
                return min(products), max(products)
            case "max":
                (a, b), (c, d) = map(self.range, args)
                return max(a, c), max(b, d)
            case "if":
                (a, b), (c, d) = map(self.range, args[1:])
                return min(a, c), max(b, d)
            case "table":
                return self._extremes(args[0], [self.range(index) for index in args[1]])
            case _:
                return 0, 1
