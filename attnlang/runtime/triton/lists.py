"""Block lists as the kernel reads them: on the device, masks as words, and long lists cut into chunks.

A program streams all entries of its block. Where one block has far more than the others (a query that attends
everything, a key that everything attends), its entries are cut into chunks that run beside one another into places of
their own; `collect` then puts the chunks of a block together, and the block's own program finds nothing left to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnlang.runtime.blocks import BlockLists
from attnlang.runtime.triton.launches import Entry

CHUNK = 32
"""Entries of a chunk; a list is cut if it has more than twice as many, and than four times the average list."""

MASKS_AT_ONCE = 4096
"""Masks that are written out pair by pair at once, to turn rows into columns."""


@dataclass(frozen=True, slots=True)
class DeviceLists:
    """Lists of all heads of a launch, int32, on the device.

    ranges     (lists x count, 3): of each block of each list the first entry, its first with a mask, and its last
    blocks     (entries): the streamed block
    masks      (entries): -1 where every pair counts, else a row of `bits`
    bits       (masks, block / 32, block): of each row of the fixed side, the pairs with 32 streamed rows as a word
    count      how many blocks a list has
    chunks     (chunks, 5): entry of the launch, block, and as `ranges`
    collected  (blocks that were cut, 4): head, block, first chunk, chunks
    """

    ranges: Tensor
    blocks: Tensor
    masks: Tensor
    bits: Tensor
    count: int
    chunks: Tensor
    collected: Tensor


def device_lists(
    lists: Sequence[BlockLists], entries: Sequence[Entry], by_key: bool, device: torch.device
) -> DeviceLists:
    """Put block lists together for the entries of a launch, which name theirs by number."""
    sides = [_full_first(item.by_key() if by_key else item) for item in lists]
    entries_before = np.cumsum([0, *(len(side.blocks) for side, _ in sides)])
    masks_before = np.cumsum([0, *(len(side.bits) for side, _ in sides)])
    ranges = np.concatenate([r + before for (_, r), before in zip(sides, entries_before, strict=False)])
    masks = [np.where(s.masks < 0, s.masks, s.masks + o) for (s, _), o in zip(sides, masks_before, strict=False)]
    of_masks = np.concatenate([words(side.bits, by_key) for side, _ in sides])
    count = len(ranges) // len(sides)
    long = long_ones(ranges[:, 2] - ranges[:, 0])
    chunks: list[tuple[int, ...]] = []
    collected: list[tuple[int, int, int, int]] = []
    for place, entry in enumerate(entries):
        for block in (long[long // count == entry.lists] % count).tolist():
            pieces = list(_pieces(*ranges[entry.lists * count + block].tolist()))
            collected.append((entry.head, block, len(chunks), len(pieces)))
            chunks += [(place, block, *piece) for piece in pieces]
    ranges[long] = 0

    def put(values: object, columns: int = 0) -> Tensor:
        array = np.asarray(values, np.int32)
        return torch.from_numpy(array.reshape(-1, columns) if columns else array).to(device)

    blocks = np.concatenate([side.blocks for side, _ in sides])
    arrays = (put(ranges, 3), put(blocks), put(np.concatenate(masks)), put(of_masks))
    return DeviceLists(*arrays, count, put(chunks, 5), put(collected, 4))


def _full_first(side: BlockLists) -> tuple[BlockLists, NDArray[np.int64]]:
    """The lists with the full entries of each block before its partial ones, and their ranges."""
    masked = side.masks >= 0
    rows = np.repeat(np.arange(len(side.starts) - 1), np.diff(side.starts))
    order = np.lexsort((masked, rows))
    ordered = replace(side, blocks=side.blocks[order], masks=side.masks[order])
    full = np.concatenate([[0], np.cumsum(~masked)])
    first, last = side.starts[:-1], side.starts[1:]
    return ordered, np.stack([first, first + full[last] - full[first], last], 1)


def words(bits: NDArray[np.uint8], by_key: bool) -> NDArray[np.int32]:
    """Masks (masks, query, key / 8) as words of 32 streamed rows, those of all fixed rows side by side.

    The fixed rows are the queries, or by_key the keys: then queries become the bits of a word.
    """
    masks, block, _ = bits.shape
    found = np.empty((masks, block // 32, block), np.int32)
    for at in range(0, masks, MASKS_AT_ONCE):
        some = bits[at : at + MASKS_AT_ONCE]
        if by_key:
            pairs = np.unpackbits(some, axis=-1, bitorder="little").swapaxes(1, 2)
            some = np.packbits(pairs, axis=-1, bitorder="little")
            some = np.ascontiguousarray(some)  # (packbits keeps the order in memory where an axis is 1 long)
        found[at : at + MASKS_AT_ONCE] = some.view(np.int32).swapaxes(1, 2)
    return found


def long_ones(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which lists are so much longer than the others that they had best be cut."""
    return np.flatnonzero(lengths > max(2 * CHUNK, 4 * int(lengths.mean())))


def _pieces(first: int, masked: int, last: int) -> Iterator[tuple[int, int, int]]:
    for at in range(first, last, CHUNK):
        end = min(at + CHUNK, last)
        yield at, min(max(masked, at), end), end
