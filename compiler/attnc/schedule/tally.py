"""What all meetings move and compute, added up by rank: of each kind of meetings once, however many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

    number            of the transfer; -1 where there is none
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
    columns = [(np.concatenate((values[:1] * 0, values)), *of) for values, *of in _columns(s, told)]
    times = np.zeros(len(which), np.int64)
    for first in range(0, len(labels), ROWS):
        rows = slice(first, first + ROWS)
        part = labels[rows]
        has = part > 0
        s.which[rows][has] = which[part[has]]
        times += np.bincount(part.reshape(-1), minlength=len(which))
        for values, of_a, of_b in columns:
            each = values[part]
            if of_a is not None:
                of_a[rows] += each.sum(1)
            if of_b is not None:
                of_b += each.sum(0)
    near = sum(np.bincount(np.diagonal(labels, beside), minlength=len(which)) for beside in (1, -1))
    _name_kinds(s, told, times[1:], np.asarray(near)[1:])
    return _sum(told.weight, times[1:]), _sum(told.bound, times[1:])


def count_distances(s: Solution, distances: Sequence[int], told: Told) -> tuple[int, int]:
    """The same of meetings of ranks so far apart, whose labels, from 0, stand where their transfers' numbers shall."""
    ranks = len(s.which)
    number = np.append(told.number, -1).astype(np.int32)
    columns = [(np.append(values, values[:1] * 0), *of) for values, *of in _columns(s, told)]
    times, near = np.zeros((2, len(told.number)), np.int64)
    for distance in distances:
        label = s.which.diagonal(distance).copy()
        count = np.bincount(label[label >= 0], minlength=0)
        if not len(count):
            continue
        times[: len(count)] += count
        near[: len(count)] += count * (abs(distance) == 1)
        a = slice(max(0, -distance), min(ranks, ranks - distance))
        b = slice(a.start + distance, a.stop + distance)
        for values, of_a, of_b in columns:
            each = values[label]
            if of_a is not None:
                of_a[a] += each
            if of_b is not None:
                of_b[b] += each
        rows = np.arange(a.start, a.stop)
        s.which[rows, rows + distance] = number[label]
    _name_kinds(s, told, times, near)
    return _sum(told.weight, times), _sum(told.bound, times)


def _columns(s: Solution, told: Told) -> list[tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]]:
    """What is added up of each label, by the rank of its queries, and by that of its keys."""
    return [
        (told.at_query.sum(1), s.at_query, None),
        (told.at_key.sum(1), None, s.at_key),
        (told.key_rows, s.keys_in, s.keys_out),
        (told.query_rows, s.queries_out, s.queries_in),
    ]


def _sum(values: Array, times: Array) -> int:
    """In Python's integers."""
    return sum(value * count for value, count in zip(values.tolist(), times.tolist(), strict=True))


def _name_kinds(s: Solution, told: Told, times: Array, near: Array) -> None:
    """How branches are computed, in words: what moves, and how far; `near` of the meetings are of neighbours."""
    near = near * (s.problem.placement.kind == "contiguous")
    for number, kinds in enumerate(s.kinds):
        here, there = told.at_query[:, number] > 0, told.at_key[:, number] > 0
        for name, some in (
            ("near", (here | there) & (near > 0)), ("far", (here | there) & (near < times)),
            ("keys", here & (times > 0)), ("queries", there & (times > 0)),
        ):  # fmt: skip
            if some.any():
                kinds.add(name)
