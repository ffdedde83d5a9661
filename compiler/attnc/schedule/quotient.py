"""Positions of a grid that its pattern does not tell apart, as one class: the tiles of a sliding tile attention.

grid(f, r, c) { blocks(a) { p } * blocks(b) { s } * .. }  -->  grid(f / a, r / b, ..) { p * s * .. }   tiles, for tokens
segment(w) { all }, dilate(w) { all }, all                -->  self, on the runs, the residues, or one class of all

In row-major order a tile is many short stretches, so that its outline is long; among classes it is one place. A rank
holds some rows of each class; sorted by class they are stretches, and so are the rows that a class has to do with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.progressions import progressions_of, stretches_of
from attnlang.parallel.dense import numbers, positions
from attnlang.pattern import algebra
from attnlang.pattern.arithmetic import literal
from attnlang.pattern.expr import Scope, integer
from attnlang.pattern.values import at_least_one, grid_sizes
from attnlang.pattern.walk import free_names_of
from attnlang.rows import Rows
from attnlang.schedule import Placement

Array = NDArray[np.int64]

SMALL = 2**30
"""Tokens and shifts below, added up, are numbers of 32 bits."""
SHORT = 2**15
"""So few classes are sorted as numbers of 16 bits, which numpy sorts digit by digit."""
KEPT = 2**25
"""Rows whose order is kept."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a grid: its coordinates, their distance in tokens, and ((coordinate + shift) // unit) % classes."""

    size: int
    stride: int
    unit: int
    shift: int
    classes: int

    def of(self, tokens: NDArray[Any]) -> NDArray[Any]:
        """The class of each token on this axis."""
        return (tokens // self.stride % self.size + self.shift) // self.unit % self.classes


@dataclass(frozen=True, slots=True)
class Quotient:
    """A relation among classes of tokens that is another among tokens; classes are numbered in row-major order."""

    relation: algebra.Relation
    axes: tuple[Axis, ...]

    @property
    def n(self) -> int:
        """How many classes there are."""
        return int(np.prod([axis.classes for axis in self.axes]))

    def of(self, tokens: Array) -> Array:
        """The class of each token."""
        found = np.zeros(len(tokens), np.int64)
        largest = max(*(max(axis.size, axis.unit, axis.shift) * axis.stride for axis in self.axes), 0)
        fits = largest < SMALL and int(tokens.max(initial=0)) < SMALL
        short = tokens.astype(np.int32) if fits else tokens  # which are divided in half the time
        for axis in self.axes:
            found = found * axis.classes + axis.of(short)
        return found


def quotient(relation: algebra.Relation, n: int, scope: Scope) -> Quotient | None:
    """The quotient of a grid by what its axes do not tell apart; None where they tell every position apart.

    Nor has what asks for N, which is not how many classes there are.
    """
    if not isinstance(relation, algebra.Grid):
        return None
    scope = {**scope, "n": n}
    axes: list[Axis] = []
    bodies: list[algebra.Relation] = []
    stride = n
    for size, body in zip(grid_sizes(relation.sizes, n, scope, relation.span), relation.bodies, strict=True):
        stride //= size
        unit, shift, classes, inner = _classes(body, size, {**scope, "n": size})
        axes.append(Axis(size, stride, unit, shift, classes))
        bodies.append(inner)
    if all(axis.classes == axis.size for axis in axes):
        return None
    sizes = tuple(literal(axis.classes, relation.span) for axis in axes)
    among_classes = replace(relation, sizes=sizes, bodies=tuple(bodies))
    if "N" in free_names_of(among_classes):
        return None
    return Quotient(among_classes, tuple(axes))


def _classes(body: algebra.Relation, size: int, scope: Scope) -> tuple[int, int, int, algebra.Relation]:
    """(unit, shift, classes, relation of the classes) of one axis."""
    itself = algebra.Offset(literal(0, body.span), literal(0, body.span), span=body.span)
    match body:
        case algebra.Everything():
            return 1, 0, 1, body
        case algebra.Blocks(block, inner):
            b = at_least_one(integer(block, scope), "block size", block.span)
            count = -(-size // b)
            unit, shift, classes, inmost = _classes(inner, count, {**scope, "n": count})
            return b * unit, b * shift, classes, inmost
        case algebra.Segment(width, moved, algebra.Everything()):
            w = at_least_one(integer(width, scope), "segment width", width.span)
            shift = integer(moved, scope) % w
            return w, shift, (size - 1 + shift) // w + 1, itself
        case algebra.Dilate(rate, None, algebra.Everything()):
            return 1, 0, min(size, at_least_one(integer(rate, scope), "dilation", rate.span)), itself
        case _:
            return 1, 0, size, body


class Sorted:
    """The rows of every rank sorted by class. Ranks that hold equally many rows of the same classes share a kind.

    classes  the classes of each rank, as stretches: a placement of the quotient, on which a class is at many ranks
    """

    def __init__(self, found: Quotient, placement: Placement) -> None:
        self._found = found
        self._placement = placement
        self.kinds: list[int] = []
        self._ends: list[Array] = []  # by kind: rows before each class, and all rows
        names: dict[bytes, int] = {}
        chunks: list[tuple[Rows, ...]] = []
        for rank in range(placement.ranks):
            classes, counts = _counted(found.of(positions(placement, rank)), found.n)
            name = counts.tobytes()
            if name not in names:
                names[name] = len(names)
                self._ends.append(np.concatenate(([0], np.cumsum(counts))))
            self.kinds.append(names[name])
            chunks.append(tuple(stretches_of(classes)))
        self.classes = Placement("classes", found.n, tuple(chunks))
        self._known: dict[Any, tuple[Rows, ...]] = {}
        self._orders: dict[int, Array] = {}

    def boxes(self, a: int, b: int, classes: Array) -> Array:
        """Rectangles of classes at two ranks, by their numbers there, as rectangles of sorted rows."""
        q, k = self._ends[self.kinds[a]], self._ends[self.kinds[b]]
        q0, q1, k0, k1 = classes.T
        return np.stack([q[q0], q[q1 + 1] - 1, k[k0], k[k1 + 1] - 1], 1)

    def rows(self, rank: int, parts: tuple[Rows, ...]) -> tuple[Rows, ...]:
        """Sorted rows of a rank as those that they are, in few progressions."""
        name = rank, parts
        if name not in self._known and sum(part.count for part in parts) == self._placement.sizes[rank]:
            self._known[name] = (Rows(0, self._placement.sizes[rank]),)
        if name not in self._known:
            chosen = np.zeros(self._placement.sizes[rank], bool)
            chosen[self._order(rank)[np.concatenate([numbers(part) for part in parts])]] = True
            stretches = stretches_of(np.flatnonzero(chosen))
            alone = progressions_of(part.first for part in stretches if part.count == 1)
            self._known[name] = (*(part for part in stretches if part.count > 1), *alone)
        return self._known[name]

    def _order(self, rank: int) -> Array:
        """Which row of a rank each of its sorted rows is."""
        if rank not in self._orders:
            if len(self._orders) * self._placement.sizes[rank] > KEPT:
                self._orders.clear()
            of = self._found.of(positions(self._placement, rank))
            self._orders[rank] = np.argsort(of.astype(np.int16) if self._found.n < SHORT else of, kind="stable")
        return self._orders[rank]


def _counted(of: Array, classes: int) -> tuple[Array, Array]:
    """The classes that are there, ascending, and how often each is."""
    if classes > len(of):
        return np.unique(of, return_counts=True)
    counts = np.bincount(of, minlength=classes)
    some = np.flatnonzero(counts)
    return some, counts[some]
