"""One ordered pair of ranks with tiled branches: what it has, what is chosen, and where its pairs are computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.boxes import Counter, NoTermError
from attnc.schedule.classes import Job
from attnc.schedule.joint import Order
from attnc.schedule.lines import Meeting, Strided
from attnc.schedule.regions import Name
from attnlang.parallel.dense import numbers
from attnlang.pattern.algebra import Relation
from attnlang.rows import Rows
from attnlang.schedule import HeadRows

Array = NDArray[np.int64]


Homes: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Pairs computed where their queries live, and where their keys do, by branch."""
Moved: TypeAlias = tuple[tuple[tuple[int, ...], tuple[Rows, ...]], ...]
"""Heads, and what rows of each of them move."""


@dataclass(frozen=True, eq=False, slots=True)
class Met:
    """One ordered pair of ranks: rows that move; what they weigh; pairs at either home, by branch."""

    keys: Moved
    queries: Moved
    weight: int
    bound: int
    at_query: tuple[float, ...]
    at_key: tuple[float, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Between:
    """The pairs between two ranks: `name` says all of them, in local rows.

    lattices  (branch, heads, progressions)
    orders    what rows of a and of b are sorted by, where they are not as they are
    """

    name: Any
    tiles: tuple[TilesBetween, ...]
    lattices: tuple[tuple[int, tuple[int, ...], Strided], ...]
    orders: tuple[Order, Order] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class TilesBetween:
    """The rectangles of one branch and some heads between two ranks: (q0, q1, k0, k1) of each, and as bytes."""

    name: Any
    branch: int
    heads: tuple[int, ...]
    boxes: Array
    times: Array
    text: bytes


Alike: TypeAlias = tuple[tuple[tuple[bytes, ...], tuple[Strided, ...], tuple[int, ...]], ...]


def alike_of(kv_head: int, group: int, between: Between) -> Alike:
    """The pairs of heads of q that share a head of k: (rectangles, progressions) and whose they are."""
    found: dict[tuple[tuple[bytes, ...], tuple[Strided, ...]], list[int]] = {}
    for place in range(group):
        head = kv_head * group + place
        boxes = tuple(part.text for part in between.tiles if head in part.heads)
        strided = tuple(part for _, heads, part in between.lattices if head in heads)
        if boxes or strided:
            found.setdefault((boxes, strided), []).append(place)
    return tuple((*content, tuple(places)) for content, places in found.items())


def heads_alike(heads: int, group: int, between: Between) -> dict[Alike, list[int]]:
    """Heads of k by the pairs of the heads of q that share them, without those that have none."""
    everywhere = all(len(part.heads) == heads for part in between.tiles)
    if everywhere and all(len(of) == heads for _, of, _ in between.lattices):
        alike = alike_of(0, group, between)
        return {alike: list(range(heads // group))} if alike else {}
    found: dict[Alike, list[int]] = {}
    for kv_head in range(heads // group):
        alike = alike_of(kv_head, group, between)
        if alike:
            found.setdefault(alike, []).append(kv_head)
    return found


def within(ends: Array, parts: Sequence[HeadRows], head: int) -> bool:
    """Whether stretches of rows of a head, (first, last) of each, lie in the longest stretch among some rows of it."""
    stretches = [part.rows for part in parts if head in part.heads and part.rows.step == 1]
    longest = max(stretches, key=lambda rows: rows.count, default=None)
    return longest is not None and bool(((ends[:, 0] >= longest.first) & (ends[:, 1] <= longest.last)).all())


def namer(relation: Relation, n: int, head: int, heads: int, scope: Mapping[str, Any]) -> Name | None:
    """How two stretches meet, by the relation's simplest term between them; None for what has no term."""
    counter = Counter({name: content for name, content in scope.items() if name not in ("N", "H", "h")})

    def name(q: Rows, k: Rows) -> Hashable:
        return counter.meeting(relation, n, head, heads, q, k)

    try:
        name(Rows(0, 1), Rows(0, 1))
    except NoTermError:
        return None
    return name


def name_of(alike: Alike, weights: tuple[int, int]) -> Any:
    """What a cover of heads is kept by."""
    return alike, weights


def job_of(alike: Alike) -> Job:
    """The pairs of heads that share a head of k, to be covered."""
    return tuple(
        Meeting(places, np.frombuffer(b"".join(boxes), np.int64).reshape(-1, 4), strided)
        for boxes, strided, places in alike
    )


def count_homes(
    heads: set[int], between: Between, sent: tuple[Rows, ...], shipped: bool, homes: tuple[list[float], list[float]]
) -> None:
    """Add the pairs of some heads that are computed at either home, by branch."""
    before = _counter_of(sent if shipped else ())
    here, there = homes
    for part in between.tiles:
        count = len(heads.intersection(part.heads))
        if not count:
            continue
        q0, q1, k0, k1 = part.boxes.T
        tall = (q1 - q0 + 1) * part.times * count
        total = at_query = int((tall * (k1 - k0 + 1)).sum())
        if shipped:
            at_query = int((tall * (before(k1 + 1) - before(k0))).sum())
        here[part.branch] += at_query
        there[part.branch] += total - at_query
    for number, of, strided in between.lattices:
        count = len(heads.intersection(of))
        if not count:
            continue
        low, high = strided.keys_of()
        total = at_query = int((high - low).sum())
        if shipped:
            k = numbers(strided.k)
            chosen = np.concatenate(([0], np.cumsum(before(k + 1) - before(k))))
            at_query = int((chosen[high] - chosen[low]).sum())
        here[number] += count * at_query
        there[number] += count * (total - at_query)


def _counter_of(parts: Sequence[Rows]) -> Callable[[Array], Array]:
    """How many of some rows, which have none in common, lie before each of others."""
    if all(part.step == 1 for part in parts):
        ordered = sorted((part.first, part.count) for part in parts)
        first, count = np.array([(-1, 0), *ordered], np.int64).T
        total = np.cumsum(count) - count

        def in_stretches(rows: Array) -> Array:
            at = np.maximum(np.searchsorted(first, rows, side="right") - 1, 0)
            return total[at] + np.minimum(rows - first[at], count[at])

        return in_stretches
    every = np.sort(np.concatenate([numbers(part) for part in parts]))
    return lambda rows: np.searchsorted(every, rows)
