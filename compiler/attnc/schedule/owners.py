"""Branches that owners compute: what each owner computes and receives, what every rank sends; and who are its peers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.solution import Problem, Solution
from attnlang.parallel.units import owned_pairs
from attnlang.plan import Lattice
from attnlang.rows import Rows
from attnlang.runtime.pairs import Pairs

Array = NDArray[np.int64]


def count_owned(s: Solution, number: int) -> None:
    """Add what a gathered branch moves and computes to a solution."""
    branch = s.problem.plan.branches[number]
    assert isinstance(branch, Lattice)
    heads = branch.phases is not None or branch.dilation == 1
    s.kinds[number].add("all-to-all by head" if heads else "re-shard by residue")
    for owner, ranks, pairs, of_keys, of_queries in _owned(s.problem, branch):
        s.owned[owner] += pairs.count
        for counts, into, out in (
            (of_keys, s.keys_in, s.keys_out),
            (of_queries * len(pairs.heads), s.queries_in, s.queries_out),
        ):
            into[owner] += int(counts.sum())
            out[ranks.start : ranks.stop] += counts


def peers(s: Solution) -> Array:
    """With how many other ranks each exchanges rows, in either direction: (ranks,)."""
    talks = s.which >= 0
    for number in s.gathered:
        branch = s.problem.plan.branches[number]
        assert isinstance(branch, Lattice)
        for owner, ranks, _, of_keys, of_queries in _owned(s.problem, branch):
            talks[owner, ranks.start : ranks.stop] |= (of_keys > 0) | (of_queries > 0)
    return (talks | talks.T).sum(1)


def _owned(problem: Problem, branch: Lattice) -> Iterator[tuple[int, range, Pairs, Array, Array]]:
    """(owner, ranks, pairs, their rows of k, their rows of q): pairs of an owner, and what each of some ranks sends."""
    held: dict[tuple[Rows, range], Array] = {}
    chunks = [chunks[0] for chunks in problem.placement.chunks]
    ends = np.array([[chunk.first for chunk in chunks], [chunk.last for chunk in chunks]], np.int64)
    for owner, _, pairs, ranks in owned_pairs(problem.placement, branch, problem.group):
        for rows in (pairs.k, pairs.q):
            if (rows, ranks) not in held:
                held[rows, ranks] = _held(rows, ends[:, ranks.start : ranks.stop])
        of_keys, of_queries = (held[rows, ranks].copy() for rows in (pairs.k, pairs.q))
        of_keys[owner - ranks.start] = of_queries[owner - ranks.start] = 0
        yield owner, ranks, pairs, of_keys, of_queries


def _held(rows: Rows, ends: Array) -> Array:
    """How many of some rows each of these ranks holds, one stretch a rank."""
    low, high = ends
    first = np.clip(-((rows.first - low) // rows.step), 0, rows.count)
    last = np.clip((high - rows.first) // rows.step, -1, rows.count - 1)
    return np.maximum(last - first + 1, 0)
