"""Meetings of ranks under lattices of which every head has one residue class at most: all at once, side by side.

LongNet whose segments the ranks cut anywhere: no two meetings are alike, because each cuts a segment elsewhere. But
each is a few progressions a side, one a branch and head, and what they weigh are numbers of rows in unions of them
(`attnc.schedule.unions`). Rows are listed of what is chosen in the end alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.bicliques import FEW_SETS
from attnc.schedule.crossings import can_flow, least_by_flow
from attnc.schedule.pictures import head_rows
from attnc.schedule.progressions import disjoint, tidied
from attnc.schedule.seen import Within
from attnc.schedule.solution import Picture, Problem
from attnc.schedule.tally import Told
from attnc.schedule.unions import Least, Sets, least
from attnlang.plan import Branch, Lattice
from attnlang.rows import Rows
from attnlang.schedule import Transfer

Array = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_CHOICES = 2**22
"""So many choices are weighed at once."""


@dataclass(frozen=True, eq=False, slots=True)
class Meetings:
    """Many ordered pairs of ranks, and what each moves and computes.

    known    those that are told here: no band cuts them
    queries  which sets of each head of k are shipped, as bits: (meetings, heads of k); keys: which are sent
    few      whether sets are few, so that this is known
    """

    known: Flags
    told: Told
    group: int
    q: Sets
    k: Sets
    queries: Array
    keys: Array
    few: bool
    _tidied: dict[tuple[Rows, ...], list[Rows]] = field(default_factory=dict[tuple[Rows, ...], list[Rows]])

    def transfer(self, number: int) -> Transfer:
        """The rows that one of them moves, in local rows."""
        keys: list[tuple[int, Rows]] = []
        queries: list[tuple[int, Rows]] = []
        for kv_head, chosen in enumerate(self.keys[number].tolist()):
            found = [rows for _, rows in self.k.rows((number, kv_head), chosen)]
            keys += [(kv_head, rows) for rows in self._few(found)]
        for kv_head, chosen in enumerate(self.queries[number].tolist()):
            by_head: dict[int, list[Rows]] = {}
            for i, rows in self.q.rows((number, kv_head), chosen):
                by_head.setdefault(kv_head * self.group + self.q.line[i], []).append(rows)
            queries += [(head, rows) for head, some in by_head.items() for rows in self._few(some)]
        return Transfer(head_rows(keys), head_rows(queries))

    def _few(self, some: Sequence[Rows]) -> list[Rows]:
        """Rows of any of some progressions, each once, as few."""
        name = tuple(some)
        if name not in self._tidied:
            self._tidied[name] = [rows for _, rows in tidied(disjoint([(0, rows) for rows in some]))]
        return self._tidied[name]


@dataclass(frozen=True, eq=False, slots=True)
class Later:
    """Makes the transfers of some meetings: those that are told, and those of which there are pictures.

    drawn  the picture of one that is told by what it moves alone, and not by its sets
    """

    found: Meetings
    pictures: Mapping[int, Picture]
    some: Array
    drawn: Callable[[int], Picture]

    def __call__(self) -> Iterator[Transfer]:
        for number in self.some.tolist():
            if number in self.pictures:
                yield self.pictures[number].transfer
            else:
                yield self.found.transfer(number) if self.found.few else self.drawn(number).transfer


def can_tell(problem: Problem, lattices: Sequence[int]) -> bool:
    """Whether meetings under these branches are told here: few sets a head of k, or few classes; one stretch a rank."""
    branches = [problem.plan.branches[i] for i in lattices]
    if any(len(chunks) != 1 or chunks[0].step > 1 for chunks in problem.placement.chunks):
        return False
    lattices_of_one_class = [
        branch
        for branch in branches
        if isinstance(branch, Lattice)
        and (branch.phases is not None or branch.dilation == 1)
        and len(set(branch.heads)) == len(branch.heads)
    ]
    if not branches or len(lattices_of_one_class) < len(branches):
        return False
    if problem.group * len(branches) <= FEW_SETS:
        return True
    different = len(set(_same_keys(problem, lattices_of_one_class)))
    return can_flow(different, tuple(branch.dilation for branch in lattices_of_one_class))


def meetings(problem: Problem, lattices: Sequence[int], a: Array, b: Array) -> Meetings:
    """What ranks a[i], with queries, and b[i], with keys, have under these branches."""
    q, k, known = _sets(problem, lattices, a, b)
    few = len(q.step) <= FEW_SETS
    found = _of_few(problem, q, k) if few else _of_many(problem, q, k, lattices)
    if found is None:
        known[:] = False
        found = Least.of_nothing(len(a) * problem.kv_heads, len(q.step))
    queries, keys, weight, q_rows, k_rows, pairs, at_query = (
        column.reshape(len(a), problem.kv_heads, *column.shape[1:]) for column in _flat(found)
    )
    homes = np.zeros((2, len(a), len(problem.plan.branches)))
    for place, number in enumerate(lattices):
        of = slice(place * problem.group, (place + 1) * problem.group)
        homes[0, :, number] = at_query[..., of].sum((1, 2))
        homes[1, :, number] = pairs[..., of].sum((1, 2)) - homes[0, :, number]
    weights, q_total, k_total = (rows.sum(1) for rows in (weight, q_rows, k_rows))
    told = Told(np.arange(len(a)), weights, weights, k_total, q_total, *homes)
    return Meetings(known, told, problem.group, q, k, queries, keys, few)


def _of_few(problem: Problem, q: Sets, k: Sets) -> Least:
    at_once = max(1, MAX_CHOICES // (problem.kv_heads << len(q.step)))
    parts = [
        _flat(least(_places(q[some]), _places(k[some]), problem.weights, problem.queries_stay))
        for some in (slice(first, first + at_once) for first in range(0, max(1, len(q.first)), at_once))
    ]
    return Least(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _of_many(problem: Problem, q: Sets, k: Sets, lattices: Sequence[int]) -> Least | None:
    same = _same_keys(problem, [problem.plan.branches[i] for i in lattices])
    return least_by_flow(_places(q), _places(k), problem.weights, problem.queries_stay, len(lattices), same)


def _same_keys(problem: Problem, branches: Sequence[Branch]) -> list[int]:
    """A number for each set of a head of k: heads of q that see keys of one residue, whichever head of k, have one."""
    numbers: dict[Hashable, int] = {}
    heads = np.arange(problem.plan.heads).reshape(problem.kv_heads, problem.group).T.tolist()
    found: list[int] = []
    for place, branch in enumerate(branches):
        assert isinstance(branch, Lattice)
        phases = dict(zip(branch.heads, branch.phases or [0] * len(branch.heads), strict=True))
        found += [numbers.setdefault((place, *(phases.get(h) for h in some)), len(numbers)) for some in heads]
    return found


def _flat(found: Least) -> tuple[Array, ...]:
    return (found.queries, found.keys, found.weight, found.q_rows, found.k_rows, found.pairs, found.at_query)


def _places(sets: Sets) -> Sets:
    """Those of all heads of k one after another."""
    size = len(sets.step)
    return Sets(sets.first.reshape(-1, size), sets.count.reshape(-1, size), sets.step, sets.line)


def _sets(problem: Problem, lattices: Sequence[int], a: Array, b: Array) -> tuple[Sets, Sets, Flags]:
    """(meetings, heads of k, sets) of queries and of keys in local rows; and where no band cuts.

    Sets are those of each branch, and of each head of q that shares a head of k.
    """
    group, kv_heads = problem.group, problem.kv_heads
    first, count = np.array([(chunk.first, chunk.count) for (chunk,) in problem.placement.chunks], np.int64).T
    shape = len(a), kv_heads, len(lattices) * group
    found = np.zeros((2, 2, *shape), np.int64)  # of queries and of keys: first rows, and how many
    known, step = np.ones(len(a), bool), list[int]()
    ends = first[a], first[a] + count[a] - 1, first[b], first[b] + count[b] - 1
    for place, number in enumerate(lattices):
        branch = problem.plan.branches[number]
        assert isinstance(branch, Lattice)
        at, r = Within.of(branch, *ends), branch.dilation
        known &= ~(at.live & at.cut)
        step += [r] * group
        kv_head, of = np.divmod(np.array(branch.heads, np.int64), group)
        phase = np.array(branch.phases or [0] * len(branch.heads), np.int64)
        for side, start, low, high in ((0, ends[0], at.low_q, at.high_q), (1, ends[2], at.low_k, at.high_k)):
            begin = low[:, None] + (phase - (low - at.origin)[:, None]) % r
            many = np.where(at.live[:, None], np.maximum(0, (high[:, None] - begin) // r + 1), 0)
            found[side, 0][:, kv_head, place * group + of] = begin - start[:, None]
            found[side, 1][:, kv_head, place * group + of] = many
    lines = tuple(range(group)) * len(lattices)
    q = Sets(found[0, 0], found[0, 1], tuple(step), lines)
    return q, Sets(found[1, 0], found[1, 1], tuple(step), (0,) * len(lines)), known
