"""Block lists as the kernel reads them: full and partial tiles apart, long lists cut into chunks, on the device.

A program streams all entries of its block. Where one block has far more than the others (a query that attends
everything, a key that everything attends), its entries are cut into chunks that run beside one another into places of
their own; `collect` then puts the chunks of a block together, and the block's own program finds nothing left to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnlang.runtime.blocks import FULL, BlockLists
from attnlang.runtime.triton.launches import Entry

CHUNK = 32
"""Entries of a chunk; a list is cut if it has more than twice as many, and than four times the average list."""


@dataclass(frozen=True, slots=True)
class DeviceLists:
    """Lists of all heads of a launch, int32, on the device.

    ranges     (lists x blocks, 4): full entries first..last, partial entries first..last of each block
    full       the streamed block of every full entry
    part       the streamed block of every partial entry
    masks      the mask of every partial entry: a row of `bits`, which holds words of 32 pairs
    blocks     how many blocks a list has
    chunks     (chunks, 6): entry of the launch, block, and a row as of `ranges`
    collected  (blocks that were cut, 4): head, block, first chunk, chunks
    """

    ranges: Tensor
    full: Tensor
    part: Tensor
    masks: Tensor
    bits: Tensor
    blocks: int
    chunks: Tensor
    collected: Tensor


def device_lists(
    lists: Sequence[BlockLists], entries: Sequence[Entry], by_key: bool, device: torch.device
) -> DeviceLists:
    """Put block lists together for the entries of a launch, which name theirs by number (-1: none)."""
    sides = [item.by_key() if by_key else item for item in lists]
    full, part = (_joined([_chosen(side, whole) for side in sides]) for whole in (True, False))
    offsets = np.cumsum([0, *(len(item.bits) for item in lists)])
    masks = np.concatenate([side.masks[side.masks != FULL] + o for side, o in zip(sides, offsets, strict=False)])
    bits = np.concatenate([item.bits.reshape(-1) for item in lists])
    ranges = np.concatenate([full[0], part[0]], 1)
    blocks = len(ranges) // len(lists)
    chunks: list[tuple[int, ...]] = []
    collected: list[tuple[int, ...]] = []
    long = set(_long(ranges).tolist())
    for place, entry in enumerate(entries):
        for block in range(blocks) if entry.lists >= 0 and long else ():
            if entry.lists * blocks + block in long:
                pieces = list(_pieces(*ranges[entry.lists * blocks + block].tolist()))
                collected.append((entry.head, block, len(chunks), len(pieces)))
                chunks += [(place, block, *piece) for piece in pieces]
    ranges[sorted(long)] = 0

    def put(values: object) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.asarray(values, np.int32))).to(device)

    words = np.ascontiguousarray(bits).view(np.int32) if bits.size else bits
    arrays = (put(ranges), put(full[1]), put(part[1]), put(masks), put(words))
    return DeviceLists(*arrays, blocks, put(np.reshape(chunks, (-1, 6))), put(np.reshape(collected, (-1, 4))))


def _chosen(side: BlockLists, whole: bool) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """First and last entry of every block among the full (or the partial) entries, and the blocks they name."""
    chosen = (side.masks == FULL) == whole
    before = np.concatenate([[0], np.cumsum(chosen)])[side.starts]
    return np.stack([before[:-1], before[1:]], 1), side.blocks[chosen]


def _joined(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int32]]],
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    offsets = np.cumsum([0, *(len(blocks) for _, blocks in parts)])
    ranges = [part + offset for (part, _), offset in zip(parts, offsets, strict=False)]
    return np.concatenate(ranges), np.concatenate([blocks for _, blocks in parts])


def _long(ranges: NDArray[np.int64]) -> NDArray[np.int64]:
    lengths = ranges[:, 1] - ranges[:, 0] + ranges[:, 3] - ranges[:, 2]
    return np.flatnonzero(lengths > max(2 * CHUNK, 4 * int(lengths.mean())))


def _pieces(full_from: int, full_to: int, part_from: int, part_to: int) -> Iterator[tuple[int, int, int, int]]:
    """A list in chunks, the full entries first."""
    for at in range(full_from, full_to, CHUNK):
        yield at, min(at + CHUNK, full_to), 0, 0
    for at in range(part_from, part_to, CHUNK):
        yield 0, 0, at, min(at + CHUNK, part_to)
