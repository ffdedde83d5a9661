"""Frames of which pairs are listed: what `random` draws, and what a table of pairs holds. Intervals know little of it.

A frame is a square of cells, a position each where it is short, and of each cell is known how many pairs it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnlang.diagnostics import AttnError
from attnlang.pattern import algebra
from attnlang.pattern.arrays import evaluate_at
from attnlang.pattern.expr import Scope, integer
from attnlang.pattern.intervals import Interval
from attnlang.pattern.pointwise import drawn
from attnlang.pattern.ranges import Cells
from attnlang.pattern.walk import nodes
from attnlang.syntax import tree

Array: TypeAlias = NDArray[np.int64]

MOST_CELLS = 4096
"""Up to this length of a frame the pairs that `random` draws are known one by one: 64 MiB."""
CELLS = 1024
"""In a longer frame they are counted in a square of so many cells a side."""
MOST_LOOKED_UP = 2**13
"""Up to this length of a frame every pair is looked up in a table of pairs, once."""
MOST_DRAWN = 2**23
"""Where it draws more than these in a frame, they are not drawn ahead."""
FEW_QUERIES = 16
"""Where cells do not decide, rectangles of at most this many queries ask `random` for its keys."""


@dataclass(frozen=True, eq=False, slots=True)
class Rectangles:
    """Queries q0..q1 and keys k0..k1, ends included: int64 arrays of one length."""

    q0: Array
    q1: Array
    k0: Array
    k1: Array

    def __len__(self) -> int:
        return len(self.q0)

    def __getitem__(self, chosen: Any) -> Rectangles:
        return Rectangles(self.q0[chosen], self.q1[chosen], self.k0[chosen], self.k1[chosen])

    @property
    def area(self) -> Array:
        """How many pairs each has."""
        return (self.q1 - self.q0 + 1) * (self.k1 - self.k0 + 1)


def cell_size(n: int) -> int:
    """How many positions a side of a cell has, in a frame of n."""
    return 1 if n <= MOST_CELLS else -(-n // CELLS)


def held_in(cells: Cells, at: Rectangles, n: int) -> Array:
    """How many pairs the cells hold that rectangles touch."""
    size = cell_size(n)
    return cells(at.q0 // size, at.q1 // size, at.k0 // size, at.k1 // size)


def looks_up(condition: tree.Expr) -> bool:
    """Whether a condition asks a table for an entry of q and of k at once, of which intervals know little."""
    for node in nodes(condition):
        if isinstance(node, tree.Index) and {"q", "k"} <= {x.name for x in nodes(node) if isinstance(x, tree.Name)}:
            return True
    return False


def held_cells(condition: tree.Expr, n: int, scope: Scope) -> Cells | None:
    """How many pairs of a frame are in cells; None where not every pair of it may be asked for."""
    size = cell_size(n)
    rows: list[Array] = []
    columns: list[Array] = []
    step = max(1, 2**22 // n)
    try:
        for first in range(0, n, step):
            queries = np.arange(first, min(n, first + step))
            q, k = (x.reshape(-1) for x in np.meshgrid(queries, np.arange(n), indexing="ij"))
            place = np.flatnonzero(evaluate_at(condition, scope, {"q": q, "k": k}))
            rows.append(q[place] // size)
            columns.append(k[place] // size)
    except AttnError:
        return None
    return Cells(-(-n // size), np.concatenate(rows), np.concatenate(columns))


def drawn_cells(relation: algebra.Random, n: int, scope: Scope) -> tuple[Array, Cells]:
    """The keys that are drawn for each query; and how many are in cells."""
    size = cell_size(n)
    keys = drawn(relation, np.arange(n), n, scope)
    rows, columns = (keys >= 0).nonzero()
    return keys, Cells(-(-n // size), rows // size, keys[rows, columns] // size)


def of_drawn(relation: algebra.Random, at: Rectangles, n: int, scope: Scope) -> Interval:
    """Bounds where the keys are not known yet."""
    count = integer(relation.count, scope)
    if count >= n and relation.body is None:
        return Interval(1, 1)
    few = at.q1 - at.q0 < FEW_QUERIES
    if count <= 0 or not few.any():
        return Interval(np.zeros(len(at), np.int64), np.full(len(at), int(count > 0)))
    asked = np.unique(np.concatenate([np.minimum(at[few].q0 + i, at[few].q1) for i in range(FEW_QUERIES)]))
    keys = drawn(relation, asked, n, scope)
    return among(lambda queries: keys[np.searchsorted(asked, queries)], at)


def among(keys: Callable[[Array], Array], at: Rectangles) -> Interval:
    """Exact for rectangles of few queries, by the keys of each; a larger one may hold one."""
    lo, hi = np.zeros(len(at), np.int64), np.ones(len(at), np.int64)
    few = at.q1 - at.q0 < FEW_QUERIES
    some = at[few]
    found, every = np.zeros(len(some), bool), np.ones(len(some), bool)
    for i in range(int((some.q1 - some.q0).max(initial=-1)) + 1):
        tall = np.flatnonzero(some.q0 + i <= some.q1)
        mine = some[tall]
        chosen = keys(mine.q0 + i)
        held = np.zeros(len(tall), np.int64)
        for column in chosen.T:
            held += (column >= mine.k0) & (column <= mine.k1)
        found[tall] |= held > 0
        every[tall] &= held == mine.k1 - mine.k0 + 1
    lo[few], hi[few] = every, found
    return Interval(lo, hi)
