"""The steps at which a relation's outline may bend: multiples of these are good places to cut a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from attnlang.pattern import algebra
from attnlang.pattern.arithmetic import known
from attnlang.pattern.expr import Scope, bindings, evaluate, fold, integer
from attnlang.pattern.pointwise import grid_sizes
from attnlang.pattern.walk import nodes
from attnlang.syntax import tree

MOST = 12
"""More steps than these are not worth the looking."""


def steps(relation: algebra.Relation, n: int, scope: Scope) -> tuple[int, ...]:
    """Block sizes, widths of segments, strides of grids and moduli, in tokens; ascending, at least 2, below n."""
    found = sorted({step for step in _steps(relation, n, scope, 1) if 1 < step < n})
    return tuple(found[-MOST:])


def _steps(relation: algebra.Relation, n: int, scope: Scope, scale: int) -> Iterator[int]:
    """The steps of a relation on a frame of n, of which each position is `scale` tokens long."""
    scope = {**scope, "n": n}
    match relation:
        case algebra.Everything() | algebra.Nothing() | algebra.Offset() | algebra.Neighborhood() | algebra.Random():
            return
        case algebra.Same(value) | algebra.Key(value) | algebra.Query(value) | algebra.Pairs(value):
            yield from (scale * modulus for modulus in _moduli(fold(value, scope)))
        case algebra.Blocks(size, body):
            b = max(1, integer(size, scope))
            yield scale * b
            yield from _steps(body, -(-n // b), scope, scale * b)
        case algebra.Segment(width, _, body):
            w = max(1, integer(width, scope))
            yield scale * w
            yield from _steps(body, min(w, n), scope, scale)
        case algebra.Dilate(rate, _, body):
            r = max(1, integer(rate, scope))
            yield from _steps(body, -(-n // r), scope, scale * r)
        case algebra.Grid(sizes, bodies):
            stride = n
            for body, size in zip(bodies, grid_sizes(sizes, n, scope, relation.span), strict=True):
                stride //= size
                yield scale * stride
                yield from _steps(body, size, scope, scale * stride)
        case algebra.Choice(condition, then, otherwise):
            yield from _steps(then if evaluate(condition, scope) else otherwise, n, scope, scale)
        case algebra.Fold(_, body, clauses):
            for inner in bindings(clauses, scope) or ():
                yield from _steps(body, n, inner, scale)
        case algebra.Heads(_, _, body) | algebra.Not(body):
            yield from _steps(body, n, scope, scale)
        case algebra.Union() | algebra.Both() | algebra.Without() | algebra.Plus():
            yield from _steps(relation.left, n, scope, scale)
            yield from _steps(relation.right, n, scope, scale)
        case _:
            assert_never(relation)


def _moduli(expression: tree.Expr) -> Iterator[int]:
    for node in nodes(expression):
        if isinstance(node, tree.Binary) and node.op in ("%", "//"):
            value = known(node.right)
            if isinstance(value, int):
                yield abs(value)
