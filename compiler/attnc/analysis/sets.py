"""The pairs of a pattern on one head as an integer set, for every N at once: `[N] -> { [q, k, n] }`, with n = N.

Exact wherever the language is quasi-affine, which is nearly everywhere. What is not (random keys, tables, lists that
depend on N) is taken as `every pair` where more pairs are on the safe side, and as `no pair` where fewer are, and the
result says that it is a bound. So a property that holds of the bound holds of the pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import assert_never

from attnc.analysis.affine import Names, NotAffineError, affine, condition, constant, small, variable
from attnc.analysis.isl_types import TOO_MANY, Map, Set, TooHardError, bounded, read_map, read_set
from attnlang import codes
from attnlang.diagnostics import AttnError
from attnlang.pattern import algebra
from attnlang.pattern.arithmetic import known
from attnlang.pattern.expr import Scope, bindings, fold
from attnlang.pattern.values import at_least_one, head_range, scope_integer
from attnlang.syntax import tree

MAX_PARTS = 64
"""How many basic sets a set may consist of before we stop: beyond, subtraction takes too long."""


@dataclass(frozen=True, slots=True)
class Support:
    """The pairs with m > 0. `exact` is False where the set is an upper bound; `reason` says why.

    `lengths` is where the pattern has a meaning: a grid has one at its own size only.
    """

    pairs: Set
    lengths: Set
    exact: bool
    reason: str


def support(relation: algebra.Relation, head: int, heads: int) -> Support:
    """The support of a relation on one head of `heads`, as a set over N."""
    try:
        return _support(relation, head, heads)
    except TooHardError as reason:  # not kept: elsewhere there may be more effort to spend
        return Support(frame().intersect(_outermost()), _outermost(), False, str(reason))
    except AttnError as error:
        if codes.PATTERN_TOO_LARGE not in {each.code for each in error.diagnostics}:
            raise
        return Support(frame().intersect(_outermost()), _outermost(), False, TOO_MANY)


@lru_cache(maxsize=4096)
def _support(relation: algebra.Relation, head: int, heads: int) -> Support:
    builder = _Builder({"h": head, "H": heads})
    with bounded():
        found = builder.pairs(relation, upper=True).intersect(_outermost())
    lengths = _outermost()
    for size in builder.grids:
        lengths = lengths.intersect(variable("n").eq_set(constant(size)))
    return Support(found.intersect(lengths), lengths, not builder.reasons, "; ".join(dict.fromkeys(builder.reasons)))


def _outermost() -> Set:
    """All pairs of all sequences."""
    return read_set("[N] -> { [q, k, n] : n = N and N >= 0 }")


def frame() -> Set:
    """All pairs of a frame: 0 <= q, k < n."""
    return read_set("[N] -> { [q, k, n] : 0 <= q < n and 0 <= k < n }")


class _Builder:
    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._depth = 0
        self.reasons: list[str] = []
        self.grids: list[int] = []

    def pairs(self, relation: algebra.Relation, upper: bool) -> Set:
        """The pairs of a relation on a frame; `upper` says on which side an approximation errs."""
        try:
            found = self._pairs(relation, upper)
            if found.n_basic_set() > MAX_PARTS:
                found = found.coalesce()
            if found.n_basic_set() > MAX_PARTS * 4:
                raise NotAffineError("it falls into too many sets")
            return found
        except NotAffineError as reason:
            self.reasons.append(str(reason))
            return frame() if upper else frame().complement().intersect(frame())

    def _pairs(self, relation: algebra.Relation, upper: bool) -> Set:
        names = {name: variable(name) for name in ("n", "N")}
        match relation:
            case algebra.Everything():
                return frame()
            case algebra.Nothing():
                return frame().subtract(frame())
            case algebra.Offset():
                return self._offset(relation, names)
            case algebra.Same(value):
                folded = fold(value, self._scope)
                at_q, at_k = (affine(folded, {**names, "pos": variable(side)}) for side in "qk")
                return frame().intersect(at_q.eq_set(at_k))
            case algebra.Key(b):
                return frame().intersect(condition(fold(b, self._scope), {**names, "pos": variable("k")}))
            case algebra.Query(b):
                return frame().intersect(condition(fold(b, self._scope), {**names, "pos": variable("q")}))
            case algebra.Pairs(b):
                positions = {"q": variable("q"), "k": variable("k")}
                return frame().intersect(condition(fold(b, self._scope), {**names, **positions}))
            case algebra.Neighborhood():
                return self._neighborhood(relation)
            case algebra.Random(_, _, body):
                self.reasons.append("`random` draws its keys")
                if not upper:
                    return frame().subtract(frame())
                return frame() if body is None else self.pairs(body, upper)
            case algebra.Segment() | algebra.Dilate() | algebra.Blocks() | algebra.Grid():
                return self._frame(relation, upper)
            case algebra.Heads(lo, hi, body):
                chosen = scope_integer(self._scope, "h") in head_range(lo, hi, self._scope, relation.span)
                return self.pairs(body if chosen else algebra.Nothing(), upper)
            case algebra.Union(left, right) | algebra.Plus(left, right):
                return self.pairs(left, upper).union(self.pairs(right, upper))
            case algebra.Both(left, right):
                return self.pairs(left, upper).intersect(self.pairs(right, upper))
            case algebra.Without(left, right):
                return self.pairs(left, upper).subtract(self.pairs(right, not upper))
            case algebra.Not(body):
                return frame().subtract(self.pairs(body, not upper))
            case algebra.Choice(b, then, otherwise):
                holds = condition(fold(b, self._scope), names)
                chosen = self.pairs(then, upper).intersect(holds)
                return chosen.union(self.pairs(otherwise, upper).subtract(holds))
            case algebra.Fold(_, body, clauses):
                scopes = bindings(clauses, self._scope)
                if scopes is None:
                    raise NotAffineError("its list depends on the length")
                return self._union_over(body, scopes, upper)
            case _:
                assert_never(relation)

    def _union_over(self, body: algebra.Relation, scopes: Sequence[Scope], upper: bool) -> Set:
        outer, result = self._scope, frame().subtract(frame())
        for scope in scopes:
            self._scope = scope
            result = result.union(self.pairs(body, upper))
            if result.n_basic_set() > MAX_PARTS * 4:
                raise NotAffineError("its list is long")
        self._scope = outer
        return result

    def _integer(self, node: tree.Expr, what: str) -> int:
        value = known(fold(node, self._scope))
        if not isinstance(value, int):
            raise NotAffineError(f"{what} depends on the length")
        return small(int(value))

    def _positive(self, node: tree.Expr, what: str) -> int:
        return at_least_one(self._integer(node, what), what, node.span)

    def _offset(self, relation: algebra.Offset, names: Names) -> Set:
        distance = variable("k").sub(variable("q"))
        found = frame()
        if relation.lo is not None:
            found = found.intersect(distance.ge_set(affine(fold(relation.lo, self._scope), names)))
        if relation.hi is not None:
            found = found.intersect(distance.le_set(affine(fold(relation.hi, self._scope), names)))
        if relation.step is not None:
            step = self._positive(relation.step, "step")
            found = found.intersect(read_set(f"[N] -> {{ [q, k, n] : (k - q) mod {step} = 0 }}"))
        return found

    def _neighborhood(self, relation: algebra.Neighborhood) -> Set:
        w = self._positive(relation.width, "width")
        s = self._positive(relation.stride, "stride")
        if known(fold(relation.causal, self._scope)):
            start = f"max(min({s}*floor(q/{s}) + {s - 1}, n - 1) - {w - 1}, 0)"
            return read_set(f"[N] -> {{ [q, k, n] : 0 <= q < n and k >= {start} and 0 <= k <= q }}")
        leader = f"min({s}*floor(q/{s}) + {s // 2}, n - 1)"
        start = f"max(min({leader} - {w // 2}, n - {w}), 0)"
        return read_set(f"[N] -> {{ [q, k, n] : 0 <= q < n and {start} <= k < {w} + {start} and 0 <= k < n }}")

    # frames ---------------------------------------------------------------------------------------------------------

    def _frame(self, relation: algebra.Segment | algebra.Dilate | algebra.Blocks | algebra.Grid, upper: bool) -> Set:
        """The body's pairs, carried to the enclosing frame: the map takes [q, k, n] to the places inside."""
        self._depth += 1
        match relation:
            case algebra.Segment(width, shift, body):
                w = self._positive(width, "segment width")
                found = _pulled_back(_segment_map(w, self._integer(shift, "shift") % w), self.pairs(body, upper))
            case algebra.Dilate(rate, shift, body):
                r = self._positive(rate, "dilation")
                residue = None if shift is None else self._integer(shift, "shift") % r
                found = _pulled_back(_dilate_map(r, residue), self.pairs(body, upper))
            case algebra.Blocks(size, body):
                found = _pulled_back(_block_map(self._positive(size, "block size")), self.pairs(body, upper))
            case algebra.Grid():
                found = self._grid(relation, upper)
        self._depth -= 1
        return found

    def _grid(self, relation: algebra.Grid, upper: bool) -> Set:
        sizes = [self._positive(size, "size of an axis") for size in relation.sizes]
        if self._depth > 1:
            raise NotAffineError("a grid stands inside another frame")
        self.grids.append(prod(sizes))
        result, stride = frame(), prod(sizes)
        for size, body in zip(sizes, relation.bodies, strict=True):
            stride //= size
            result = result.intersect(_pulled_back(_axis_map(size, stride), self.pairs(body, upper)))
        return result


def _pulled_back(places: Map, inner: Set) -> Set:
    return places.intersect_range(inner).domain()


def _segment_map(w: int, s: int) -> Map:
    """Position t of run r  -->  t + s - w r, in a run of min(w, n + s - w r)."""
    return read_map(
        f"[N] -> {{ [q, k, n] -> [a, b, m] : exists r : a = q + {s} - {w}r and b = k + {s} - {w}r "
        f"and m = min({w}, n + {s} - {w}r) and 0 <= a < {w} and 0 <= b < {w} and 0 <= q < n and 0 <= k < n }}"
    )


def _dilate_map(r: int, residue: int | None) -> Map:
    """Position c + r t of class c  -->  t, among the ceil((n - c) / r) of its class."""
    classes = f"0 <= c < {r}" if residue is None else f"c = {residue}"
    return read_map(
        f"[N] -> {{ [q, k, n] -> [a, b, m] : exists c : {classes} and q = c + {r}a and k = c + {r}b "
        f"and {r}m >= n - c and {r}m < n - c + {r} and 0 <= q < n and 0 <= k < n }}"
    )


def _block_map(b: int) -> Map:
    """Position t  -->  t // b, among ceil(n / b) blocks."""
    return read_map(
        f"[N] -> {{ [q, k, n] -> [floor(q/{b}), floor(k/{b}), m] : {b}m >= n and {b}m < n + {b} "
        f"and 0 <= q < n and 0 <= k < n }}"
    )


def _axis_map(size: int, stride: int) -> Map:
    """Position t  -->  t // stride % size, its coordinate on one axis."""
    return read_map(
        f"[N] -> {{ [q, k, n] -> [floor(q/{stride}) mod {size}, floor(k/{stride}) mod {size}, {size}] : "
        f"0 <= q < n and 0 <= k < n }}"
    )
