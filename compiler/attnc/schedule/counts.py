"""How many pairs a rank has with itself: of lattices by formulas, so that no stretch is too long, else by structure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.boxes import Counter, TooManyError
from attnc.schedule.folds import Folder
from attnlang.parallel.units import inner_rows
from attnlang.pattern.algebra import Relation
from attnlang.plan import FULL, Band, Branch, Columns, Lattice, Plan
from attnlang.rows import Rows
from attnlang.runtime.calls import resolve
from attnlang.runtime.pairs import band_count, branch_pairs, local_plan
from attnlang.schedule import Placement

Array = NDArray[np.int64]

MOST = 1 << 60
"""Up to so many pairs of one stretch are counted in arrays of 64 bits."""
LONG = 2**20
"""Of more rows their classes are looked for last: each row is looked at for them."""


def local_pairs(plan: Plan, numbers: Sequence[int], where: Placement, kinds: Array) -> NDArray[np.float64]:
    """The pairs of each rank with itself under some branches; ranks of one of the kinds hold alike rows."""
    total = np.zeros(where.ranks)
    stretches = _stretches(where)
    left: list[Lattice | Columns] = []
    for branch in (plan.branches[number] for number in numbers):
        assert isinstance(branch, Lattice | Columns)
        if isinstance(branch, Lattice) and stretches is not None and _is_small(branch, stretches):
            total += lattice_pairs(branch, *stretches)
        else:
            left.append(branch)
    _, ranks, of = np.unique(kinds, return_index=True, return_inverse=True)
    each = [sum(_of_chunks(plan.heads, branch, where.chunks[rank]) for branch in left) for rank in ranks.tolist()]
    return total + np.array(each, float)[of]


def inner_pairs(branch: Branch, where: Placement) -> NDArray[np.float64]:
    """The pairs of a branch that owners compute, in runs that a rank holds wholly."""
    assert isinstance(branch, Lattice)
    rows = [inner_rows(where, branch, rank) for rank in range(where.ranks)]
    stretches = np.array([(0, 0) if some is None else (some.first, some.count) for some in rows], np.int64).T
    if _is_small(branch, stretches):
        return lattice_pairs(branch, *stretches).astype(float)
    plan = Plan(max(branch.heads) + 1, (branch,))
    return np.array([0 if some is None else stretch_pairs(plan, some) for some in rows], float)


def _stretches(where: Placement) -> Array | None:
    """First token and length of each rank's stretch; None where one has other rows."""
    if any(len(chunks) != 1 or chunks[0].step > 1 for chunks in where.chunks):
        return None
    return np.array([(chunk.first, chunk.count) for (chunk,) in where.chunks], np.int64).T


def _is_small(branch: Lattice, stretches: Array) -> bool:
    return int(stretches[1].max(initial=0)) ** 2 * len(branch.heads) < MOST


def _of_chunks(heads: int, branch: Lattice | Columns, chunks: Sequence[Rows]) -> int:
    total = sum(stretch_pairs(Plan(heads, (branch,)), chunk) for chunk in chunks)
    return total + sum(pairs.count for q in chunks for k in chunks if q != k for pairs in branch_pairs(branch, q, k))


def lattice_pairs(branch: Lattice, first: Array, count: Array) -> Array:
    """How many pairs of a lattice, over its heads, have both ends in each stretch of tokens: a formula of each end."""
    last = first + count - 1
    if branch.runs is None:
        return _of_part(branch, first, last)
    start, width, period = branch.runs.start, branch.runs.width, branch.runs.period
    begin, end = (first - start) // period, (last - start) // period  # numbers of runs
    low, high = first - start - begin * period, np.minimum(last - start - end * period, width - 1)
    inner, zero = np.full_like(first, width - 1), np.zeros_like(first)
    alone = begin == end
    found = _of_part(branch, low, np.where(alone, high, inner))
    rest = _of_part(branch, zero, high) + (end - begin - 1) * _of_part(branch, zero[:1], inner[:1])
    return np.where(count > 0, found + np.where(alone, 0, rest), 0)


def _of_part(branch: Lattice, low: Array, high: Array) -> Array:
    """The pairs among positions low..high of one run each."""
    r, size = branch.dilation, np.maximum(high - low + 1, 0)
    if branch.phases is None:
        longer = size % r
        parts = [(size // r + 1, len(branch.heads) * longer), (size // r, len(branch.heads) * (r - longer))]
    else:
        phases = [(phase, branch.phases.count(phase)) for phase in dict.fromkeys(branch.phases)]
        parts = [(np.maximum((high - low - (phase - low) % r) // r + 1, 0), np.int64(many)) for phase, many in phases]
    lo, hi = (None if end is None else end // r for end in (branch.band.lo, branch.band.hi))
    return sum((times * _held_by(rows, lo, hi) for rows, times in parts), np.zeros_like(size))


def _held_by(rows: Array, lo: int | None, hi: int | None) -> Array:
    """How many (i, j) below `rows` have lo <= j - i <= hi."""
    above = rows * rows if hi is None else _up_to(rows, hi)
    return np.maximum(0, above - (0 if lo is None else _up_to(rows, lo - 1)))


def _up_to(rows: Array, x: int) -> Array:
    """How many of them have j - i <= x: a triangle, or a square without one."""
    short = np.clip(rows + x, 0, None) if x < 0 else np.clip(rows - x - 1, 0, None)
    triangle = short * (short + 1) // 2
    return triangle if x < 0 else rows * rows - triangle


def stretch_pairs(plan: Plan, rows: Rows) -> int:
    """How many pairs of a plan have both ends in one stretch of tokens."""
    local = local_plan(plan, rows)
    if local is not None:
        return sum(band_count(call.q_len, call.k_len, call.band) * call.copies for call in resolve(local, rows.count))
    total = 0
    for branch in plan.branches:
        match branch:
            case Columns() if rows.step == 1:
                total += len(branch.heads) * _of_columns(branch, rows)
            case Lattice() | Columns():
                total += sum(pairs.count for pairs in branch_pairs(branch, rows, rows))
            case _:
                pass
    return total


def _of_columns(branch: Columns, rows: Rows) -> int:
    """The pairs of one head: periods in which the stretch has equally many queries, and keys, are counted together."""
    p = branch.period
    parts = _by_period(rows, p)
    return sum(
        _held(rows, u, p, 0, p)
        * _held(rows, v, p, branch.first, branch.last)
        * band_count(many_u, many_v, _moved(branch.band, u - v))
        for u, many_u in parts
        for v, many_v in parts
    )


def _by_period(rows: Rows, period: int) -> list[tuple[int, int]]:
    """(first period, how many) of those that the stretch begins in, holds wholly, and ends in."""
    first, last = rows.first // period, rows.last // period
    parts = [(first, 1), (first + 1, last - first - 1), (last, 1)] if last > first else [(first, 1)]
    return [(number, count) for number, count in parts if count > 0]


def _held(rows: Rows, number: int, period: int, first: int, last: int) -> int:
    """How many tokens of a stretch are first..last-1 of a period."""
    begin = number * period
    return max(0, min(rows.last + 1, begin + last) - max(rows.first, begin + first))


def _moved(band: Band, distance: int) -> Band:
    if band == FULL:
        return band
    return Band(*(None if end is None else end + distance for end in (band.lo, band.hi)))


def tiled_pairs(counter: Counter, folder: Folder, what: tuple[Relation, int, int, int], q: Rows, k: Rows) -> int:
    """The pairs of a relation between two stretches: by classes of rows where there are few, else by its structure.

    Of long stretches by structure first. Raises NoTermError and TooManyError where neither counts them.
    """
    if max(q.count, k.count) > LONG:
        with suppress(TooManyError):
            return counter.rectangle(*what, q, k)
    folded = folder.pairs(q, k)
    return counter.rectangle(*what, q, k) if folded is None else folded
