"""Passes made ready: everything about a mode over tensors of one form but their addresses, worked out once.

Shape legend: B batch, H heads of q, K heads of k and v, N tokens, D head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnlang.plan import Band, Plan
from attnlang.runtime.triton import kernels, rows, streams
from attnlang.runtime.triton.gradients import Build
from attnlang.runtime.triton.kept import Call, Pointer, launch
from attnlang.runtime.triton.launches import Launch, Mode, column_rows
from attnlang.runtime.triton.matrices import MAP_BYTES, Form, Matrices, Matrix, matrices, plane_size, planes
from attnlang.runtime.triton.nesting import MOST_PARTS, Shape
from attnlang.runtime.triton.prepared import Contents, Left, Prepared, Work, work
from attnlang.runtime.triton.specialised import Split
from attnlang.runtime.triton.tuning import LIST_BLOCK, Config, padded

MODES: dict[Mode, Any] = {
    "forward": streams.FORWARD,
    "query gradient": streams.QUERY_GRADIENT,
    "key gradient": streams.KEY_GRADIENT,
}
COLLECTED_ROWS = 16
"""Rows of a block that one program of `collect` puts together."""


@dataclass(frozen=True, slots=True)
class Options:
    """What tests and benchmarks may choose themselves.

    configs      tile shapes by mode, instead of the table's
    descriptors  tensor descriptors or pointers, instead of what the GPU has
    nest         whether nested lattices become one launch
    split        how programs of the specialised kernel are made up, instead of the table's
    build        the same of the specialised kernels for gradients
    specialise   whether the kernels of `hopper`, `hopper_lists` and `hopper_gradients` run what they can
    """

    configs: tuple[tuple[Mode, Config], ...] = ()
    descriptors: bool | None = None
    list_block: int = LIST_BLOCK
    nest: bool = True
    split: Split | None = None
    build: Build | None = None
    specialise: bool = True


class Operands(NamedTuple):
    """The tensors of a pass: what is fixed, streamed, and written; twice the same where there is one only.

    lse is written by the forward pass, and otherwise read: in log2, inf for rows without keys.
    """

    fixed0: Tensor
    fixed1: Tensor
    streamed0: Tensor
    streamed1: Tensor
    lse: Tensor
    delta: Tensor
    result0: Tensor
    result1: Tensor
    accumulator0: Tensor
    accumulator1: Tensor


POINTERS = tuple(map(Pointer, range(len(Operands._fields))))
STREAMED = (2, 3)
LSE, DELTA = 4, 5


@dataclass(frozen=True, slots=True)
class Chunks:
    """Chunks of long lists, each into a place of its own, and then together into the accumulator.

    room     (B, chunks, rows of a block, D): the places
    forward  whether there is an lse for each row as well
    single   whether there is one result, not two
    """

    attend: Call
    collect: Call
    room: tuple[int, ...]
    forward: bool
    single: bool

    def run(self, given: Operands) -> None:
        """Both launches."""
        parts = [given.lse.new_empty(self.room) for _ in range(1 if self.single else 2)]
        part_lse = given.lse.new_empty(self.room[:3]) if self.forward else given.lse
        launch((self.attend,), given._replace(lse=part_lse, accumulator0=parts[0], accumulator1=parts[-1]))
        accumulators = given.accumulator0, given.accumulator1
        launch((self.collect,), (parts[0], parts[-1], part_lse, *accumulators, given.lse))


@dataclass(frozen=True, slots=True)
class Step:
    """A launch, and what runs before it.

    rates  lse and delta are put into planes for these rates first; None: they are read as they are given
    """

    call: Call
    rates: tuple[int, ...] | None
    chunks: Chunks | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """One mode over tensors of one form: launches in order, and how tensors are given to them.

    results      forms of what is written
    unfinished   heads of the fixed side whose result is in the accumulator after the last launch
    accumulate   whether there is an accumulator at all
    rates        lse and delta are given in planes of these rates, the first of which is 1
    specialised  whether the kernels of `hopper` and `hopper_lists` run it
    """

    steps: tuple[Step, ...]
    results: tuple[Form, ...]
    unfinished: tuple[int, ...] = ()
    accumulate: bool = False
    rates: tuple[int, ...] = (1,)
    specialised: bool = False

    @property
    def complete(self) -> bool:
        """Whether each row is written once."""
        return not self.accumulate and not self.unfinished

    def run(self, given: Operands) -> None:
        """Every launch, in order."""
        vectors: dict[tuple[int, ...], Operands] = {}
        waiting: list[Call] = []
        for step in self.steps:
            if step.rates is None and step.chunks is None:
                waiting.append(step.call)
                continue
            if waiting:
                launch(waiting, given)
                waiting.clear()
            own = given if step.rates is None else vectors.get(step.rates)
            if own is None:
                assert step.rates is not None
                lse, delta = (planes(x, step.rates) for x in (given.lse, given.delta))
                own = vectors[step.rates] = given._replace(lse=lse, delta=delta)
            if step.chunks is not None:
                step.chunks.run(own)
            launch((step.call,), own)
        if waiting:
            launch(waiting, given)


def ready(made: Iterator[Step], results: tuple[Form, ...], left: Left, n: int) -> Ready:
    """A pass of these steps. Where one set of planes does for all, they are given with the vectors themselves."""
    steps = tuple(made)
    wanted = {step.rates for step in steps} - {None}
    rates = wanted.pop() if len(wanted) == 1 else None
    if rates is None or rates[0] != 1 or any(n % (4 * rate) for rate in rates):
        return Ready(steps, results, left.unfinished, left.accumulate)
    steps = tuple(replace(step, rates=None) for step in steps)
    return Ready(steps, results, left.unfinished, left.accumulate, rates)


@lru_cache
def has_tensor_maps(device: torch.device) -> bool:
    """Whether descriptors are of use on a device: on GPUs that read them in hardware."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@dataclass(frozen=True, slots=True)
class Attend:
    """The kernel for all GPUs in one mode, over tensors of one form: the arguments of each of its launches.

    fixed, streamed, results  forms of the operands, twice the same where there is one only
    """

    mode: Mode
    fixed: tuple[Form, Form]
    streamed: tuple[Form, Form]
    results: tuple[Form, Form]
    scale: float
    config: Config
    options: Options
    shape: Shape
    descriptors: bool

    def ready(self, plan: Plan, content: Contents | None, device: torch.device) -> Ready:
        """All launches of a plan."""
        found = work(plan, self.shape, self.mode, self.options.list_block, content, device)
        return ready(self._steps(found), self.results, found.left, self.shape.n)

    def _steps(self, found: Work) -> Iterator[Step]:
        for item in found.prepared:
            call, rates = self._call(item, None)
            if call is not None:
                yield Step(call, rates, self._chunks(item) if item.chunks else None)

    def _chunks(self, item: Prepared) -> Chunks:
        assert item.lists is not None
        batch, heads, n, dim = self.fixed[0].shape
        block, lists = self.options.list_block, item.lists
        attend, _ = self._call(item, lists.chunks)
        assert attend is not None
        collect = Call(
            rows.collect,
            (len(lists.collected) * (block // COLLECTED_ROWS), batch),
            (*map(Pointer, range(6)), lists.collected, n, heads, item.chunks),
            {"MODE": MODES[self.mode], "D": dim, "PADDED": padded(dim), "F": COLLECTED_ROWS, "BLOCK": block},
        )
        room = (batch, item.chunks, block, dim)
        return Chunks(attend, collect, room, self.mode == "forward", self.mode != "key gradient")

    def _call(self, item: Prepared, chunks: Tensor | None) -> tuple[Call | None, tuple[int, ...] | None]:
        """A launch and the rates of the planes that it reads; None if there is nothing to launch."""
        launch, lists, chosen, block = item.launch, item.lists, self.config, self.options.list_block
        batch, fixed_heads, n, dim = self.fixed[0].shape
        grid = (len(launch.tiles) * launch.count, len(launch.entries), batch)
        if chunks is not None:
            grid = (len(chunks) * (block // chosen.fixed), 1, batch)
        if not all(grid):
            return None, None
        band, columns = self._side(launch.band), launch.columns if chunks is None else None
        column_band = self._side(columns.band) if columns else Band()
        rates = tuple(rate for _, rate in launch.chain[: launch.parts]) or (1,)
        seen = matrices(self.streamed, STREAMED, rates, chosen.streamed) if self.descriptors else None
        vectors, plane, described = self._vectors(launch, rates, seen)
        forms = (*self.fixed, *self.streamed, *self.results)
        arguments = (
            *POINTERS[:LSE], *vectors, *POINTERS[DELTA + 1 :],
            *(stride for x in forms for stride in x.strides[:3]),
            *(seen.descriptors if seen else POINTERS[2:3] * (2 * MOST_PARTS)),
            *(seen.places if seen else ((0, 0, 0, 0),) * 2), plane,
            item.heads, item.members, item.tiles, len(launch.tiles), item.log_m, n, fixed_heads, self.shape.heads,
            launch.first, launch.period, launch.width, tuple(x for pair in launch.chain for x in pair) or (n, 1),
            band.lo or 0, band.hi or 0,
            *((columns.period, columns.first) if columns else (1, 0)), column_band.lo or 0, column_band.hi or 0,
            column_rows(columns, n) if columns else 0,
            *((lists.ranges, lists.blocks, lists.masks, lists.bits) if lists else (item.heads,) * 4),
            item.heads if chunks is None else chunks,
            abs(self.scale) * math.log2(math.e) if self.scale else 1.0,
            math.copysign(1.0, self.scale) if self.scale else 0.0,
            1.0 if self.mode == "forward" else self.scale,
        )  # fmt: skip
        constants: dict[str, Any] = {
            "MODE": MODES[self.mode], "D": dim, "PADDED": padded(dim), "F": chosen.fixed, "S": chosen.streamed,
            "BAND": launch.band is not None and chunks is None, "NESTED": launch.nested, "PARTS": launch.parts,
            "RESIDUES": launch.residues, "HAS_LO": band.lo is not None, "HAS_HI": band.hi is not None,
            "COLUMNS": columns.last - columns.first if columns else 0,
            "COLUMNS_LO": column_band.lo is not None, "COLUMNS_HI": column_band.hi is not None,
            "LISTS": lists is not None, "BLOCK": block, "CHUNKED": chunks is not None,
            "EVEN": launch.even, "TMA": seen is not None, "VECTORS": described,
            "GROUPED": any(len(entry.members) > 1 for entry in launch.entries),
            "PRECISION": "ieee" if forms[0].dtype == torch.float32 else "tf32",
            "num_warps": chosen.warps, "num_stages": chosen.stages, "maxnreg": chosen.registers,
        }  # fmt: skip
        as_given = self.mode != "key gradient" or (rates == (1,) and n % 4 == 0)
        return Call(kernels.attend, grid, arguments, constants), None if as_given else rates

    def _side(self, band: Band | None) -> Band:
        """A band of key less query as one of streamed less fixed."""
        if band is None:
            return Band()
        if self.mode != "key gradient":
            return band
        return Band(None if band.hi is None else -band.hi, None if band.lo is None else -band.lo)

    def _vectors(
        self, launch: Launch, rates: tuple[int, ...], seen: Matrices | None
    ) -> tuple[tuple[Pointer | Matrix, ...], int, bool]:
        """Lse and delta as the kernel wants them, the size of a plane, and whether by descriptors."""
        plain = POINTERS[LSE], POINTERS[DELTA]
        if self.mode != "key gradient":
            return plain, 0, False
        batch, heads, n, _ = self.streamed[0].shape
        size = plane_size(batch, heads, n, rates)
        starts = (launch.first, launch.period if launch.count > 1 else 0)
        if seen is None or any(start % (4 * rate) for rate in rates for start in starts):
            return plain, size, False
        if self.config.streamed * torch.float32.itemsize < MAP_BYTES:
            return plain, size, False  # (the second of them in a ring of such tiles would begin where none may)
        whole, tile = (len(rates) * size,), (self.config.streamed,)
        return tuple(Matrix(number, whole, (1,), tile) for number in (LSE, DELTA)), size, True
