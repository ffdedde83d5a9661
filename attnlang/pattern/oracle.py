"""The meaning of every relation, computed in the plainest way: the oracle that everything else is tested against.

One function gives the matrix of a relation on a frame of n positions; forms that make inner frames ask for the inner
matrix and put it where it belongs. Of a run that a shift cuts short only the last positions are there, so the function
is told from which one on. Nothing here is fast, and nothing here is shared with the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray

from attnlang import codes
from attnlang.pattern import algebra
from attnlang.pattern.arrays import evaluate_at
from attnlang.pattern.budget import spend
from attnlang.pattern.expr import Scope, bindings, evaluate, integer
from attnlang.pattern.functions import fail
from attnlang.pattern.random_keys import keys
from attnlang.pattern.values import at_least_one, grid_sizes, head_range, scope_integer
from attnlang.syntax.tree import Expr

Matrix: TypeAlias = NDArray[np.int32]

MAX_CELLS = 2**31
"""The largest array the oracle makes: 8 GiB."""


def multiplicity(relation: algebra.Relation, n: int, heads: int, tables: Scope) -> Matrix:
    """M as an int32 array (heads, n, n), indexed [h, q, k]. `tables` is a scope that holds the content of tables."""
    if heads * n * n > MAX_CELLS:
        raise ValueError(
            f"the multiplicity of {heads} heads at n = {n} has {heads * n * n:,} entries; "
            f"at most {MAX_CELLS:,} are made. Use a smaller n: patterns repeat."
        )
    result = np.zeros((heads, n, n), np.int32)
    for head in range(heads if n else 0):
        result[head] = on_head(relation, n, head, heads, tables)
    return result


def on_head(relation: algebra.Relation, n: int, head: int, heads: int, tables: Scope) -> Matrix:
    """m(q, k) on one head: an int32 array (n, n)."""
    return _matrix(relation, n, {**tables, "N": n, "H": heads, "h": head})


def _matrix(relation: algebra.Relation, n: int, scope: Scope, first: int = 0) -> Matrix:
    """m(q, k) for the positions first..n-1 of a frame of n: an array with one row and column for each of these."""
    rows = n - first
    spend(10 + rows * rows // 100, relation.span)
    scope = {**scope, "n": n}
    there = np.arange(first, n)
    q, k = there[:, None], there[None, :]
    match relation:
        case algebra.Everything():
            return np.ones((rows, rows), np.int32)
        case algebra.Nothing():
            return np.zeros((rows, rows), np.int32)
        case algebra.Offset(lo, hi, step):
            holds = np.ones((rows, rows), bool)
            if lo is not None:
                holds &= k - q >= integer(lo, scope)
            if hi is not None:
                holds &= k - q <= integer(hi, scope)
            if step is not None:
                holds &= (k - q) % _at_least_one(step, scope, "step") == 0
            return holds.astype(np.int32)
        case algebra.Same(value):
            values = evaluate_at(value, scope, {"pos": there})
            return (values[:, None] == values[None, :]).astype(np.int32)
        case algebra.Key(condition):
            holds = evaluate_at(condition, scope, {"pos": there})
            return np.broadcast_to(holds[None, :], (rows, rows)).astype(np.int32)
        case algebra.Query(condition):
            holds = evaluate_at(condition, scope, {"pos": there})
            return np.broadcast_to(holds[:, None], (rows, rows)).astype(np.int32)
        case algebra.Pairs(condition):
            queries, keys_ = (side.reshape(-1) + first for side in np.indices((rows, rows)))
            return evaluate_at(condition, scope, {"q": queries, "k": keys_}).reshape(rows, rows).astype(np.int32)
        case algebra.Neighborhood():
            return _neighborhood(relation, n, scope, first)
        case algebra.Random():
            return _random(relation, n, scope, first)
        case algebra.Grid():
            return _grid(relation, n, scope, first)
        case algebra.Segment():
            return _segment(relation, n, scope, first)
        case algebra.Dilate():
            return _dilate(relation, n, scope, first)
        case algebra.Blocks(size, body):
            b = _at_least_one(size, scope, "block size")
            inner = _matrix(body, -(-n // b), scope, first // b)
            block = there // b - first // b
            return inner[np.ix_(block, block)]
        case algebra.Heads(lo, hi, body):
            chosen = scope_integer(scope, "h") in head_range(lo, hi, scope, relation.span)
            return _matrix(body if chosen else algebra.Nothing(), n, scope, first)
        case algebra.Union(left, right):
            return np.maximum(_matrix(left, n, scope, first), _matrix(right, n, scope, first))
        case algebra.Both(left, right):
            return _matrix(left, n, scope, first) * _matrix(right, n, scope, first)
        case algebra.Without(left, right):
            return _matrix(left, n, scope, first) * (_matrix(right, n, scope, first) == 0)
        case algebra.Not(body):
            return (_matrix(body, n, scope, first) == 0).astype(np.int32)
        case algebra.Plus(left, right):
            return _matrix(left, n, scope, first) + _matrix(right, n, scope, first)
        case algebra.Choice(condition, then, otherwise):
            return _matrix(then if evaluate(condition, scope) else otherwise, n, scope, first)
        case algebra.Fold():
            return _fold(relation, n, scope, first)
        case _:
            assert_never(relation)


def _random(relation: algebra.Random, n: int, scope: Scope, first: int) -> Matrix:
    """For every query the first keys of its own order of all, leaving out those that the body does not hold."""
    size = n - first
    result = np.zeros((size, size), np.int32)
    count, seed, head = integer(relation.count, scope), integer(relation.seed, scope), scope_integer(scope, "h")
    if count < 0:
        fail(codes.OUT_OF_RANGE, "number of keys must be at least 0", relation.count.span, f"is {count}")
    spend(size * (n if relation.body else min(count, n)), relation.span)
    allowed = None if relation.body is None else _whole(relation.body, n, scope) > 0
    for query in range(first, n):
        if allowed is None:
            drawn = keys(count, n, seed, head, query)
        else:
            order = (key for key in keys(n, n, seed, head, query) if allowed[query, key])
            drawn = list(islice(order, count))
        result[query - first, [key - first for key in drawn if key >= first]] = 1
    return result


def _whole(relation: algebra.Relation, n: int, scope: Scope) -> Matrix:
    """The matrix of a whole frame, of whose positions some may not be there."""
    if n * n > MAX_CELLS:
        raise ValueError(
            f"random keys are drawn from a run of {n:,} positions, though a shift cuts it short: its matrix has "
            f"{n * n:,} entries; at most {MAX_CELLS:,} are made. Use a smaller segment."
        )
    return _matrix(relation, n, scope)


def _neighborhood(relation: algebra.Neighborhood, n: int, scope: Scope, first: int) -> Matrix:
    """NATTEN's reference mask (csrc/include/natten/cuda/reference/mask.hpp), one axis.

    Queries of a stride group share the window of their leader: the middle one, or the last one where causal.
    """
    width, stride = (
        _at_least_one(e, scope, what) for e, what in ((relation.width, "width"), (relation.stride, "stride"))
    )
    causal = bool(evaluate(relation.causal, scope))
    result = np.zeros((n - first, n - first), np.int32)
    for query in range(first, n):
        group = query // stride * stride
        if causal:
            leader = min(group + stride - 1, n - 1)
            start, stop = max(leader - width + 1, 0), query + 1
        else:
            leader = min(group + stride // 2, n - 1)
            start = max(min(leader - width // 2, n - width), 0)
            stop = min(start + width, n)
        result[query - first, max(start - first, 0) : max(stop - first, 0)] = 1
    return result


def _grid(relation: algebra.Grid, n: int, scope: Scope, first: int) -> Matrix:
    sizes = grid_sizes(relation.sizes, n, scope, relation.span)
    result = np.ones((n - first, n - first), np.int32)
    for body, size, place in zip(relation.bodies, sizes, np.unravel_index(np.arange(first, n), sizes), strict=True):
        least = int(place.min())
        result *= _matrix(body, size, scope, least)[np.ix_(place - least, place - least)]
    return result


def _segment(relation: algebra.Segment, n: int, scope: Scope, first: int) -> Matrix:
    width = _at_least_one(relation.width, scope, "segment width")
    shift = integer(relation.shift, scope) % width
    result = np.zeros((n - first, n - first), np.int32)
    inner: dict[tuple[int, int], Matrix] = {}
    for run in range((first + shift) // width, (n - 1 + shift) // width + 1 if n else 0):
        start = run * width - shift  # where coordinate 0 of this run would stand
        length = min(width, n - start)  # coordinates 0..length-1; the first run lacks those before the first position
        lacking = max(first - start, 0)
        if (length, lacking) not in inner:
            inner[length, lacking] = _matrix(relation.body, length, scope, lacking)
        present = slice(start + lacking - first, start + length - first)
        result[present, present] = inner[length, lacking]
    return result


def _dilate(relation: algebra.Dilate, n: int, scope: Scope, first: int) -> Matrix:
    rate = _at_least_one(relation.rate, scope, "dilation")
    present = np.arange(first, n)
    classes = np.unique(present % rate) if relation.shift is None else [integer(relation.shift, scope) % rate]
    result = np.zeros((n - first, n - first), np.int32)
    for residue in map(int, classes):
        members = present[present % rate == residue] - first
        if len(members):
            lacking = len(range(residue, first, rate))
            result[np.ix_(members, members)] = _matrix(relation.body, lacking + len(members), scope, lacking)
    return result


def _fold(relation: algebra.Fold, n: int, scope: Scope, first: int) -> Matrix:
    join: Callable[[Matrix, Matrix], Matrix] = np.add if relation.kind == "mix" else np.maximum
    result = np.zeros((n - first, n - first), np.int32)
    for inner in bindings(relation.clauses, scope) or ():
        result = join(result, _matrix(relation.body, n, inner, first))
    return result


def _at_least_one(expression: Expr, scope: Scope, what: str) -> int:
    return at_least_one(integer(expression, scope), what, expression.span)
