"""What two ranks have to do with each other where a branch is no lattice: its pairs, looked at one by one.

Exact for every pattern, at a cost of rows times rows: for sequences of thousands of tokens. Rows with equal
neighbours are one node of the graph, so that the cover is the least there is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.covers import Cover, Node, cover_of_graph
from attnlang.parallel.dense import multiplicity_between
from attnlang.plan import Plan
from attnlang.rows import Rows
from attnlang.schedule import Placement

MAX_CELLS = 1 << 28
"""Pairs of two ranks, over all heads, that are looked at one by one: 1 GiB."""


def dense_pairs(
    plan: Plan, branches: Sequence[int], placement: Placement, a: int, b: int, tables: Mapping[str, Any]
) -> NDArray[Any]:
    """M of the branches, summed, for queries of rank a and keys of rank b: (heads, rows of a, rows of b)."""
    cells = plan.heads * placement.sizes[a] * placement.sizes[b]
    if cells > MAX_CELLS or cells * placement.ranks**2 > 64 * MAX_CELLS:
        raise ValueError(
            f"a part of this pattern is no lattice, so that planning n = {placement.n:,} on {placement.ranks} ranks "
            f"would look at {cells:,} pairs of each two ranks one by one; at most {MAX_CELLS:,} are looked at. Use a "
            "smaller n or fewer heads (patterns repeat)"
        )
    total = np.zeros((plan.heads, placement.sizes[a], placement.sizes[b]), np.int32)
    for number in branches:
        total += multiplicity_between(plan, number, placement, a, b, tables)
    return total


def least_dense_cover(pairs: NDArray[Any], group: int, query_weight: int, key_weight: int) -> Cover:
    """The least cover, in local rows of both ranks."""
    heads = pairs.shape[0]
    keys: list[Node] = []
    queries: list[Node] = []
    weight = bound = 0
    for kv_head in range(heads // group):
        cover = _of_kv_head(pairs[kv_head * group : (kv_head + 1) * group] > 0, query_weight, key_weight)
        keys += [(kv_head, rows) for _, rows in cover.keys]
        queries += [(kv_head * group + head, rows) for head, rows in cover.queries]
        weight, bound = weight + cover.weight, bound + cover.bound
    return Cover(tuple(keys), tuple(queries), weight, bound)


def every_dense_key(pairs: NDArray[Any], group: int) -> list[Node]:
    """The rows of k and v of all pairs, in local rows."""
    used: NDArray[np.bool_] = np.asarray((pairs > 0).any(1)).reshape(-1, group, pairs.shape[2])
    return [
        (kv_head, part)
        for kv_head in range(len(used))
        for part in progressions_of(np.flatnonzero(used[kv_head].any(0)))
    ]


def _of_kv_head(held: NDArray[np.bool_], query_weight: int, key_weight: int) -> Cover:
    group, rows, _ = held.shape
    flat = held.reshape(group * rows, -1)
    q_kinds, q_of = _kinds(flat)
    k_kinds, k_of = _kinds(flat.T)
    # a class stands for its rows: as a node it needs no more than their number and a name
    q_nodes = {kind: (0, Rows(int(kind), int((q_of == kind).sum()))) for kind in range(len(q_kinds))}
    k_nodes = {kind: (-1, Rows(int(kind), int((k_of == kind).sum()))) for kind in range(len(k_kinds))}
    edges: dict[tuple[Node, Node], bool] = {}
    for q_kind, row in enumerate(q_kinds):
        for k_kind, column in enumerate(k_kinds):
            if flat[row, column]:
                edges[q_nodes[q_kind], k_nodes[k_kind]] = True
    if not edges:
        return Cover()
    cover = cover_of_graph(edges, query_weight, key_weight)
    chosen_q = {rows.first for _, rows in cover.queries}
    chosen_k = {rows.first for _, rows in cover.keys}
    taken = np.isin(q_of, list(chosen_q)).reshape(group, rows)
    queries = [(head, part) for head in range(group) for part in progressions_of(np.flatnonzero(taken[head]))]
    keys = [(0, part) for part in progressions_of(np.flatnonzero(np.isin(k_of, list(chosen_k))))]
    return Cover(tuple(keys), tuple(queries), cover.weight, cover.bound)


def _kinds(matrix: NDArray[np.bool_]) -> tuple[list[int], NDArray[np.int64]]:
    """One row of each kind of row that holds anything, and the number of the kind of each row (-1: an empty row)."""
    packed = np.packbits(matrix, axis=1)
    first: dict[bytes, int] = {}
    of: list[int] = []
    kinds: list[int] = []
    empty = bytes(packed.shape[1])
    for number, row in enumerate(packed):
        key = row.tobytes()
        if key == empty:
            of.append(-1)
            continue
        if key not in first:
            first[key] = len(kinds)
            kinds.append(number)
        of.append(first[key])
    return kinds, np.array(of, np.int64)


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
