"""Block lists as the Hopper kernels read them, in plain integers: blocks that some consumer of a program meets.

Consumers share what streams past them. So the lists of the blocks that a program owns, one for each consumer, become
one list of *slots*: a streamed block, and for each consumer the number of a mask. Slots in which every consumer meets
every pair come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnlang.runtime.blocks import FULL, BlockLists
from attnlang.runtime.triton.launches import FINAL, Entry
from attnlang.runtime.triton.lists import long_ones
from attnlang.runtime.triton.lists import words as of_bits
from attnlang.runtime.triton.pieces import COLUMNS, Ints, Seen

BLOCK = 64
"""Rows of a block on either side."""
MOST_SHARED, BESIDES = 1.25, 2
"""How many slots consumers may have, all together: for each that they need, and for each block that they own (which
takes some time to begin and to end, whoever has it)."""

MOST_OF_ONE = 0.25
"""A list that is far longer than others may be so long, of what each worker has to do: the last to end is so late."""


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of all programs of a list.

    owner    of each slot: its program, in order
    block    the streamed block
    masks    (slots, consumers): the mask of each consumer's block
    first    of each program: its first slot; and one more, the number of slots
    whole    of each program: how many slots come first in which every pair counts
    entry    of each entry of the list, in order: its slot
    """

    owner: Ints
    block: Ints
    masks: Ints
    first: Ints
    whole: Ints
    entry: Ints


def slots(lists: BlockLists, consumers: int) -> Slots:
    """The slots of programs that own so many consecutive blocks each.

    Masks are numbered as those of the list, and after them come `none` of the pairs and `all` of them. Pairs that count
    several times stand in as many slots.
    """
    none, every = numbers(lists)
    row, block = lists.rows.astype(np.int64), lists.blocks.astype(np.int64)
    count, streamed = len(lists.starts) - 1, int(block.max(initial=0)) + 1
    firsts = lists.firsts
    again = np.arange(len(row)) - np.repeat(firsts, np.diff(np.append(firsts, len(row))))
    times = int(again.max(initial=0)) + 1
    name, slot = np.unique(((row // consumers) * streamed + block) * times + again, return_inverse=True)
    masks = np.full((len(name), consumers), none)
    masks[slot, row % consumers] = np.where(lists.masks == FULL, every, lists.masks)
    owner, block = name // (streamed * times), name // times % streamed
    masks[owner[:, None] * consumers + np.arange(consumers) >= count] = every  # (nobody's results)
    whole = (masks == every).all(1)
    order = np.lexsort((block, ~whole, owner))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    programs = -(-count // consumers)
    first = np.searchsorted(owner, np.arange(programs + 1))
    return Slots(owner, block[order], masks[order], first, np.bincount(owner[whole], minlength=programs), place[slot])


def numbers(lists: BlockLists) -> tuple[int, int]:
    """The numbers of the masks that hold no pair and every pair."""
    return len(lists.bits), len(lists.bits) + 1


def shared(lists: Sequence[BlockLists], consumers: int) -> bool:
    """Whether consumers that stand side by side meet mostly the same blocks, so that a program is worth it."""
    allowed = sum(MOST_SHARED * item.entries + BESIDES * (len(item.starts) - 1) for item in lists)
    return sum(_union(item, consumers) for item in lists) * consumers <= allowed


def even(lengths: Sequence[Ints], times: Sequence[float], workers: int) -> bool:
    """Whether nobody is left with a list far longer than others when all else is done.

    lengths are those of lists that come so many times each. A long one does no harm among enough work for everybody.
    """
    if not any(long_ones(some).size for some in lengths):
        return True
    every = sum(float(some.sum()) * many for some, many in zip(lengths, times, strict=True))
    return max(int(some.max(initial=0)) for some in lengths) * workers <= MOST_OF_ONE * every


def _union(lists: BlockLists, consumers: int) -> int:
    streamed = int(lists.blocks.max(initial=0)) + 1
    return len(np.unique(lists.rows.astype(np.int64) // consumers * streamed + lists.blocks))


def words(lists: Sequence[BlockLists], by_key: bool) -> npt.NDArray[np.int32]:
    """The masks of all lists, each with its two more: (masks, BLOCK / 32, BLOCK), see `lists.DeviceLists`."""
    two = np.stack([np.zeros((BLOCK // 32, BLOCK), np.int32), np.full((BLOCK // 32, BLOCK), -1, np.int32)])
    return np.concatenate([x for item in lists for x in (of_bits(item.bits, by_key), two)])


def masks_before(lists: Sequence[BlockLists]) -> list[int]:
    """How many masks come before those of each list."""
    return np.cumsum([0, *(len(item.bits) + 2 for item in lists)]).tolist()


@dataclass(frozen=True, slots=True)
class Pieces:
    """What `hopper_lists` reads, int32.

    table   (pieces, COLUMNS)
    blocks  (slots + 1): the block of keys of each slot
    masks   (slots + 1, consumers)
    words   (masks, BLOCK / 32, BLOCK)
    """

    table: npt.NDArray[np.int32]
    blocks: npt.NDArray[np.int32]
    masks: npt.NDArray[np.int32]
    words: npt.NDArray[np.int32]


def pieces(
    lists: Sequence[BlockLists], entries: Sequence[Entry], batch: int, consumers: int, x: Seen, y: Seen
) -> Pieces:
    """The work of a launch, for the entries of its heads. Columns as in `pieces.pieces`, of which there are

    0 batch, 1 head, 2 flags, 4 step, 5 rows, 6 first row; 7 slots, 8 first slot, 12 of them without masks;
    16 and 17 row and column of token 0 in x, 18 and 19 in y.
    """
    made = [slots(item, consumers) for item in lists]
    ahead = np.cumsum([0, *(len(one.block) for one in made)])
    found: list[Ints] = []
    for item in range(batch):
        for entry in entries:
            one = made[entry.lists]
            table = np.zeros((len(one.whole), COLUMNS), np.int64)
            table[:, [0, 1, 2, 4, 5]] = item, entry.head, entry.flags, 1, lists[entry.lists].n
            table[:, 6] = np.arange(len(table)) * consumers * BLOCK
            table[:, 7], table[:, 8] = np.diff(one.first), one.first[:-1] + ahead[entry.lists]
            table[:, 12] = one.whole
            zero, other = np.zeros(1, np.int64), np.array([entry.members[0]])
            for column, view in ((16, x), (18, y)):
                table[:, column], table[:, column + 1] = view.corner(zero, other, zero + item, zero + 1)
            found.append(table if entry.flags & FINAL else table[table[:, 7] > 0])
    numbered = list(zip(made, masks_before(lists), strict=False))
    spare = np.zeros((1, consumers), np.int64)  # (read ahead, and used by nobody)
    return Pieces(
        np.concatenate(found).astype(np.int32),
        np.concatenate([*(one.block for one in made), spare[0, :1]]).astype(np.int32),
        np.concatenate([*(one.masks + before for one, before in numbered), spare]).astype(np.int32),
        words(lists, by_key=False),
    )
