"""Placements: which tokens each rank holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import lcm

from attnc.schedule.steps import steps
from attnlang.diagnostics import AttnError
from attnlang.parallel.dense import alike_heads
from attnlang.plan import Columns, Lattice, Plan, Tiles
from attnlang.rows import Rows
from attnlang.schedule import Placement, counted

PLACEMENTS = ("contiguous", "zigzag", "striped")
SLACK = 64
"""Shards are cut at multiples of a pattern's period where that makes none longer by more than a 64th."""
ROOM = 16
"""Where shards may be unequal they are cut at multiples of longer periods too, and none is a 16th above the mean."""


def placement(kind: str, plan: Plan, n: int, ranks: int, unit: int | None = None) -> Placement:
    """A placement of one of the kinds; stretches are cut at multiples of the unit, or else of `quantum`.

    contiguous  rank r holds one stretch, in order
    zigzag      of 2R stretches, rank r holds numbers r and 2R - 1 - r: causal work is balanced
    striped     rank r holds every token that is r modulo R

    Raises ValueError for a kind that does not exist, and for fewer tokens than ranks.
    """
    if kind not in PLACEMENTS:
        raise ValueError(f"unknown placement {kind!r}: there are {', '.join(map(repr, PLACEMENTS))} and 'auto'")
    if ranks > n:
        what = f"{counted(ranks, 'rank')} for {counted(n, 'token')}"
        raise ValueError(f"{what}: every rank needs a token; use at most {counted(max(n, 1), 'rank')}")
    if kind == "striped":
        stripes = tuple((Rows(rank, (n - 1 - rank) // ranks + 1, ranks),) for rank in range(ranks))
        return Placement(kind, n, stripes)
    if kind == "zigzag":
        if n < 2 * ranks:
            raise ValueError(f"zigzag cuts {n} tokens into {2 * ranks} stretches: use fewer ranks, or 'contiguous'")
        pieces = _stretches(n, 2 * ranks, unit or quantum(plan, n, 2 * ranks))
        pairs = ((pieces[rank], pieces[2 * ranks - 1 - rank]) for rank in range(ranks))
        return Placement(kind, n, tuple(tuple(piece for piece in pair if piece is not None) for pair in pairs))
    stretches = _stretches(n, ranks, unit or quantum(plan, n, ranks))
    return Placement(kind, n, tuple((piece,) for piece in stretches if piece is not None))


def _stretches(n: int, parts: int, unit: int) -> list[Rows | None]:
    """Stretches of multiples of a unit, as equal as can be; the last one takes what is left of a unit."""
    units = -(-n // unit)
    ends = [min(n, (i * units // parts) * unit) for i in range(parts + 1)]
    return [Rows(low, high - low) if high > low else None for low, high in pairwise(ends)]


def period(branches: Iterable[object]) -> int:
    """Branches look the same, but for the ends of the sequence, when everything moves by this many tokens."""
    return lcm(*(part for branch in branches for part in _periods(branch)), 1)


def _periods(branch: object) -> tuple[int, ...]:
    match branch:
        case Lattice(runs=None, dilation=dilation):
            return (dilation,)
        case Lattice(runs=runs) if runs is not None:
            return (runs.period,)
        case Columns(period=length):
            return (length,)
        case _:
            return ()


def quantum(plan: Plan, n: int, parts: int) -> int:
    """The unit of shards: the longest common multiple of the plan's periods that is a small part of one."""
    most = n // parts // SLACK
    unit = 1
    of_tiles = {nest for branch in plan.branches if isinstance(branch, Tiles) for nest in _nests(plan, branch, n, most)}
    for length in sorted({part for branch in plan.branches for part in _periods(branch)} | of_tiles):
        if lcm(unit, length) <= most:
            unit = lcm(unit, length)
    shard = n / parts
    if shard == int(shard):  # equal shards that some period divides need no rounding
        return int(shard)
    return unit


def longer_units(kind: str, plan: Plan, n: int, ranks: int) -> Sequence[int]:
    """Units beyond `quantum` that leave every rank tokens, and none more than a 16th above the mean; ascending.

    They are common multiples of the shortest periods of a plan of lattices. Of two that leave the longest shard equally
    long the longer one is taken.
    """
    if kind not in ("contiguous", "zigzag") or any(isinstance(branch, Tiles) for branch in plan.branches):
        return ()
    parts = 2 * ranks if kind == "zigzag" else ranks
    least, unit, found = quantum(plan, n, parts), 1, dict[int, int]()
    for length in sorted({part for branch in plan.branches for part in _periods(branch)}):
        unit = lcm(unit, length)
        if -(-n // unit) < parts:
            break
        if least % unit == 0:
            continue
        longest = max(placement(kind, plan, n, ranks, unit).sizes)
        if longest * ranks * ROOM <= n * (ROOM + 1):
            found = {other: size for other, size in found.items() if size < longest} | {unit: longest}
    return tuple(found)


def given(where: Placement, plan: Plan, n: int, ranks: int) -> Placement:
    """A placement that was found before, for n tokens on so many ranks. Raises ValueError for any other."""
    if (where.n, where.ranks) != (n, ranks):
        has = f"{counted(where.n, 'token')} on {counted(where.ranks, 'rank')}"
        raise ValueError(f"the placement is of {has}, and not of {counted(n, 'token')} on {counted(ranks, 'rank')}")
    stretches = [chunk for chunks in where.chunks for chunk in chunks]
    if where.kind == "striped":
        right = where == placement("striped", plan, n, ranks)
    else:
        in_order = stretches if where.kind == "contiguous" else sorted(stretches, key=lambda rows: rows.first)
        ends = [0, *(rows.last + 1 for rows in in_order)]
        right = [rows.first for rows in in_order] == ends[:-1] and ends[-1] == n and len(stretches) >= ranks
        right &= all(rows.step == 1 for rows in stretches)
        right &= where.kind in PLACEMENTS and max(map(len, where.chunks)) <= 1 + (where.kind == "zigzag")
    if not right:
        raise ValueError(f"the placement's chunks are none of kind {where.kind!r}: take it from a schedule")
    return where


def _nests(plan: Plan, branch: Tiles, n: int, most: int) -> Iterator[int]:
    """For each head the common multiple of a branch's steps up to `most`, where every longer step is one of it."""
    for alike in alike_heads(branch):
        try:
            found = steps(branch.relation, n, {"N": n, "H": plan.heads, "h": alike[0]})
        except AttnError:  # a step that is known at the call only
            continue
        nest = lcm(*(step for step in found if step <= most))
        if all(step % nest == 0 for step in found if step > most):
            yield nest


def at_length(plan: Plan, n: int) -> Plan:
    """The plan for n tokens only: runs of which one holds the whole sequence are no runs."""
    branches = tuple(_at_length(branch, n) if isinstance(branch, Lattice) else branch for branch in plan.branches)
    return Plan(plan.heads, branches)


def _at_length(branch: Lattice, n: int) -> Lattice:
    runs = branch.runs
    if runs is None:
        return branch
    start = runs.start - runs.period if runs.start > 0 else runs.start
    if start > 0 or start + runs.width < n:
        return branch
    phases = branch.phases and tuple((phase + start) % branch.dilation for phase in branch.phases)
    return replace(branch, runs=None, phases=phases)
