"""The pairs of a branch whose queries lie in some rows and whose keys lie in others: rectangles with a band.

This is what one rank computes with rows of another. As `attnlang.runtime.calls` it is plain integers, and exact: over
all pairs of query rows and key rows that partition the sequence, the pairs found are each pair of the branch once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import lcm

from attnlang.plan import FULL, Band, Columns, Lattice, Plan, Runs
from attnlang.rows import Rows


@dataclass(frozen=True, slots=True)
class Pairs:
    """Every query of `q` with every key of `k` at a token distance k - q in the band, on some heads.

    The band is full unless q and k have one step and it holds some pairs back; every row then still has a partner.
    """

    heads: tuple[int, ...]
    q: Rows
    k: Rows
    band: Band = FULL

    @property
    def count(self) -> int:
        """How many pairs these are, over all heads."""
        if self.band == FULL:
            return len(self.heads) * self.q.count * self.k.count
        return len(self.heads) * band_count(self.q.count, self.k.count, self.index_band)

    @property
    def index_band(self) -> Band:
        """The band in rows: which j - i count for row i of the queries and row j of the keys."""
        step, moved = self.q.step, self.k.first - self.q.first
        lo = None if self.band.lo is None else -((moved - self.band.lo) // step)
        hi = None if self.band.hi is None else (self.band.hi - moved) // step
        return Band(lo, hi)


def band_count(rows: int, columns: int, band: Band) -> int:
    """How many (i, j), i < rows, j < columns, have j - i in the band."""
    up_to_hi = rows * columns if band.hi is None else _below(rows, columns, band.hi)
    return max(0, up_to_hi - (0 if band.lo is None else _below(rows, columns, band.lo - 1)))


def _below(rows: int, columns: int, x: int) -> int:
    """How many (i, j) have j - i <= x."""
    low, high = max(x + 1, 1), min(x + rows, columns)
    partial = (low + high) * (high - low + 1) // 2 if high >= low else 0
    return partial + columns * min(max(0, x + rows - max(columns, x)), rows)


def exact(pairs: Pairs) -> Iterator[Pairs]:
    """The same pairs in normal form: ends of the band that hold nothing back are opened, rows without partner cut off.

    Where the band does hold pairs back and the steps differ, both sides are split by residue of a common step.
    """
    lo, hi = pairs.band.lo, pairs.band.hi
    q, k = pairs.q, pairs.k
    if lo is not None:
        lo = None if k.first - q.last >= lo else lo
    if hi is not None:
        hi = None if k.last - q.first <= hi else hi
    if lo is None and hi is None:
        yield replace(pairs, band=FULL)
        return
    if (lo is not None and k.last - q.first < lo) or (hi is not None and k.first - q.last > hi):
        return
    if q.step == k.step or q.count == 1 or k.count == 1:
        yield from _trimmed(replace(pairs, band=Band(lo, hi)))
        return
    step = lcm(q.step, k.step)
    for q_part in split(q, step):
        for k_part in split(k, step):
            yield from exact(Pairs(pairs.heads, q_part, k_part, Band(lo, hi)))


def split(rows: Rows, step: int) -> Iterator[Rows]:
    """The same rows by residue of a longer step, a multiple of theirs."""
    for offset in range(min(step // rows.step, rows.count)):
        first = rows.first + offset * rows.step
        yield Rows(first, (rows.last - first) // step + 1, step)


def _trimmed(pairs: Pairs) -> Iterator[Pairs]:
    """One step on both sides: cut off rows that see nothing, and open ends that then hold nothing back."""
    lo, hi = pairs.band.lo, pairs.band.hi
    q, k = pairs.q, pairs.k
    step = k.step if q.count == 1 else q.step
    q, k = Rows(q.first, q.count, step), Rows(k.first, k.count, step)
    moved = k.first - q.first
    # in rows: low <= j - i <= high
    low = None if lo is None else -((moved - lo) // step)
    high = None if hi is None else (hi - moved) // step
    if low is not None and high is not None and low > high:
        return
    q_from = max(0, -high) if high is not None else 0
    q_to = min(q.count, k.count - low) if low is not None else q.count
    k_from = max(0, q_from + low) if low is not None else 0
    k_to = min(k.count, q_to + high) if high is not None else k.count
    if q_to <= q_from or k_to <= k_from:
        return
    q = Rows(q.first + q_from * step, q_to - q_from, step)
    k = Rows(k.first + k_from * step, k_to - k_from, step)
    lo = None if lo is not None and k.first - q.last >= lo else lo
    hi = None if hi is not None and k.last - q.first <= hi else hi
    yield Pairs(pairs.heads, q, k, Band(lo, hi))


def branch_pairs(branch: Lattice | Columns, q: Rows, k: Rows) -> Iterator[Pairs]:
    """The pairs of a branch with queries in q and keys in k, each once; q and k have one step."""
    return _lattice(branch, q, k) if isinstance(branch, Lattice) else _columns(branch, q, k)


def _lattice(branch: Lattice, q: Rows, k: Rows) -> Iterator[Pairs]:
    for origin, q_run, k_run in _runs(branch.runs, q, k):
        if not _reaches(branch.band, q_run, k_run):
            continue
        for phase, heads in _classes(branch, q_run):
            q_class = q_run.congruent(origin + phase, branch.dilation)
            k_class = k_run.congruent(origin + phase, branch.dilation)
            if q_class is not None and k_class is not None:
                yield from exact(Pairs(heads, q_class, k_class, branch.band))


def _reaches(band: Band, q: Rows, k: Rows) -> bool:
    """Whether a band holds any distance from some rows to others, whatever their steps."""
    return (band.lo is None or k.last - q.first >= band.lo) and (band.hi is None or k.first - q.last <= band.hi)


def _classes(branch: Lattice, rows: Rows) -> Iterable[tuple[int, tuple[int, ...]]]:
    if branch.phases is None:
        return [(phase, branch.heads) for phase in range(branch.dilation)]
    found: dict[int, list[int]] = {}
    for head, phase in zip(branch.heads, branch.phases, strict=True):
        found.setdefault(phase, []).append(head)
    return [(phase, tuple(heads)) for phase, heads in found.items()]


def _runs(runs: Runs | None, q: Rows, k: Rows) -> Iterator[tuple[int, Rows, Rows]]:
    """(where a run begins, its queries, its keys) for every run that holds some of both."""
    if runs is None:
        yield 0, q, k
        return
    numbers = [touched(runs, rows.first, rows.last) for rows in (q, k)]
    for number in range(max(n.start for n in numbers), min(n.stop for n in numbers)):
        start = runs.start + number * runs.period
        q_run, k_run = (rows.within(start, start + runs.width - 1) for rows in (q, k))
        if q_run is not None and k_run is not None:
            yield start, q_run, k_run


def touched(runs: Runs, first: int, last: int) -> range:
    """The numbers of the runs that hold a position of first..last."""
    return range(-((runs.start + runs.width - 1 - first) // runs.period), (last - runs.start) // runs.period + 1)


def _columns(branch: Columns, q: Rows, k: Rows) -> Iterator[Pairs]:
    """Queries by period: those to which the band shows all the same keys together, the others period by period."""
    p, lo, hi = branch.period, branch.band.lo, branch.band.hi
    first_v, last_v = k.first // p, k.last // p
    first_u, last_u = q.first // p, q.last // p
    all_from = first_u if hi is None else max(first_u, last_v - hi)
    all_to = last_u if lo is None else min(last_u, first_v - lo)
    if all_from > all_to:
        all_from, all_to = last_u + 1, last_u  # none sees everything
    seeing = range(
        first_u if hi is None else max(first_u, first_v - hi), (last_u if lo is None else min(last_u, last_v - lo)) + 1
    )
    groups = [(u, u) for u in seeing if not all_from <= u <= all_to]
    if all_from <= all_to:
        groups.append((all_from, all_to))
    for u, u_to in sorted(groups):
        queries = q.within(u * p, (u_to + 1) * p - 1)
        v = first_v if lo is None else max(first_v, u_to + lo)
        v_to = last_v if hi is None else min(last_v, u + hi)
        for residue in range(branch.first, branch.last):
            of_class = k.congruent(residue, p)
            keys = None if of_class is None else of_class.within(v * p, (v_to + 1) * p - 1)
            if queries is not None and keys is not None:
                yield Pairs(branch.heads, queries, keys)


def local_plan(plan: Plan, rows: Rows) -> Plan | None:
    """The plan of the pairs with both ends in some rows, in their own numbers 0..count - 1; None if it is no plan.

    A sequence cut to one stretch is lattices and columns again. Of every s-th position it is where the runs repeat at
    multiples of s.
    """
    branches: list[Lattice | Columns] = []
    for branch in plan.branches:
        match branch:
            case Lattice():
                moved = _local_lattice(branch, rows)
            case Columns():
                moved = _local_columns(branch, rows)
            case _:
                return None
        if moved is None:
            return None
        branches += moved
    return Plan(plan.heads, tuple(branches))


def _local_lattice(branch: Lattice, rows: Rows) -> list[Lattice] | None:
    s, origin = rows.step, rows.first
    runs = branch.runs
    within = 0  # the local coordinate 0 of a run has this coordinate in the branch's run
    if runs is None:
        local_runs, within = None, origin
    elif s == 1:
        local_runs = Runs(runs.width, runs.period, (runs.start - origin) % runs.period)
    elif runs.period % s:
        return None
    else:
        start = -((origin - runs.start) // s)
        end = -((origin - runs.start - runs.width) // s)
        within = origin + start * s - runs.start
        if end <= start:
            return []
        local_runs = Runs(end - start, runs.period // s, start % (runs.period // s))
    dilation = lcm(branch.dilation, s) // s
    lo = None if branch.band.lo is None else -(-branch.band.lo // s)
    hi = None if branch.band.hi is None else branch.band.hi // s
    lo = None if lo is None else -(-lo // dilation) * dilation
    hi = None if hi is None else hi // dilation * dilation
    if lo is not None and hi is not None and lo > hi:
        return []
    if branch.phases is None:
        return [Lattice(branch.heads, local_runs, dilation, None, Band(lo, hi))]
    heads: list[int] = []
    phases: list[int] = []
    for head, phase in zip(branch.heads, branch.phases, strict=True):
        found = Rows(within, branch.dilation, s).congruent(phase, branch.dilation)
        if found is not None:
            heads.append(head)
            phases.append((found.first - within) // s)
    return [Lattice(tuple(heads), local_runs, dilation, tuple(phases), Band(lo, hi))] if heads else []


def _local_columns(branch: Columns, rows: Rows) -> list[Columns] | None:
    if rows.step != 1 or (branch.band != FULL and rows.first % branch.period):
        return None
    moved = rows.first % branch.period
    first, last = branch.first - moved, branch.last - moved
    if last <= 0 or first >= 0:
        turn = branch.period if last <= 0 else 0
        return [Columns(branch.heads, branch.period, first + turn, last + turn, branch.band)]
    return [
        Columns(branch.heads, branch.period, 0, last, branch.band),
        Columns(branch.heads, branch.period, first + branch.period, branch.period, branch.band),
    ]
