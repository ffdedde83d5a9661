"""A relation at a fixed length as one term over q and k: frames become floors and remainders.

segment(w, s) { p }   -->  same run, and p at ((q + s) mod w, (k + s) mod w); the last run may be shorter
dilate(r) { p }       -->  same class, and p at (q // r, k // r); there are classes of two lengths
blocks(b) { p }       -->  p at (q // b, k // b)
grid(a, b) { p * t }  -->  p at the rows times t at the columns
"""

from __future__ import annotations

from typing import assert_never

from attnc.analysis.expression_terms import ExpressionTerms, NoTermError
from attnc.analysis.terms import Term, Terms
from attnlang.pattern import algebra
from attnlang.pattern.expr import Scope, bindings, evaluate, integer
from attnlang.pattern.values import at_least_one, grid_sizes, head_range, scope_integer
from attnlang.syntax import tree


def term_of(terms: Terms, relation: algebra.Relation, n: int, scope: Scope) -> Term:
    """The multiplicity at (q, k) on a frame of n; `scope` gives N, H and h. Raises NoTermError for what is no term."""
    return _Builder(terms, scope).relation(relation, terms.q, terms.k, n)


class _Builder:
    def __init__(self, terms: Terms, scope: Scope) -> None:
        self._terms = terms
        self._scope = scope
        self._value = ExpressionTerms(terms).value

    def relation(self, relation: algebra.Relation, q: Term, k: Term, n: int) -> Term:
        """The multiplicity of a relation on a frame of n whose positions are the terms q and k."""
        terms, scope = self._terms, {**self._scope, "n": n}
        match relation:
            case algebra.Everything():
                return terms.constant(1)
            case algebra.Nothing():
                return terms.constant(0)
            case algebra.Offset():
                return self._offset(relation, terms.sub(k, q), scope)
            case algebra.Same(value):
                at_q, at_k = (self._value(value, scope, {"pos": place}) for place in (q, k))
                return terms.eq(terms.sub(at_q, at_k))
            case algebra.Key(condition):
                return self._value(condition, scope, {"pos": k})
            case algebra.Query(condition):
                return self._value(condition, scope, {"pos": q})
            case algebra.Pairs(condition):
                return self._value(condition, scope, {"q": q, "k": k})
            case algebra.Neighborhood():
                return self._neighborhood(relation, q, k, scope)
            case algebra.Random(_, _, body) if body is not None:
                raise NoTermError("which keys it draws depends on the keys that it may draw")
            case algebra.Random(count, seed):
                return self._random(integer(count, scope), integer(seed, scope), q, k, n)
            case algebra.Segment() | algebra.Dilate() | algebra.Blocks() | algebra.Grid():
                return self._frame(relation, q, k, n)
            case algebra.Heads(lo, hi, body):
                chosen = scope_integer(scope, "h") in head_range(lo, hi, scope, relation.span)
                return self.relation(body if chosen else algebra.Nothing(), q, k, n)
            case algebra.Choice(condition, then, otherwise):
                return self.relation(then if evaluate(condition, scope) else otherwise, q, k, n)
            case algebra.Fold(kind, body, clauses):
                parts = [_Builder(terms, inner).relation(body, q, k, n) for inner in bindings(clauses, scope) or ()]
                return self._sum(parts) if kind == "mix" else self._union(parts)
            case algebra.Not(body):
                return self._is_zero(self.relation(body, q, k, n))
            case _:
                return self._joined(relation, q, k, n)

    def _joined(
        self, relation: algebra.Union | algebra.Both | algebra.Without | algebra.Plus, q: Term, k: Term, n: int
    ) -> Term:
        left, right = (self.relation(side, q, k, n) for side in (relation.left, relation.right))
        match relation:
            case algebra.Union():
                return self._union([left, right])
            case algebra.Both():
                return self._product(left, right)
            case algebra.Without():
                return self._product(self._is_zero(right), left)
            case algebra.Plus():
                return self._terms.add(left, right)
            case _:
                assert_never(relation)

    # multiplicities -------------------------------------------------------------------------------------------------

    def _sum(self, parts: list[Term]) -> Term:
        return self._terms.total(0, ((part, 1) for part in parts))

    def _union(self, parts: list[Term]) -> Term:
        result = self._terms.constant(0)
        for part in parts:
            truths = self.is_truth(result) and self.is_truth(part)
            result = self._terms.either(result, part) if truths else self._terms.larger(result, part)
        return result

    def _product(self, a: Term, b: Term) -> Term:
        if self.is_truth(a) and self.is_truth(b):
            return self._terms.both(a, b)
        return self._terms.mul(a, b)

    def _is_zero(self, a: Term) -> Term:
        return self._terms.negated(a) if self.is_truth(a) else self._terms.eq(a)

    def is_truth(self, term: Term) -> bool:
        """Whether a term is 0 or 1 by its form."""
        value = self._terms.value(term)
        if value is not None:
            return value in (0, 1)
        match term.kind:
            case "ge" | "eq" | "and" | "random":
                return True
            case "lin":
                constant, weighted = term.args
                return constant == 1 and len(weighted) == 1 and weighted[0][1] == -1 and self.is_truth(weighted[0][0])
            case "if":
                return self.is_truth(term.args[1]) and self.is_truth(term.args[2])
            case _:
                return False

    # atoms ----------------------------------------------------------------------------------------------------------

    def _offset(self, relation: algebra.Offset, distance: Term, scope: Scope) -> Term:
        terms, result = self._terms, self._terms.constant(1)
        if relation.lo is not None:
            result = terms.both(result, terms.ge(terms.plus(distance, -integer(relation.lo, scope))))
        if relation.hi is not None:
            result = terms.both(result, terms.ge(terms.total(integer(relation.hi, scope), ((distance, -1),))))
        if relation.step is not None:
            step = self._positive(relation.step, scope, "step")
            result = terms.both(result, terms.eq(terms.mod(distance, step)))
        return result

    def _neighborhood(self, relation: algebra.Neighborhood, q: Term, k: Term, scope: Scope) -> Term:
        terms, n = self._terms, scope_integer(scope, "n")
        w = self._positive(relation.width, scope, "width")
        s = self._positive(relation.stride, scope, "stride")
        group = terms.scaled(terms.floor(q, s), s)
        if evaluate(relation.causal, scope):
            leader = terms.smaller(terms.plus(group, s - 1), terms.constant(n - 1))
            from_start = terms.ge(terms.plus(terms.sub(k, leader), w - 1))
            return terms.both(terms.ge(terms.sub(q, k)), from_start)
        leader = terms.smaller(terms.plus(group, s // 2), terms.constant(n - 1))
        start = terms.smaller(terms.plus(leader, -(w // 2)), terms.constant(n - w))
        offset = terms.sub(k, terms.larger(start, terms.constant(0)))
        return terms.both(terms.ge(offset), terms.ge(terms.total(w - 1, ((offset, -1),))))

    def _random(self, count: int, seed: int, q: Term, k: Term, n: int) -> Term:
        if count >= n:
            return self._terms.constant(1)
        return self._terms.random(q, k, (count, n, seed)) if count > 0 else self._terms.constant(0)

    def _positive(self, node: tree.Expr, scope: Scope, what: str) -> int:
        return at_least_one(integer(node, scope), what, node.span)

    # frames ---------------------------------------------------------------------------------------------------------

    def _frame(
        self,
        relation: algebra.Segment | algebra.Dilate | algebra.Blocks | algebra.Grid,
        q: Term,
        k: Term,
        n: int,
    ) -> Term:
        terms, scope = self._terms, {**self._scope, "n": n}
        match relation:
            case algebra.Segment(width, shift, body):
                w = self._positive(width, scope, "segment width")
                return self._segment(w, integer(shift, scope) % w, body, q, k, n)
            case algebra.Dilate(rate, shift, body):
                r = self._positive(rate, scope, "dilation")
                return self._dilate(r, None if shift is None else integer(shift, scope) % r, body, q, k, n)
            case algebra.Blocks(size, body):
                b = self._positive(size, scope, "block size")
                return self.relation(body, terms.floor(q, b), terms.floor(k, b), -(-n // b))
            case algebra.Grid():
                return self._grid(relation, q, k, n)

    def _segment(self, w: int, shift: int, body: algebra.Relation, q: Term, k: Term, n: int) -> Term:
        terms = self._terms
        at_q, at_k = (terms.plus(place, shift) for place in (q, k))
        run = terms.floor(at_q, w)
        together = terms.eq(terms.sub(run, terms.floor(at_k, w)))
        last = max(0, (n - 1 + shift) // w)
        inside = terms.mod(at_q, w), terms.mod(at_k, w)
        rest = self.relation(body, *inside, min(w, n + shift - last * w))
        whole = self.relation(body, *inside, w) if last else rest
        is_last = terms.eq(terms.plus(run, -last))
        return self._product(together, terms.choice(is_last, rest, whole))

    def _dilate(self, r: int, residue: int | None, body: algebra.Relation, q: Term, k: Term, n: int) -> Term:
        terms = self._terms
        at_q = terms.mod(q, r)
        together = terms.eq(terms.sub(at_q, terms.mod(k, r)))
        if residue is not None:
            together = terms.both(terms.eq(terms.plus(at_q, -residue)), terms.eq(terms.plus(terms.mod(k, r), -residue)))
        inside = terms.floor(q, r), terms.floor(k, r)
        shorter, longer = divmod(n, r)  # classes below n mod r have one position more
        short = self.relation(body, *inside, shorter) if shorter else terms.constant(0)
        if residue is not None:
            chosen = self.relation(body, *inside, shorter + 1) if residue < longer else short
        elif longer:
            long = self.relation(body, *inside, shorter + 1)
            chosen = terms.choice(terms.ge(terms.total(longer - 1, ((at_q, -1),))), long, short)
        else:
            chosen = short
        return self._product(together, chosen)

    def _grid(self, relation: algebra.Grid, q: Term, k: Term, n: int) -> Term:
        terms, scope = self._terms, {**self._scope, "n": n}
        sizes = grid_sizes(relation.sizes, n, scope, relation.span)
        result, stride = terms.constant(1), n
        for size, body in zip(sizes, relation.bodies, strict=True):
            stride //= size
            row, column = (terms.mod(terms.floor(place, stride), size) for place in (q, k))
            result = self._product(result, self.relation(body, row, column, size))
        return result
