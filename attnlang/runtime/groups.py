"""Calls whose keys have fewer heads than their queries: query head h reads key head h // group.

Along an axis that moves the head, the key head moves by whole steps only every so often. Such an axis falls into an
outer one, along which both move evenly, and a few inner places, put together again where they are in a row:

    heads 0..11 step 1, group 4  -->  key heads 0..2 (queries step 4)  x  queries 0..3 of one key head
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd
from typing import TypeAlias

from attnlang.runtime.calls import Axis, Call

Place: TypeAlias = tuple[int, int, int, int]
"""Query head, key head, token of q, token of k."""


@dataclass(frozen=True, slots=True)
class GroupedAxis:
    """`size` copies, each further by so many query heads, key heads, and tokens of q and of k."""

    size: int
    head: int
    key_head: int
    token: int
    key_token: int


@dataclass(frozen=True, slots=True)
class Grouped:
    """A call, or a part of one, that begins at a query head and a key head, and its axes."""

    call: Call
    head: int
    key_head: int
    q: int
    k: int
    axes: tuple[GroupedAxis, ...]


def grouped(call: Call, group: int) -> Iterator[Grouped]:
    """The call as parts in which the key head moves evenly along every axis; one part where it does so already."""
    outer: list[GroupedAxis] = []
    inner: list[Axis] = []
    for axis in call.axes:
        period = group // gcd(axis.head, group)
        whole, rest = divmod(axis.size, period)
        if period == 1:
            outer.append(_axis(axis, axis.size, 1, group))
        elif whole <= 1 or rest:
            inner.append(axis)  # too few, or not even: every place by itself
        else:
            outer.append(_axis(axis, whole, period, group))
            inner.append(Axis(period, axis.token, axis.key_token, axis.head))
    places = [_place(call, group, steps) for steps in product(*map(_steps, inner))]
    for (head, key_head, q, k), axes in _rows(places):
        yield Grouped(call, head, key_head, q, k, (*outer, *axes))


def _axis(axis: Axis, size: int, period: int, group: int) -> GroupedAxis:
    head = axis.head * period
    return GroupedAxis(size, head, head // group, axis.token * period, axis.key_token * period)


def _steps(axis: Axis) -> list[tuple[int, int, int]]:
    return [(i * axis.head, i * axis.token, i * axis.key_token) for i in range(axis.size)]


def _place(call: Call, group: int, steps: Sequence[tuple[int, int, int]]) -> Place:
    head = call.head + sum(step[0] for step in steps)
    q, k = call.q + sum(step[1] for step in steps), call.k + sum(step[2] for step in steps)
    return head, head // group, q, k


def _rows(places: Sequence[Place]) -> Iterator[tuple[Place, tuple[GroupedAxis, ...]]]:
    """Consecutive places at even distances, as a first place and an axis."""
    i = 0
    while i < len(places):
        size, stride = 1, (0, 0, 0, 0)
        if i + 1 < len(places):
            stride = _difference(places[i], places[i + 1])
            size = 2
            while i + size < len(places) and _difference(places[i + size - 1], places[i + size]) == stride:
                size += 1
        head, key_head, token, key_token = stride
        yield places[i], () if size == 1 else (GroupedAxis(size, head, key_head, token, key_token),)
        i += size


def _difference(a: Place, b: Place) -> Place:
    return b[0] - a[0], b[1] - a[1], b[2] - a[2], b[3] - a[3]
