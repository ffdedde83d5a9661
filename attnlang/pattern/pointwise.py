"""The meaning of a relation at chosen pairs of positions: what the runtime asks where it must not make a matrix.

The same meaning as `attnlang.pattern.oracle`, computed the other way round: the oracle makes the matrix of an inner
frame and puts it into the outer one, here every pair is carried into the inner frame. Work and memory follow the
number of pairs asked for, not the length of the sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray

from attnlang import codes
from attnlang.pattern import algebra
from attnlang.pattern.arrays import evaluate_at
from attnlang.pattern.expr import Scope, bindings, evaluate, integer
from attnlang.pattern.functions import fail
from attnlang.pattern.random_keys import drawn_keys
from attnlang.pattern.values import at_least_one, grid_sizes, head_range, scope_integer
from attnlang.syntax import tree

Positions: TypeAlias = NDArray[np.int64]
Counts: TypeAlias = NDArray[np.int64]


def multiplicity_at(relation: algebra.Relation, q: Positions, k: Positions, n: int, scope: Scope) -> Counts:
    """How often each pair (q, k) counts, for positions of a sequence of n; q and k are broadcast together.

    `scope` holds N, H, h and the content of tables. Raises AttnError where the relation has no meaning there.
    """
    q, k = np.asarray(q, np.int64), np.asarray(k, np.int64)
    axes = max(q.ndim, k.ndim)
    q, k = (x.reshape((1,) * (axes - x.ndim) + x.shape) for x in (q, k))
    return np.broadcast_to(_at(relation, q, k, n, scope), np.broadcast_shapes(q.shape, k.shape))


def _at(relation: algebra.Relation, q: Positions, k: Positions, n: int, scope: Scope) -> Counts:
    """The multiplicity at pairs of positions 0..n-1 of one frame.

    q and k have as many axes as each other, and are broadcast as late as possible: what is asked of queries or keys
    alone is computed once for each. The result can be broadcast to their common shape.
    """
    scope = {**scope, "n": n}
    match relation:
        case algebra.Everything():
            return np.ones((1,) * q.ndim, np.int64)
        case algebra.Nothing():
            return np.zeros((1,) * q.ndim, np.int64)
        case algebra.Offset():
            return _offset(relation, k - q, scope)
        case algebra.Same(value):
            return (_asked(value, q, scope) == _asked(value, k, scope)).astype(np.int64)
        case algebra.Key(condition):
            return _asked(condition, k, scope).astype(np.int64)
        case algebra.Query(condition):
            return _asked(condition, q, scope).astype(np.int64)
        case algebra.Pairs(condition):
            queries, keys = np.broadcast_arrays(q, k)
            found = evaluate_at(condition, scope, {"q": queries.reshape(-1), "k": keys.reshape(-1)})
            return found.reshape(queries.shape).astype(np.int64)
        case algebra.Neighborhood():
            first, last = neighborhood(relation, q, n, scope)
            return ((first <= k) & (k <= last)).astype(np.int64)
        case algebra.Random():
            return _random(relation, q, k, n, scope)
        case algebra.Grid():
            result, stride = np.ones((1,) * q.ndim, np.int64), n
            for body, size in zip(relation.bodies, grid_sizes(relation.sizes, n, scope, relation.span), strict=True):
                stride //= size
                result = result * _on_axis(body, q // stride % size, k // stride % size, size, scope)
            return result
        case algebra.Segment():
            return _segment(relation, q, k, n, scope)
        case algebra.Dilate():
            return _dilate(relation, q, k, n, scope)
        case algebra.Blocks(size, body):
            b = at_least_one(integer(size, scope), "block size", size.span)
            return _at(body, q // b, k // b, -(-n // b), scope)
        case algebra.Heads(lo, hi, body):
            chosen = scope_integer(scope, "h") in head_range(lo, hi, scope, relation.span)
            return _at(body if chosen else algebra.Nothing(), q, k, n, scope)
        case algebra.Union(left, right):
            return np.maximum(_at(left, q, k, n, scope), _at(right, q, k, n, scope))
        case algebra.Both(left, right):
            return _where(_at(left, q, k, n, scope), right, q, k, n, scope, lambda mine, other: mine * other)
        case algebra.Without(left, right):
            return _where(_at(left, q, k, n, scope), right, q, k, n, scope, lambda mine, other: mine * (other == 0))
        case algebra.Not(body):
            return (_at(body, q, k, n, scope) == 0).astype(np.int64)
        case algebra.Plus(left, right):
            return _at(left, q, k, n, scope) + _at(right, q, k, n, scope)
        case algebra.Choice(condition, then, otherwise):
            return _at(then if evaluate(condition, scope) else otherwise, q, k, n, scope)
        case algebra.Fold(kind, body, clauses):
            result = np.zeros((1,) * q.ndim, np.int64)
            for inner in bindings(clauses, scope) or ():
                part = _at(body, q, k, n, inner)
                result = result + part if kind == "mix" else np.maximum(result, part)
            return result
        case _:
            assert_never(relation)


def _asked(expression: tree.Expr, places: Positions, scope: Scope) -> NDArray[Any]:
    """An expression over `pos` at positions of any shape."""
    return evaluate_at(expression, scope, {"pos": places.reshape(-1)}).reshape(places.shape)


def _on_axis(body: algebra.Relation, i: Positions, j: Positions, size: int, scope: Scope) -> Counts:
    """One axis of a grid; where many pairs are asked for, all pairs of the axis are computed once and looked up."""
    if size * size > np.broadcast(i, j).size:
        return _at(body, i, j, size, scope)
    places = np.arange(size)
    every = np.broadcast_to(_at(body, places[:, None], places[None, :], size, scope), (size, size))
    return every[i, j]


def _where(
    mine: Counts,
    other: algebra.Relation,
    q: Positions,
    k: Positions,
    n: int,
    scope: Scope,
    join: Callable[[Counts, Counts], Counts],
) -> Counts:
    """Join a factor with another one, which is looked at only where the first is not 0."""
    chosen = mine > 0
    if chosen.all():
        return join(mine, _at(other, q, k, n, scope))
    if not chosen.any():
        return mine
    shape = np.broadcast_shapes(q.shape, k.shape)
    mine, chosen, q, k = (np.broadcast_to(x, shape) for x in (mine, chosen, q, k))
    result = mine.copy()
    result[chosen] = join(mine[chosen], _at(other, q[chosen], k[chosen], n, scope))
    return result


def _offset(relation: algebra.Offset, distance: Positions, scope: Scope) -> Counts:
    holds = np.ones(distance.shape, bool)
    if relation.lo is not None:
        holds &= distance >= integer(relation.lo, scope)
    if relation.hi is not None:
        holds &= distance <= integer(relation.hi, scope)
    if relation.step is not None:
        step = at_least_one(integer(relation.step, scope), "step", relation.step.span)
        holds &= distance % step == 0
    return holds.astype(np.int64)


def neighborhood(relation: algebra.Neighborhood, q: Positions, n: int, scope: Scope) -> tuple[Positions, Positions]:
    """First and last key of each query; both grow with the query."""
    width = at_least_one(integer(relation.width, scope), "width", relation.width.span)
    stride = at_least_one(integer(relation.stride, scope), "stride", relation.stride.span)
    group = q // stride * stride
    if evaluate(relation.causal, scope):
        return np.maximum(np.minimum(group + stride - 1, n - 1) - width + 1, 0), q
    leader = np.minimum(group + stride // 2, n - 1)
    first = np.maximum(np.minimum(leader - width // 2, n - width), 0)
    return first, np.minimum(first + width, n) - 1


def _random(relation: algebra.Random, q: Positions, k: Positions, n: int, scope: Scope) -> Counts:
    queries, place = np.unique(q, return_inverse=True)
    chosen = drawn(relation, queries, n, scope)
    result = np.zeros((1,) * q.ndim, bool)
    for column in chosen.T:
        result = result | (column[place].reshape(q.shape) == k)
    return result.astype(np.int64)


def drawn(relation: algebra.Random, queries: Positions, n: int, scope: Scope) -> Positions:
    """The keys that `random` draws for each query: (queries, keys), -1 where the body holds fewer.

    With a body these are the first keys of the query's own order that the body holds; ever more of the order is looked
    at, until every query has as many as it wants.
    """
    count, seed, head = integer(relation.count, scope), integer(relation.seed, scope), scope_integer(scope, "h")
    if count < 0:
        fail(codes.OUT_OF_RANGE, "number of keys must be at least 0", relation.count.span, f"is {count}")
    if relation.body is None:
        return drawn_keys(count, n, seed, head, queries)
    found = np.full((len(queries), min(count, n)), -1, np.int64)
    waiting, looked_at = np.arange(len(queries) if count else 0), 0
    while len(waiting) and looked_at < n:
        looked_at = min(n, max(64, 4 * count, 2 * looked_at))
        order = drawn_keys(looked_at, n, seed, head, queries[waiting])
        held = np.broadcast_to(_at(relation.body, queries[waiting][:, None], order, n, scope) > 0, order.shape)
        rank = held.cumsum(axis=1)
        rows, columns = (held & (rank <= count)).nonzero()
        found[waiting[rows], rank[rows, columns] - 1] = order[rows, columns]
        waiting = waiting[rank[:, -1] < count]
    return found


def _segment(relation: algebra.Segment, q: Positions, k: Positions, n: int, scope: Scope) -> Counts:
    width = at_least_one(integer(relation.width, scope), "segment width", relation.width.span)
    shift = integer(relation.shift, scope) % width
    run = (q + shift) // width
    together = run == (k + shift) // width
    lengths = np.minimum(width, n + shift - run * width)
    return _inside(relation.body, (q + shift) % width, (k + shift) % width, lengths, together, scope)


def _dilate(relation: algebra.Dilate, q: Positions, k: Positions, n: int, scope: Scope) -> Counts:
    rate = at_least_one(integer(relation.rate, scope), "dilation", relation.rate.span)
    together = q % rate == k % rate
    if relation.shift is not None:
        together &= q % rate == integer(relation.shift, scope) % rate
    lengths = -((q % rate - n) // rate)
    return _inside(relation.body, q // rate, k // rate, lengths, together, scope)


def _inside(
    body: algebra.Relation, q: Positions, k: Positions, lengths: Positions, together: NDArray[np.bool_], scope: Scope
) -> Counts:
    """The body at the pairs that stand together in one inner frame; frames of one length at a time."""
    shape = together.shape
    q, k, lengths = (np.broadcast_to(x, shape) for x in (q, k, lengths))
    result = np.zeros(shape, np.int64)
    for length in np.unique(lengths[together]).tolist():
        chosen = together & (lengths == length)
        result[chosen] = _at(body, q[chosen], k[chosen], length, scope)
    return result
