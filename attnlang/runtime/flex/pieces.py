"""From a plan and a length to what FlexAttention runs: rows of queries and keys put in order, and which pairs count.

Lattices and columns become intervals: with the tokens of a lattice sorted by run and class, every query sees keys that
stand in a row, so a dilated pattern costs no more than a dense one of its pairs. Tiles come as they are, a pair that
counts m times in m pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np
from numpy.typing import NDArray

from attnlang.plan import Band, Columns, Lattice, Plan, Runs, Tiles
from attnlang.runtime.blocks import FULL, BlockLists, block_lists
from attnlang.runtime.flex.lists import NARROWEST, SIDE, Blocks, Entries, Ints, blocks, interval_blocks

EMPTY, WHOLE = 0, 1
"""The first two masks of every page: of a tile in which no pair counts, and of one in which all do."""
MOST_MASKS = 2**15 - 2
"""Masks of a page besides those. Numbers of masks are int16: FlexAttention gathers one for every pair, and Triton keeps
gathers of 32 bits for several tiles at once in shared memory, which at 128 x 128 pairs have no room there.
"""


@dataclass(frozen=True, eq=False, slots=True)
class Intervals:
    """Row i of list p sees the keys lower[p, i]..upper[p, i] of that list: none where lower > upper."""

    lower: Ints
    upper: Ints


@dataclass(frozen=True, eq=False, slots=True)
class TileBits:
    """Tile (i, j) has mask  base[i] + table[offset[i] + j - first[i]]  for first[i] <= j < first[i] + width[i].

    Elsewhere no pair counts, as in mask base[i] + table[0]. A mask is a row of `bits` (masks, SIDE, SIDE / 8); base[i]
    is where the page of query block i begins.
    """

    offset: Ints
    first: Ints
    width: Ints
    base: Ints
    table: NDArray[np.int16]
    bits: NDArray[np.uint8]


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """One run of FlexAttention, for some heads.

    which     the list of each head
    q_tokens  the token of each row of each list (P, L); n where a list is shorter; None: all tokens as they stand
    k_tokens  the same of keys
    """

    heads: tuple[int, ...]
    which: tuple[int, ...]
    q_tokens: Ints | None
    k_tokens: Ints | None
    mask: Intervals | TileBits
    blocks: Blocks


def pieces(plan: Plan, n: int, tables: Mapping[str, NDArray[np.int64]] | None = None) -> Iterator[Piece]:
    """The pieces of a plan, in its order; the bag sum of their pairs is the pattern."""
    for branch in plan.branches:
        match branch:
            case Lattice():
                yield from _lattice(branch, n)
            case Columns():
                yield from _columns(branch, n)
            case Tiles():
                for lists in block_lists(branch, plan.heads, n, SIDE, SIDE, tables or {}):
                    yield from _tiles(lists)


@lru_cache(maxsize=64)
def fixed_pieces(plan: Plan, n: int) -> tuple[Piece, ...]:
    """The pieces of a plan without runtime tables."""
    return tuple(pieces(plan, n))


# lattices and columns ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class _Rows:
    """The tokens of one residue class (or of all), in order, with the keys that each sees by place in this order."""

    tokens: NDArray[np.int64]
    lower: NDArray[np.int64]
    upper: NDArray[np.int64]


def _lattice(branch: Lattice, n: int) -> Iterator[Piece]:
    phases = (None,) if branch.phases is None else tuple(dict.fromkeys(branch.phases))
    found = [_rows(branch.runs, branch.dilation, phase, branch.band, n) for phase in phases]
    if not any(len(rows.tokens) for rows in found):
        return
    which = (0,) * len(branch.heads) if branch.phases is None else tuple(map(phases.index, branch.phases))
    tokens = _padded([rows.tokens for rows in found], n)
    mask = Intervals(_padded([rows.lower for rows in found], 1), _padded([rows.upper for rows in found], 0))
    in_place = tokens.shape == (1, n) and bool((tokens == np.arange(n)).all())
    kept = None if in_place else tokens
    lists = interval_blocks(mask.lower, mask.upper, tokens.shape[1])
    yield Piece(branch.heads, which, kept, kept, mask, lists)


def _rows(runs: Runs | None, dilation: int, phase: int | None, band: Band, n: int) -> _Rows:
    token = np.arange(n)
    run, coordinate = (np.zeros(n, np.int64), token) if runs is None else np.divmod(token - runs.start, runs.period)
    residue = coordinate % dilation
    there = np.ones(n, bool) if phase is None else residue == phase
    if runs is not None:
        there &= coordinate < runs.width
    token, run, residue = token[there], run[there], residue[there]
    order = np.lexsort((token, residue, run))
    token, run, residue = token[order], run[order], residue[order]
    place = np.arange(len(token))
    begins = np.ones(len(token), bool)
    begins[1:] = (run[1:] != run[:-1]) | (residue[1:] != residue[:-1])
    starts = np.flatnonzero(begins)
    group = np.cumsum(begins) - 1
    start, end = starts[group], np.append(starts[1:], len(token))[group] - 1
    lower = start if band.lo is None else np.maximum(start, place + band.lo // dilation)
    upper = end if band.hi is None else np.minimum(end, place + band.hi // dilation)
    return _Rows(token, lower, upper)


def _columns(branch: Columns, n: int) -> Iterator[Piece]:
    token = np.arange(n)
    keys = token[(token % branch.period >= branch.first) & (token % branch.period < branch.last)]
    if not len(keys):
        return
    period, of_key = token // branch.period, keys // branch.period
    lo, hi = branch.band.lo, branch.band.hi
    lower = np.zeros(n, np.int64) if lo is None else np.searchsorted(of_key, period + lo, "left")
    upper = np.full(n, len(keys)) if hi is None else np.searchsorted(of_key, period + hi, "right")
    mask = Intervals(lower[None].astype(np.int32), upper[None].astype(np.int32) - 1)
    lists = interval_blocks(mask.lower, mask.upper, len(keys))
    yield Piece(branch.heads, (0,) * len(branch.heads), None, keys[None].astype(np.int32), mask, lists)


def _padded(rows: list[NDArray[np.int64]], filling: int) -> Ints:
    result = np.full((len(rows), max(map(len, rows))), filling, np.int32)
    for number, row in enumerate(rows):
        result[number, : len(row)] = row
    return result


# tiles ------------------------------------------------------------------------------------------------------------


def _tiles(lists: BlockLists) -> Iterator[Piece]:
    """One piece for the first entry of every tile, one for the second of those that have two, and so on."""
    rows, columns = lists.rows.astype(np.int64), lists.blocks.astype(np.int64)
    new = np.ones(lists.entries, bool)
    new[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    places = np.arange(lists.entries)
    layer = places - np.maximum.accumulate(np.where(new, places, 0))
    side = -(-lists.n // SIDE)
    for number in count():
        chosen = layer == number
        if not chosen.any():
            return
        q, k, masks = rows[chosen], columns[chosen], lists.masks[chosen]
        full = masks == FULL
        zeros = np.zeros(len(q), np.int64)
        found = blocks(_some(zeros, q, k, ~full), _some(zeros, q, k, full), 1, side, side)
        yield Piece(lists.heads, (0,) * len(lists.heads), None, None, _bits(q, k, masks, side, lists.bits), found)


def _some(which: NDArray[np.int64], q: NDArray[np.int64], k: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Entries:
    return Entries(which[chosen], q[chosen], k[chosen])


def _bits(q: NDArray[np.int64], k: NDArray[np.int64], masks: Ints, side: int, bits: NDArray[np.uint8]) -> TileBits:
    """The tiles (q, k) of `side` query blocks, by query block, whose masks are `FULL` or rows of `bits`."""
    side = max(NARROWEST, side)
    first, last = np.full(side, side), np.full(side, -1)
    np.minimum.at(first, q, k)
    np.maximum.at(last, q, k)
    width = np.maximum(last - first + 1, 0)
    offset = 1 + np.cumsum(width) - width
    table = np.full(1 + max(1, int(width.sum())), EMPTY, np.int16)
    base = np.zeros(side, np.int32)
    pages: list[NDArray[np.uint8]] = []
    rows = 0
    for start, stop in _pages(q, len(bits)):
        here = slice(*np.searchsorted(q, (start, stop)))
        known, local = np.unique(masks[here][masks[here] != FULL], return_inverse=True)
        numbers = np.full(len(masks[here]), WHOLE, np.int16)
        numbers[masks[here] != FULL] = local.reshape(-1) + 2
        table[offset[q[here]] + k[here] - first[q[here]]] = numbers
        base[start:stop] = rows
        pages += [np.zeros_like(bits, shape=(1, SIDE, SIDE // 8)), np.full((1, SIDE, SIDE // 8), 255, np.uint8)]
        pages.append(bits[known])
        rows += 2 + len(known)
    offset, first, width = (x.astype(np.int32) for x in (offset, first, width))
    return TileBits(offset, first, width, base, table, np.concatenate(pages))


def _pages(q: NDArray[np.int64], masks: int) -> Iterator[tuple[int, int]]:
    """Query blocks start..stop whose tiles have at most `MOST_MASKS` masks: all, or as many as have so few tiles."""
    last = int(q[-1]) + 1
    if masks <= MOST_MASKS:
        yield 0, last
        return
    starts = np.searchsorted(q, np.arange(last + 1))
    start = 0
    while start < last:
        stop = int(np.searchsorted(starts, starts[start] + MOST_MASKS, "right")) - 1
        if stop == start:
            raise ValueError(
                f"backend 'flex' takes at most {MOST_MASKS:,} tiles of {SIDE} x {SIDE} pairs for one block of queries, "
                f"and here are {int(starts[start + 1] - starts[start]):,}; backend 'triton' takes any number"
            )
        yield start, stop
        start = stop
