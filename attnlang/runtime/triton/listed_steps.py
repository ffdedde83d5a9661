"""Block lists as work of the gradient kernels: squares that are named, where `square_steps` has those of lattices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnlang.plan import Band, Plan, Tiles
from attnlang.runtime.blocks import BlockLists
from attnlang.runtime.triton.listed import BLOCK, Ints, Slots, even, masks_before, shared, slots
from attnlang.runtime.triton.prepared import ListsOf
from attnlang.runtime.triton.square_steps import COLUMNS, ENTRY, MOST_ENTRIES, MOST_GROUPS, Steps
from attnlang.runtime.triton.squares import TILE

CONSUMERS = TILE // BLOCK


@dataclass(frozen=True, slots=True)
class Listed:
    """Block lists on some heads, in what a launch wants to know of a `squares.Chain`.

    phases   the list of each head
    unit     the length of the sequence, which is one unit
    """

    heads: tuple[int, ...]
    phases: tuple[int, ...]
    lists: tuple[BlockLists, ...]

    @property
    def unit(self) -> int:
        """Tokens after which the pattern repeats itself: it does not."""
        return self.lists[0].n

    @property
    def matrices(self) -> tuple[int, ...]:
        """The rates of the matrices that rows are read from."""
        return (1,)

    @property
    def band(self) -> Band:
        """There is none: what does not count is masked by bits."""
        return Band()

    def is_even(self, times: float, workers: int) -> bool:
        """Whether no tile has far more steps than others, on either side, or so many heads times is much more work."""
        counts = [self.phases.count(number) * times for number in range(len(self.lists))]
        by_query = [np.diff(one.starts) for one in self.lists]
        by_key = [np.bincount(one.blocks, minlength=len(one.starts) - 1) for one in self.lists]
        return even(by_query, counts, workers) and even(by_key, counts, workers)

    def steps(self, number: int, stored: bool = True) -> tuple[Steps, Steps | None]:
        """The steps of tiles of keys under one of the lists, and of queries, if dS is stored."""
        lists = self.lists[number]
        by_key = slots(lists.by_key(), CONSUMERS)
        keys = _key_steps(by_key, masks_before(self.lists)[number])
        if not stored:
            return keys, None
        at = np.empty(lists.entries, np.int64)
        at[np.lexsort((lists.rows, lists.blocks))] = by_key.entry  # (the order of `by_key`)
        return keys, _query_steps(lists, at)


def listed_of(plan: Plan, lists: ListsOf) -> tuple[Listed, ...] | None:
    """The block lists of a plan; None if tiles are not whole or share too little, or steps are too many."""
    found: list[Listed] = []
    for number, branch in enumerate(plan.branches):
        if not isinstance(branch, Tiles):
            continue
        some = lists[number]
        if any(item.n % TILE for item in some) or not shared(some, CONSUMERS):
            return None
        if sum(item.entries for item in some) > MOST_ENTRIES:
            return None
        owner = {head: place for place, item in enumerate(some) for head in item.heads}
        found.append(Listed(branch.heads, tuple(owner[head] for head in branch.heads), some))
    return tuple(found)


def longest_first(pieces: Ints, units: int) -> Ints:
    """Pieces of work with the longest of each unit first, so that programs end together."""
    table = pieces.reshape(units, -1, COLUMNS)
    order = np.argsort(-table[..., 0], axis=1, kind="stable")
    return np.take_along_axis(table, order[..., None], 1).reshape(-1, COLUMNS)


def _key_steps(by_key: Slots, masks: int) -> Steps:
    """Entries as in `square_steps.key_steps`, but for 5 and 7: the masks of the first and the second block of keys."""
    entries = np.zeros((len(by_key.block), ENTRY), np.int64)
    entries[:, 2] = entries[:, 4] = by_key.block * BLOCK
    entries[:, [5, 7]] = by_key.masks + masks
    count = len(by_key.whole)
    groups = np.zeros((count, 1 + 2 * MOST_GROUPS), np.int64)
    groups[:, 0], groups[:, 1] = by_key.whole > 0, by_key.whole
    tokens = np.arange(count) * TILE
    masked = np.diff(by_key.first) - by_key.whole
    return Steps(entries, by_key.first, tokens, np.ones_like(tokens), groups, masked, np.zeros((count, 2), np.int64))


def _query_steps(lists: BlockLists, at: Ints) -> Steps:
    """Entries as in `square_steps.query_steps`. `at`: of each entry of the lists, its step among those of keys."""
    by_query = slots(lists, CONSUMERS)
    entries = np.zeros((len(by_query.block), ENTRY), np.int64)
    entries[:, 2] = by_query.block * BLOCK
    entries[:, 4:6] = -1
    entries[by_query.entry, 4 + lists.rows % CONSUMERS] = CONSUMERS * at + lists.blocks % CONSUMERS
    count = len(by_query.whole)
    tokens, none = np.arange(count) * TILE, np.zeros((count, 1 + 2 * MOST_GROUPS), np.int64)
    return Steps(entries, by_query.first, tokens, np.ones_like(tokens), none, none[:, 0], none[:, :2])
