"""Tiles of a relation between any two sets of rows, and multiplicities between two ranks as an array.

Blocks of rows are classified from bounds of the relation, larger ones first, as `attnlang.runtime.blocks` does for a
whole sequence; only blocks at the edge of the pattern are asked pair by pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from attnlang.pattern import algebra
from attnlang.pattern.bounds import Bounds, Rectangles
from attnlang.pattern.expr import Scope
from attnlang.pattern.pointwise import multiplicity_at
from attnlang.pattern.tables import Content, key
from attnlang.pattern.walk import free_names_of, nodes
from attnlang.plan import FULL, Band, Columns, Lattice, Plan, Tiles
from attnlang.rows import Rows
from attnlang.runtime.pairs import branch_pairs
from attnlang.schedule import Placement

BLOCK = 64

Places = NDArray[np.int64]
Counts = NDArray[np.int32]


def numbers(rows: Rows) -> Places:
    """Rows as an array."""
    return rows.first + rows.step * np.arange(rows.count, dtype=np.int64)


def positions(placement: Placement, rank: int) -> Places:
    """The tokens of a rank, in the order in which it holds them, which is ascending."""
    parts = [numbers(chunk) for chunk in placement.chunks[rank]]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def scope_of(plan: Plan, n: int, head: int, tables: Mapping[str, Any]) -> Scope:
    """What the relation of a tiles branch may ask for."""
    content = {key(name): Content(name, np.asarray(array, np.int64)) for name, array in tables.items()}
    return {**content, "N": n, "H": plan.heads, "h": head}


def alike_heads(branch: Tiles) -> list[tuple[int, ...]]:
    """Heads that surely have the same pairs, together."""
    differ = "h" in free_names_of(branch.relation) or any(
        isinstance(node, algebra.Heads | algebra.Random) for node in nodes(branch.relation)
    )
    return [(head,) for head in branch.heads] if differ else [branch.heads]


def held_blocks(branch: Tiles, n: int, scope: Scope, q: Places, k: Places) -> Iterator[tuple[int, int, Counts | int]]:
    """(first query, first key, multiplicities) of every block of rows with pairs; q and k are ascending tokens.

    First query and key are places in q and in k, multiples of `BLOCK`; the multiplicities are one number where all
    pairs of the block count equally often.
    """
    if not len(q) or not len(k):
        return
    bounds = Bounds(branch.relation, n, scope)
    level = max((-(-len(x) // BLOCK) - 1).bit_length() for x in (q, k))
    i = j = np.zeros(1, np.int64)
    while True:
        side = BLOCK << level
        q_to, k_to = np.minimum((i + 1) * side, len(q)) - 1, np.minimum((j + 1) * side, len(k)) - 1
        lo, hi = bounds(Rectangles(q[i * side], q[q_to], k[j * side], k[k_to]))
        some = hi > 0
        i, j, lo, hi = i[some], j[some], lo[some], hi[some]
        if level == 0:
            break
        level -= 1
        i, j = (
            np.concatenate([2 * i, 2 * i, 2 * i + 1, 2 * i + 1]),
            np.concatenate([2 * j, 2 * j + 1, 2 * j, 2 * j + 1]),
        )
        there = (i * (BLOCK << level) < len(q)) & (j * (BLOCK << level) < len(k))
        i, j = i[there], j[there]
        if not len(i):
            return
    for place in np.lexsort((j, i)):
        first_q, first_k = int(i[place]) * BLOCK, int(j[place]) * BLOCK
        if lo[place] == hi[place]:
            yield first_q, first_k, int(lo[place])
            continue
        rows, columns = q[first_q : first_q + BLOCK, None], k[None, first_k : first_k + BLOCK]
        counts = multiplicity_at(branch.relation, rows, columns, n, scope)
        if counts.any():
            yield first_q, first_k, counts.astype(np.int32)


def multiplicity_between(
    plan: Plan, number: int, placement: Placement, a: int, b: int, tables: Mapping[str, Any]
) -> Counts:
    """M of one branch for queries of rank a and keys of rank b: (heads, rows of a, rows of b)."""
    branch = plan.branches[number]
    total = np.zeros((plan.heads, placement.sizes[a], placement.sizes[b]), np.int32)
    match branch:
        case Lattice() | Columns():
            for q_base, q in placement.based(a):
                for k_base, k in placement.based(b):
                    for pairs in branch_pairs(branch, q, k):
                        rows, columns = numbers(q.numbered(pairs.q, q_base)), numbers(k.numbered(pairs.k, k_base))
                        held = np.int32(1) if pairs.band == FULL else _banded(pairs.q, pairs.k, pairs.band)
                        total[np.ix_(np.array(pairs.heads, np.int64), rows, columns)] += held
        case Tiles():
            q, k = positions(placement, a), positions(placement, b)
            for heads in alike_heads(branch):
                for i, j, counts in held_blocks(
                    branch, placement.n, scope_of(plan, placement.n, heads[0], tables), q, k
                ):
                    total[np.array(heads), i : i + BLOCK, j : j + BLOCK] = counts
        case _:
            assert_never(branch)
    return total


def _banded(q: Rows, k: Rows, band: Band) -> Counts:
    distance = numbers(k)[None, :] - numbers(q)[:, None]
    holds = np.ones(distance.shape, bool)
    if band.lo is not None:
        holds &= distance >= band.lo
    if band.hi is not None:
        holds &= distance <= band.hi
    return holds.astype(np.int32)
