"""The work of `hopper_gradients`, in plain integers: who has which squares, in which order, and where dS lies.

    key_steps, key_pieces        tiles of 128 keys, each with all blocks of queries that it meets (a step: two squares)
    query_steps, query_pieces    tiles of 128 queries, each with all blocks of keys, and where the dS of both squares is

Steps are entries of a table for a unit; a piece of work is a tile of one unit of one head. Pieces are dealt out to
programs in order, each to the one that is done first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnlang.runtime.triton.pieces import Seen
from attnlang.runtime.triton.squares import Blocks, Chain, Ints, Squares, blocks, squares

COLUMNS, ENTRY = 40, 8
"""Integers of a piece and of an entry."""
GROUPS = 20
"""Where the groups of a piece begin."""
MOST_GROUPS = 6
ENDS = GROUPS + 2 * MOST_GROUPS
"""And where its numbers of steps of one consumer alone are."""
MOST_ENTRIES = 2**21
"""Entries of a table, 64 MiB of them; patterns with more squares in a unit run in the kernel for all GPUs."""


@dataclass(frozen=True, slots=True)
class Planes:
    """A vector once for each of these rates (ascending), so many numbers each: see `matrices.planes`."""

    rates: tuple[int, ...]
    size: int


# steps ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Steps:
    """What tiles of one side walk past, for a unit and a phase.

    entries  (steps, ENTRY), tile after tile
    first    of each tile: its first step; and one more, the number of steps
    token    of each tile: its first row, and `step` tokens from row to row
    groups   of each tile of keys: so many groups of whole steps, (count, bits of log2 m) each
    masked   and how many masked steps both of its blocks have
    alone    and how many its second block has alone, and its first
    """

    entries: Ints
    first: Ints
    token: Ints
    step: Ints
    groups: Ints
    masked: Ints
    alone: Ints


def key_steps(chain: Chain, phase: int, n: int, planes: Planes) -> tuple[Steps, Ints, Squares, Blocks]:
    """The steps of tiles of keys; for each square its step; and the squares. Entries:

    0 rate (its number), 1 log2 of it, 2 row and 3 residue of the first query, 4 its place in the planes of a vector,
    5 its token, 6 bits of log2 m, 7 which of the tile's two blocks of keys it meets (1, 2, or both: 3).
    """
    made = blocks(chain, phase)
    found = squares(chain, made)
    # a step has two squares, of which one may hold no pair at all
    name, at, both = np.unique(found.key // 2 * len(made.token) + found.query, return_inverse=True, return_counts=True)
    times = np.zeros_like(name)
    times[at] = found.times
    who = np.bincount(at, 1 << found.key % 2, len(name)).astype(np.int64)
    part = np.bincount(at, ~found.whole, len(name)) > 0
    part |= both < 2
    tile, query = name // len(made.token), name % len(made.token)
    # steps of the second block alone, then those without a mask, of both blocks with one, of the first alone
    place = np.where(who == 2, 0, np.where(part, np.where(who == 3, 2, 3), 1))
    order = np.lexsort((query, times, place, tile))
    alone = np.stack([np.bincount(tile[who == one], minlength=len(made.token) // 2) for one in (2, 1)], 1)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    tile, query, times, part, who = tile[order], query[order], times[order], part[order], who[order]
    step, token = made.step[query], made.token[query]
    rates = np.array(chain.matrices)
    rate = np.searchsorted(rates, step)
    row, residue = token // step, token % step
    lies = np.array(planes.rates).searchsorted(step) * planes.size + residue * (n // step) + row
    shift = np.log2(step).astype(np.int64)
    bits = np.log2(times).astype(np.float32).view(np.int32).astype(np.int64)
    entries = np.stack((rate, shift, row, residue, lies, token, bits, who), 1)
    tiles = len(made.token) // 2
    first = np.searchsorted(tile, np.arange(tiles + 1))
    groups = np.zeros((tiles, 1 + 2 * MOST_GROUPS), np.int64)
    for times_ in np.unique(times):
        many = np.bincount(tile[(times == times_) & ~part], minlength=tiles)
        which = np.flatnonzero(many)
        column = 1 + 2 * groups[which, 0]
        groups[which, column] = many[which]
        groups[which, column + 1] = np.log2(times_).astype(np.float32).view(np.int32)
        groups[which, 0] += 1
    masked = np.bincount(tile[part & (who == 3)], minlength=tiles)
    steps = Steps(entries, first, made.token[::2], made.step[::2], groups, masked, alone)
    return steps, place[at], found, made


def query_steps(chain: Chain, at: Ints, found: Squares, made: Blocks) -> Steps:
    """The steps of tiles of queries, from the number of each square's step among those of keys. Entries:

    0 rate (its number), 1 log2 of it, 2 row and 3 residue of the first key; 4 and 5 where the squares of the first and
    the second block of queries lie, from the first of the unit (-1: there is no such square).
    """
    count = len(made.token)
    name, where = np.unique(found.query // 2 * count + found.key, return_inverse=True)
    places = np.full((len(name), 2), -1)
    places[where, found.query % 2] = 2 * at + found.key % 2
    tile, key = name // count, name % count
    step, token = made.step[key], made.token[key]
    rate = np.searchsorted(np.array(chain.matrices), step)
    shift = np.log2(step).astype(np.int64)
    entries = np.stack((rate, shift, token // step, token % step, *places.T, *np.zeros((2, len(name)), np.int64)), 1)
    first = np.searchsorted(tile, np.arange(count // 2 + 1))
    none = np.zeros((count // 2, 1 + 2 * MOST_GROUPS), np.int64)
    return Steps(entries, first, made.token[::2], made.step[::2], none, none[:, 0], none[:, :2])


# pieces of work -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unit:
    """A stretch of one head of q: its batch item, its head, its first token, and which phase's entries it goes by."""

    batch: int
    head: int
    start: int
    phase: int


def units(heads: Sequence[int], phases: Sequence[int], unit: int, batch: int, n: int, group: int = 1) -> list[Unit]:
    """All units of some heads, of so many tokens each; heads that share one of keys come in turn in each stretch."""
    kinds = sorted(set(phases))
    of = sorted(zip(heads, phases, strict=True))
    return [
        Unit(b, head, start, kinds.index(phase))
        for b in range(batch)
        for first in range(0, len(of), group)
        for start in range(0, n, unit)
        for head, phase in of[first : first + group]
    ]


def key_pieces(
    steps: Sequence[Steps],
    some: Sequence[Unit],
    heads: int,
    n: int,
    room: int,
    seen: Sequence[Seen],
    group: int = 1,
) -> Ints:
    """(pieces, COLUMNS) of tiles of keys, unit after unit; of heads that share one of keys the first stands for all.

    `room` is how many steps' squares a unit has room for. seen: k, v, q and d_out.

    0 steps, 1 groups, 2 masked steps of both blocks, 3 first entry; row and column of 4 k and 6 v; 8 rate (its number);
    of the unit: tokens and column of 9 q and 11 d_out, 13 place in a plane, 14 first token, 15 batch, 16 head of k;
    17 first key, 18 tokens from key to key, 19 where its first square lies; 20.. groups: steps, bits of log2 m;
    32 steps of the second block alone, which come first, 33 of the first block alone, which come last.
    """
    k, v, q, dout = seen
    rates = np.unique(np.concatenate([one.step for one in steps]))
    models = _models(steps)
    for model, one in zip(models, steps, strict=True):
        model[:, 1], model[:, 2] = one.groups[:, 0], one.masked
        model[:, 8] = np.searchsorted(rates, one.step)
        model[:, 19] = one.first[:-1]
        model[:, GROUPS:ENDS] = one.groups[:, 1:]
        model[:, ENDS : ENDS + 2] = one.alone
    table, batch, head, start = _of_units(models, some[::group])
    table[..., 16] = head // group
    table[..., 19] += np.arange(0, len(some), group)[:, None] * room
    token, rate = table[..., 17], table[..., 18]
    table[..., 4], table[..., 5] = k.corner(token, head // group, batch, rate)
    table[..., 6], table[..., 7] = v.corner(token, head // group, batch, rate)
    table[..., 9], table[..., 10] = _origin(q, batch, head, start)
    table[..., 11], table[..., 12] = _origin(dout, batch, head, start)
    table[..., 13], table[..., 14] = (batch * heads + head) * n, start
    return table.reshape(-1, COLUMNS)


def query_pieces(steps: Sequence[Steps], some: Sequence[Unit], room: int, k: Seen, group: int = 1) -> Ints:
    """(pieces, COLUMNS) of tiles of queries, unit after unit.

    0 steps, 3 first entry; of the unit: 9 tokens and 10 column of k; 15 batch, 16 head, 19 where its first square lies;
    17 first query, 18 tokens from query to query.
    """
    table, batch, head, start = _of_units(_models(steps), some)
    table[..., 9], table[..., 10] = _origin(k, batch, head // group, start)
    table[..., 19] = np.arange(len(some))[:, None] * room
    return table[:, ::-1].reshape(-1, COLUMNS)  # (of a causal unit the last queries meet most: they had best begin)


def _models(steps: Sequence[Steps]) -> list[Ints]:
    """By phase: the pieces of a unit at token 0, in what those of keys and of queries have in common."""
    ahead = np.cumsum([0, *(len(one.entries) for one in steps)])
    found: list[Ints] = []
    for before, one in zip(ahead, steps, strict=False):
        model = np.zeros((len(one.token), COLUMNS), np.int64)
        model[:, 0], model[:, 3] = np.diff(one.first), before + one.first[:-1]
        model[:, 17], model[:, 18] = one.token, one.step
        found.append(model)
    return found


def _of_units(models: Sequence[Ints], some: Sequence[Unit]) -> tuple[Ints, Ints, Ints, Ints]:
    """Pieces (units, tiles, COLUMNS), and batch item, head and first token of each unit (units, 1)."""
    batch, head, start, phase = np.array([(u.batch, u.head, u.start, u.phase) for u in some], np.int64).T[:, :, None]
    table = np.stack(models)[phase[:, 0]]
    table[..., 17] += start
    table[..., 15], table[..., 16] = batch, head
    return table, batch, head, start


def _origin(x: Seen, batch: Ints, head: Ints, start: Ints) -> tuple[Ints, Ints]:
    by_batch, by_head, column_by_batch, column_by_head = x.place
    return start + head * by_head + batch * by_batch, head * column_by_head + batch * column_by_batch
