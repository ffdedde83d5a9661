"""Units of a gathered branch: what one owner computes, all heads of q that share a key row class in one run.

LongNet's dilated rows of one head and segment are such a unit; all-to-all by head is to spread units over the ranks
that a segment spans. A strided pattern's residue classes are units too; spreading those is a re-shard by residue.
Runs that lie within one rank are no units: that rank computes them where they are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from attnlang.plan import Band, Lattice
from attnlang.rows import Rows
from attnlang.runtime.pairs import Pairs, exact, touched
from attnlang.schedule import Placement


@dataclass(frozen=True, slots=True)
class Unit:
    """What one owner computes. `queries` and `keys` are all its tokens; the parts say which rank holds which."""

    kv_head: int
    heads: tuple[int, ...]
    owner: int
    queries: Rows
    keys: Rows
    query_parts: tuple[tuple[int, Rows], ...]
    key_parts: tuple[tuple[int, Rows], ...]
    band: Band


def units(placement: Placement, branch: Lattice, group: int, rank: int | None = None) -> Iterator[Unit]:
    """The units of a branch on a contiguous placement; only those with rows at a rank, if one is given."""
    spans = _spans(placement)
    for owner, kv_head, pairs, ranks in owned_pairs(placement, branch, group, rank):
        q_parts, k_parts = (_parts(side, spans, ranks) for side in (pairs.q, pairs.k))
        if rank is None or owner == rank or any(r == rank for r, _ in (*q_parts, *k_parts)):
            yield Unit(kv_head, pairs.heads, owner, pairs.q, pairs.k, q_parts, k_parts, pairs.band)


def owned_pairs(
    placement: Placement, branch: Lattice, group: int, rank: int | None = None
) -> Iterator[tuple[int, int, Pairs, range]]:
    """(owner, head of k, what it computes, ranks that may hold rows of it) of each unit of runs that touch a rank."""
    spans = _spans(placement)
    first, last = (0, placement.n - 1) if rank is None else spans[rank]
    if last < first:
        return
    starts = [low for low, _ in spans]
    for origin, low, high in _runs(placement, branch, first, last):
        s0, s1 = bisect_right(starts, low) - 1, bisect_right(starts, high) - 1
        if s0 == s1:
            continue
        kinds = _kinds(branch, group)
        for number, (kv_head, heads, phase) in enumerate(kinds):
            rows = Rows(low, high - low + 1).congruent(origin + phase, branch.dilation)
            if rows is None:
                continue
            owner = s0 + number * (s1 - s0 + 1) // len(kinds)
            for pairs in exact(Pairs(heads, rows, rows, branch.band)):
                yield owner, kv_head, pairs, range(s0, s1 + 1)


def _spans(placement: Placement) -> list[tuple[int, int]]:
    return [(chunks[0].first, chunks[0].last) if chunks else (placement.n, -1) for chunks in placement.chunks]


def _parts(rows: Rows, spans: list[tuple[int, int]], ranks: range) -> tuple[tuple[int, Rows], ...]:
    return tuple((r, part) for r in ranks if (part := rows.within(*spans[r])) is not None)


def _runs(placement: Placement, branch: Lattice, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """(origin, first token, last token) of each run that touches first..last."""
    runs = branch.runs
    if runs is None:
        yield 0, 0, placement.n - 1
        return
    for number in touched(runs, first, last):
        origin = runs.start + number * runs.period
        yield origin, max(origin, 0), min(origin + runs.width, placement.n) - 1


def _kinds(branch: Lattice, group: int) -> list[tuple[int, tuple[int, ...], int]]:
    """(head of k, heads of q, phase) of the units of one run."""
    found: dict[tuple[int, int], list[int]] = {}
    for place, head in enumerate(branch.heads):
        phases = range(branch.dilation) if branch.phases is None else (branch.phases[place],)
        for phase in phases:
            found.setdefault((head // group, phase), []).append(head)
    return [(kv_head, tuple(heads), phase) for (kv_head, phase), heads in found.items()]


def inner_rows(placement: Placement, branch: Lattice, rank: int) -> Rows | None:
    """The tokens of a rank that lie in runs of which it holds every token; they are one stretch, or none."""
    if not placement.chunks[rank] or branch.runs is None:
        return None if placement.ranks > 1 else placement.chunks[rank][0] if placement.chunks[rank] else None
    chunk = placement.chunks[rank][0]
    inside = (
        [
            (low, high)
            for _, low, high in _runs(placement, branch, chunk.first, chunk.last)
            if chunk.first <= low and high <= chunk.last
        ]
        if branch.runs.width > chunk.count // 4
        else _inner_ends(placement, branch, chunk)
    )
    if not inside:
        return None
    return Rows(inside[0][0], inside[-1][1] - inside[0][0] + 1)


def _inner_ends(placement: Placement, branch: Lattice, chunk: Rows) -> list[tuple[int, int]]:
    """The first and the last run that lie wholly in a chunk, where a chunk holds many."""
    runs = branch.runs
    assert runs is not None
    numbers = touched(runs, chunk.first, chunk.last)
    found: list[tuple[int, int]] = []
    for candidates in (list(numbers[:2]), list(numbers[-2:])):
        for number in candidates:
            low = max(runs.start + number * runs.period, 0)
            high = min(runs.start + number * runs.period + runs.width, placement.n) - 1
            if chunk.first <= low and high <= chunk.last:
                found.append((low, high))
    return found
