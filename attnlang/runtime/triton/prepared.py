"""Launches with their tables on the device, kept from call to call."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from attnlang.plan import Plan, Tiles
from attnlang.runtime.blocks import BlockLists, block_lists
from attnlang.runtime.contents import Contents
from attnlang.runtime.triton.launches import CARRY, FINAL, Launch, ListHeads, Mode, launches
from attnlang.runtime.triton.lists import DeviceLists, device_lists
from attnlang.runtime.triton.nesting import MOST_PARTS, Shape


@dataclass(frozen=True, slots=True)
class Prepared:
    """A launch and its tables on the device, int32 and as the kernel reads them.

    heads    (entries, 6): head, phase, first block list, flags, first member, members
    members  the heads of the streamed side
    tiles    (tiles of a run, 4): level, step, shift, row
    log_m    (parts, MOST_PARTS, residues), float32: log2 of multiplicities by part, level and residue
    """

    launch: Launch
    heads: Tensor
    members: Tensor
    tiles: Tensor
    log_m: Tensor
    lists: DeviceLists | None

    @property
    def chunks(self) -> int:
        """How many pieces of long lists run before the launch itself."""
        return 0 if self.lists is None else len(self.lists.chunks)


@dataclass(frozen=True, slots=True)
class Left:
    """What launches leave to be done.

    unfinished  heads of the fixed side whose result is in the accumulator after the last launch
    accumulate  whether there is an accumulator at all
    """

    unfinished: tuple[int, ...]
    accumulate: bool


@dataclass(frozen=True, slots=True)
class Work:
    """All launches of one mode."""

    prepared: tuple[Prepared, ...]
    left: Left


@dataclass(frozen=True, slots=True)
class _Known:
    """What tables held in a call, and copies of them where they are."""

    copies: Mapping[str, Tensor]
    contents: Contents

    def is_that_of(self, tables: Mapping[str, Tensor]) -> bool:
        """Whether tables hold this, compared where they are: only the answer is waited for."""
        if self.copies.keys() != tables.keys():
            return False
        pairs = [(copy, tables[name]) for name, copy in self.copies.items()]
        if any((a.device, a.dtype, a.shape) != (b.device, b.dtype, b.shape) for a, b in pairs):
            return False
        return all(torch.equal(a, b) for a, b in pairs)


_recent: deque[_Known] = deque(maxlen=2)
"""What tables held in the last calls, the latest first: to copy a table to the host and hash it takes longer."""


def contents_of(tables: Mapping[str, Tensor]) -> Contents:
    """What tables hold; the same object as in the last calls, if they hold the same."""
    for known in tuple(_recent):
        if known.is_that_of(tables):
            return known.contents
    copies = {name: table.detach().clone() for name, table in tables.items()}
    _recent.appendleft(_Known(copies, Contents(copies)))
    return _recent[0].contents


def work(plan: Plan, shape: Shape, mode: Mode, list_block: int, content: Contents | None, device: torch.device) -> Work:
    """The launches of a plan with their tables; kept for the next call, with runtime tables by what these hold."""
    if content is None:
        return _fixed(plan, shape, mode, list_block, device)
    return _filled(plan, shape, mode, list_block, content, device)


@lru_cache(maxsize=64)
def _fixed(plan: Plan, shape: Shape, mode: Mode, list_block: int, device: torch.device) -> Work:
    return _work(plan, shape, mode, list_block, Contents({}), device)


@lru_cache(maxsize=12)
def _filled(
    plan: Plan, shape: Shape, mode: Mode, list_block: int, content: Contents, device: torch.device
) -> Work:  # three passes of a few batches
    return _work(plan, shape, mode, list_block, content, device)


ListsOf: TypeAlias = Mapping[int, tuple[BlockLists, ...]]
"""For every branch of tiles, by its number: its block lists."""


def lists_of(plan: Plan, shape: Shape, list_block: int, content: Contents) -> ListsOf:
    """The block lists of all branches of a plan; kept."""
    return {
        number: _lists(branch, shape.heads, shape.n, list_block, content)
        for number, branch in enumerate(plan.branches)
        if isinstance(branch, Tiles)
    }


def heads_of(lists: ListsOf) -> ListHeads:
    """The heads of each of these lists."""
    return {number: [item.heads for item in some] for number, some in lists.items()}


def left(found: Sequence[Launch], heads: int, cut: bool = False) -> Left:
    """What these launches leave, on so many heads of the fixed side. `cut`: whether chunks of long lists come first."""
    flags = [(entry.head, entry.flags) for launch in found for entry in launch.entries]
    final = {head for head, flag in flags if flag & FINAL}
    accumulate = any(flag != FINAL for _, flag in flags) or cut
    return Left(tuple(head for head in range(heads) if head not in final), accumulate)


@lru_cache(maxsize=8)
def _lists(branch: Tiles, heads: int, n: int, list_block: int, content: Contents) -> tuple[BlockLists, ...]:
    return block_lists(branch, heads, n, list_block, list_block, content.arrays)


def _work(
    plan: Plan,
    shape: Shape,
    mode: Mode,
    list_block: int,
    content: Contents,
    device: torch.device,
) -> Work:
    lists = lists_of(plan, shape, list_block, content)
    found = launches(plan, shape, mode, heads_of(lists))
    prepared = tuple(_prepared(launch, lists, mode, device) for launch in found)
    heads = shape.kv_heads if mode == "key gradient" else shape.heads
    return Work(prepared, left(found, heads, any(item.chunks for item in prepared)))


def _prepared(launch: Launch, lists: ListsOf, mode: Mode, device: torch.device) -> Prepared:
    on_device = None
    if launch.tiles_of is not None:
        on_device = device_lists(lists[launch.tiles_of], launch.entries, mode == "key gradient", device)
    blocks = on_device.count if on_device else 0
    cut = {row[0] for row in on_device.collected.tolist()} if on_device else set[int]()
    heads: list[tuple[int, ...]] = []
    members: list[int] = []
    for entry in launch.entries:
        flags = entry.flags | (CARRY if entry.head in cut else 0)
        heads.append((entry.head, entry.phase, entry.lists * blocks, flags, len(members), len(entry.members)))
        members += entry.members
    tiles = [(tile.level, tile.step, tile.shift, tile.row0) for tile in launch.tiles]

    def put(values: object) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    return Prepared(launch, put(heads), put(members), put(tiles), log_m(launch).to(device), on_device)


def log_m(launch: Launch) -> Tensor:
    """log2 m by (part, level, residue): how often a query of a level meets a key, less what finer parts counted."""
    if not launch.weighted:
        return torch.zeros(1)
    rates = [rate for _, rate in launch.chain]
    table = torch.zeros(len(rates), MOST_PARTS, launch.residues)
    for part in range(len(rates)):
        for level in range(part, len(rates)):
            for residue in range(launch.residues):
                nested = sum(residue % rate == 0 for rate in rates[1:])
                table[part, level, residue] = math.log2(max(1, 1 + min(level, nested) - part))
    return table
