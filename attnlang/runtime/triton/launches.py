"""From a Plan and a length N to launches of the kernel, in plain integers: no tensor, no torch.

    nested lattices (LongNet)   --> one chain, in which every pair is computed once, with its multiplicity
    a lattice of step 1, columns and tiles on the same heads  --> one launch: they share tiles of consecutive queries
    any other lattice           --> a launch of its own

A launch has a fixed side, which it owns and writes, and a streamed side; in the forward pass and for the gradient of
queries the fixed side are the queries, for the gradients of keys and values the keys. What is known of a Plan holds
for both: a lattice has the same rows on both sides, and its band is read the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal, TypeAlias, assert_never

from attnlang.plan import Band, Columns, Lattice, Plan, Tiles
from attnlang.runtime.triton.nesting import Shape, chains, phases_of, width_of

Mode: TypeAlias = Literal["forward", "query gradient", "key gradient"]

CARRY, FINAL = 1, 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One head of the fixed side and the heads of the streamed side that it meets.

    lists   which heads' block lists it reads: an index of the launch's `list_heads`; -1 without lists
    flags   CARRY: earlier launches have left a result to add to; FINAL: no later launch will come
    """

    head: int
    phase: int
    members: tuple[int, ...]
    lists: int = -1
    flags: int = 0


@dataclass(frozen=True, slots=True)
class TileRow:
    """Tile `row0`.. of the lattice  (phase + shift) mod step  of every run; `level` as the kernel has it."""

    level: int
    step: int
    shift: int
    row0: int


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of the kernel: every entry, every run, every tile.

    first, count, period, width   where the runs lie: run i is first + i * period, and `width` long
    chain      (width, dilation) of each nested lattice, the finest first
    nested     the tiles are of another lattice than the rows of their own run
    band       units (tokens) of key less query; None without a lattice
    tiles_of   the branch whose block lists it reads
    even       no streamed tile of the lattice reaches past the end of its run
    covers     together with the launches of its family it writes every row of its heads on the fixed side
    family     launches of one family write different rows
    """

    entries: tuple[Entry, ...]
    first: int
    count: int
    period: int
    width: int
    tiles: tuple[TileRow, ...]
    chain: tuple[tuple[int, int], ...] = ()
    nested: bool = False
    parts: int = 1
    weighted: bool = False
    band: Band | None = None
    columns: Columns | None = None
    tiles_of: int | None = None
    even: bool = False
    covers: bool = False
    family: int = 0

    @property
    def residues(self) -> int:
        """After how many tokens multiplicities repeat; 0 where all are 1."""
        return self.chain[-1][1] if self.weighted else 0


@dataclass(frozen=True, slots=True)
class _Group:
    """Branches that one launch can run together: nested lattices, columns, tiles; all on the same heads."""

    heads: tuple[int, ...]
    lattices: tuple[Lattice, ...] = ()
    columns: Columns | None = None
    tiles_of: int | None = None


ListHeads: TypeAlias = Mapping[int, Sequence[Sequence[int]]]
"""For every branch of tiles, by its number: the heads of each of its block lists."""


def launches(plan: Plan, shape: Shape, mode: Mode, list_heads: ListHeads) -> tuple[Launch, ...]:
    """The launches of a plan, in order."""
    families = count()
    found = [
        replace(launch, family=family)
        for group in _groups(plan, shape, mode)
        for family, together in zip(families, _families(group, shape, mode, list_heads), strict=False)
        for launch in together
    ]
    # the last launch of a head had best write all of its rows, and lists that are by themselves few
    found.sort(key=lambda launch: (launch.covers, not shape.joined and launch.tiles_of is None))
    return _flagged(found)


def _flagged(found: list[Launch]) -> tuple[Launch, ...]:
    """Say for each head of each launch whether other families came before it, and whether any come after it."""
    last = {entry.head: launch.family for launch in found for entry in launch.entries}
    first = {entry.head: launch.family for launch in reversed(found) for entry in launch.entries}

    def flags(launch: Launch, head: int) -> int:
        carry, final = first[head] != launch.family, launch.covers and last[head] == launch.family
        return CARRY * carry + FINAL * final

    return tuple(
        replace(launch, entries=tuple(replace(e, flags=flags(launch, e.head)) for e in launch.entries))
        for launch in found
    )


# branches that go together ------------------------------------------------------------------------------------------


def _groups(plan: Plan, shape: Shape, mode: Mode) -> list[_Group]:
    lattices = [branch for branch in plan.branches if isinstance(branch, Lattice)]
    groups = [_Group(chain[0].heads, chain) for chain in chains(lattices, shape)]
    for number, branch in enumerate(plan.branches):
        match branch:
            case Lattice():
                continue
            case Columns():
                addition = _Group(branch.heads, columns=branch)
            case Tiles():
                addition = _Group(branch.heads, tiles_of=number)
            case _:
                assert_never(branch)
        if mode == "key gradient" and isinstance(branch, Columns):
            groups.append(addition)  # its keys are no consecutive rows
            continue
        place = next((i for i, group in enumerate(groups) if _joins(group, addition, shape, mode)), None)
        if place is None:
            groups.append(addition)
        else:
            here = groups[place]
            groups[place] = replace(
                here, columns=here.columns or addition.columns, tiles_of=_either(here.tiles_of, addition.tiles_of)
            )
    return groups


def _either(a: int | None, b: int | None) -> int | None:
    return b if a is None else a


def _joins(group: _Group, addition: _Group, shape: Shape, mode: Mode) -> bool:
    """Whether both can share tiles of consecutive rows that begin at multiples of a tile."""
    if not shape.joined or group.heads != addition.heads or len(group.lattices) > 1:
        return False
    if (group.columns and addition.columns) or (group.tiles_of is not None and addition.tiles_of is not None):
        return False
    if group.columns and mode == "key gradient":
        return False
    return all(lattice.dilation == 1 and _whole(lattice, LARGEST_TILE) for lattice in group.lattices)


LARGEST_TILE = 128
"""Block lists are made of tiles of at most so many rows."""


def _whole(lattice: Lattice, block: int) -> bool:
    """Whether runs cover the sequence without gaps and begin at multiples of a block."""
    runs = lattice.runs
    return runs is None or (runs.width == runs.period and runs.start % block == 0 and runs.width % block == 0)


# launches of a group ------------------------------------------------------------------------------------------------


def _families(group: _Group, shape: Shape, mode: Mode, list_heads: ListHeads) -> Iterator[tuple[Launch, ...]]:
    phases = phases_of(group.lattices[-1]) if group.lattices else (0,) * len(group.heads)
    lists = _list_of(group, list_heads)
    overlap = len(group.lattices) > 1 or group.tiles_of is not None
    for entries in _entries(group.heads, phases, lists, shape, mode, overlap):
        if len(group.lattices) > 1:
            yield tuple(_chain(group, entries, shape))
        else:
            yield (_single(group, entries, shape, mode),)


def _list_of(group: _Group, list_heads: ListHeads) -> tuple[int, ...]:
    if group.tiles_of is None:
        return (-1,) * len(group.heads)
    owner = {head: number for number, heads in enumerate(list_heads[group.tiles_of]) for head in heads}
    return tuple(owner.get(head, -1) for head in group.heads)


def _entries(
    heads: Sequence[int], phases: Sequence[int], lists: Sequence[int], shape: Shape, mode: Mode, overlap: bool
) -> Iterator[tuple[Entry, ...]]:
    """Entries for one launch each. A head of the fixed side stands once in a launch, unless its rows are disjoint."""
    if mode != "key gradient":
        yield tuple(
            Entry(head, phase, (head // shape.group,), number)
            for head, phase, number in zip(heads, phases, lists, strict=True)
        )
        return
    members: dict[tuple[int, int, int], list[int]] = {}
    for head, phase, number in zip(heads, phases, lists, strict=True):
        members.setdefault((head // shape.group, phase, number), []).append(head)
    entries = [Entry(head, phase, tuple(m), number) for (head, phase, number), m in members.items()]
    if not overlap:
        yield tuple(entries)
        return
    while entries:
        chosen = list({entry.head: entry for entry in reversed(entries)}.values())
        entries = [entry for entry in entries if entry not in chosen]
        yield tuple(sorted(chosen, key=lambda entry: entry.head))


def _chain(group: _Group, entries: tuple[Entry, ...], shape: Shape) -> Iterator[Launch]:
    """Two launches: the rows that the finer lattices hold, and the others, whose pairs all count once."""
    chain = tuple((width_of(lattice), lattice.dilation) for lattice in group.lattices)
    width = chain[0][0]
    common = Launch(
        entries,
        *(0, -(-shape.n // width), width, width),
        tiles=(),
        chain=chain,
        nested=True,
        band=group.lattices[0].band,
        even=shape.n % width == 0 and width // chain[0][1] % shape.streamed == 0,
        covers=chain[0][1] == 1,
    )
    by_level = [list(_level(chain, level, shape)) for level in range(len(chain))]
    deep = [tile for tiles in reversed(by_level[1:]) for tile in tiles]
    yield replace(common, tiles=tuple(deep), parts=len(chain), weighted=True)
    if by_level[0]:
        yield replace(common, tiles=tuple(by_level[0]))


def _level(chain: tuple[tuple[int, int], ...], level: int, shape: Shape) -> Iterator[TileRow]:
    """The rows that are in lattice `level` and in none after it: some residue classes of the next dilation."""
    width, rate = chain[0][0], chain[level][1]
    step = chain[level + 1][1] if level + 1 < len(chain) else rate
    shifts = range(rate, step, rate) if step > rate else (0,)
    for shift in shifts:
        for row0 in range(0, width // step, shape.fixed):
            yield TileRow(level, step, shift, row0)


def _single(group: _Group, entries: tuple[Entry, ...], shape: Shape, mode: Mode) -> Launch:
    if mode == "key gradient" and group.columns:
        rows = column_rows(group.columns, shape.n)
        tiles = tuple(TileRow(0, 1, 0, row0) for row0 in range(0, rows, shape.fixed))
        return Launch(entries, 0, 1, shape.n, shape.n, tiles, columns=group.columns)
    if not group.lattices:
        tiles = tuple(TileRow(0, 1, 0, row0) for row0 in range(0, shape.n, shape.fixed))
        return Launch(
            entries, 0, 1, shape.n, shape.n, tiles, columns=group.columns, tiles_of=group.tiles_of, covers=True
        )
    (lattice,) = group.lattices
    first, number, period, width = runs_of(lattice, shape.n)
    rate = lattice.dilation
    shifts = range(min(rate, width)) if lattice.phases is None else (0,)
    tiles = tuple(
        TileRow(0, rate, shift, row0) for shift in shifts for row0 in range(0, -(-(width - shift) // rate), shape.fixed)
    )
    whole = period == width and (lattice.phases is None or rate == 1)
    rows_even = width % rate == 0 and width // rate % shape.streamed == 0
    return Launch(
        entries,
        *(first, number, period, width),
        tiles=tiles,
        chain=((width, rate),),
        band=lattice.band,
        columns=group.columns,
        tiles_of=group.tiles_of,
        even=first == 0 and rows_even and (shape.n % width == 0 or width == shape.n),
        covers=whole,
    )


def runs_of(lattice: Lattice, n: int) -> tuple[int, int, int, int]:
    """First start (at most 0 where a run began before the sequence), count, period and width of a lattice's runs."""
    runs = lattice.runs
    if runs is None:
        return 0, 1, n, n
    start = runs.start % runs.period
    if start - runs.period + runs.width > 0:
        start -= runs.period
    return start, max(0, -(-(n - start) // runs.period)), runs.period, runs.width


def column_rows(columns: Columns, n: int) -> int:
    """How many keys the columns have in a sequence of n tokens."""
    each = columns.last - columns.first
    return n // columns.period * each + min(max(n % columns.period - columns.first, 0), each)
