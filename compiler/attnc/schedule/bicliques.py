"""The least cover of rectangles without bands: sets of queries and sets of keys, every query of one with every key.

A cover holds all queries of a rectangle, or all its keys. So a least one is told by which sets of queries it holds: it
holds the keys of every rectangle whose queries it does not. What a choice weighs follows from how many rows each union
of sets has. Few sets: every choice is weighed, and unions are counted by their intersections, which are progressions
again. Many sets: rows that lie in the same ones are one node of a flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import gcd, lcm
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.flows import least_cover_of_graph
from attnc.schedule.lines import distinct
from attnc.schedule.progressions import Node, disjoint
from attnlang.plan import FULL
from attnlang.rows import Rows
from attnlang.runtime.pairs import Pairs

Array = NDArray[np.int64]
Flags = NDArray[np.bool_]
Rectangle: TypeAlias = tuple[Node, Node]
"""Queries of a head and keys."""
Cover: TypeAlias = tuple[tuple[Node, ...], tuple[Node, ...], int]
"""Keys, queries, and what they weigh."""

FEW_SETS = 7
"""Of so many sets of one side every choice is weighed."""
FEW_PARTS = 32
"""So many sets are made disjoint one after another, which leaves them as they are where that is possible."""
MAX_CELLS = 2**22
"""So many cells (a residue of the common step, between two ends) times sets are looked at."""
MAX_CORNERS = 512
"""So many rows of which a band holds pairs back are taken one by one."""


def without_bands(pairs: Sequence[Pairs]) -> list[Pairs] | None:
    """The same pairs without bands: queries that do not see all keys one by one. None where these are many."""
    found: list[Pairs] = []
    left = MAX_CORNERS
    for part in pairs:
        if part.band == FULL:
            found.append(part)
            continue
        band, q, k = part.index_band, part.q, part.k
        low = (
            0 if band.hi is None else min(q.count, max(0, k.count - 1 - band.hi))
        )  # before it the last key is not seen
        high = q.count if band.lo is None else max(low, min(q.count, 1 - band.lo))  # from it on the first one is not
        left -= low + q.count - high
        if left < 0:
            return None
        step = q.step if q.count > 1 else k.step
        if high > low:
            found.append(Pairs(part.heads, Rows(q.first + low * step, high - low, step), k))
        for row in (*range(low), *range(high, q.count)):
            first = 0 if band.lo is None else max(0, row + band.lo)
            last = k.count - 1 if band.hi is None else min(k.count - 1, row + band.hi)
            if first <= last:
                keys = Rows(k.first + first * step, last - first + 1, step)
                found.append(Pairs(part.heads, Rows(q.first + row * step, 1), keys))
    return found


def least_of_rectangles(rectangles: Sequence[Rectangle], query_weight: int, key_weight: int) -> Cover | None:
    """The least cover with the most keys; None where rows have too many common steps."""
    q_sets, k_sets = (list(dict.fromkeys(each[side] for each in rectangles)) for side in (0, 1))
    q_place, k_place = ({node: i for i, node in enumerate(sets)} for sets in (q_sets, k_sets))
    meet = np.zeros((len(q_sets), len(k_sets)), bool)
    meet[[q_place[q] for q, _ in rectangles], [k_place[k] for _, k in rectangles]] = True
    if len(q_sets) <= FEW_SETS and len(k_sets) <= FEW_SETS:
        return _of_few(q_sets, k_sets, meet, query_weight, key_weight)
    q_cells, k_cells = cells_of(q_sets), cells_of(k_sets)
    if q_cells is None or k_cells is None:
        return None
    return _of_many(q_cells, k_cells, meet, query_weight, key_weight)


def _of_few(q_sets: Sequence[Node], k_sets: Sequence[Node], meet: Flags, query_weight: int, key_weight: int) -> Cover:
    """The least of all choices of sets of queries."""
    choices = np.arange(1 << len(q_sets))
    of_queries = union_sizes(q_sets) * query_weight
    partners = np.zeros(len(choices), np.int64)  # the sets of keys that are needed, as bits
    for i, row in enumerate(meet):
        bits = int((row.astype(np.int64) << np.arange(len(k_sets))).sum())
        partners |= np.where(choices >> i & 1, 0, bits)
    total = of_queries + union_sizes(k_sets)[partners] * key_weight
    least = np.flatnonzero(total == total.min())
    best = int(least[np.argmin(of_queries[least])])  # of equals, the one with the most keys
    held = choices[best] >> np.arange(len(q_sets)) & 1
    keys = partners[best] >> np.arange(len(k_sets)) & 1
    queries, keys = (
        tuple(disjoint([node for node, is_held in zip(sets, flags, strict=True) if is_held]))
        for sets, flags in ((q_sets, held.tolist()), (k_sets, keys.tolist()))
    )
    return keys, queries, int(total[best])


def union_sizes(sets: Sequence[Node]) -> Array:
    """How many rows the union of each choice of sets has; choices are numbers whose bit i says whether set i is in."""
    common: list[Node | None] = [None] * (1 << len(sets))
    sizes = np.zeros(len(common), np.int64)  # of unions, as sums of intersections with signs
    for i, node in enumerate(sets):
        common[1 << i] = node
        sizes[1 << i] = node[1].count
        for rest in range(1, 1 << i):
            other = common[rest]
            rows = None if other is None or other[0] != node[0] else other[1] & node[1]
            if rows is not None:
                common[rest | 1 << i] = node[0], rows
                sizes[rest | 1 << i] = rows.count * (1 if rest.bit_count() % 2 == 0 else -1)
    for i in range(len(sets)):
        halves = sizes.reshape(-1, 2, 1 << i)
        halves[:, 1] += halves[:, 0]
    return sizes


def _of_many(q_cells: Cells, k_cells: Cells, meet: Flags, query_weight: int, key_weight: int) -> Cover:
    """The same by a flow between classes of rows that lie in the same sets."""
    (q_in, q_of), (k_in, k_of) = q_cells.classes(), k_cells.classes()
    q_weights, k_weights = (
        np.bincount(of, cells.count, len(within)).astype(np.int64) * weight
        for cells, within, of, weight in ((q_cells, q_in, q_of, query_weight), (k_cells, k_in, k_of, key_weight))
    )
    edges = (q_in.astype(np.float32) @ meet.astype(np.float32)) @ k_in.astype(np.float32).T > 0
    chosen_q, chosen_k = least_cover_of_graph(q_weights, k_weights, *np.nonzero(edges), from_keys=True)
    weight = int(q_weights[chosen_q].sum() + k_weights[chosen_k].sum())
    return tuple(k_cells.nodes(chosen_k[k_of])), tuple(q_cells.nodes(chosen_q[q_of])), weight


@dataclass(frozen=True, eq=False, slots=True)
class Cells:
    """Rows of some sets, as cells of which every set holds all rows or none; by head, stretch and first row.

    head, first, count, step  rows of each cell; those of one stretch have one step
    stretch                   which stretch between two ends of sets a cell is of
    whole                     how many cells a stretch has if no row of it is missing
    unit                      what the rows of such a stretch are apart
    within                    (cells, sets)
    """

    head: Array
    first: Array
    count: Array
    step: Array
    stretch: Array
    unit: Array
    whole: Array
    within: Flags

    def classes(self) -> tuple[Flags, Array]:
        """Which sets the cells of each class are in, and the class of each cell."""
        packed = np.packbits(self.within, axis=1)
        _, place, of = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        return self.within[place], of.reshape(-1)

    def nodes(self, chosen: Flags) -> list[Node]:
        """The rows of chosen cells as few progressions: stretches where all of a step is chosen, else by class."""
        found: dict[tuple[int, int, int], Rows] = {}  # by head, step, and the row that would follow
        apart = chosen.copy()
        held = np.flatnonzero(np.bincount(self.stretch[chosen], minlength=len(self.whole)) == self.whole)
        lead, sizes = np.searchsorted(self.stretch, held), np.bincount(self.stretch, self.count, len(self.whole))
        head, first, unit = self.head[lead], self.first[lead], self.unit[lead]
        size = sizes[held].astype(np.int64)
        begins = (head[1:] != head[:-1]) | (first[1:] != first[:-1] + size[:-1] * unit[:-1])
        for run in np.split(np.arange(len(held)), np.flatnonzero(begins) + 1) if len(held) else ():
            count, i = int(size[run].sum()), run[0]
            if count * unit[i] >= self.step[lead[i]]:
                _append(found, int(head[i]), Rows(int(first[i]), count, int(unit[i])))
                apart &= (self.stretch < held[run[0]]) | (self.stretch > held[run[-1]])
        for i in np.flatnonzero(apart).tolist():
            _append(found, int(self.head[i]), Rows(int(self.first[i]), int(self.count[i]), int(self.step[i])))
        return [(head, rows) for (head, _, _), rows in found.items()]


def _append(found: dict[tuple[int, int, int], Rows], head: int, rows: Rows) -> None:
    """Keep rows, as the end of those that they follow."""
    before = found.pop((head, rows.step, rows.first), None)
    if before is not None:
        rows = Rows(before.first, before.count + rows.count, rows.step)
    found[head, rows.step, rows.last + rows.step] = rows


def united(nodes: Sequence[Node]) -> list[Node]:
    """The same rows, each once."""
    cells = cells_of(list(dict.fromkeys(nodes))) if len(nodes) > FEW_PARTS else None
    return disjoint(nodes) if cells is None else cells.nodes(np.ones(len(cells.first), bool))


def cells_of(sets: Sequence[Node]) -> Cells | None:
    """The cells of some sets of rows; None where they are too many."""
    parts: list[Cells] = []
    for head in sorted({head for head, _ in sets}):
        of_head = [i for i, node in enumerate(sets) if node[0] == head]
        found = _cells_of_head(head, [sets[i][1] for i in of_head])
        if found is None:
            return None
        within = np.zeros((len(found.first), len(sets)), bool)
        within[:, of_head] = found.within
        parts.append(replace(found, within=within, stretch=found.stretch + sum(len(part.whole) for part in parts)))
    columns = {each.name: np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Cells)}
    return Cells(**columns)


def _cells_of_head(head: int, sets: Sequence[Rows]) -> Cells | None:
    base = min(rows.first for rows in sets)
    unit = gcd(*(rows.first - base for rows in sets), *(rows.step for rows in sets if rows.count > 1)) or 1
    first = np.array([(rows.first - base) // unit for rows in sets], np.int64)
    last = np.array([(rows.last - base) // unit for rows in sets], np.int64)
    steps = [rows.step // unit if rows.count > 1 else 1 for rows in sets]
    step, cuts = lcm(*steps), distinct(np.concatenate([first, last + 1]))
    sizes = np.minimum(np.diff(cuts), step)  # of the cells between two cuts, one for each residue
    if int(sizes.sum()) * len(sets) > MAX_CELLS:
        return None
    of = np.repeat(np.arange(len(sizes)), sizes)
    row = cuts[of] + np.arange(len(of)) - (np.cumsum(sizes) - sizes)[of]
    count = (cuts[of + 1] - 1 - row) // step + 1
    within = (first <= row[:, None]) & (row[:, None] <= last) & ((row[:, None] - first) % np.array(steps) == 0)
    some = within.any(1)
    same = np.ones(len(row), np.int64)
    columns = {"head": head * same, "step": step * unit * same, "unit": unit * same}
    columns |= {"first": base + row * unit, "count": count, "stretch": of}
    return Cells(whole=sizes, within=within[some], **{name: column[some] for name, column in columns.items()})
