"""Sets of rows as few arithmetic progressions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnlang.rows import Rows

Node: TypeAlias = tuple[int, Rows]
"""Rows of one head."""


@dataclass(slots=True)
class Touching:
    """Which of many rows have a row in common with others: only those of residues that can meet are compared."""

    classes: dict[tuple[int, int], dict[int, list[tuple[Rows, int]]]] = field(default_factory=dict)  # by head and step

    def add(self, head: int, rows: Rows, name: int) -> None:
        """Keep the rows of a head under a name."""
        step = 1 if rows.count == 1 else rows.step
        self.classes.setdefault((head, step), {}).setdefault(rows.first % step, []).append((rows, name))

    def of(self, head: int, rows: Rows) -> Iterator[int]:
        """The names of those kept that have a row in common with these."""
        for (other, step), by_residue in self.classes.items():
            if other != head:
                continue
            if rows.count == 1 or rows.step % step == 0:
                some = [by_residue.get(rows.first % step, [])]
            else:
                some = list(by_residue.values())
            yield from (name for of_class in some for kept, name in of_class if kept & rows is not None)


def disjoint(nodes: Iterable[Node]) -> list[Node]:
    """The same rows, each once."""
    result: list[Node] = []
    known = Touching()
    for head, rows in sorted(dict.fromkeys(nodes), key=lambda node: (node[1].step, node[0], node[1].first)):
        rest = [rows]
        for place in known.of(head, rows):
            rest = [part for rows_left in rest for part in rows_left.minus(result[place][1])]
        for part in rest:
            known.add(head, part, len(result))
            result.append((head, part))
    return result


def tidied(nodes: Iterable[Node]) -> list[Node]:
    """Rows that are each there once, as fewer: stretches end to end, and classes of one step that fill a stretch."""
    by_step: dict[tuple[int, int], list[Rows]] = defaultdict(list)
    for head, rows in nodes:
        by_step[head, rows.step if rows.count > 1 else 1].append(rows)
    found: list[Node] = []
    for (head, step), parts in sorted(by_step.items(), key=lambda item: (item[0][0], -item[0][1])):
        first, last = min(rows.first for rows in parts), max(rows.last for rows in parts)
        if step > 1 and sum(rows.count for rows in parts) == last - first + 1:
            by_step[head, 1].append(Rows(first, last - first + 1))
        elif step > 1:
            found += [(head, rows) for rows in parts]
    for (head, step), parts in by_step.items():
        if step > 1:
            continue
        stretches: list[Rows] = []
        for rows in sorted(parts, key=lambda rows: rows.first):
            if stretches and stretches[-1].last + 1 == rows.first:
                stretches[-1] = Rows(stretches[-1].first, stretches[-1].count + rows.count)
            else:
                stretches.append(Rows(rows.first, rows.count))
        found += [(head, rows) for rows in _few(stretches)]
    return found


def _few(stretches: list[Rows]) -> list[Rows]:
    """Rows that stand alone as few progressions, beside the longer stretches."""
    return [rows for rows in stretches if rows.count > 1] + progressions_of(
        rows.first for rows in stretches if rows.count == 1
    )


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


def stretches_of(ordered: NDArray[np.int64]) -> list[Rows]:
    """Ascending numbers as stretches."""
    edges = [0, *(np.flatnonzero(np.diff(ordered) > 1) + 1).tolist(), len(ordered)]
    return [Rows(int(ordered[low]), high - low) for low, high in pairwise(edges) if high > low]
