"""Groups of equally shaped little attentions: what a recipe's pairs are put together to, so that few calls run them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from attnlang.parallel.dense import BLOCK, Places, numbers
from attnlang.plan import FULL, Band
from attnlang.rows import Rows
from attnlang.runtime.pairs import band_count

Flat: TypeAlias = tuple[Rows, ...]
"""Flat row numbers, one progression after another."""


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """Equally shaped little attentions: X times nq queries with nk keys.

    q, k   flat row numbers (X, nq) and (X, nk), each at most once in q and in k
    band   which (row i, column j) count, by j - i
    times  how often each pair counts, (X, nq, nk); None: all once
    """

    q: Places
    k: Places
    band: Band = FULL
    times: Any = None

    @property
    def pairs(self) -> int:
        """How many pairs count, each as often as it does."""
        if self.times is not None:
            return int(self.times.sum())
        return len(self.q) * band_count(self.q.shape[1], self.k.shape[1], self.band)


@dataclass(slots=True)
class _Item:
    q: Flat
    k: Flat
    band: Band


@dataclass(slots=True)
class Work:
    """Items of one of the four kinds; full rectangles with the same queries are one, with all their keys."""

    full: dict[Flat, list[Rows]] = field(default_factory=dict[Flat, list[Rows]])
    banded: list[_Item] = field(default_factory=list[_Item])
    tiles: list[tuple[Places, Places, Any]] = field(default_factory=list[tuple[Places, Places, Any]])

    def add(self, q: Flat, k: Flat, band: Band) -> None:
        if band != FULL:
            self.banded.append(_Item(q, k, band))
            return
        known = self.full.setdefault(q, [])
        if any(old & new is not None for old in known for new in k):
            self.banded.append(_Item(q, k, FULL))  # a pair that counts again
        else:
            known += k

    def groups(self) -> tuple[Group, ...]:
        items = [*(_Item(q, tuple(k), FULL) for q, k in self.full.items()), *self.banded]
        shapes: dict[tuple[int, int, Band], list[list[_Item]]] = {}
        for item in items:
            shape = sum(r.count for r in item.q), sum(r.count for r in item.k), item.band
            batches = shapes.setdefault(shape, [])
            for batch in batches:
                if not any(_clash(item, other) for other in batch):
                    batch.append(item)
                    break
            else:
                batches.append([item])
        found = [
            Group(np.stack([flat(i.q) for i in batch]), np.stack([flat(i.k) for i in batch]), band)
            for (_, _, band), batches in shapes.items()
            for batch in batches
        ]
        return (*found, *_tile_groups(self.tiles))


def _clash(a: _Item, b: _Item) -> bool:
    return any(x & y is not None for x in a.q for y in b.q) or any(x & y is not None for x in a.k for y in b.k)


def flat(rows: Flat) -> Places:
    """Flat rows as one array."""
    return np.concatenate([numbers(part) for part in rows]) if rows else np.zeros(0, np.int64)


def _tile_groups(tiles: list[tuple[Places, Places, Any]]) -> Iterator[Group]:
    """Blocks of queries with all their keys, by shape; keys may come several times, each row of q once."""
    shapes: dict[tuple[int, int], list[tuple[Places, Places, Any]]] = {}
    for q, k, times in tiles:
        wide = -(-len(k) // BLOCK) * BLOCK
        pad = wide - len(k)
        padded = np.concatenate([k, np.repeat(k[-1:], pad)])
        shapes.setdefault((len(q), wide), []).append((q, padded, np.pad(times, ((0, 0), (0, pad)))))
    for parts in shapes.values():
        batches: list[tuple[set[int], list[tuple[Places, Places, Any]]]] = []
        for part in parts:
            mine = set(part[0].tolist())
            home = next((batch for batch in batches if not batch[0] & mine), None)
            if home is None:
                batches.append((mine, [part]))
            else:
                home[0].update(mine)
                home[1].append(part)
        for _, chosen in batches:
            q, k, times = (np.stack([part[i] for part in chosen]) for i in range(3))
            yield Group(q, k, FULL, times)
