"""Sets of rows as few arithmetic progressions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias

from attnlang.rows import Rows

Node: TypeAlias = tuple[int, Rows]
"""Rows of one head."""


def progressions_of(places: Iterable[int]) -> list[Rows]:
    """Ascending positions as few progressions, greedily."""
    ordered = [int(place) for place in places]
    result: list[Rows] = []
    i = 0
    while i < len(ordered):
        if i + 1 == len(ordered):
            result.append(Rows(ordered[i], 1))
            break
        step = ordered[i + 1] - ordered[i]
        j = i + 1
        while j + 1 < len(ordered) and ordered[j + 1] - ordered[j] == step:
            j += 1
        if j == i + 1 and step > 1 and j + 1 < len(ordered):  # two by chance: leave the second to what follows
            result.append(Rows(ordered[i], 1))
            i += 1
            continue
        result.append(Rows(ordered[i], j - i + 1, step))
        i = j + 1
    return result


def grouped(nodes: Iterable[Node]) -> list[tuple[tuple[int, ...], Rows]]:
    """Heads that have the same rows, together."""
    found: dict[Rows, list[int]] = defaultdict(list)
    for head, rows in nodes:
        found[rows].append(head)
    return [(tuple(sorted(heads)), rows) for rows, heads in found.items()]
