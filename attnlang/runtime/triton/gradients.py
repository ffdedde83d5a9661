"""Launching the kernels of `hopper_gradients` and `hopper_queries`: what they can run, and with which arguments."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from attnlang.plan import Columns, Plan, Tiles
from attnlang.runtime.contents import Contents
from attnlang.runtime.triton import specialised, square_steps, squares
from attnlang.runtime.triton.dealing import dealt
from attnlang.runtime.triton.kept import Call, Pointer, launch
from attnlang.runtime.triton.listed import words
from attnlang.runtime.triton.listed_steps import Listed, listed_of, longest_first
from attnlang.runtime.triton.matrices import (
    Form,
    Matrix,
    Place,
    layout_of,
    layout_of_vectors,
    matrix,
    places_of,
    plane_size,
)
from attnlang.runtime.triton.nesting import Shape
from attnlang.runtime.triton.pieces import Seen
from attnlang.runtime.triton.prepared import lists_of
from attnlang.runtime.triton.specialised import HEAD_DIMS, LOADER_REGISTERS, beside_loader
from attnlang.runtime.triton.square_steps import Planes, Steps, Unit
from attnlang.runtime.triton.squares import SQUARE, TILE, Chain, Ints

CONSUMERS = 2
"""Of a program, 64 rows each."""
MOST_RATES = 5
"""Matrices of a tensor that a kernel takes."""
SQUARE_BYTES = 2 * SQUARE**2
LEAST_ROOM, MOST_ROOM = 2**30, 2**32
"""Bytes that dS may take at once: as much as q some times over, within these."""
BESIDES = 4
"""What a piece takes besides its steps, in steps: a guess at its loads and stores."""
LEAST_PIECES = 2
"""Pieces for each multiprocessor in a chunk; with fewer, chunks lose more at their ends than squares gain."""
Q, K, V, DOUT, LSE, DELTA, DQ, DK, DV, ROOM = range(10)
"""The tensors of a launch, by number."""


@dataclass(frozen=True, slots=True)
class Build:
    """How programs are made up.

    stages     tiles of queries in flight
    ahead      whether K q^T and V d_out^T of a step are begun in the step before
    own        whether a consumer's K and V are in registers
    store      whether dS is written down, and dq is made of it; if not, dq is left to the kernel for all GPUs
    loads      steps in flight where dq is made
    registers  of a thread, as launched
    room       bytes for dS at most, as a multiple of q's (within LEAST_ROOM and MOST_ROOM)
    """

    stages: int
    ahead: bool
    own: bool
    store: bool
    loads: int = 6
    registers: int = 168
    room: int = 4

    @property
    def consumer_registers(self) -> int:
        """What is left for a consumer's threads beside the loader's."""
        return beside_loader(self.registers, CONSUMERS)


TABLE: dict[int, Build] = {
    64: Build(4, ahead=True, own=True, store=False),
    128: Build(3, ahead=False, own=False, store=True),
}
"""By head dimension; measured on an H100 (docs/kernels.md)."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """dk and dv, and dq as well where dS is written down, over tensors of one form.

    calls  in order, all on the same room for dS
    rates  lse and delta are given in planes of these rates
    room   squares that there is room for
    """

    calls: tuple[Call, ...]
    rates: tuple[int, ...]
    room: int

    def run(self, tensors: tuple[Tensor, ...]) -> None:
        """Every launch on (q, k, v, d_out, log2 lse, delta, dq, dk, dv)."""
        if self.room:
            tensors = (*tensors, tensors[Q].new_empty(self.room * SQUARE, SQUARE))
        launch(self.calls, tensors)


def gradients(
    forms: tuple[Form, Form, Form, Form],
    plan: Plan,
    scale: float,
    build: Build | None,
    nest: bool,
    device: torch.device,
    content: Contents | None = None,
) -> Gradients | None:
    """The launches on tensors like q, k, v and d_out, with a given build or the table's; None if they cannot be run."""
    q, k = forms[:2]
    dim, n = q.shape[-1], q.shape[2]
    if not specialised.available(device) or q.dtype == torch.float32 or dim not in HEAD_DIMS or scale <= 0 or not nest:
        return None
    of_plan = parts(plan, Shape(n, q.shape[1], k.shape[1], TILE, SQUARE), content or Contents({}))
    if of_plan is None:
        return None
    rates = tuple(sorted({1, *(rate for part in of_plan for rate in part.matrices)}))
    planes = Planes(rates, plane_size(q.shape[0], q.shape[1], n, rates))
    if len(rates) * planes.size >= 2**31:
        return None  # (tables hold 32 bits)
    build = build or TABLE[dim]
    given = _Given(forms, scale, build, planes, device)
    made = [given.launches(part) for part in of_plan]
    if any(one is None for one in made):
        return None
    found = [one for one in made if one is not None]
    return Gradients(tuple(call for calls, _ in found for call in calls), rates, max(room for _, room in found))


Part: TypeAlias = Chain | Listed
"""What one launch of each kernel can run, on some of the heads."""


def parts(plan: Plan, shape: Shape, content: Contents) -> tuple[Part, ...] | None:
    """A plan in parts, one for each head; None if it is anything else, or if there is too much to enumerate."""
    if any(isinstance(branch, Columns) for branch in plan.branches):
        return None
    chains = squares.chains_of(plan, shape, MOST_RATES)
    if chains is None or any(squares.count_squares(chain) > square_steps.MOST_ENTRIES for chain in chains):
        return None
    heads = [head for chain in chains for head in chain.heads]
    heads += [head for branch in plan.branches if isinstance(branch, Tiles) for head in branch.heads]
    if sorted(heads) != list(range(shape.heads)):
        return None
    listed = listed_of(plan, lists_of(plan, shape, SQUARE, content))
    if listed is None or not all(_alike(part, shape.group) for part in (*chains, *listed)):
        return None
    return (*chains, *listed)


def _alike(part: Part, group: int) -> bool:
    """Whether heads that share one of keys are all in a part, and meet the same keys."""
    phase = dict(zip(part.heads, part.phases, strict=True))
    return all(phase.get(head // group * group + i) == own for head, own in phase.items() for i in range(group))


@dataclass(frozen=True, slots=True)
class _Given:
    """What all launches have in common."""

    forms: tuple[Form, Form, Form, Form]
    scale: float
    build: Build
    planes: Planes
    device: torch.device

    def launches(self, part: Part) -> tuple[list[Call], int] | None:
        """The launches of a part, and how many squares there has to be room for."""
        q, k, v, dout = self.forms
        of_keys, of_queries = places_of((k, v), part.matrices), places_of((q, dout), part.matrices)
        if of_keys is None or of_queries is None:
            return None
        batch, heads, n, _ = q.shape
        group = heads // k.shape[1]
        made = [_steps(part, phase, n, self.planes, self.build.store) for phase in sorted(set(part.phases))]
        keys, queries = [one for one, _ in made], [one for _, one in made if one is not None]
        if any((np.diff(one.first) == 0).any() for one in (*keys, *queries)):
            return None  # (nobody would write the rows that meet none)
        most = _rounded(max(len(one.entries) for one in keys), of_few=isinstance(part, Listed))
        units = square_steps.units(part.heads, part.phases, part.unit, batch, n, group)
        together = self._together(len(units) // group, part, most * group) * group
        if not together:
            return None
        workers = CONSUMERS * group * specialised.multiprocessors(self.device)  # (a head's tile is walked past in turn)
        if isinstance(part, Listed) and not part.is_even(batch * together / len(units), workers):
            return None
        chunks = [units[i : i + together] for i in range(0, len(units), together)]
        room = 2 * together * most if self.build.store else 0
        return list(self._calls(part, (*of_keys, *of_queries), (keys, queries), chunks, most, room)), room

    def _calls(
        self,
        part: Part,
        places: tuple[Place, Place, Place, Place],
        steps: tuple[Sequence[Steps], Sequence[Steps]],
        chunks: Sequence[Sequence[Unit]],
        most: int,
        room: int,
    ) -> Iterator[Call]:
        """Launches, chunk by chunk: keys past queries, and dq of the dS that they leave."""
        q, k, v, dout = self.forms
        heads, n = q.shape[1:3]
        group = heads // k.shape[1]
        keys, queries = steps
        views = [Seen(x.strides[2], place) for x, place in zip((k, v, q, dout), places, strict=True)]
        key_entries, query_entries = self._entries(keys), self._entries(queries) if queries else None
        bits = key_entries  # (of lattices nobody reads any)
        if isinstance(part, Listed):
            bits = torch.from_numpy(words(part.lists, by_key=True)).to(self.device)
        for chunk in chunks:
            pieces = square_steps.key_pieces(keys, chunk, heads, n, most, views, group)
            table = self._table(part, pieces, len(chunk) // group)
            yield self._keys(part, places, table, (key_entries, bits), most, room)
            if query_entries is not None:
                pieces = square_steps.query_pieces(queries, chunk, most, views[0], group)
                yield self._queries(part, places[0], self._table(part, pieces, len(chunk)), query_entries, room)

    def _together(self, units: int, part: Part, most: int) -> int:
        """How many units go together, of so many steps at most: all, or as many as dS has room for; 0 if too few."""
        if not self.build.store:
            return units
        room = min(max(self.build.room * _bytes(self.forms[Q]), LEAST_ROOM), MOST_ROOM)
        fit = room // (2 * most * SQUARE_BYTES)
        if fit >= units:
            return units
        pieces = fit * (part.unit // TILE)
        if not fit or pieces < LEAST_PIECES * specialised.multiprocessors(self.device):
            return 0
        return -(-units // -(-units // fit))  # (chunks of one size)

    def _entries(self, steps: Sequence[Steps]) -> Tensor:
        entries = np.concatenate([one.entries for one in steps]).astype(np.int32)
        return torch.from_numpy(entries).to(self.device)

    def _keys(
        self,
        part: Part,
        places: tuple[Place, Place, Place, Place],
        pieces: tuple[Tensor, int],
        steps: tuple[Tensor, Tensor],
        most: int,
        room: int,
    ) -> Call:
        kernel: Any = import_module("attnlang.runtime.triton.hopper_gradients").key_gradients
        q, k, v, dout = self.forms
        k_place, v_place, q_place, dout_place = places
        table, size = pieces
        vector = layout_of_vectors()
        whole = (len(self.planes.rates) * self.planes.size,)
        apart = (most, q.shape[2], q_place[1], q_place[3], dout_place[1], dout_place[3])  # (from head to head)
        band, build = part.band, self.build
        descriptors = (
            *_matrices(k, K, k_place, part, TILE), *_matrices(v, V, v_place, part, TILE),
            *_matrices(q, Q, q_place, part, SQUARE), *_matrices(dout, DOUT, dout_place, part, SQUARE),
            Matrix(LSE, whole, (1,), (SQUARE,), vector), Matrix(DELTA, whole, (1,), (SQUARE,), vector),
            _room(room, q.dtype),
        )  # fmt: skip
        return Call(
            kernel,
            (size,),
            (
                *descriptors, Pointer(DK), Pointer(DV), k.like().strides[:3], v.like().strides[:3],
                q.strides[2], dout.strides[2], table, *steps, len(table), apart,
                self.scale * math.log2(math.e), self.scale, band.lo or 0, band.hi or 0,
            ),
            {
                "D": q.shape[-1], "STAGES": build.stages, "RATES": len(part.matrices),
                "HAS_LO": band.lo is not None, "HAS_HI": band.hi is not None, "LISTED": isinstance(part, Listed),
                "STORE": build.store, "AHEAD": build.ahead, "OWN": build.own, "GROUP": q.shape[1] // k.shape[1],
                "REGISTERS": build.consumer_registers, "LOADER_REGISTERS": LOADER_REGISTERS,
                "num_warps": 4, "maxnreg": build.registers,
            },
        )  # fmt: skip

    def _queries(self, part: Part, k_place: Place, pieces: tuple[Tensor, int], entries: Tensor, room: int) -> Call:
        kernel: Any = import_module("attnlang.runtime.triton.hopper_queries").query_gradients
        q, k = self.forms[:2]
        table, size = pieces
        return Call(
            kernel,
            (size,),
            (
                *_matrices(k, K, k_place, part, SQUARE), _room(room, q.dtype), Pointer(DQ), q.like().strides[:3],
                k.strides[2], table, entries, len(table), self.scale,
            ),
            {
                "D": q.shape[-1], "STAGES": self.build.loads, "RATES": len(part.matrices),
                "REGISTERS": self.build.consumer_registers, "LOADER_REGISTERS": LOADER_REGISTERS,
                "num_warps": 4, "maxnreg": self.build.registers,
            },
        )  # fmt: skip

    def _table(self, part: Part, pieces: Ints, units: int) -> tuple[Tensor, int]:
        """Pieces of so many units dealt out to programs, and the number of those."""
        if isinstance(part, Listed):
            pieces = longest_first(pieces, units)
        programs = min(specialised.multiprocessors(self.device), len(pieces))
        return torch.from_numpy(dealt(pieces, pieces[:, 0], programs, BESIDES)).to(self.device), programs


def _steps(part: Part, phase: int, n: int, planes: Planes, stored: bool) -> tuple[Steps, Steps | None]:
    """The steps of tiles of keys, and of queries, if dS is stored; those of lattices are kept."""
    if isinstance(part, Listed):
        return part.steps(phase, stored)
    return _steps_of_chain(part, phase, n, planes, stored)


@lru_cache(maxsize=8)
def _steps_of_chain(chain: Chain, phase: int, n: int, planes: Planes, stored: bool) -> tuple[Steps, Steps | None]:
    keys, at, found, made = square_steps.key_steps(chain, phase, n, planes)
    return keys, square_steps.query_steps(chain, at, found, made) if stored else None


def _rounded(steps: int, of_few: bool) -> int:
    """The next multiple of 16; of few: the next of 8 numbers from one power of two to the next, if that is more.

    Every call with other documents has other numbers of steps. Triton would compile a kernel once more where one is no
    multiple of 16, and torch would keep room for dS of every size that was asked for.
    """
    unit = max(16, 1 << steps.bit_length() - 4) if of_few and steps > 8 else 16
    return -(-steps // unit) * unit


def _matrices(x: Form, number: int, place: Place, part: Part, rows: int) -> list[Matrix | None]:
    made: list[Matrix | None] = [matrix(x, number, place, rate, rows, gluon=True) for rate in part.matrices]
    return made + [None] * (MOST_RATES - len(made))


def _room(count: int, dtype: torch.dtype) -> Matrix | None:
    if not count:
        return None
    return Matrix(ROOM, (count * SQUARE, SQUARE), (SQUARE, 1), (SQUARE, SQUARE), layout_of(SQUARE, SQUARE, dtype))


def _bytes(x: Form) -> int:
    return math.prod(x.shape) * x.dtype.itemsize
