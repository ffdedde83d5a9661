"""Bounds of a relation over rectangles of pairs: which tiles of a pattern are empty, which are full, without a mask.

For every form the least and the largest multiplicity over queries q0..q1 and keys k0..k1, for many rectangles at once,
by carrying the rectangle into the inner frame as `attnlang.pattern.pointwise` carries a pair. Bounds may be wider than
the truth and are never narrower: a tile of bounds (0, 0) is empty, one of (c, c) counts every pair c times.
"""

from __future__ import annotations

from typing import Any, TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray

from attnlang.pattern import algebra
from attnlang.pattern.arrays import evaluate_at
from attnlang.pattern.expr import Scope, bindings, evaluate, integer
from attnlang.pattern.intervals import Interval, interval, truth
from attnlang.pattern.listed import (
    MOST_DRAWN,
    MOST_LOOKED_UP,
    Rectangles,
    among,
    cell_size,
    drawn_cells,
    held_cells,
    held_in,
    looks_up,
    of_drawn,
)
from attnlang.pattern.pointwise import neighborhood
from attnlang.pattern.ranges import Counts, Extremes
from attnlang.pattern.values import at_least_one, grid_sizes, head_range, scope_integer
from attnlang.syntax import tree

Array: TypeAlias = NDArray[np.int64]

MOST = 2**20
"""Stands for any multiplicity of this size and more."""
MOST_ROW = 2**26
"""Up to this length of a frame, what is asked of positions is asked of every one, once."""


class Bounds:
    """Bounds of one relation at one length and head. `scope` holds N, H, h and the content of tables.

    most_row  up to this length of a frame, what is asked of positions is asked of every one
    """

    def __init__(self, relation: algebra.Relation, n: int, scope: Scope, most_row: int = MOST_ROW) -> None:
        self._most_row = most_row
        self._relation = relation
        self._n = n
        self._scope = scope
        self._rows: dict[tuple[int, int], Any] = {}  # what is asked of positions is computed once a frame length
        self._in_fold = 0

    def __call__(self, where: Rectangles) -> Interval:
        """The least and the largest multiplicity over each rectangle of positions 0..n-1."""
        lo, hi = self._of(self._relation, where, self._n, self._scope)
        size = len(where)
        return Interval(np.broadcast_to(lo, size), np.broadcast_to(hi, size))

    def _of(self, relation: algebra.Relation, at: Rectangles, n: int, scope: Scope) -> Interval:
        scope = {**scope, "n": n}
        match relation:
            case algebra.Everything():
                return Interval(1, 1)
            case algebra.Nothing():
                return Interval(0, 0)
            case algebra.Offset():
                return _offset(relation, at, scope)
            case algebra.Same(value):
                return self._same(relation, value, at, n, scope)
            case algebra.Key(condition):
                return self._holds(relation, condition, at.k0, at.k1, n, scope)
            case algebra.Query(condition):
                return self._holds(relation, condition, at.q0, at.q1, n, scope)
            case algebra.Pairs(condition):
                return self._pairs(relation, condition, at, n, scope)
            case algebra.Neighborhood():
                (first, first_last), (last_first, last) = (neighborhood(relation, q, n, scope) for q in (at.q0, at.q1))
                possible = (at.k1 >= first) & (at.k0 <= last)
                certain = (at.k0 >= last_first) & (at.k1 <= first_last)
                return Interval(certain + 0, possible + 0)
            case algebra.Random():
                return self._random(relation, at, n, scope)
            case algebra.Grid():
                return self._grid(relation, at, n, scope)
            case algebra.Segment():
                return self._segment(relation, at, n, scope)
            case algebra.Dilate():
                return self._dilate(relation, at, n, scope)
            case algebra.Blocks(size, body):
                b = at_least_one(integer(size, scope), "block size", size.span)
                inner = Rectangles(at.q0 // b, at.q1 // b, at.k0 // b, at.k1 // b)
                return self._of(body, inner, -(-n // b), scope)
            case algebra.Heads(lo, hi, body):
                chosen = scope_integer(scope, "h") in head_range(lo, hi, scope, relation.span)
                return self._of(body, at, n, scope) if chosen else Interval(0, 0)
            case algebra.Choice(condition, then, otherwise):
                return self._of(then if evaluate(condition, scope) else otherwise, at, n, scope)
            case algebra.Fold():
                return self._fold(relation, at, n, scope)
            case algebra.Not(body):
                return _absent(self._of(body, at, n, scope))
            case algebra.Union(left, right):
                return _larger(self._of(left, at, n, scope), self._of(right, at, n, scope))
            case algebra.Plus(left, right):
                return _sum(self._of(left, at, n, scope), self._of(right, at, n, scope))
            case algebra.Both(left, right):
                return _product(self._of(left, at, n, scope), self._of(right, at, n, scope))
            case algebra.Without(left, right):
                return _product(self._of(left, at, n, scope), _absent(self._of(right, at, n, scope)))
            case _:
                assert_never(relation)

    # what is asked of positions -------------------------------------------------------------------------------------

    def _kept(self, relation: algebra.Relation, n: int, make: Any) -> Any:
        """What a leaf says of every position of its frame; inside of a fold it may differ from item to item."""
        if self._in_fold:
            return make()
        place = (id(relation), n)
        if place not in self._rows:
            self._rows[place] = make()
        return self._rows[place]

    def _holds(
        self, relation: algebra.Relation, condition: tree.Expr, first: Array, last: Array, n: int, scope: Scope
    ) -> Interval:
        if n > self._most_row:
            return truth(condition, scope, {"pos": Interval(first, last)})
        row: Counts = self._kept(
            relation, n, lambda: Counts(evaluate_at(condition, scope, {"pos": np.arange(n)}).astype(bool))
        )
        count = row(first, last)
        return Interval((count == last - first + 1) + 0, (count > 0) + 0)

    def _same(self, relation: algebra.Relation, value: tree.Expr, at: Rectangles, n: int, scope: Scope) -> Interval:
        sides = [interval(value, scope, {"pos": Interval(*ends)}) for ends in ((at.q0, at.q1), (at.k0, at.k1))]
        if n <= self._most_row and any(
            np.ndim(lo) == 0 and lo < hi for lo, hi in sides
        ):  # nothing is known: look at the values themselves
            row: Extremes = self._kept(relation, n, lambda: Extremes(evaluate_at(value, scope, {"pos": np.arange(n)})))
            sides = [Interval(*row(*ends)) for ends in ((at.q0, at.q1), (at.k0, at.k1))]
        (a, b), (c, d) = sides
        return Interval(((a == b) & (c == d) & (a == c)) + 0, ((a <= d) & (c <= b)) + 0)

    def _pairs(self, relation: algebra.Pairs, condition: tree.Expr, at: Rectangles, n: int, scope: Scope) -> Interval:
        places = {"q": Interval(at.q0, at.q1), "k": Interval(at.k0, at.k1)}
        found = truth(condition, scope, places)
        if not looks_up(condition) or n > MOST_LOOKED_UP:
            return found
        cells = self._kept(relation, n, lambda: held_cells(condition, n, scope))
        if cells is None:
            return found
        held = held_in(cells, at, n)
        if cell_size(n) > 1:
            return Interval(np.where(held > 0, found.lo, 0), np.where(held > 0, found.hi, 0))
        return Interval((held == at.area) + 0, (held > 0) + 0)

    def _random(self, relation: algebra.Random, at: Rectangles, n: int, scope: Scope) -> Interval:
        count = integer(relation.count, scope)
        if count * n > MOST_DRAWN or (count >= n and relation.body is None):
            return of_drawn(relation, at, n, scope)
        keys, cells = self._kept(relation, n, lambda: drawn_cells(relation, n, scope))
        held = held_in(cells, at, n)
        if cell_size(n) == 1:
            return Interval((held == at.area) + 0, (held > 0) + 0)
        some = np.flatnonzero(held > 0)
        lo, hi = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
        lo[some], hi[some] = among(lambda queries: keys[queries], at[some])
        return Interval(lo, hi)

    # frames ---------------------------------------------------------------------------------------------------------

    def _grid(self, relation: algebra.Grid, at: Rectangles, n: int, scope: Scope) -> Interval:
        result, stride = Interval(1, 1), n
        for body, size in zip(relation.bodies, grid_sizes(relation.sizes, n, scope, relation.span), strict=True):
            stride //= size
            q0, q1 = _coordinates(at.q0, at.q1, size, stride)
            k0, k1 = _coordinates(at.k0, at.k1, size, stride)
            result = _product(result, self._of(body, Rectangles(q0, q1, k0, k1), size, scope))
        return result

    def _segment(self, relation: algebra.Segment, at: Rectangles, n: int, scope: Scope) -> Interval:
        w = at_least_one(integer(relation.width, scope), "segment width", relation.width.span)
        s = integer(relation.shift, scope) % w
        q_first, q_last, k_first, k_last = ((x + s) // w for x in (at.q0, at.q1, at.k0, at.k1))
        possible = (q_first <= k_last) & (k_first <= q_last)
        lo, hi = np.zeros(len(at), np.int64), np.where(possible, MOST, 0)
        inside = (q_first == q_last) & (k_first == k_last) & (q_first == k_first)
        lengths = np.minimum(w, n + s - q_first * w)
        for length in np.unique(lengths[inside]).tolist():
            mine = inside & (lengths == length)
            moved = Rectangles(*((x[mine] + s) % w for x in (at.q0, at.q1, at.k0, at.k1)))
            lo[mine], hi[mine] = self._of(relation.body, moved, length, scope)
        return Interval(lo, hi)

    def _dilate(self, relation: algebra.Dilate, at: Rectangles, n: int, scope: Scope) -> Interval:
        """The body over the quotients of all residue classes; how many pairs share a class is not looked at."""
        r = at_least_one(integer(relation.rate, scope), "dilation", relation.rate.span)
        inner = Rectangles(at.q0 // r, at.q1 // r, at.k0 // r, at.k1 // r)
        most: Any = 0
        for length in {-(-n // r), n // r} - {0}:
            clipped = Rectangles(*(np.minimum(x, length - 1) for x in (inner.q0, inner.q1, inner.k0, inner.k1)))
            most = np.maximum(most, self._of(relation.body, clipped, length, scope)[1])
        single = (at.q0 == at.q1) & (at.k0 == at.k1)
        return (
            Interval(0, np.where(single & (at.q0 % r != at.k0 % r), 0, most))
            if r > 1
            else self._of(relation.body, at, n, scope)
        )

    def _fold(self, relation: algebra.Fold, at: Rectangles, n: int, scope: Scope) -> Interval:
        join = _sum if relation.kind == "mix" else _larger
        result = Interval(0, 0)
        self._in_fold += 1
        for inner in bindings(relation.clauses, scope) or ():
            result = join(result, self._of(relation.body, at, n, inner))
        self._in_fold -= 1
        return result


def _offset(relation: algebra.Offset, at: Rectangles, scope: Scope) -> Interval:
    least, most = at.k0 - at.q1, at.k1 - at.q0
    lo = None if relation.lo is None else integer(relation.lo, scope)
    hi = None if relation.hi is None else integer(relation.hi, scope)
    certain, possible = np.ones(len(at), bool), np.ones(len(at), bool)
    if lo is not None:
        certain, possible = certain & (least >= lo), possible & (most >= lo)
    if hi is not None:
        certain, possible = certain & (most <= hi), possible & (least <= hi)
    if relation.step is not None:
        step = at_least_one(integer(relation.step, scope), "step", relation.step.span)
        first = least if lo is None else np.maximum(least, lo)
        last = most if hi is None else np.minimum(most, hi)
        possible = possible & (last // step * step >= first)
        certain = certain & ((step == 1) | ((least == most) & (least % step == 0)))
    return Interval(certain + 0, possible + 0)


def _coordinates(first: Array, last: Array, size: int, stride: int) -> tuple[Array, Array]:
    """Between which coordinates of an axis the positions first..last lie."""
    begin, end = first // stride, last // stride
    wraps = begin // size != end // size
    return np.where(wraps, 0, begin % size), np.where(wraps, size - 1, end % size)


def _absent(found: Interval) -> Interval:
    return Interval((np.asarray(found.hi) == 0) + 0, (np.asarray(found.lo) == 0) + 0)


def _larger(a: Interval, b: Interval) -> Interval:
    return Interval(np.maximum(a.lo, b.lo), np.maximum(a.hi, b.hi))


def _sum(a: Interval, b: Interval) -> Interval:
    return Interval(np.minimum(a.lo + b.lo, MOST), np.minimum(a.hi + b.hi, MOST))


def _product(a: Interval, b: Interval) -> Interval:
    return Interval(np.minimum(np.asarray(a.lo) * b.lo, MOST), np.minimum(np.asarray(a.hi) * b.hi, MOST))
