"""Branches that owners compute: what each owner computes and receives, and what every rank sends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.solution import Solution
from attnlang.parallel.units import owned_pairs
from attnlang.plan import Lattice
from attnlang.rows import Rows

Array = NDArray[np.int64]


def count_owned(s: Solution, number: int) -> None:
    """Add what a gathered branch moves and computes to a solution."""
    branch, where = s.problem.plan.branches[number], s.problem.placement
    assert isinstance(branch, Lattice)
    heads = branch.phases is not None or branch.dilation == 1
    s.kinds[number].add("all-to-all by head" if heads else "re-shard by residue")
    held: dict[tuple[Rows, range], Array] = {}
    chunks = [chunks[0] for chunks in where.chunks]
    ends = np.array([[chunk.first for chunk in chunks], [chunk.last for chunk in chunks]], np.int64)
    for owner, _, pairs, ranks in owned_pairs(where, branch, s.problem.group):
        s.owned[owner] += pairs.count
        for rows, times, into, out in (
            (pairs.k, 1, s.keys_in, s.keys_out),
            (pairs.q, len(pairs.heads), s.queries_in, s.queries_out),
        ):
            if (rows, ranks) not in held:
                held[rows, ranks] = _held(rows, ends[:, ranks.start : ranks.stop])
            counts = held[rows, ranks].copy()
            counts[owner - ranks.start] = 0
            into[owner] += int(counts.sum()) * times
            out[ranks.start : ranks.stop] += counts * times
            if into is s.keys_in:
                s.peers[owner] += int((counts > 0).sum())
                s.peers[ranks.start : ranks.stop] += counts > 0


def _held(rows: Rows, ends: Array) -> Array:
    """How many of some rows each of these ranks holds, one stretch a rank."""
    low, high = ends
    first = np.clip(-((rows.first - low) // rows.step), 0, rows.count)
    last = np.clip((high - rows.first) // rows.step, -1, rows.count - 1)
    return np.maximum(last - first + 1, 0)
