"""Least-weight vertex covers of bipartite graphs, by the largest flow: scipy's Dinic, where 32 bits suffice."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]
Flags = NDArray[np.bool_]

LARGEST = 2**31 - 1


def least_cover_of_graph(
    q_weights: Array, k_weights: Array, q_of: Array, k_of: Array, *, from_keys: bool = False
) -> tuple[Flags, Flags]:
    """(queries chosen, keys chosen) of a cover of the edges q_of[i] - k_of[i] that weighs as much as a flow.

    from_keys  of several least covers the one with the most keys, and else with the most queries. (Parts that need no
               flow, and those whose weights pass 32 bits, always take keys)

    Edges are distinct. Connected parts in which every query meets every key need no flow: one side is the cover.
    """
    part_q, part_k, parts = _parts(len(q_weights), len(k_weights), q_of, k_of)
    count_q, count_k, edges = (np.bincount(of, minlength=parts) for of in (part_q, part_k, part_q[q_of]))
    of_q, of_k = (
        np.bincount(of, weights, minlength=parts) for of, weights in ((part_q, q_weights), (part_k, k_weights))
    )
    whole = count_q * count_k == edges
    by_query = whole & (of_q < of_k)
    queries, keys = by_query[part_q], (whole & ~by_query & (edges > 0))[part_k]
    left = ~whole[part_q[q_of]]
    if left.any():
        q_used, q_index = np.unique(q_of[left], return_inverse=True)
        k_used, k_index = np.unique(k_of[left], return_inverse=True)
        chosen_q, chosen_k = _cut(q_weights[q_used], k_weights[k_used], q_index, k_index, from_keys)
        queries[q_used[chosen_q]] = True
        keys[k_used[chosen_k]] = True
    return queries, keys


def least_cover_of_boxes(
    q_weights: Array, k_weights: Array, boxes: tuple[Array, Array, Array, Array]
) -> tuple[Flags, Flags] | None:
    """The same where queries low_q..high_q - 1 meet keys low_k..high_k - 1, of each box; None where it is too heavy.

    A box is a node that its queries pass on to and that passes on to its keys: as many edges as it has rows.
    """
    unit = gcd(*q_weights.tolist(), *k_weights.tolist())
    q_weights, k_weights = q_weights // unit, k_weights // unit
    if max(int(q_weights.sum()), int(k_weights.sum())) >= LARGEST:
        return None
    low_q, high_q, low_k, high_k = boxes
    (of_q, q), (of_k, k) = _spread(low_q, high_q), _spread(low_k, high_k)
    return _cut_through(q_weights, k_weights, (q, of_q), (k, of_k), len(low_q))


def least_cover_of_sets(
    q_weights: Array, k_weights: Array, q_in: tuple[Array, Array], k_in: tuple[Array, Array], sets: int
) -> tuple[Flags, Flags]:
    """The same where queries q_in[0][i] are in the sets q_in[1][i], keys likewise, and those in one set meet.

    Of several least covers the one with the most keys. Each side weighs less than 32 bits hold.
    """
    return _cut_through(q_weights, k_weights, q_in, k_in, sets, from_keys=True)


def _cut_through(
    q_weights: Array, k_weights: Array, q_in: tuple[Array, Array], k_in: tuple[Array, Array], sets: int, *,
    from_keys: bool = False,
) -> tuple[Flags, Flags]:  # fmt: skip
    """A set is a node that its queries pass on to and that passes on to its keys."""
    queries, keys = len(q_weights), len(k_weights)
    inner, others = queries + 1, queries + sets + 1
    sink = others + keys
    start = np.concatenate([np.zeros(queries, np.int64), q_in[0] + 1, k_in[1] + inner, np.arange(keys) + others])
    end = np.concatenate([np.arange(queries) + 1, q_in[1] + inner, k_in[0] + others, np.full(keys, sink)])
    unlimited = np.full(len(q_in[0]) + len(k_in[0]), LARGEST)
    reached = _reached(start, end, np.concatenate([q_weights, unlimited, k_weights]), sink, from_sink=from_keys)
    return ~reached[1 : queries + 1], reached[others:sink]


def _spread(low: Array, high: Array) -> tuple[Array, Array]:
    """Every number low..high - 1 of each range, and the range that it is of."""
    sizes = high - low
    of = np.repeat(np.arange(len(low)), sizes)
    return of, low[of] + np.arange(len(of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _parts(queries: int, keys: int, q_of: Array, k_of: Array) -> tuple[Array, Array, int]:
    """The connected part of each query and of each key, and how many parts there are."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = queries + keys
    graph: Any = coo_array((np.ones(len(q_of), np.int8), (q_of, k_of + queries)), shape=(size, size))
    count, labels = connected_components(graph.tocsr(), directed=False)
    return labels[:queries].astype(np.int64), labels[queries:].astype(np.int64), int(count)


def _cut(q_weights: Array, k_weights: Array, q_of: Array, k_of: Array, from_keys: bool) -> tuple[Flags, Flags]:
    unit = gcd(*q_weights.tolist(), *k_weights.tolist())
    q_weights, k_weights = q_weights // unit, k_weights // unit
    flow = min(int(q_weights.sum()), int(k_weights.sum()))
    small = max(flow, int(q_weights.max()), int(k_weights.max())) < LARGEST
    if small:
        return _cut_of_small(q_weights, k_weights, q_of, k_of, from_keys)
    return _cut_of_large(q_weights, k_weights, q_of, k_of)


def _cut_of_small(q_weights: Array, k_weights: Array, q_of: Array, k_of: Array, from_keys: bool) -> tuple[Flags, Flags]:
    queries, keys = len(q_weights), len(k_weights)
    sink = queries + keys + 1
    start = np.concatenate([np.zeros(queries, np.int64), q_of + 1, np.arange(keys) + queries + 1])
    end = np.concatenate([np.arange(queries) + 1, k_of + queries + 1, np.full(keys, sink)])
    capacity = np.concatenate([q_weights, np.full(len(q_of), LARGEST), k_weights])
    reached = _reached(start, end, capacity, sink, from_sink=from_keys)
    return ~reached[1 : queries + 1], reached[queries + 1 : sink]


def _reached(start: Array, end: Array, capacity: Array, sink: int, *, from_sink: bool = False) -> Flags:
    """Which nodes are on the source's side of a least cut; the source is node 0.

    Its side is as small as it can be, or with `from_sink` as large.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    graph: Any = csr_array((capacity.astype(np.int32), (start, end)), shape=(sink + 1, sink + 1))
    found = maximum_flow(graph, 0, sink)
    left: Any = graph.astype(np.int64) - found.flow.astype(np.int64)
    left.eliminate_zeros()
    reached = np.zeros(sink + 1, bool)
    if from_sink:
        reached[breadth_first_order(left.T.tocsr(), sink, return_predecessors=False)] = True
        return ~reached
    reached[breadth_first_order(left, 0, return_predecessors=False)] = True
    return reached


def _cut_of_large(q_weights: Array, k_weights: Array, q_of: Array, k_of: Array) -> tuple[Flags, Flags]:
    """The same in Python's integers."""
    import networkx as nx

    queries, keys = len(q_weights), len(k_weights)
    flow = nx.DiGraph()
    flow.add_edges_from(("source", i, {"capacity": int(weight)}) for i, weight in enumerate(q_weights))
    flow.add_edges_from((queries + j, "sink", {"capacity": int(weight)}) for j, weight in enumerate(k_weights))
    flow.add_edges_from((int(i), queries + int(j)) for i, j in zip(q_of, k_of, strict=True))
    _, (reached, _) = nx.minimum_cut(flow, "source", "sink", flow_func=nx.algorithms.flow.preflow_push)
    held = np.array([i in reached for i in range(queries + keys)], bool)
    return ~held[:queries], held[queries:]
