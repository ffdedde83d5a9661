"""Questions about the pairs of a pattern, answered for every N at once, or by trying small N where that is too hard.

A place is (heads, head): sets are made for one head of a number of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import islpy as isl

from attnc.analysis.affine import integer_val
from attnc.analysis.isl_types import Set, TooHardError, bounded
from attnc.analysis.sets import Support, frame, support
from attnlang.diagnostics import AttnError
from attnlang.pattern import Pattern, algebra
from attnlang.pattern.budget import limited
from attnlang.pattern.walk import table_axes

if TYPE_CHECKING:  # numpy is imported where small lengths are tried: proofs do without
    import numpy as np
    from numpy.typing import NDArray

Place = tuple[int, int]
TRIED = (1, 2, 3, 5, 8, 16, 33, 64)
"""Lengths that are tried where integer sets cannot tell."""
STEPS_TRIED = 50_000
"""How many steps trying them may take."""
KEY_AXIS = 2


@dataclass(frozen=True, slots=True)
class Example:
    """A query, or a pair, that shows something, at the smallest N there is."""

    n: int
    heads: int
    head: int
    q: int
    k: int | None = None


@dataclass(frozen=True, slots=True)
class Outside:
    """Whether a relation leaves another one: an example, or why its absence is not proved, or neither.

    `tried` is the largest N that was tried instead, 0 for none.
    """

    example: Example | None = None
    unproved: str = ""
    tried: int = 0


def outside(relation: algebra.Relation, bound: algebra.Relation, places: Sequence[Place]) -> Outside:
    """A pair of the relation that the bound does not hold."""
    unproved = ""
    for heads, head in places:
        mine, allowed = support(relation, head, heads), support(bound, head, heads)
        try:
            with bounded():
                left = mine.pairs.subtract(allowed.pairs)
                if left.is_empty() and allowed.exact:  # an upper bound of the bound would allow too much
                    continue
                if mine.exact and allowed.exact:
                    n, q, k = _smallest(left)
                    return Outside(Example(n, heads, head, q, k))
            unproved = allowed.reason or mine.reason
        except TooHardError as reason:
            unproved = str(reason)
            break
    if not unproved:
        return Outside()
    return _tried(relation, bound, places, unproved)


def _tried(relation: algebra.Relation, bound: algebra.Relation, places: Sequence[Place], unproved: str) -> Outside:
    last = 0
    for n, heads, m in _matrices(relation, places):
        try:
            allowed = Pattern("bound", bound).multiplicity(n, heads)
        except AttnError:
            continue  # the bound has no meaning at this size, or is too large to try
        last = n
        found = ((m > 0) & (allowed == 0)).nonzero()
        if len(found[0]):
            head, q, k = (int(axis[0]) for axis in found)
            return Outside(Example(n, heads, head, q, k), unproved, last)
    return Outside(None, unproved, last)


def query_without_key(relation: algebra.Relation, places: Sequence[Place]) -> Example | None:
    """A query that no pair begins at; None if there is none, or none is found."""
    hard: Sequence[Place] = ()
    for index, (heads, head) in enumerate(places):
        found = support(relation, head, heads)
        try:
            with bounded():
                without = _without_key(found)
                if not without.is_empty() and not found.pairs.is_empty():
                    n, q = _smallest(without)
                    return Example(n, heads, head, q)
        except TooHardError:
            hard = places[index:]
            break
    for n, heads, m in _matrices(relation, hard):
        empty = ((m > 0).sum(KEY_AXIS) == 0).nonzero()
        if len(empty[0]):
            head, q = (int(axis[0]) for axis in empty)
            return Example(n, heads, head, q)
    return None


def _without_key(found: Support) -> Set:
    """Parts of the pattern are taken away one by one, the simplest first: the first often leaves nothing."""
    left = frame().intersect(found.lengths).project_out(isl.dim_type.set, 1, 1)
    parts = sorted(found.pairs.get_basic_sets(), key=lambda part: part.dim(isl.dim_type.div))
    for part in parts:
        left = left.subtract(isl.Set.from_basic_set(part).project_out(isl.dim_type.set, 1, 1))
        if left.is_empty():
            break
    return left


def _matrices(relation: algebra.Relation, places: Sequence[Place]) -> Iterator[tuple[int, int, NDArray[np.int32]]]:
    """(n, heads, multiplicity) at the lengths that are tried; nothing where a table's content would be needed."""
    if table_axes(relation):
        return
    with limited(STEPS_TRIED) as budget:
        for n in TRIED:
            for heads in sorted({heads for heads, _ in places}):
                try:
                    m = Pattern("tried", relation).multiplicity(n, heads)
                except AttnError:
                    if budget.left < 0:
                        return  # too large to try
                    continue  # it has no meaning at this size
                yield n, heads, m


def exact_sets(relation: algebra.Relation, places: Sequence[Place]) -> list[Set] | None:
    """The pairs at each place; None unless all are exact."""
    sets: list[Set] = []
    for heads, head in places:
        found = support(relation, head, heads)
        if not found.exact:
            return None
        sets.append(found.pairs)
    return sets


def joined(parts: Iterable[list[Set] | None]) -> list[Set] | None:
    """The union of several relations' sets, place by place; None unless all are exact."""
    result: list[Set] | None = None
    for sets in parts:
        if sets is None:
            return None
        result = sets if result is None else [a.union(b) for a, b in zip(result, sets, strict=True)]
    return result


def are_empty(sets: Sequence[Set]) -> bool:
    """Whether no set holds a pair."""
    return _answer(lambda: all(each.is_empty() for each in sets))


def covered(mine: Sequence[Set], others: Sequence[Sequence[Set]]) -> bool:
    """Whether every pair lies in one of the others, at every place; False also where that is too hard to tell."""
    return _answer(lambda: all(_is_covered(each, [other[i] for other in others]) for i, each in enumerate(mine)))


def _is_covered(mine: Set, others: Sequence[Set]) -> bool:
    for other in others:
        mine = mine.subtract(other)
        if mine.is_empty():
            return True
    return mine.is_empty()


def _answer(question: Callable[[], bool]) -> bool:
    try:
        with bounded():
            return question()
    except TooHardError:
        return False


def _smallest(points: Set) -> tuple[int, ...]:
    """(N, q, ..) of the smallest point: the least N, then the least query.

    One coordinate after another, by halving: islpy's own `lexmin` wants to know the answer for every N, and may take
    hours over it, while it answers quickly whether there is any point at all.
    """
    left = points.insert_dims(isl.dim_type.set, 0, 1).equate(isl.dim_type.set, 0, isl.dim_type.param, 0)
    left = left.project_out(isl.dim_type.param, 0, 1)
    found: list[int] = []
    for axis in range(left.dim(isl.dim_type.set) - 1):  # the last one is n, which equals N
        least = _least(left, axis)
        left = left.fix_val(isl.dim_type.set, axis, integer_val(least))
        found.append(least)
    return tuple(found)


def _least(points: Set, axis: int) -> int:
    """The least value, which is not negative, of a coordinate of a set that is not empty."""

    def up_to(value: int) -> bool:
        return not points.upper_bound_val(isl.dim_type.set, axis, integer_val(value)).is_empty()

    high = 0
    while not up_to(high):
        high = 2 * high + 1
    low = high // 2  # nothing below `low`, unless it is 0; something up to `high`
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if up_to(middle) else (middle + 1, high)
    return high
