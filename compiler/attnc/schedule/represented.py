"""Many ranks by few that stand for them: meetings of one kind (`attnc.schedule.families`) are planned once.

The tiled branches of a plan are looked at among some ranks alone, as if no others were there, and only where one of
them meets another for all that meet alike. What is found there holds of the others in their own local rows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.families import Kinds, together
from attnc.schedule.solution import Problem
from attnc.schedule.tiled import Tiled
from attnlang.schedule import Placement

Array = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Represented:
    """The tiled branches of a plan, planned among the ranks that stand for others.

    tiled   of these ranks alone
    labels  which meeting each ordered pair of different ranks is like; 0 where it has no pairs
    first   of each label from 1 on, the first ordered pair of ranks, queries first
    among   the number of each rank among those that are looked at
    local   how many pairs each rank has with itself
    done    labels that were not looked at, because what they need was known
    """

    tiled: Tiled
    labels: Kinds
    first: tuple[tuple[int, int], ...]
    among: dict[int, int]
    local: Array
    done: frozenset[int]

    def place(self, label: int) -> tuple[int, int]:
        """The meeting of a label by the numbers of its ranks among those that are looked at."""
        a, b = self.first[label - 1]
        return self.among[a], self.among[b]


def labelled(kinds: Kinds, beside: Kinds | None = None) -> tuple[Kinds, tuple[tuple[int, int], ...]]:
    """Meetings of different ranks by label, from 1; and the first of each.

    beside  which lattices stand beside the tiles of a kind, where any do
    """
    labels = kinds.copy() if beside is None else together(kinds, beside)
    np.fill_diagonal(labels, 0)
    return _in_order(labels)


def represented(
    problem: Problem, branches: tuple[int, ...], kinds: Kinds, beside: Kinds | None, done: Collection[int] = ()
) -> Represented:
    """The tiled branches by the kinds of meetings; `done`: labels of which no more is to be known."""
    kept = problem.stand_ins.get(branches)
    if kept is not None and kept.done.issubset(done):  # where queries stay, other meetings are known without it
        return kept
    labels, first = labelled(kinds, beside)
    own = kinds.diagonal()
    own_kinds, own_ranks = np.unique(own, return_index=True)
    asked = [pair for label, pair in enumerate(first, 1) if label not in done]
    ranks = sorted({rank for pair in asked for rank in pair} | set(own_ranks.tolist()))
    among = {rank: number for number, rank in enumerate(ranks)}
    wanted = np.zeros((len(ranks), len(ranks)), bool)
    for a, b in asked:
        wanted[among[a], among[b]] = True
    where = problem.placement
    part = Placement(where.kind, where.n, tuple(where.chunks[rank] for rank in ranks))
    tiled = Tiled(problem.plan, branches, part, problem.group, problem.tables, problem.counted, wanted=wanted)
    of_kind = np.zeros(int(own_kinds.max(initial=0)) + 1, np.int64)
    of_kind[own_kinds] = [tiled.local[among[rank]] for rank in own_ranks.tolist()]
    found = problem.stand_ins[branches] = Represented(tiled, labels, first, among, of_kind[own], frozenset(done))
    return found


def _in_order(labels: Kinds) -> tuple[Kinds, tuple[tuple[int, int], ...]]:
    """Labels numbered from 1 in the order in which they come, row by row; and where each comes first."""
    flat, size = labels.reshape(-1), int(labels.max(initial=0)) + 1
    place = np.full(size, -1, np.int64)
    place[flat[::-1]] = np.arange(len(flat))[::-1]
    place[0] = -1
    used = np.flatnonzero(place >= 0)
    used = used[np.argsort(place[used])]
    name = np.zeros(size, np.int32)
    name[used] = np.arange(1, len(used) + 1)
    a, b = np.divmod(place[used], len(labels))
    return name[labels], tuple(zip(a.tolist(), b.tolist(), strict=True))
