"""Launching the kernels of `hopper` and `hopper_lists`: what they can run, in which shapes, with which arguments."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import triton
from torch import Tensor

from attnlang.plan import FULL, Band, Lattice, Plan
from attnlang.runtime.blocks import BlockLists
from attnlang.runtime.contents import Contents
from attnlang.runtime.triton import listed
from attnlang.runtime.triton.dealing import MOST, dealt, unbalanced
from attnlang.runtime.triton.kept import Call, Pointer
from attnlang.runtime.triton.launches import Launch, launches
from attnlang.runtime.triton.matrices import Form, layout_of_vectors, matrices, places_of
from attnlang.runtime.triton.nesting import CAUSAL, MOST_PARTS, Shape
from attnlang.runtime.triton.pieces import Seen, pieces, tiles, weights
from attnlang.runtime.triton.prepared import Left, ListsOf, heads_of, left, lists_of, log_m

ROWS = 64
"""Queries of a consumer."""
HEAD_DIMS = (64, 128)
LOADER_REGISTERS = 24
SCALES = (2.0**-64, 2.0**64)
"""Between them weights can be put in units of scores: log2 m, at most 3, over a scale and back, in float32."""
HOPPER = (9, 0)
VERSIONS = ((3, 6),)
"""Versions of triton whose Gluon the kernel is written in and tested with; others run the kernel for all GPUs."""


def beside_loader(registers: int, consumers: int) -> int:
    """Registers of a consumer's threads, if so many a thread are launched and the loader keeps few."""
    return (registers * (consumers + 1) - LOADER_REGISTERS) // consumers // 8 * 8


@dataclass(frozen=True, slots=True)
class Split:
    """How a program is made up: consumers of 64 queries, keys of a tile, tiles in flight, registers of a thread.

    under  whether exponentials run under the scores of the next tile; None: where lattices are nested
    """

    consumers: int
    streamed: int
    stages: int
    registers: int
    q_shared: bool = False
    under: bool | None = None

    @property
    def resident(self) -> int:
        """Programs of a multiprocessor, as far as its 65,536 registers go."""
        return 65536 // (self.registers * 128 * (self.consumers + 1))

    @property
    def fixed(self) -> int:
        """Queries of a program."""
        return ROWS * self.consumers

    @property
    def consumer_registers(self) -> int:
        """What is left for a consumer's threads beside the loader's."""
        return beside_loader(self.registers, self.consumers)


Way: TypeAlias = Literal["nested", "full", "causal", "window", "short"]
"""Lattices in one another; one lattice without an end, with one, or in a window; and pieces of little work each."""
FOUR = Split(4, 64, 10, 96, q_shared=True, under=True)
TABLE: dict[tuple[int, Way], Split] = {
    (64, "nested"): Split(2, 128, 2, 168),
    (64, "full"): FOUR,
    (64, "causal"): FOUR,
    (64, "window"): FOUR,
    (64, "short"): Split(2, 64, 5, 80, q_shared=True, under=True),
    (128, "nested"): Split(2, 128, 2, 168, q_shared=True),
    (128, "full"): Split(2, 128, 2, 168, q_shared=True),
    (128, "causal"): Split(2, 128, 2, 168, q_shared=True),
    (128, "window"): Split(3, 64, 4, 128, q_shared=True, under=True),
    (128, "short"): Split(2, 64, 4, 168),
}
"""By head dimension and what a plan is; measured on an H100 (docs/kernels.md)."""
LISTS: dict[int, Split] = {64: FOUR, 128: TABLE[128, "window"]}
"""The same for block lists."""
NARROWEST = ("short", "window", "causal", "full")
SHORT = 448
"""Keys of a band: one with fewer is over before programs of many consumers are at their speed."""
BESIDES = 4
"""Tiles that take as long as what begins and ends a piece."""
FEW = 6
"""Pieces for each program that can be at once: with no more, programs do not stay for a second piece."""
IDLE = 1.15
"""How many times the rows of small programs larger ones may be made for, before small ones are faster."""


def split_for(plan: Plan, n: int, dim: int) -> Split:
    """What was measured to be fastest for plans of this kind at a length."""
    lattices = [branch for branch in plan.branches if isinstance(branch, Lattice)]
    ends = [lattice for lattice in lattices if lattice.band in (FULL, CAUSAL)]
    heads = [head for lattice in ends for head in lattice.heads]
    if len(heads) > len(set(heads)):
        return TABLE[dim, "nested"]
    ways: list[Way] = [_way(lattice, n, dim) for lattice in lattices]
    return TABLE[dim, min(ways, key=NARROWEST.index) if ways else "full"]


def _way(lattice: Lattice, n: int, dim: int) -> Way:
    """What a lattice is that lies in no other."""
    band = lattice.band
    if band.lo is not None and band.hi is not None:
        return "short" if (band.hi - band.lo) // lattice.dilation < SHORT else "window"
    way: Way = "full" if band == FULL else "causal"
    width = n if lattice.runs is None else min(lattice.runs.width, n)
    rows = -(-width // lattice.dilation)
    made, made_short = (-(-rows // split.fixed) * split.fixed for split in (TABLE[dim, way], TABLE[dim, "short"]))
    return "short" if made > IDLE * made_short else way


@lru_cache
def available(device: torch.device) -> bool:
    """Whether the device is a Hopper GPU and this triton has the language that the kernel is written in."""
    if device.type != "cuda" or os.environ.get("TRITON_INTERPRET") == "1":
        return False
    return refusal(torch.cuda.get_device_capability(device), triton.__version__) is None


def refusal(capability: tuple[int, int], version: str) -> str | None:
    """Why the kernel for all GPUs runs instead; None on a GPU and with a triton that this one is for."""
    if capability != HOPPER:
        return f"the faster forward kernel is for compute capability 9.0, this GPU has {capability[0]}.{capability[1]}"
    if tuple(map(int, version.split(".")[:2])) not in VERSIONS:
        known = ", ".join(".".join(map(str, one)) for one in VERSIONS)
        return f"the faster forward kernel is for triton {known}, this is {version}"
    return None


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """How many a GPU has."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def _can_run(launch: Launch, lists: ListsOf, batch: int, consumers: int, programs: int) -> bool:
    """Lattices, nested ones where every tile is whole; and lists that consumers share, even ones."""
    if launch.tiles_of is not None:
        of = lists[launch.tiles_of]
        times = np.bincount([entry.lists for entry in launch.entries], minlength=len(of)) * batch
        lengths = [np.diff(item.starts) for item in of]
        return listed.shared(of, consumers) and listed.even(lengths, times.tolist(), consumers * programs)
    return launch.columns is None and launch.band is not None and (launch.even or not launch.nested)


def steps(
    q: Form,
    k: Form,
    v: Form,
    plan: Plan,
    scale: float,
    split: Split | None,
    nest: bool,
    device: torch.device,
    content: Contents | None = None,
) -> tuple[Left, tuple[Call, ...]] | None:
    """The launches of the forward pass, with a given split or the table's; None if these kernels cannot run it."""
    dim = q.shape[-1]
    if not available(device) or q.dtype == torch.float32 or dim not in HEAD_DIMS or scale <= 0:
        return None
    if not q.aligned or any(stride % 16 for stride in q.strides[:3]):
        return None  # queries are copied 16 bytes at a time
    of_lists = split if split and split.streamed == listed.BLOCK else LISTS[dim]
    split = split or split_for(plan, q.shape[2], dim)
    shape = Shape(q.shape[2], q.shape[1], k.shape[1], split.fixed, split.streamed, nest, joined=False)
    lists = lists_of(plan, shape, listed.BLOCK, content or Contents({}))
    found = launches(plan, shape, "forward", heads_of(lists))
    fit = q.shape[0], of_lists.consumers, of_lists.resident * multiprocessors(device)
    if not all(_can_run(one, lists, *fit) and places_of((k, v), _rates(one)) for one in found):
        return None
    calls = (
        _call(one, q, k, v, scale, split, device)
        if one.tiles_of is None
        else _listed_call(one, lists[one.tiles_of], q, k, v, scale, of_lists, device)
        for one in found
    )
    return left(found, q.shape[1]), tuple(call for call in calls if call is not None)


def _listed_call(
    launch: Launch,
    lists: tuple[BlockLists, ...],
    q: Form,
    k: Form,
    v: Form,
    scale: float,
    split: Split,
    device: torch.device,
) -> Call | None:
    hopper: Any = import_module("attnlang.runtime.triton.hopper_lists")
    out = q.like()
    batch, heads, n, dim = q.shape
    seen = matrices((k, v), (2, 3), (1,), split.streamed, gluon=True)
    assert seen is not None
    x, y = (Seen(form.strides[2], place) for form, place in zip((k, v), seen.places, strict=True))
    table, *tables, programs = _listed_tables(
        launch, lists, batch, split, x, y, split.resident * multiprocessors(device), device
    )
    if not len(table):
        return None
    return Call(
        hopper.attend,
        (programs,),
        (
            *map(Pointer, (0, 6, 4, 8)), q.strides[:3], out.strides[:3], *seen.descriptors[::MOST_PARTS],
            *tables, table, len(table), n, heads, scale * math.log2(math.e),
        ),
        {
            "D": dim, "CONSUMERS": split.consumers, "STAGES": split.stages, "UNDER": _under(launch, split, scale),
            "REGISTERS": split.consumer_registers, "LOADER_REGISTERS": LOADER_REGISTERS,
            "num_warps": 4, "maxnreg": split.registers,
        },
    )  # fmt: skip


def _call(launch: Launch, q: Form, k: Form, v: Form, scale: float, split: Split, device: torch.device) -> Call | None:
    hopper: Any = import_module("attnlang.runtime.triton.hopper")
    band, out = launch.band or Band(), q.like()
    batch, heads, n, dim = q.shape
    seen = matrices((k, v), (2, 3), _rates(launch), split.streamed, gluon=True)
    assert seen is not None
    x, y = (Seen(form.strides[2], place) for form, place in zip((k, v), seen.places, strict=True))
    factor = scale * math.log2(math.e)
    under = _under(launch, split, scale)
    programs = split.resident * multiprocessors(device)
    table, programs, log_m = _tables(launch, n, batch, split, x, y, 1 / factor if under else 1.0, programs, device)
    if not len(table):
        return None  # (a residue class that no position of so short a sequence is in)
    return Call(
        hopper.attend,
        (programs,),
        (
            *map(Pointer, (0, 6, 4, 8)), q.strides[:3], out.strides[:3], *seen.descriptors,
            log_m, table, len(table), n, heads, band.lo or 0, band.hi or 0, factor,
        ),
        {
            "D": dim, "CONSUMERS": split.consumers, "S": split.streamed, "STAGES": split.stages, "PARTS": launch.parts,
            "BIASED": launch.weighted, "HAS_LO": band.lo is not None, "HAS_HI": band.hi is not None,
            "WIDE": _is_wide(launch, band, split), "Q_SHARED": split.q_shared, "UNDER": under,
            "REGISTERS": split.consumer_registers, "LOADER_REGISTERS": LOADER_REGISTERS,
            "num_warps": 4, "maxnreg": split.registers,
        },
    )  # fmt: skip


def _under(launch: Launch, split: Split, scale: float) -> bool:
    """Whether exponentials run under the scores of the next tile: faster where lattices are nested, else seldom."""
    wanted = launch.nested if split.under is None else split.under
    return wanted and SCALES[0] <= scale <= SCALES[1]


def _is_wide(launch: Launch, band: Band, split: Split) -> bool:
    """Whether no tile of keys is at both ends of the band of any consumer's queries.

    It is not if there is a multiple of a tile between the first key that all of a consumer's queries meet and the end
    of those that all of them meet: at the beginning of a run 0 is one; at its end keys reach back from the queries.
    """
    if band.lo is None:
        return True
    rate = launch.chain[0][1] if launch.chain else 1
    span = (ROWS - 1) * max(tile.step for tile in launch.tiles)
    back = -band.lo // rate
    common = back if band.hi is None else (band.hi - band.lo - span) // rate
    return (band.hi is None or band.hi >= 0) and min(back, common) > split.streamed


def _rates(launch: Launch) -> tuple[int, ...]:
    return tuple(rate for _, rate in launch.chain[: launch.parts]) or (1,)


def in_turn(table: npt.NDArray[np.int32], launch: Launch, programs: int) -> tuple[npt.NDArray[np.int32], int]:
    """Pieces in an order in which all programs are done at about the same time, and how many programs run them.

    Most are in theirs. Where they are not (one long causal run: a program of the last queries would get more and more
    of them), a head's runs stay in order, the longest pieces of each first, and each goes to the program that is done
    first; programs with fewer than others get pieces without rows. Few pieces are a program each, the longest first:
    multiprocessors take them as they come free, also from other kernels.
    """
    steps = tiles(table, launch.parts)
    if len(table) <= programs or unbalanced(steps, programs, BESIDES) <= MOST:
        return table, min(len(table), programs)
    if len(table) <= FEW * programs:
        return table[np.argsort(-steps, kind="stable")], len(table)
    order = np.lexsort((-steps, table[:, 9], table[:, 1], table[:, 0]))
    table = dealt(table[order], steps[order], programs, BESIDES)
    table[table[:, 5] == 0, 4] = table[table[:, 5] == 0, 10] = 1  # (steps and rates are divided by)
    return table, programs


def _listed_tables(
    launch: Launch,
    lists: tuple[BlockLists, ...],
    batch: int,
    split: Split,
    x: Seen,
    y: Seen,
    programs: int,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """The pieces of a launch, blocks, masks and words of its lists, and how many programs take the pieces."""
    made = listed.pieces(lists, launch.entries, batch, split.consumers, x, y)
    table, programs = in_turn(made.table, launch, programs)
    pieces_, blocks, masks, words = (
        torch.from_numpy(one).to(device) for one in (table, made.blocks, made.masks, made.words)
    )
    return pieces_, blocks, masks, words, programs


@lru_cache(maxsize=64)
def _tables(
    launch: Launch, n: int, batch: int, split: Split, x: Seen, y: Seen, unit: float, programs: int, device: torch.device
) -> tuple[Tensor, int, Any]:
    """The pieces of a launch, how many programs take them, and a descriptor of its weights (times a unit)."""
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    table, programs = in_turn(
        pieces(launch, launch.band or Band(), n, batch, split.fixed, split.streamed, x, y), launch, programs
    )
    table_of_weights = weights(launch, log_m(launch).numpy(), split.streamed) * np.float32(unit)
    rows = torch.from_numpy(table_of_weights).to(device).flatten()
    described = TensorDescriptor(rows, [len(rows)], [1], [split.streamed], layout_of_vectors())
    return torch.from_numpy(table).to(device), programs, described
