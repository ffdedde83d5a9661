"""Block lists for FlexAttention, written down from what the pattern says instead of found by filling a mask.

A `BlockMask` holds, for every block of 128 queries, the key blocks that count in part and those that count whole; and
the same by key block, for the backward. Lists are as wide as the longest of them, not as wide as the sequence; those of
partial and of full blocks are equally wide, since the kernels of torch 2.11 step through both by the strides of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 128
"""Queries and keys of a block: FlexAttention's own default."""
NARROWEST = 2
"""Lists are never narrower, and never fewer: a dimension of 1 would be compiled for by itself."""

Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False, slots=True)
class Order:
    """For each of P lists and each row: how many blocks it meets (P, rows), and which (P, rows, width)."""

    counts: Ints
    indices: Ints


@dataclass(frozen=True, eq=False, slots=True)
class Blocks:
    """The four orders of a BlockMask: partial and full blocks, by query block and by key block."""

    kv: Order
    full_kv: Order
    q: Order
    full_q: Order


@dataclass(frozen=True, eq=False, slots=True)
class Entries:
    """Blocks one by one: the list, the query block and the key block of each."""

    which: NDArray[np.int64]
    q: NDArray[np.int64]
    k: NDArray[np.int64]


def blocks(partial: Entries, full: Entries, lists: int, q_blocks: int, k_blocks: int) -> Blocks:
    """The orders of some blocks; no block may come twice."""
    kv, full_kv = _orders([(some.which, some.q, some.k) for some in (partial, full)], lists, q_blocks)
    q, full_q = _orders([(some.which, some.k, some.q) for some in (partial, full)], lists, k_blocks)
    return Blocks(kv, full_kv, q, full_q)


def _orders(
    entries: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]], lists: int, height: int
) -> list[Order]:
    """For entries (list, row, column) of several kinds, the columns of each row, all lists equally wide."""
    height = max(NARROWEST, height)
    numbers = [which * height + rows for which, rows, _ in entries]
    counts = [np.bincount(number, minlength=lists * height) for number in numbers]
    width = max(NARROWEST, *(int(count.max(initial=0)) for count in counts))
    found: list[Order] = []
    for (_, _, columns), number, count in zip(entries, numbers, counts, strict=True):
        sorted_ = np.lexsort((columns, number))
        row = number[sorted_]
        place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        indices = np.zeros((lists * height, width), np.int32)
        indices[row, place] = columns[sorted_]
        found.append(Order(count.reshape(lists, height).astype(np.int32), indices.reshape(lists, height, -1)))
    return found


def interval_blocks(lower: Ints, upper: Ints, keys: int) -> Blocks:
    """The blocks of rows (P, L) that each see the keys lower..upper, none where lower > upper.

    A block counts as partial if it lies between the first and the last key of its rows: where their keys leave a gap,
    that is more than it needs, and never less.
    """
    lists, length = lower.shape
    height, width = -(-length // SIDE), -(-keys // SIDE)
    some = lower <= upper
    first = _by_block(np.where(some, lower, keys), keys).min(-1) // SIDE
    last = _by_block(np.where(some, upper, -1), -1).max(-1) // SIDE
    full_from = -(-_by_block(np.where(some, lower, keys + SIDE), keys + SIDE).max(-1) // SIDE)
    full_to = (_by_block(np.where(some, upper, -1), -1).min(-1) + 1) // SIDE
    full_to = np.maximum(full_to, full_from)
    none = full_from == full_to
    before = np.where(none, last + 1, np.minimum(full_from, last + 1))
    after = np.where(none, last + 1, full_to)
    left, right = _ranges(first, before), _ranges(after, last + 1)
    partial = Entries(*(np.concatenate(sides) for sides in zip(left, right, strict=True)))
    return blocks(partial, Entries(*_ranges(full_from, full_to)), lists, height, width)


def _by_block(rows: Ints, padding: int) -> Ints:
    """(P, L)  -->  (P, blocks, SIDE)"""
    lists, length = rows.shape
    height = -(-length // SIDE)
    padded = np.full((lists, height * SIDE), padding, rows.dtype)
    padded[:, :length] = rows
    return padded.reshape(lists, height, SIDE)


def _ranges(start: Ints, stop: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All (list, row, column) with start <= column < stop."""
    counts = np.maximum(stop - start, 0).reshape(-1).astype(np.int64)
    row = np.repeat(np.arange(counts.size), counts)
    column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts) + start.reshape(-1)[row]
    which, q = np.divmod(row, start.shape[1])
    return which, q, column
