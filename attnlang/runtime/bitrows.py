"""Rows of masks as bits, for relations made of grids or equal values: without asking for each pair's multiplicity.

On a grid a pair is a product over axes, and an axis is short: what each of its coordinates meets, written as bits over
all keys of the sequence, is a small table (size of the axis, N / 8 bytes). The row of a query within a key block is
then the AND of one table entry an axis, and unions, intersections and complements are as simple:

    row(q, block) = AND over axes of  meets[axis][coordinate of q on it][block]

Where positions meet that have equal values (documents by their numbers), these are worked out once for the sequence,
and a tile of pairs is one comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnlang.diagnostics import AttnError
from attnlang.pattern import algebra
from attnlang.pattern.arrays import evaluate_at
from attnlang.pattern.expr import Scope, integer
from attnlang.pattern.pointwise import grid_sizes, multiplicity_at
from attnlang.syntax import tree

Words: TypeAlias = NDArray[Any]
"""Unsigned integers (tiles, block_q, words of a row): bit j % 8 of byte j // 8 of a row is key j of its block."""
Rows: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64]], Words]
"""(queries (tiles, block_q), key blocks (tiles)) to the rows of those tiles."""

LARGEST_TABLE = 2**26
"""Bytes of a table; relations that need a larger one are asked pair by pair."""


def bit_rows(relation: algebra.Relation, n: int, block_k: int, scope: Scope) -> Rows | None:
    """The rows of a relation on positions 0..n-1; None where there is a form in it that has none, or counts above 1.

    Keys past the end have bit 0. Queries must lie in 0..n-1.
    """
    if not any(isinstance(node, algebra.Grid | algebra.Same) for node in _members(relation)):
        return None
    try:
        return _Maker(n, block_k, {**scope, "n": n}).rows(relation)
    except _NoRows:
        return None
    except AttnError:  # an index outside of a table, say: pair by pair it may be guarded, or the error is raised again
        return None


class _NoRows(Exception):  # noqa: N818 - nothing is wrong
    """A relation has to be asked pair by pair."""


def _members(relation: algebra.Relation) -> list[algebra.Relation]:
    """What unions, intersections and complements join."""
    match relation:
        case algebra.Union(left, right) | algebra.Both(left, right) | algebra.Without(left, right):
            return [*_members(left), *_members(right)]
        case algebra.Not(body):
            return _members(body)
        case _:
            return [relation]


class _Maker:
    def __init__(self, n: int, block_k: int, scope: Scope) -> None:
        self._n = n
        self._block_k = block_k
        self._scope = scope
        self._keys = np.arange(n)
        self._inside = self._packed(np.ones((1, n), bool))[0]

    def rows(self, relation: algebra.Relation) -> Rows:
        match relation:
            case algebra.Grid():
                return self._grid(relation)
            case algebra.Same(value):
                places = np.broadcast_to(evaluate_at(value, self._scope, {"pos": self._keys}), (self._n,))
                return self._compared(places, places, np.equal)
            case algebra.Offset(step=None):
                return self._offset(relation)
            case algebra.Key(condition):
                table = self._packed(self._asked(condition)[None])[0]
                return lambda q, j: table[j][:, None]
            case algebra.Query(condition):
                return self._queries(self._asked(condition))
            case algebra.Everything():
                return lambda q, j: self._inside[j][:, None]
            case algebra.Union(left, right):
                a, b = self.rows(left), self.rows(right)
                return lambda q, j: a(q, j) | b(q, j)
            case algebra.Both(left, right):
                return _both(self.rows(left), self.rows(right))
            case algebra.Without(left, right):
                a, b = self.rows(left), self.rows(right)
                return lambda q, j: a(q, j) & ~b(q, j)
            case algebra.Not(body):
                a = self.rows(body)
                return lambda q, j: self._inside[j][:, None] & ~a(q, j)
            case _:
                raise _NoRows

    def _grid(self, relation: algebra.Grid) -> Rows:
        axes: list[tuple[int, int, Words]] = []
        stride = self._n
        sizes = grid_sizes(relation.sizes, self._n, self._scope, relation.span)
        for body, size in zip(relation.bodies, sizes, strict=True):
            stride //= size
            if size * self._n // 8 > LARGEST_TABLE:
                raise _NoRows
            places = np.arange(size)
            met = np.broadcast_to(
                multiplicity_at(body, places[:, None], places[None, :], size, self._scope), (size, size)
            )
            if met.max() > 1:
                raise _NoRows
            if not met.all():  # else this axis asks nothing
                axes.append((stride, size, self._packed(met.astype(bool)[:, self._keys // stride % size])))

        def rows(q: NDArray[np.int64], j: NDArray[np.int64]) -> Words:
            result = self._inside[j][:, None]
            for stride, size, table in axes:
                result = result & table[q // stride % size, j[:, None]]
            return result

        return rows

    def _offset(self, relation: algebra.Offset) -> Rows:
        found: Rows = self.rows(algebra.Everything())
        for end, compare in ((relation.lo, np.greater_equal), (relation.hi, np.less_equal)):
            if end is not None:
                found = _both(found, self._compared(self._keys + integer(end, self._scope), self._keys, compare))
        return found

    def _compared(
        self, of_queries: NDArray[Any], of_keys: NDArray[Any], compare: Callable[..., NDArray[np.bool_]]
    ) -> Rows:
        """The pairs whose key's number compares so with the query's: both (n)."""
        if all(x.min() >= -(2**31) and x.max() < 2**31 for x in (of_queries, of_keys)):
            of_queries, of_keys = of_queries.astype(np.int32), of_keys.astype(np.int32)  # (half as long to compare)
        by_block = np.zeros((len(self._inside), self._block_k), of_keys.dtype)
        by_block.reshape(-1)[: self._n] = of_keys

        def rows(q: NDArray[np.int64], j: NDArray[np.int64]) -> Words:
            held = compare(by_block[j][:, None, :], of_queries[q][:, :, None])
            packed = np.ascontiguousarray(np.packbits(held, axis=-1, bitorder="little"))
            return packed.view(self._inside.dtype) & self._inside[j][:, None]

        return rows

    def _queries(self, held: NDArray[np.bool_]) -> Rows:
        words: Words = np.where(held[:, None], ~self._inside.dtype.type(0), self._inside.dtype.type(0))

        def rows(q: NDArray[np.int64], j: NDArray[np.int64]) -> Words:
            return self._inside[j][:, None] & words[q]

        return rows

    def _asked(self, condition: tree.Expr) -> NDArray[np.bool_]:
        return evaluate_at(condition, self._scope, {"pos": self._keys}).astype(bool)

    def _packed(self, held: NDArray[np.bool_]) -> Words:
        """Booleans (rows, n) as words (rows, key blocks, words of a block)."""
        padded = np.zeros((len(held), -(-self._n // self._block_k) * self._block_k), bool)
        padded[:, : self._n] = held
        packed = np.packbits(padded, axis=-1, bitorder="little").reshape(len(held), -1, self._block_k // 8)
        return packed.view(_word(self._block_k))


def _both(a: Rows, b: Rows) -> Rows:
    return lambda q, j: a(q, j) & b(q, j)


def _word(block_k: int) -> Any:
    """The largest word that a row of so many bits is made of."""
    return next(kind for kind in (np.uint64, np.uint32, np.uint16) if block_k % (8 * np.dtype(kind).itemsize) == 0)
