"""Tiles of a relation at one length: which key blocks each query block meets, and the pairs of those met in part.

Squares of the whole matrix are classified from bounds of the relation, larger ones first, so that what is empty is
never looked at twice; only in squares at the edge of the pattern are pairs asked for. Nothing of N x N is made: lists
are as long as there are tiles with pairs, and equal masks are stored once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from attnlang.pattern import algebra
from attnlang.pattern.bounds import Bounds, Rectangles
from attnlang.pattern.expr import Scope
from attnlang.pattern.pointwise import multiplicity_at
from attnlang.pattern.specialise import on_head
from attnlang.pattern.tables import Content, key
from attnlang.pattern.walk import free_names_of, nodes
from attnlang.plan import Tiles
from attnlang.runtime.bitrows import Rows, bit_rows

ALL_BITS = 255
FULL = -1
"""The mask of a tile in which every pair counts."""
BLOCK = 64
"""Queries and keys of a tile, where a backend has no reason for another number."""
LEAF = 16
"""Side of the squares within a tile that are asked pair by pair, or not at all."""
CHUNK = 2**18
"""How many squares are classified at once."""
PAIRS = 2**22
"""How many pairs are asked for at once."""


@dataclass(frozen=True, eq=False, slots=True)
class BlockLists:
    """The tiles of a group of heads that have the same pairs, by query block.

    starts  int64 (query blocks + 1): the entries of query block i are starts[i]..starts[i + 1]
    blocks  int32 (entries): the key block, ascending within a query block
    masks   int32 (entries): `FULL`, or a row of `bits`
    bits    uint8 (masks, block_q, block_k / 8): bit j % 8 of byte j // 8 is key j of the tile; 0 outside the sequence

    A pair that counts m times stands in m entries of its tile. Query blocks without keys have no entries.
    """

    heads: tuple[int, ...]
    n: int
    block_q: int
    block_k: int
    starts: NDArray[np.int64]
    blocks: NDArray[np.int32]
    masks: NDArray[np.int32]
    bits: NDArray[np.uint8]

    @property
    def entries(self) -> int:
        """How many tiles there are for each head, one with pairs that count m times taken m times."""
        return len(self.blocks)

    @property
    def firsts(self) -> NDArray[np.int64]:
        """The first entry of every tile: those of one tile stand next to one another."""
        rows = self.rows
        new = np.ones(self.entries, bool)
        new[1:] = (rows[1:] != rows[:-1]) | (self.blocks[1:] != self.blocks[:-1])
        return np.flatnonzero(new)

    @property
    def rows(self) -> NDArray[np.int32]:
        """The query block of each entry."""
        return np.repeat(np.arange(len(self.starts) - 1, dtype=np.int32), np.diff(self.starts))

    def by_key(self) -> BlockLists:
        """The same tiles by key block: `starts` counts key blocks, `blocks` names query blocks, masks stay (q, k)."""
        order = np.lexsort((self.rows, self.blocks))
        count = -(-self.n // self.block_k)
        starts = np.searchsorted(self.blocks[order], np.arange(count + 1))
        return replace(self, starts=starts, blocks=self.rows[order], masks=self.masks[order])

    def mask(self, entry: int) -> NDArray[np.bool_]:
        """The pairs of one entry that count: (block_q, block_k)."""
        if self.masks[entry] == FULL:
            return np.ones((self.block_q, self.block_k), bool)
        return np.unpackbits(self.bits[self.masks[entry]], axis=-1, bitorder="little").astype(bool)

    def same_tiles(self, other: BlockLists) -> bool:
        """Whether both hold the same pairs, whatever their heads."""
        mine, theirs = ((x.starts, x.blocks, x.masks, x.bits) for x in (self, other))
        return all(a.shape == b.shape and bool((a == b).all()) for a, b in zip(mine, theirs, strict=True))


def block_lists(
    branch: Tiles,
    heads: int,
    n: int,
    block_q: int,
    block_k: int,
    tables: Mapping[str, NDArray[np.int64]] | None = None,
    first: int = 0,
) -> tuple[BlockLists, ...]:
    """The tiles of a branch at length n, by groups of heads that have the same ones.

    heads    the number of heads H of the attention, of which the branch has some
    block_q  queries of a tile, block_k its keys: multiples of 16
    tables   content of the runtime tables
    first    query blocks before the one that holds this query are left out, as if they had no keys

    Raises AttnError where the relation has no meaning at this length, or a table is too small.
    """
    if block_q % LEAF or block_k % LEAF:
        raise ValueError(f"blocks must be multiples of {LEAF}, not {block_q} x {block_k}")
    content = {key(name): Content(name, array) for name, array in (tables or {}).items()}
    if not content:
        return _fixed(branch, heads, n, block_q, block_k, first // block_q)
    return _grouped(branch, heads, n, block_q, block_k, content, first // block_q)


@lru_cache(maxsize=32)
def _fixed(branch: Tiles, heads: int, n: int, block_q: int, block_k: int, first_block: int) -> tuple[BlockLists, ...]:
    return _grouped(branch, heads, n, block_q, block_k, {}, first_block)


def _grouped(
    branch: Tiles, heads: int, n: int, block_q: int, block_k: int, tables: Mapping[str, Content], first_block: int
) -> tuple[BlockLists, ...]:
    groups: dict[algebra.Relation | tuple[algebra.Relation, int], list[int]] = {}
    for head in branch.heads:
        relation = on_head(branch.relation, head, heads)
        groups.setdefault((relation, head) if _speaks_of_heads(relation) else relation, []).append(head)
    found: list[BlockLists] = []
    for members in groups.values():
        first, whole = branch.part or (0, n)
        scope: Scope = {**tables, "N": whole, "H": heads, "h": members[0]}
        relation = on_head(branch.relation, members[0], heads)
        builder = _Builder(relation, n, block_q, block_k, scope, first, whole, first_block)
        lists = replace(builder.lists(), heads=tuple(members))
        same = next((i for i, other in enumerate(found) if lists.same_tiles(other)), None)
        if same is None:
            found.append(lists)
        else:
            found[same] = replace(found[same], heads=(*found[same].heads, *members))
    return tuple(found)


def _speaks_of_heads(relation: algebra.Relation) -> bool:
    """Whether a relation on one head may still hold other pairs than the same one on another."""
    return "h" in free_names_of(relation) or any(isinstance(node, algebra.Random) for node in nodes(relation))


class _Builder:
    """Tiles of positions first..first + n - 1 of a sequence of `whole`, counted from 0, from a query block on."""

    def __init__(
        self,
        relation: algebra.Relation,
        n: int,
        block_q: int,
        block_k: int,
        scope: Scope,
        first: int,
        whole: int,
        first_block: int,
    ) -> None:
        self._relation = relation
        self._n = n
        self._sides = block_q, block_k
        self._scope = scope
        self._first = first
        self._whole = whole
        self._first_block = first_block
        self._bounds = Bounds(relation, whole, scope)
        self._rows = bit_rows(relation, n, block_k, scope) if n and (first, whole) == (0, n) else None
        self._numbers: dict[bytes, int] = {}
        self._bits: list[NDArray[np.uint8]] = []

    def lists(self) -> BlockLists:
        """All tiles, in order."""
        parts = list(self._tiles()) if self._n else []
        empty = np.zeros(0, np.int64)
        rows, blocks, masks = (np.concatenate([part[i] for part in parts] or [empty]) for i in range(3))
        order = np.lexsort((masks, blocks, rows))
        block_q, block_k = self._sides
        starts = np.searchsorted(rows[order], np.arange(-(-self._n // block_q) + 1))
        bits = np.stack(self._bits) if self._bits else np.zeros((0, block_q, block_k // 8), np.uint8)
        return BlockLists(
            (), self._n, block_q, block_k, starts, blocks[order].astype(np.int32), masks[order].astype(np.int32), bits
        )

    def _rectangles(self, i: NDArray[np.int64], j: NDArray[np.int64], sides: tuple[int, int]) -> Rectangles:
        last = self._n - 1
        q, k = i * sides[0], j * sides[1]
        ends = q, np.minimum(q + sides[0] - 1, last), k, np.minimum(k + sides[1] - 1, last)
        return Rectangles(*(end + self._first for end in ends))

    # whole tiles ----------------------------------------------------------------------------------------------------

    def _tiles(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """(query block, key block, mask) of all entries, in any order."""
        level = max((-(-self._n // side) - 1).bit_length() for side in self._sides)
        waiting = [(level, np.zeros(1, np.int64), np.zeros(1, np.int64))]
        while waiting:
            level, i, j = waiting.pop()
            if len(i) > CHUNK:
                half = len(i) // 2
                waiting += [(level, i[:half], j[:half]), (level, i[half:], j[half:])]
                continue
            full, times, partial = self._classified(i, j, level)
            yield from self._full(i[full], j[full], times[full], level)
            if not partial.any():
                continue
            if level:
                waiting.append((level - 1, *self._quarters(i[partial], j[partial], level - 1)))
            else:
                yield from self._partial(i[partial], j[partial])

    def _classified(
        self, i: NDArray[np.int64], j: NDArray[np.int64], level: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.bool_]]:
        sides = self._sides[0] << level, self._sides[1] << level
        lo, hi = self._bounds(self._rectangles(i, j, sides))
        inside = ((i + 1) * sides[0] <= self._n) & ((j + 1) * sides[1] <= self._n)
        full = (lo == hi) & (hi > 0) & inside
        return full, lo, (hi > 0) & ~full

    def _full(
        self, i: NDArray[np.int64], j: NDArray[np.int64], times: NDArray[np.int64], level: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        if not len(i):
            return
        step = np.arange(1 << level)
        rows = np.broadcast_to((i[:, None, None] << level) + step[None, :, None], (len(i), len(step), len(step)))
        blocks = np.broadcast_to((j[:, None, None] << level) + step[None, None, :], rows.shape)
        often = np.where(rows >= self._first_block, times[:, None, None], 0).reshape(-1)
        rows, blocks = np.repeat(rows.reshape(-1), often), np.repeat(blocks.reshape(-1), often)
        yield rows, blocks, np.full(len(rows), FULL, np.int64)

    def _quarters(
        self, i: NDArray[np.int64], j: NDArray[np.int64], level: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = np.concatenate([2 * i, 2 * i, 2 * i + 1, 2 * i + 1])
        blocks = np.concatenate([2 * j, 2 * j + 1, 2 * j, 2 * j + 1])
        there = (rows * (self._sides[0] << level) < self._n) & (blocks * (self._sides[1] << level) < self._n)
        there &= (rows + 1) << level > self._first_block
        return rows[there], blocks[there]

    # tiles at the edge of the pattern -------------------------------------------------------------------------------

    def _partial(
        self, i: NDArray[np.int64], j: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        block_q, block_k = self._sides
        per_chunk = max(1, PAIRS // (block_q * block_k)) * (1 if self._rows is None else 8)
        for at in range(0, len(i), per_chunk):
            rows, blocks = i[at : at + per_chunk], j[at : at + per_chunk]
            if self._rows is not None:
                packed = self._packed(self._rows, rows, blocks)
                some = np.flatnonzero(packed.any(axis=(1, 2)))
                yield rows[some], blocks[some], self._numbered(packed[some])
                continue
            counts = self._counts(rows, blocks)
            for times in range(1, int(counts.max(initial=0)) + 1):
                held = counts >= times
                some = np.flatnonzero(held.any(axis=(1, 2)))
                packed = np.packbits(held[some], axis=-1, bitorder="little")
                yield rows[some], blocks[some], self._numbered(packed)

    def _packed(self, rows: Rows, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The masks of some tiles as bits (tiles, block_q, block_k / 8), from a relation's rows."""
        q = i[:, None] * self._sides[0] + np.arange(self._sides[0])
        words = rows(np.minimum(q, self._n - 1), j)
        words = np.array(np.broadcast_to(words, (*q.shape, words.shape[-1])))
        words[q >= self._n] = 0
        return words.view(np.uint8)

    def _counts(self, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.int32]:
        """The multiplicity of every pair of some tiles: (tiles, block_q, block_k), 0 outside the sequence."""
        block_q, block_k = self._sides
        tall, wide = block_q // LEAF, block_k // LEAF
        rows = np.broadcast_to(i[:, None, None] * tall + np.arange(tall)[None, :, None], (len(i), tall, wide)).reshape(
            -1
        )
        blocks = np.broadcast_to(
            j[:, None, None] * wide + np.arange(wide)[None, None, :], (len(j), tall, wide)
        ).reshape(-1)
        there = (rows * LEAF < self._n) & (blocks * LEAF < self._n)
        leaves = np.zeros((len(rows), LEAF, LEAF), np.int32)
        lo, hi = self._bounds(self._rectangles(rows[there], blocks[there], (LEAF, LEAF)))
        here = np.flatnonzero(there)
        leaves[here[lo == hi]] = lo[lo == hi, None, None]
        for some in np.array_split(here[lo < hi], 1 + len(here) * LEAF * LEAF // PAIRS):
            q = (rows[some, None] * LEAF + np.arange(LEAF))[:, :, None]
            k = (blocks[some, None] * LEAF + np.arange(LEAF))[:, None, :]
            q, k = (np.minimum(x, self._n - 1) + self._first for x in (q, k))
            leaves[some] = multiplicity_at(self._relation, q, k, self._whole, self._scope)
        counts = leaves.reshape(len(i), tall, wide, LEAF, LEAF).swapaxes(2, 3).reshape(len(i), block_q, block_k)
        counts[(i[:, None] * block_q + np.arange(block_q)) >= self._n] = 0
        counts.swapaxes(1, 2)[(j[:, None] * block_k + np.arange(block_k)) >= self._n] = 0
        return counts

    def _numbered(self, packed: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The number of each mask; equal masks share one."""
        numbers = np.full(len(packed), FULL, np.int64)
        open_ = np.flatnonzero(~(packed == ALL_BITS).all(axis=(1, 2)))
        first, which = _alike(packed[open_].reshape(len(open_), packed.shape[1] * packed.shape[2]))
        known: list[int] = []
        for place in open_[first].tolist():
            text = packed[place].tobytes()
            if text not in self._numbers:
                self._numbers[text] = len(self._bits)
                self._bits.append(packed[place].copy())
            known.append(self._numbers[text])
        numbers[open_] = np.array(known, np.int64)[which]
        return numbers


def _alike(masks: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Some rows that all others equal, by place, and for each row which of them.

    Rows are told apart by a sum of their bytes with random weights, and then compared: should two different rows have
    one sum, each row stands for itself, which is no error, only longer.
    """
    every = np.arange(len(masks))
    if len(masks) < 2:
        return every, every
    words = np.ascontiguousarray(masks).view(np.uint64 if masks.shape[1] % 8 == 0 else np.uint8).astype(np.uint64)
    sums = (words * _weights(words.shape[1])).sum(axis=1)
    _, first, which = np.unique(sums, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    return (first, which) if (masks == masks[first][which]).all() else (every, every)


def _weights(count: int) -> NDArray[np.uint64]:
    return np.random.default_rng(0).integers(0, 2**63, count, np.uint64) * np.uint64(2) + np.uint64(1)
