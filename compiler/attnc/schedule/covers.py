"""The least that one ordered pair of ranks must exchange: a minimum-weight vertex cover, with a flow that proves it.

A pair of tokens is computed where its query lives, if its key's row is sent there, or where its key lives, if its
query's row is. So the rows that move cover the pairs: a vertex cover of the bipartite graph of rows. Its least weight
equals the largest flow through that graph (König, Egerváry), which `flows` computes.

Rows with equal neighbours are one node. Where a band cuts through, rows are cut into stretches, and blocks of
stretches are nodes: an edge stands where a block has any pair, so what is found is a cover. The bound keeps only those
blocks in which every row of either side can pass on an equal share (full blocks, and squares with their diagonal), so
its flow is a flow of single rows. Where the two agree, and for bands and rectangles they do, the cover is the minimum.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import lcm
from typing import TypeAlias

import numpy as np

from attnc.schedule.bicliques import least_of_rectangles, united, without_bands
from attnc.schedule.flows import least_cover_of_graph
from attnc.schedule.progressions import Node, Touching, disjoint
from attnlang.plan import FULL, Band
from attnlang.rows import Rows
from attnlang.runtime.pairs import Pairs, exact, split

MAX_BLOCKS = 60_000
MAX_CUTS = 192


@dataclass(frozen=True, slots=True)
class Cover:
    """Rows of k and v, and rows of q, that cover all pairs; the weight, and what no cover can undercut."""

    keys: tuple[Node, ...] = ()
    queries: tuple[Node, ...] = ()
    weight: int = 0
    bound: int = 0


def least_cover(pairs: Iterable[Pairs], group: int, query_weight: int, key_weight: int) -> Cover:
    """The cover of pairs between two ranks. `group` heads of q share a head of k; weights are bytes a row."""
    by_kv: dict[int, list[_Item]] = defaultdict(list)
    for part in pairs:
        for head in part.heads:
            by_kv[head // group].append((head % group, part.q, part.k, part.band))
    found: dict[tuple[_Item, ...], Cover] = {}
    keys: list[Node] = []
    queries: list[Node] = []
    weight = bound = 0
    for kv_head, items in by_kv.items():
        alike = tuple(items)
        cover = found.get(alike)
        if cover is None:
            cover = found[alike] = cover_of_items(items, query_weight, key_weight)
        keys += [(kv_head, rows) for _, rows in cover.keys]
        queries += [(kv_head * group + head, rows) for head, rows in cover.queries]
        weight, bound = weight + cover.weight, bound + cover.bound
    return Cover(tuple(keys), tuple(queries), weight, bound)


_Item: TypeAlias = tuple[int, Rows, Rows, Band]


def cover_of_items(items: Sequence[_Item], query_weight: int, key_weight: int) -> Cover:
    """The cover of (head of q, queries, keys, band) of one head of k, whose own number in the result is 0."""
    if all(band == FULL for _, _, _, band in items):
        whole = _of_rectangles(items, query_weight, key_weight)
        if whole is not None:
            return whole
    parts = [_of_component(part, query_weight, key_weight) for part in _components(items)]
    return Cover(
        tuple(node for part in parts for node in part.keys),
        tuple(node for part in parts for node in part.queries),
        sum(part.weight for part in parts),
        sum(part.bound for part in parts),
    )


def _components(items: Sequence[_Item]) -> list[list[_Item]]:
    """Items that share rows with one another, directly or not."""
    parent = list(range(len(items)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    keys, queries = Touching(), Touching()
    for i, (head, q, k, _) in enumerate(items):
        for j in (*queries.of(head, q), *keys.of(0, k)):
            parent[root(i)] = root(j)
        queries.add(head, q, i)
        keys.add(0, k, i)
    groups: dict[int, list[_Item]] = defaultdict(list)
    for i, item in enumerate(items):
        groups[root(i)].append(item)
    return list(groups.values())


def _of_component(items: Sequence[_Item], query_weight: int, key_weight: int) -> Cover:
    items = list(dict.fromkeys(items))
    if len(items) == 1 and (simple := _of_one(items[0], query_weight, key_weight)) is not None:
        return simple
    rectangles = _of_rectangles(items, query_weight, key_weight)
    if rectangles is not None:
        return rectangles
    graph = _Blocks.build(items)
    if graph is None:
        return _one_side(items, query_weight, key_weight)
    return graph.cover(query_weight, key_weight)


def _of_rectangles(items: Sequence[_Item], query_weight: int, key_weight: int) -> Cover | None:
    """The least cover where bands hold back few pairs or none."""
    parts = without_bands([Pairs((head,), q, k, band) for head, q, k, band in items])
    if parts is None:
        return None
    found = least_of_rectangles([((part.heads[0], part.q), (0, part.k)) for part in parts], query_weight, key_weight)
    if found is None:
        return None
    keys, queries, weight = found
    return Cover(keys, queries, weight, weight)


def _of_one(item: _Item, query_weight: int, key_weight: int) -> Cover | None:
    """One rectangle, or one band in a square that holds the diagonal: all rows of the cheaper side."""
    head, q, k, band = item
    square = q.count == k.count and q.step == k.step and k.first - q.first in band
    if band != Band() and not square:
        return None
    if q.count * query_weight < k.count * key_weight:
        return Cover((), ((head, q),), q.count * query_weight, q.count * query_weight)
    return Cover(((0, k),), (), k.count * key_weight, k.count * key_weight)


def _one_side(items: Sequence[_Item], query_weight: int, key_weight: int) -> Cover:
    """Too many blocks to weigh: every row of the cheaper side, and a bound from items that share no rows."""
    queries = disjoint([(head, q) for head, q, _, _ in items])
    keys = disjoint([(0, k) for _, _, k, _ in items])
    of_queries = sum(rows.count for _, rows in queries) * query_weight
    of_keys = sum(rows.count for _, rows in keys) * key_weight
    bound = _of_apart(items, query_weight, key_weight)
    if of_queries < of_keys:
        return Cover((), tuple(queries), of_queries, bound)
    return Cover(tuple(keys), (), of_keys, bound)


def _of_apart(items: Sequence[_Item], query_weight: int, key_weight: int) -> int:
    """What items that share no rows need, each by itself: chosen the largest first, or the smallest."""
    covers = [(_of_one(item, query_weight, key_weight), item) for item in items]
    needs = sorted(((cover.bound, item) for cover, item in covers if cover is not None), key=lambda need: -need[0])
    return max(_taken(needs), _taken(needs[::-1]))


def _taken(needs: Sequence[tuple[int, _Item]]) -> int:
    """The sum of those that share no rows with one before them."""
    keys, queries = Touching(), Touching()
    total = 0
    for place, (need, (head, q, k, _)) in enumerate(needs):
        if not any(True for _ in queries.of(head, q)) and not any(True for _ in keys.of(0, k)):
            total += need
            queries.add(head, q, place)
            keys.add(0, k, place)
    return total


def every_key(pairs: Iterable[Pairs], group: int) -> list[Node]:
    """The rows of k and v of all pairs, each once: what moves where every query stays at home."""
    by_kv: dict[int, dict[Rows, None]] = defaultdict(dict)
    for part in pairs:
        for head in part.heads:
            by_kv[head // group][part.k] = None
    alike: dict[tuple[Rows, ...], list[int]] = defaultdict(list)
    for kv_head, rows in by_kv.items():
        alike[tuple(rows)].append(kv_head)
    return [
        (kv_head, part)
        for rows, kv_heads in alike.items()
        for _, part in united([(0, each) for each in rows])
        for kv_head in kv_heads
    ]


_Line: TypeAlias = tuple[int, int]
"""A head and a residue of the common step: rows that are cut into stretches. Head -1 is that of k."""


@dataclass(slots=True)
class _Blocks:
    """Items split by residue of one step, and where each line of rows is cut."""

    step: int
    items: list[tuple[_Line, Rows, _Line, Rows, Band]]
    cuts: dict[_Line, set[int]] = field(default_factory=lambda: defaultdict(set[int]))

    @staticmethod
    def build(items: Sequence[_Item]) -> _Blocks | None:
        step = lcm(*(rows.step for _, q, k, _ in items for rows in (q, k) if rows.count > 1), 1)
        if sum((step // q.step) * (step // k.step) for _, q, k, _ in items) > MAX_BLOCKS:
            return None
        split_items: list[tuple[_Line, Rows, _Line, Rows, Band]] = []
        for head, q, k, band in items:
            for q_part in split(q, step if q.count > 1 else q.step):
                for k_part in split(k, step if k.count > 1 else k.step):
                    for part in exact(Pairs((head,), q_part, k_part, band)):
                        lines = (head, part.q.first % step), (-1, part.k.first % step)
                        split_items.append((lines[0], part.q, lines[1], part.k, part.band))
        blocks = _Blocks(step, split_items)
        blocks._cut()
        return blocks

    def _cut(self) -> None:
        """Cut lines where items begin and end; and where a band carries a cut over, so that it meets the diagonal."""
        waiting: list[tuple[_Line, int]] = []
        by_line: dict[_Line, list[tuple[bool, Rows, _Line, Rows, Band]]] = defaultdict(list)
        for q_line, q, k_line, k, band in self.items:
            waiting += [(q_line, q.first), (q_line, q.last + self.step)]
            waiting += [(k_line, k.first), (k_line, k.last + self.step)]
            if band != Band():
                by_line[q_line].append((True, q, k_line, k, band))
                by_line[k_line].append((False, k, q_line, q, band))
        carried = 0
        while waiting:
            line, place = waiting.pop(0)
            if place in self.cuts[line]:
                continue
            self.cuts[line].add(place)
            for is_query, rows, other_line, other, band in by_line[line]:
                if not rows.first < place <= rows.last or carried > MAX_CUTS:
                    continue
                lo, hi = (band.lo, band.hi) if is_query else (_minus(band.hi), _minus(band.lo))
                partners = ([] if lo is None else [place + lo]) + ([] if hi is None else [place - self.step + hi + 1])
                for partner in partners:
                    carried += 1
                    waiting.append((other_line, other.first + -(-(partner - other.first) // self.step) * self.step))

    def _stretches(self, line: _Line, rows: Rows) -> list[Rows]:
        places = sorted(place for place in self.cuts[line] if rows.first <= place <= rows.last + self.step)
        return [Rows(low, (high - low) // self.step, self.step) for low, high in pairwise(places)]

    def cover(self, query_weight: int, key_weight: int) -> Cover:
        """The least cover of blocks with any pair, and the largest flow through blocks that pass equal shares."""
        edges: dict[tuple[Node, Node], bool] = {}
        sides = {(line, rows) for q_line, q, k_line, k, _ in self.items for line, rows in ((q_line, q), (k_line, k))}
        stretches = {side: self._stretches(*side) for side in sides}
        for q_line, q, k_line, k, band in self.items:
            keys = stretches[k_line, k]
            for q_part in stretches[q_line, q]:
                for k_part in keys:
                    kind = _block(q_part, k_part, band)
                    if kind is not None:
                        ends = (q_line[0], q_part), (-1, k_part)
                        edges[ends] = edges.get(ends, False) or kind
        return cover_of_graph(edges, query_weight, key_weight)


def _minus(value: int | None) -> int | None:
    return None if value is None else -value


def _block(q: Rows, k: Rows, band: Band) -> bool | None:
    """None: no pair; else whether each row can pass on an equal share: a full block, or a square with its diagonal."""
    near, far = k.first - q.last, k.last - q.first
    lo, hi = band.lo, band.hi
    if (lo is not None and far < lo) or (hi is not None and near > hi):
        return None
    if (lo is None or near >= lo) and (hi is None or far <= hi):
        return True
    return q.count == k.count and k.first - q.first in band


def cover_of_graph(edges: dict[tuple[Node, Node], bool], query_weight: int, key_weight: int) -> Cover:
    """The least cover of a graph of row classes; edges that are False count for the cover, not for the bound.

    A node whose head is -1 is of k; its head is 0 in the result.
    """
    chosen, weight = _minimum_cut(edges, query_weight, key_weight)
    sure = {ends: kind for ends, kind in edges.items() if kind}
    bound = weight if len(sure) == len(edges) else _minimum_cut(sure, query_weight, key_weight)[1]
    keys = tuple((0, rows) for head, rows in chosen if head < 0)
    return Cover(keys, tuple(node for node in chosen if node[0] >= 0), weight, bound)


def _minimum_cut(edges: Iterable[tuple[Node, Node]], query_weight: int, key_weight: int) -> tuple[list[Node], int]:
    """The rows of a least cover, and what they weigh, which is what the largest flow carries."""
    pairs = [(a, b) if a[0] >= 0 else (b, a) for a, b in edges]
    if not pairs:
        return [], 0
    queries, keys = (sorted({pair[side] for pair in pairs}, key=_order) for side in (0, 1))
    q_place, k_place = ({node: i for i, node in enumerate(nodes)} for nodes in (queries, keys))
    q_weights = np.array([rows.count * query_weight for _, rows in queries], np.int64)
    k_weights = np.array([rows.count * key_weight for _, rows in keys], np.int64)
    q_of, k_of = (
        np.array([place[pair[side]] for pair in pairs], np.int64) for side, place in ((0, q_place), (1, k_place))
    )
    chosen_q, chosen_k = least_cover_of_graph(q_weights, k_weights, q_of, k_of, from_keys=True)
    chosen = [queries[i] for i in np.flatnonzero(chosen_q)] + [keys[i] for i in np.flatnonzero(chosen_k)]
    return chosen, int(q_weights[chosen_q].sum() + k_weights[chosen_k].sum())


def _order(node: Node) -> tuple[int, int, int]:
    return node[0], node[1].first, node[1].step


def at_query_home(pairs: Sequence[Pairs], cover: Cover, group: int) -> int:
    """How many of the pairs are computed where their query lives: those whose key's row is sent."""
    if not cover.queries:
        return sum(part.count for part in pairs)
    if not cover.keys:
        return 0
    sent: dict[int, list[Rows]] = {}
    for kv_head, rows in cover.keys:
        sent.setdefault(kv_head, []).append(rows)
    total = 0
    for part in pairs:
        by_kv: dict[int, int] = {}
        for head in part.heads:
            by_kv[head // group] = by_kv.get(head // group, 0) + 1
        alike: dict[tuple[Rows, ...], int] = {}
        for kv_head, count in by_kv.items():
            rows = tuple(sent.get(kv_head, ()))
            alike[rows] = alike.get(rows, 0) + count
        for rows_sent, count in alike.items():
            for rows in rows_sent:
                common = part.k & rows
                if common is not None:
                    total += count * sum(e.count for e in exact(Pairs((0,), part.q, common, part.band)))
    return total
