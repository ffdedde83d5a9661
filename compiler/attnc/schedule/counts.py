"""How many pairs lattices have within one stretch of tokens, by formulas: no stretch is too long."""

from __future__ import annotations

from attnlang.plan import FULL, Band, Columns, Lattice, Plan
from attnlang.rows import Rows
from attnlang.runtime.calls import resolve
from attnlang.runtime.pairs import band_count, branch_pairs, local_plan


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
