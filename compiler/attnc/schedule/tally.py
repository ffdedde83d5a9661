"""What all meetings move and compute, added up by rank: of each kind of meetings once, however many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.families import Kinds
from attnc.schedule.solution import Picture, Solution

Array = NDArray[np.int64]
Floats = NDArray[np.float64]

ROWS = 512
"""Of so many ranks at once the labels of meetings are looked up."""


@dataclass(frozen=True, eq=False, slots=True)
class Told:
    """What meetings of each label have; label i + 1 stands at place i.

    number            of the transfer
    weight, bound     of its cover, and what no cover can undercut
    at_query, at_key  pairs computed at either home: (labels, branches)
    """

    number: Array
    weight: Array
    bound: Array
    key_rows: Array
    query_rows: Array
    at_query: Floats
    at_key: Floats

    @staticmethod
    def of(pictures: Sequence[Picture], numbers: Sequence[int], branches: int) -> Told:
        """What pictures show, whose transfers have these numbers."""
        rows = [
            (number, p.weight, p.bound, p.transfer.key_rows, p.transfer.query_rows)
            for number, p in zip(numbers, pictures, strict=True)
        ]
        nothing = (0.0,) * branches
        here, there = (np.array([side or nothing for side in sides], float).reshape(-1, branches)
                       for sides in ([p.at_query for p in pictures], [p.at_key for p in pictures]))  # fmt: skip
        number, weight, bound, key_rows, query_rows = np.array(rows, np.int64).reshape(-1, 5).T
        return Told(number, weight, bound, key_rows, query_rows, here, there)

    def __getitem__(self, some: Array) -> Told:
        return Told(
            self.number[some], self.weight[some], self.bound[some], self.key_rows[some], self.query_rows[some],
            self.at_query[some], self.at_key[some],
        )  # fmt: skip

    def replaced(self, pictures: Mapping[int, Picture]) -> Told:
        """With what pictures show, by place; transfers keep their numbers."""
        if not pictures:
            return self
        places = list(pictures)
        other = Told.of(list(pictures.values()), places, self.at_query.shape[1])
        kept = self[np.arange(len(self.number))]
        for name in ("weight", "bound", "key_rows", "query_rows", "at_query", "at_key"):
            getattr(kept, name)[places] = getattr(other, name)
        return kept


def count_meetings(s: Solution, labels: Kinds, told: Told) -> tuple[int, int]:
    """Add what meetings move and compute to a solution, by label from 1; what they weigh, and the bound of that."""
    if not len(told.number):
        return 0, 0
    which = np.concatenate(([-1], told.number)).astype(np.int32)
    columns = [
        (np.concatenate((values[:1] * 0, values)), of_a, of_b)
        for values, of_a, of_b in (
            (told.at_query.sum(1), s.at_query, None),
            (told.at_key.sum(1), None, s.at_key),
            (told.key_rows, s.keys_in, s.keys_out),
            (told.query_rows, s.queries_out, s.queries_in),
            (np.ones(len(told.number), np.int64), s.peers, s.peers),
        )
    ]
    times = np.zeros(len(which), np.int64)
    for first in range(0, len(labels), ROWS):
        held = np.flatnonzero((labels[first : first + ROWS] > 0).any(0))
        if not len(held):
            continue
        rows, near = slice(first, first + ROWS), slice(held[0], held[-1] + 1)
        part = labels[rows, near]
        has = part > 0
        s.which[rows, near][has] = which[part[has]]
        times += np.bincount(part.reshape(-1), minlength=len(which))
        for values, of_a, of_b in columns:
            each = values[part]
            if of_a is not None:
                of_a[rows] += each.sum(1)
            if of_b is not None:
                of_b[near] += each.sum(0)
    times[0] = 0
    _name_kinds(s, labels, told, times[1:])
    return _sum(told.weight, times[1:]), _sum(told.bound, times[1:])


def _sum(values: Array, times: Array) -> int:
    """In Python's integers."""
    return sum(value * count for value, count in zip(values.tolist(), times.tolist(), strict=True))


def _name_kinds(s: Solution, labels: Kinds, told: Told, times: Array) -> None:
    """How branches are computed, in words: what moves, and how far."""
    near = np.zeros(len(times), np.int64)
    if s.problem.placement.kind == "contiguous":
        near += sum(np.bincount(np.diagonal(labels, beside), minlength=len(times) + 1)[1:] for beside in (1, -1))
    for number, kinds in enumerate(s.kinds):
        here, there = told.at_query[:, number] > 0, told.at_key[:, number] > 0
        for name, some in (
            ("near", (here | there) & (near > 0)), ("far", (here | there) & (near < times)),
            ("keys", here & (times > 0)), ("queries", there & (times > 0)),
        ):  # fmt: skip
            if some.any():
                kinds.add(name)
