"""From a Plan and a length N to calls: dense or banded attention on strided rows of q and k.

This is the recipe that a backend follows at run time, in plain integers: no tensor and no torch. A call is a batch of
equally shaped little attentions. Row i of its queries is token  q + i * step  of head  `head`,  each axis moving both
by its strides; the rows of its keys likewise. The pairs of all calls together are exactly the pattern's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile

from attnlang.plan import FULL, Band, Columns, Lattice, Plan, Runs, Tiles


@dataclass(frozen=True, slots=True)
class Axis:
    """`size` copies of a call, each further by so many tokens (of q, of k) and heads."""

    size: int
    token: int
    key_token: int
    head: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """Attention of `q_len` queries to `k_len` keys, for every combination of the axes.

    band   which (row i, column j) count: lo <= j - i <= hi; every row has at least one column
    fresh  no earlier call of the plan touches these queries: results can be stored instead of merged
    """

    head: int
    q: int
    k: int
    q_len: int
    k_len: int
    step: int
    axes: tuple[Axis, ...]
    band: Band = FULL
    fresh: bool = False

    @property
    def copies(self) -> int:
        """How many little attentions the call holds."""
        count = 1
        for axis in self.axes:
            count *= axis.size
        return count

    @property
    def pairs_computed(self) -> int:
        """Query-key products a kernel computes: half a square where the call is causal, else the whole rectangle."""
        one = self.q_len * (self.q_len + 1) // 2 if self.causal else self.q_len * self.k_len
        return one * self.copies

    @property
    def causal(self) -> bool:
        """Whether the band is the lower triangle of a square, which every attention kernel knows."""
        return self.band.hi == 0 and self.band.lo is None and self.q_len == self.k_len

    @property
    def full(self) -> bool:
        """Whether every pair counts."""
        return self.band.lo is None and self.band.hi is None


@lru_cache(maxsize=256)
def resolve(plan: Plan, n: int) -> tuple[Call, ...]:
    """The calls of a plan's lattices and columns for a sequence of n tokens, in the plan's order.

    Tiles are no calls: `attnlang.runtime.blocks` says what they hold.
    """
    calls: list[Call] = []
    for number, branch in enumerate(plan.branches):
        if isinstance(branch, Tiles):
            continue
        found = list(_lattice(branch, n) if isinstance(branch, Lattice) else _columns(branch, n))
        distinct_rows = isinstance(branch, Lattice) and number == 0
        calls += [replace(call, fresh=True) if distinct_rows else call for call in found]
    return tuple(calls)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """`count` runs, `period` apart: the first begins at token `start`, which has coordinate `coordinate` in its run."""

    start: int
    count: int
    period: int
    coordinate: int
    length: int


def _stretches(runs: Runs | None, n: int) -> Iterator[_Stretch]:
    """The runs of a sequence: the one that begins before 0, the whole ones, the one cut off by the end."""
    if runs is None:
        yield _Stretch(0, 1, 0, 0, n)
        return
    before = runs.start - runs.period + runs.width  # where the run that began before 0 ends
    if before > 0:
        yield _Stretch(0, 1, 0, runs.width - before, min(before, n))
    whole = max(0, (n - runs.start - runs.width) // runs.period + 1)
    if whole:
        yield _Stretch(runs.start, whole, runs.period, 0, runs.width)
    last = runs.start + whole * runs.period
    if last < n:
        yield _Stretch(last, 1, 0, 0, n - last)


def _lattice(branch: Lattice, n: int) -> Iterator[Call]:
    for stretch in _stretches(branch.runs, n):
        for length, rows in _rows(branch, stretch):
            band = Band(*(None if end is None else end // branch.dilation for end in (branch.band.lo, branch.band.hi)))
            over_runs = (Axis(stretch.count, stretch.period, stretch.period),)
            for head, token, axes in rows:
                call = Call(head, token, token, length, length, branch.dilation, _no_units((*over_runs, *axes)), band)
                yield from trimmed(call)


def _rows(branch: Lattice, stretch: _Stretch) -> Iterator[tuple[int, list[tuple[int, int, tuple[Axis, ...]]]]]:
    """For each length of row: where its rows begin, as (head, token, axes over heads and residue classes)."""
    first = {phase: (phase - stretch.coordinate) % branch.dilation for phase in set(branch.phases or ())}
    if branch.phases is None:
        classes = [(0, offset) for offset in range(min(branch.dilation, stretch.length))]
        for length, places in _by_length(classes, stretch, branch.dilation).items():
            rows = [
                (head, token, (*over_heads, *over_classes))
                for _, token, over_classes in progressions(places, stretch.start)
                for head, _, over_heads in progressions([(head, 0) for head in branch.heads], 0)
            ]
            yield length, rows
        return
    heads = [(head, first[phase]) for head, phase in zip(branch.heads, branch.phases, strict=True)]
    for length, places in _by_length(heads, stretch, branch.dilation).items():
        yield length, progressions(places, stretch.start)


def _by_length(places: Sequence[tuple[int, int]], stretch: _Stretch, dilation: int) -> dict[int, list[tuple[int, int]]]:
    """Group (head, first offset) by how many tokens of the stretch each takes."""
    groups: dict[int, list[tuple[int, int]]] = {}
    for head, offset in places:
        length = -(-(stretch.length - offset) // dilation)
        if length > 0:
            groups.setdefault(length, []).append((head, offset))
    return groups


def progressions(places: Sequence[tuple[int, int]], start: int) -> list[tuple[int, int, tuple[Axis, ...]]]:
    """Cover (head, offset) pairs by arithmetic progressions of progressions: few calls instead of one a head.

    Heads 0..11 with offsets h mod 4 become one item with two axes: 4 heads at offsets 0..3, three times.
    """
    inner: list[tuple[tuple[int, int], int, tuple[int, int]]] = []  # first place, size, stride
    i = 0
    while i < len(places):
        size, stride = _progression(places, i)
        inner.append((places[i], size, stride))
        i += size
    result: list[tuple[int, int, tuple[Axis, ...]]] = []
    i = 0
    while i < len(inner):
        first, size, stride = inner[i]
        alike = list(takewhile(lambda item: item[1:] == (size, stride), inner[i:]))  # noqa: B023 - used at once
        outer_size, outer = _progression([place for place, _, _ in alike], 0)
        axes = (Axis(outer_size, outer[1], outer[1], outer[0]), Axis(size, stride[1], stride[1], stride[0]))
        result.append((first[0], start + first[1], axes))
        i += outer_size
    return result


def _progression(places: Sequence[tuple[int, int]], i: int) -> tuple[int, tuple[int, int]]:
    """Length and stride of the longest arithmetic progression of consecutive places from i on."""
    if i + 1 >= len(places):
        return 1, (0, 0)
    stride = (places[i + 1][0] - places[i][0], places[i + 1][1] - places[i][1])
    size = 2
    while i + size < len(places):
        before, here = places[i + size - 1], places[i + size]
        if (here[0] - before[0], here[1] - before[1]) != stride:
            break
        size += 1
    return size, stride


def _columns(branch: Columns, n: int) -> Iterator[Call]:
    """One call a key residue: the queries of each residue class are rows, a period apart, as are the keys."""
    for _, q_length, q_first, q_count in _classes(branch.period, 0, branch.period, n):
        for key, k_length, _, _ in _single_classes(branch.period, branch.first, branch.last, n):
            over_queries = Axis(q_count, 1, 0)
            for head, _, over_heads in progressions([(head, 0) for head in branch.heads], 0):
                axes = _no_units((over_queries, *over_heads))
                call = Call(head, q_first, key, q_length, k_length, branch.period, axes, branch.band)
                yield from trimmed(call)


def _classes(period: int, first: int, last: int, n: int) -> Iterator[tuple[int, int, int, int]]:
    """Residues first..last-1 in two groups by how many tokens they have: (residue, length, residue, count)."""
    longer = n % period
    for low, high, length in ((first, min(last, longer), n // period + 1), (max(first, longer), last, n // period)):
        if low < high and length:
            yield low, length, low, high - low


def _single_classes(period: int, first: int, last: int, n: int) -> Iterator[tuple[int, int, int, int]]:
    for residue in range(first, last):
        yield from _classes(period, residue, residue + 1, n)


def _no_units(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    return tuple(axis for axis in axes if axis.size != 1)


def trimmed(call: Call) -> Iterator[Call]:
    """The call without the rows and columns that its band leaves empty; nothing if none is left.

    Open ends that a band does not reach are made open, so that a full square says so.
    """
    lo, hi = call.band.lo, call.band.hi
    q_from = max(0, -hi) if hi is not None else 0
    q_to = min(call.q_len, call.k_len - lo) if lo is not None else call.q_len
    k_from = max(0, q_from + lo) if lo is not None else 0
    k_to = min(call.k_len, q_to + hi) if hi is not None else call.k_len
    q_len, k_len = q_to - q_from, k_to - k_from
    if q_len <= 0 or k_len <= 0:
        return
    moved = q_from - k_from
    low = None if lo is None or lo + moved <= 1 - q_len else lo + moved
    high = None if hi is None or hi + moved >= k_len - 1 else hi + moved
    yield replace(
        call,
        q=call.q + q_from * call.step,
        k=call.k + k_from * call.step,
        q_len=q_len,
        k_len=k_len,
        band=Band(low, high),
    )
