"""Multiplicities between the rows of two ranks, as an array: for branches that are no lattices, and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlang.plan import FULL, Columns, Lattice, Plan
from attnlang.rows import Rows
from attnlang.runtime.pairs import branch_pairs
from attnlang.schedule import Placement


def positions(placement: Placement, rank: int) -> NDArray[np.int64]:
    """The tokens of a rank, in the order in which it holds them."""
    parts = [np.arange(c.first, c.last + 1, c.step, dtype=np.int64) for c in placement.chunks[rank]]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def multiplicity_between(
    plan: Plan, number: int, placement: Placement, a: int, b: int, tables: Mapping[str, Any]
) -> NDArray[np.int32]:
    """M of one branch for queries of rank a and keys of rank b: (heads, rows of a, rows of b)."""
    branch = plan.branches[number]
    total = np.zeros((plan.heads, placement.sizes[a], placement.sizes[b]), np.int32)
    match branch:
        case Lattice() | Columns():
            for q_base, q in placement.based(a):
                for k_base, k in placement.based(b):
                    for pairs in branch_pairs(branch, q, k):
                        rows, columns = q.numbered(pairs.q, q_base), k.numbered(pairs.k, k_base)
                        place = np.ix_(pairs.heads, _numbers(rows), _numbers(columns))
                        total[place] += np.int32(1) if pairs.band == FULL else _banded(pairs.q, pairs.k, pairs.band)
    return total


def _numbers(rows: Rows) -> NDArray[np.int64]:
    return rows.first + rows.step * np.arange(rows.count, dtype=np.int64)


def _banded(q: Rows, k: Rows, band: Any) -> NDArray[np.int32]:
    distance = _numbers(k)[None, :] - _numbers(q)[:, None]
    holds = np.ones(distance.shape, bool)
    if band.lo is not None:
        holds &= distance >= band.lo
    if band.hi is not None:
        holds &= distance <= band.hi
    return holds.astype(np.int32)
