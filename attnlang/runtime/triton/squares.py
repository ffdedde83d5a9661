"""The work of `hopper_gradients`, in plain integers: which squares of 64 keys and 64 queries there are, and who has them.

The rows of nested lattices (or of one) are cut into blocks of 64 that lie in the same lattices: those of level a are in
the a + 1 finest and in no other, a residue class each. A square is a block of keys and a block of queries that meet, and
all its pairs count the same; only at the edges of a band some of them are masked.

    key_work     tiles of 128 keys, each with all blocks of queries that it meets (a step each: two squares)
    query_work   tiles of 128 queries, each with all blocks of keys, and where the dS of both squares lies

The pattern repeats itself after the widest run (a *unit*), so squares are enumerated once for a unit and a phase, as
entries; a piece of work is a tile of one unit of one head. Pieces are dealt out to programs in order, each to the one
that is done first.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from attnlang.plan import Band, Lattice, Plan
from attnlang.runtime.triton.nesting import Shape, chains, phases_of
from attnlang.runtime.triton.pieces import Seen

Ints: TypeAlias = npt.NDArray[np.int64]
SQUARE, TILE = 64, 128
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
class Chain:
    """Nested lattices on some heads, the finest of which holds every row.

    phases   the residue class of each head, modulo the last dilation
    widths   of the runs; the last is the length of a unit
    rates    dilations, the first of which is 1
    band     of distances k - q in tokens
    """

    heads: tuple[int, ...]
    phases: tuple[int, ...]
    widths: tuple[int, ...]
    rates: tuple[int, ...]
    band: Band

    @property
    def unit(self) -> int:
        """Tokens after which the pattern repeats itself."""
        return self.widths[-1]

    @property
    def steps(self) -> tuple[int, ...]:
        """By level: tokens from one row of a class to the next."""
        return (*self.rates[1:], self.rates[-1])

    @property
    def matrices(self) -> tuple[int, ...]:
        """The rates of the matrices that rows are read from."""
        return tuple(dict.fromkeys(self.steps))


def chains_of(plan: Plan, shape: Shape, most_rates: int) -> tuple[Chain, ...] | None:
    """A plan as chains, one for each head; None if it is anything else, or if some tile would not be whole."""
    lattices = [branch for branch in plan.branches if isinstance(branch, Lattice)]
    if len(lattices) != len(plan.branches) or shape.group != 1:
        return None
    nested = chains(lattices, Shape(shape.n, shape.heads, shape.kv_heads, TILE, SQUARE))
    found = [_chain(chain, shape.n) for chain in nested]
    whole = [chain for chain in found if chain is not None and len(chain.matrices) <= most_rates]
    if len(whole) != len(found) or sorted(h for c in whole for h in c.heads) != list(range(shape.heads)):
        return None
    return tuple(whole)


def _chain(chain: Sequence[Lattice], n: int) -> Chain | None:
    """A chain whose runs lie side by side from 0 to n, and whose classes have whole tiles in every run."""
    first = chain[0]
    widths = tuple(lattice.runs.width if lattice.runs else n for lattice in chain)
    starts = [lattice.runs.start % lattice.runs.period for lattice in chain if lattice.runs]
    apart = [lattice.runs.period - lattice.runs.width for lattice in chain if lattice.runs]
    rates = tuple(lattice.dilation for lattice in chain)
    if any(starts) or any(apart) or rates[0] != 1 or n % widths[-1]:
        return None
    if rates[-1] & (rates[-1] - 1) or widths[0] % (TILE * rates[-1]):
        return None
    return Chain(first.heads, tuple(phases_of(chain[-1])), widths, rates, first.band)


# squares of a unit ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of 64 rows of a unit, tile by tile: their level, first token, and tokens from row to row."""

    level: Ints
    token: Ints
    step: Ints

    @property
    def last(self) -> Ints:
        """Their last tokens."""
        return self.token + (SQUARE - 1) * self.step


def blocks(chain: Chain, phase: int) -> Blocks:
    """All blocks, run after run of the finest lattice, and in a run level after level."""
    level: list[int] = []
    token: list[int] = []
    for number, step in enumerate(chain.steps):
        last = number == len(chain.steps) - 1
        for shift in (0,) if last else range(chain.rates[number], step, chain.rates[number]):
            firsts = range((phase + shift) % step, chain.widths[0], step * SQUARE)
            level += [number] * len(firsts)
            token += firsts
    runs = np.arange(chain.unit // chain.widths[0])
    levels = np.tile(np.array(level, np.int64), len(runs))
    tokens = (runs[:, None] * chain.widths[0] + np.array(token, np.int64)).ravel()
    return Blocks(levels, tokens, np.array(chain.steps, np.int64)[levels])


@dataclass(frozen=True, slots=True)
class Squares:
    """Blocks of keys and of queries that meet, how often their pairs count, and whether all of them do."""

    key: Ints
    query: Ints
    times: Ints
    whole: npt.NDArray[np.bool_]


def squares(chain: Chain, made: Blocks) -> Squares:
    """All squares of a unit."""
    if len(chain.rates) == 1:
        key, query = _banded(chain, len(made.token))
        times = np.ones_like(key)
    else:
        key, query, times = _nested(chain, made)
    least, most = made.token[key] - made.last[query], made.last[key] - made.token[query]
    met, whole = np.ones(len(key), np.bool_), np.ones(len(key), np.bool_)
    if chain.band.lo is not None:
        met, whole = met & (most >= chain.band.lo), whole & (least >= chain.band.lo)
    if chain.band.hi is not None:
        met, whole = met & (least <= chain.band.hi), whole & (most <= chain.band.hi)
    return Squares(key[met], query[met], times[met], whole[met])


def _banded(chain: Chain, count: int) -> tuple[Ints, Ints]:
    """Blocks of consecutive rows, at distances that a band may hold."""
    key = np.arange(count)
    first, end = np.zeros_like(key), np.full_like(key, count)
    if chain.band.hi is not None:
        first = np.maximum((key * SQUARE - chain.band.hi) // SQUARE, 0)
    if chain.band.lo is not None:
        end = np.minimum((key * SQUARE + SQUARE - 1 - chain.band.lo) // SQUARE + 1, count)
    many = np.maximum(end - first, 0)
    ahead = np.repeat(np.cumsum(many) - many, many)
    return np.repeat(key, many), np.repeat(first, many) + np.arange(many.sum()) - ahead


def _nested(chain: Chain, made: Blocks) -> tuple[Ints, Ints, Ints]:
    """Blocks of one run of lattice p, and of different runs of the lattice before: 1 + min(a, b) - p times."""
    found: list[tuple[Ints, Ints, Ints]] = []
    for part, width in enumerate(chain.widths):
        members = np.flatnonzero(made.level >= part).reshape(chain.unit // width, -1)
        key, query = np.broadcast_arrays(members[:, :, None], members[:, None, :])
        if part:
            inner = made.token // chain.widths[part - 1]
            apart = inner[key] != inner[query]
            key, query = key[apart], query[apart]
        key, query = key.ravel(), query.ravel()
        found.append((key, query, 1 + np.minimum(made.level[key], made.level[query]) - part))
    key, query, times = (np.concatenate(column) for column in zip(*found, strict=True))
    return key, query, times


def count_squares(chain: Chain) -> int:
    """About how many squares a unit has, without enumerating them."""
    if len(chain.rates) > 1:
        return sum(chain.unit * width // (SQUARE * rate) ** 2 for width, rate in zip(chain.widths, chain.rates, strict=True))
    lo, hi = chain.band.lo, chain.band.hi
    reach = chain.unit if lo is None else min(chain.unit, (hi or 0) - lo + 2 * SQUARE)
    return chain.unit * reach // SQUARE**2


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
    """The steps of tiles of queries. Entries:

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
    tiles = count // 2
    first = np.searchsorted(tile, np.arange(tiles + 1))
    none = np.zeros((tiles, 1 + 2 * MOST_GROUPS), np.int64)
    return Steps(entries, first, made.token[::2], made.step[::2], none, none[:, 0], none[:, :2])


# pieces of work -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unit:
    """A stretch of one head: its batch item, its head, its first token, and which phase's entries it goes by."""

    batch: int
    head: int
    start: int
    phase: int


def units(chain: Chain, batch: int, n: int) -> list[Unit]:
    """All units of all heads of a chain, in order."""
    kinds = sorted(set(chain.phases))
    return [
        Unit(b, head, start, kinds.index(phase))
        for b in range(batch)
        for head, phase in zip(chain.heads, chain.phases, strict=True)
        for start in range(0, n, chain.unit)
    ]


def key_pieces(
    steps: Sequence[Steps], some: Sequence[Unit], heads: int, n: int, room: int, seen: tuple[Seen, Seen, Seen, Seen]
) -> Ints:
    """(pieces, COLUMNS) of tiles of keys, unit after unit. `room` is how many steps' squares a unit has room for.

    0 steps, 1 groups, 2 masked steps of both blocks, 3 first entry; row and column of 4 k and 6 v; 8 rate (its number);
    of the unit: tokens and column of 9 q and 11 d_out, 13 place in a plane, 14 first token, 15 batch, 16 head;
    17 first key, 18 tokens from key to key, 19 where its first square lies; 20.. groups: steps, bits of log2 m;
    32 steps of the second block alone, which come first, 33 of the first block alone, which come last.
    """
    k, v, q, dout = seen
    found: list[Ints] = []
    ahead = np.cumsum([0, *(len(one.entries) for one in steps)])
    rates = np.unique(np.concatenate([one.step for one in steps]))
    for number, unit in enumerate(some):
        one = steps[unit.phase]
        tiles = len(one.token)
        batch, head = np.full(tiles, unit.batch), np.full(tiles, unit.head)
        table = np.zeros((tiles, COLUMNS), np.int64)
        table[:, 0], table[:, 1], table[:, 2] = np.diff(one.first), one.groups[:, 0], one.masked
        table[:, 3] = ahead[unit.phase] + one.first[:-1]
        token = unit.start + one.token
        table[:, 4:6] = np.stack(k.corner(token, head, batch, one.step), 1)
        table[:, 6:8] = np.stack(v.corner(token, head, batch, one.step), 1)
        table[:, 8] = np.searchsorted(rates, one.step)
        table[:, 9:11], table[:, 11:13] = _origin(q, unit), _origin(dout, unit)
        table[:, 13:17] = (unit.batch * heads + unit.head) * n, unit.start, unit.batch, unit.head
        table[:, 17], table[:, 18] = token, one.step
        table[:, 19] = number * room + one.first[:-1]
        table[:, GROUPS:ENDS] = one.groups[:, 1:]
        table[:, ENDS : ENDS + 2] = one.alone
        found.append(table)
    return np.concatenate(found)


def query_pieces(steps: Sequence[Steps], some: Sequence[Unit], room: int, k: Seen) -> Ints:
    """(pieces, COLUMNS) of tiles of queries, unit after unit.

    0 steps, 3 first entry; of the unit: 9 tokens and 10 column of k; 15 batch, 16 head; 17 first query, 18 tokens from
    query to query, 19 where the first square of the unit lies.
    """
    found: list[Ints] = []
    ahead = np.cumsum([0, *(len(one.entries) for one in steps)])
    for number, unit in enumerate(some):
        one = steps[unit.phase]
        table = np.zeros((len(one.token), COLUMNS), np.int64)
        table[:, 0], table[:, 3] = np.diff(one.first), ahead[unit.phase] + one.first[:-1]
        table[:, 9:11] = _origin(k, unit)
        table[:, 15:17] = unit.batch, unit.head
        table[:, 17], table[:, 18], table[:, 19] = unit.start + one.token, one.step, number * room
        found.append(table)
    return np.concatenate(found)


def _origin(x: Seen, unit: Unit) -> tuple[int, int]:
    by_batch, by_head, column_by_batch, column_by_head = x.place
    tokens = unit.start + unit.head * by_head + unit.batch * by_batch
    return tokens, unit.head * column_by_head + unit.batch * column_by_batch


def dealt(pieces: Ints, programs: int, each: int) -> npt.NDArray[np.int32]:
    """Pieces so that program i takes numbers i, i + programs, ..: in order, each to the program that is done first.

    `each` is what a piece takes besides its steps, in steps. Programs with fewer pieces than others get empty ones.
    """
    programs = min(programs, len(pieces))
    busy = [(0, program) for program in range(programs)]
    mine: list[list[int]] = [[] for _ in range(programs)]
    for number, steps in enumerate(pieces[:, 0].tolist()):
        time, program = busy[0]
        mine[program].append(number)
        heapq.heapreplace(busy, (time + steps + each, program))
    rounds = max(map(len, mine))
    table = np.zeros((rounds, programs, COLUMNS), np.int64)
    for program, numbers in enumerate(mine):
        table[: len(numbers), program] = pieces[numbers]
    return table.reshape(-1, COLUMNS).astype(np.int32)
