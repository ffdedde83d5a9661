"""Launching the kernel: tables on the device, accumulators, and the order of things.

Shape legend: B batch, H heads of q, K heads of k and v, N tokens, D head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attnlang.plan import Band, Plan, Tiles
from attnlang.runtime.blocks import block_lists
from attnlang.runtime.triton import kernels
from attnlang.runtime.triton.launches import FINAL, Launch, Mode, Shape, column_rows, launches
from attnlang.runtime.triton.lists import DeviceLists, device_lists
from attnlang.runtime.triton.matrices import MOST_PARTS, Matrices, matrices, planes, vector_descriptor
from attnlang.runtime.triton.tuning import LIST_BLOCK, Config, config, padded

MODES: dict[Mode, Any] = {
    "forward": kernels.FORWARD,
    "query gradient": kernels.QUERY_GRADIENT,
    "key gradient": kernels.KEY_GRADIENT,
}


@dataclass(frozen=True, slots=True)
class Options:
    """What tests and benchmarks may choose themselves: configurations, and tensor descriptors or pointers."""

    configs: tuple[tuple[Mode, Config], ...] = ()
    descriptors: bool | None = None
    list_block: int = LIST_BLOCK
    nest: bool = True


@dataclass(frozen=True, slots=True)
class Prepared:
    """A launch and its tables on the device."""

    launch: Launch
    heads: Tensor
    members: Tensor
    tiles: Tensor
    log_m: Tensor
    lists: DeviceLists | None


@dataclass(frozen=True, slots=True)
class Work:
    """All launches of one mode.

    unfinished  heads of the fixed side whose result is in the accumulator after the last launch
    accumulate  whether there is an accumulator at all
    """

    prepared: tuple[Prepared, ...]
    unfinished: tuple[int, ...]
    accumulate: bool


def work(
    plan: Plan, shape: Shape, mode: Mode, list_block: int, tables: Mapping[str, Tensor], device: torch.device
) -> Work:
    """The launches of a plan with their tables; kept for the next call, unless the pattern has runtime tables."""
    if not tables:
        return _fixed_work(plan, shape, mode, list_block, device)
    return _work(plan, shape, mode, list_block, tables, device)


@lru_cache(maxsize=64)
def _fixed_work(plan: Plan, shape: Shape, mode: Mode, list_block: int, device: torch.device) -> Work:
    return _work(plan, shape, mode, list_block, {}, device)


def _work(
    plan: Plan, shape: Shape, mode: Mode, list_block: int, tables: Mapping[str, Tensor], device: torch.device
) -> Work:
    content = {name: table.cpu().numpy() for name, table in tables.items()}
    lists = {
        number: block_lists(branch, shape.heads, shape.n, list_block, list_block, content)
        for number, branch in enumerate(plan.branches)
        if isinstance(branch, Tiles)
    }
    list_heads = {number: tuple(item.heads for item in found) for number, found in lists.items()}
    found = launches(plan, shape, mode, list_heads)
    prepared = tuple(_prepared(launch, lists, mode, device) for launch in found)
    flags = [(entry.head, entry.flags) for launch in found for entry in launch.entries]
    final = {head for head, flag in flags if flag & FINAL}
    unfinished = tuple(sorted(set(range(shape.kv_heads if mode == "key gradient" else shape.heads)) - final))
    accumulate = any(flag != FINAL for _, flag in flags) or any(_chunks(item) for item in prepared)
    return Work(prepared, unfinished, accumulate)


def _chunks(item: Prepared) -> int:
    return 0 if item.lists is None else len(item.lists.chunks)


def _prepared(launch: Launch, lists: Mapping[int, Any], mode: Mode, device: torch.device) -> Prepared:
    on_device = None
    if launch.tiles_of is not None:
        on_device = device_lists(lists[launch.tiles_of], launch.entries, mode == "key gradient", device)
    blocks = on_device.count if on_device else 0
    cut = {row[0] for row in on_device.collected.tolist()} if on_device else set[int]()
    rows: list[tuple[int, ...]] = []
    members: list[int] = []
    for entry in launch.entries:
        flags = entry.flags | (1 if entry.head in cut else 0)
        rows.append((entry.head, entry.phase, entry.lists * blocks, flags, len(members), len(entry.members)))
        members += entry.members
    tiles = [(tile.level, tile.step, tile.shift, tile.row0) for tile in launch.tiles]

    def put(values: object) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    return Prepared(launch, put(rows), put(members), put(tiles), _log_m(launch, device), on_device)


def _log_m(launch: Launch, device: torch.device) -> Tensor:
    """log2 m by (part, level, residue): how often a query of a level meets a key, less what finer parts counted."""
    if not launch.weighted:
        return torch.zeros(1, device=device)
    rates = [rate for _, rate in launch.chain]
    table = torch.zeros(len(rates), MOST_PARTS, launch.residues)
    for part in range(len(rates)):
        for level in range(part, len(rates)):
            for residue in range(launch.residues):
                nested = sum(residue % rate == 0 for rate in rates[1:])
                table[part, level, residue] = math.log2(max(1, 1 + min(level, nested) - part))
    return table.to(device)


# forward and backward -----------------------------------------------------------------------------------------------


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Plan,
    scale: float,
    tables: Mapping[str, Tensor],
    options: Options = Options(),  # noqa: B008 - frozen
) -> tuple[Tensor, Tensor]:
    """Out (B, H, N, D) in q's dtype and lse (B, H, N) in float32 of q (B, H, N, D), k and v (B, K, N, D)."""
    q, k, v = (_rows_in_order(x) for x in (q, k, v))
    out = torch.empty_like(q)
    lse = q.new_full(q.shape[:3], -math.inf, dtype=torch.float32)
    if not q.numel():
        return out, lse
    todo = _Pass("forward", q, k, plan, scale, tables, options)
    acc = torch.empty(q.shape, dtype=torch.float32, device=q.device) if todo.work.accumulate else out
    todo.run((q, q), (k, v), lse, lse, (out, out), (acc, acc))
    if heads := todo.work.unfinished:
        chosen = slice(None) if len(heads) == q.size(1) else list(heads)
        found = lse[:, chosen].unsqueeze(-1) > -math.inf
        out[:, chosen] = torch.where(found, acc[:, chosen], 0.0).to(out.dtype) if todo.work.accumulate else 0.0
    return out, lse


def backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    plan: Plan,
    scale: float,
    tables: Mapping[str, Tensor],
    options: Options = Options(),  # noqa: B008 - frozen
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv from the merged out and lse; every sum in float32 and in one order."""
    dout, q, k, v, out = (_rows_in_order(x) for x in (dout, q, k, v, out))
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    if not q.numel():
        return dq, dk, dv
    lse = lse.contiguous()
    delta, log2_lse = torch.empty_like(lse), torch.empty_like(lse)
    batch, heads, n, dim = q.shape
    rows = 32 if dim > 64 else 64
    kernels.row_products[(-(-n // rows), heads, batch)](
        out, dout, lse, delta, log2_lse, *out.stride()[:3], *dout.stride()[:3], n, heads, D=dim, PADDED=padded(dim), F=rows
    )  # fmt: skip
    for mode, fixed, streamed, results in (
        ("query gradient", (q, dout), (k, v), (dq, dq)),
        ("key gradient", (k, v), (q, dout), (dk, dv)),
    ):
        todo = _Pass(mode, q, k, plan, scale, tables, options)
        acc = results
        if todo.work.accumulate:
            # q and dq have one accumulator, k and v have two
            acc = tuple(
                torch.zeros(x.shape, dtype=torch.float32, device=q.device) for x in dict.fromkeys(results)
            )
            acc = (acc[0], acc[-1])
        todo.run(fixed, streamed, log2_lse, delta, results, acc)
        if unfinished := todo.work.unfinished:
            chosen = slice(None) if len(unfinished) == fixed[0].size(1) else list(unfinished)
            for x, total in dict(zip(results, acc, strict=True)).items():
                x[:, chosen] = total[:, chosen].to(x.dtype) if todo.work.accumulate else 0.0
    return dq, dk, dv


def _rows_in_order(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.size(-1) == 1 else x.contiguous()


class _Pass:
    """One mode over one set of tensors."""

    def __init__(
        self, mode: Mode, q: Tensor, k: Tensor, plan: Plan, scale: float, tables: Mapping[str, Tensor], options: Options
    ) -> None:
        self.mode: Mode = mode
        self.config = dict(options.configs).get(mode) or config(mode, q.size(-1), q.dtype, _shared_bytes(q.device))
        self.options = options
        self.scale = scale
        self.planes: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        self.shape = Shape(q.size(2), q.size(1), k.size(1), self.config.fixed, self.config.streamed, options.nest)
        self.work = work(plan, self.shape, mode, options.list_block, tables, q.device)

    def run(
        self,
        fixed: tuple[Tensor, Tensor],
        streamed: tuple[Tensor, Tensor],
        lse: Tensor,
        delta: Tensor,
        results: tuple[Tensor, Tensor],
        acc: tuple[Tensor, Tensor],
    ) -> None:
        """Every launch, in order; blocks with long lists before the launch that they belong to."""
        for item in self.work.prepared:
            if chunks := _chunks(item):
                self._chunked(item, chunks, fixed, streamed, lse, delta, results, acc)
            self._launch(item, fixed, streamed, lse, delta, results, acc, None)

    def _chunked(
        self,
        item: Prepared,
        chunks: int,
        fixed: tuple[Tensor, Tensor],
        streamed: tuple[Tensor, Tensor],
        lse: Tensor,
        delta: Tensor,
        results: tuple[Tensor, Tensor],
        acc: tuple[Tensor, Tensor],
    ) -> None:
        assert item.lists is not None
        batch, heads, n, dim = fixed[0].shape
        block, forward_ = self.options.list_block, self.mode == "forward"
        size = (batch, chunks, block, dim)
        parts = [torch.empty(size, dtype=torch.float32, device=lse.device) for _ in dict.fromkeys(results)]
        part_lse = torch.empty(size[:3], dtype=torch.float32, device=lse.device) if forward_ else lse
        self._launch(item, fixed, streamed, part_lse, delta, results, (parts[0], parts[-1]), item.lists.chunks)
        rows = 16
        kernels.collect[(len(item.lists.collected) * (block // rows), batch)](
            parts[0], parts[-1], part_lse, *acc, lse, item.lists.collected, n, heads, chunks,
            MODE=MODES[self.mode], D=dim, PADDED=padded(dim), F=rows, BLOCK=block,
        )  # fmt: skip

    def _launch(
        self,
        item: Prepared,
        fixed: tuple[Tensor, Tensor],
        streamed: tuple[Tensor, Tensor],
        lse: Tensor,
        delta: Tensor,
        results: tuple[Tensor, Tensor],
        acc: tuple[Tensor, Tensor],
        chunks: Tensor | None,
    ) -> None:
        launch, lists, chosen = item.launch, item.lists, self.config
        batch, fixed_heads, n, dim = fixed[0].shape
        block = self.options.list_block
        grid = (len(launch.tiles) * launch.count, len(launch.entries), batch)
        if chunks is not None:
            grid = (len(chunks) * (block // chosen.fixed), 1, batch)
        if not all(grid):
            return
        band, columns = self._side(launch.band), launch.columns if chunks is None else None
        column_band = self._side(columns.band) if columns else Band()
        nothing = item.heads
        strides = [stride for x in (*fixed, *streamed, *results) for stride in x.stride()[:3]]
        seen = self._matrices(launch, streamed)
        vectors, plane, described = (lse, delta), 0, False
        if self.mode == "key gradient":
            vectors = tuple(self._planes(x, launch) for x in vectors)
            plane = vectors[0].size(1)
            described = bool(seen) and _aligned(launch)
            if described:
                vectors = tuple(vector_descriptor(x, chosen.streamed) for x in vectors)
        kernels.attend[grid](
            *fixed, *streamed, *vectors, *results, *acc, *strides,
            *(seen.descriptors if seen else streamed[:1] * (2 * MOST_PARTS)),
            *(seen.places if seen else ((0, 0, 0, 0),) * 2), plane,
            item.heads, item.members, item.tiles, len(launch.tiles), item.log_m, n, fixed_heads, self.shape.heads,
            launch.first, launch.period, launch.width, tuple(x for pair in launch.chain for x in pair) or (n, 1),
            band.lo or 0, band.hi or 0,
            *((columns.period, columns.first) if columns else (1, 0)), column_band.lo or 0, column_band.hi or 0,
            column_rows(columns, n) if columns else 0,
            *((lists.ranges, lists.blocks, lists.masks, lists.bits) if lists else (nothing,) * 4),
            nothing if chunks is None else chunks,
            abs(self.scale) * math.log2(math.e) if self.scale else 1.0,
            math.copysign(1.0, self.scale) if self.scale else 0.0,
            1.0 if self.mode == "forward" else self.scale,
            MODE=MODES[self.mode], D=dim, PADDED=padded(dim), F=chosen.fixed, S=chosen.streamed,
            BAND=launch.band is not None and chunks is None, NESTED=launch.nested, PARTS=launch.parts,
            RESIDUES=launch.residues, HAS_LO=band.lo is not None, HAS_HI=band.hi is not None,
            COLUMNS=columns.last - columns.first if columns else 0,
            COLUMNS_LO=column_band.lo is not None, COLUMNS_HI=column_band.hi is not None,
            LISTS=lists is not None, BLOCK=block, CHUNKED=chunks is not None,
            EVEN=launch.even, TMA=seen is not None, VECTORS=described,
            GROUPED=any(len(entry.members) > 1 for entry in launch.entries),
            PRECISION="ieee" if lse.dtype == fixed[0].dtype else "tf32",
            num_warps=chosen.warps, num_stages=chosen.stages, maxnreg=chosen.registers,
        )  # fmt: skip

    def _matrices(self, launch: Launch, streamed: tuple[Tensor, Tensor]) -> Matrices | None:
        wanted = self.options.descriptors
        if not (_has_descriptors(streamed[0].device) if wanted is None else wanted):
            return None
        return matrices(streamed, _rates(launch), self.config.streamed)

    def _planes(self, vector: Tensor, launch: Launch) -> Tensor:
        key = vector.data_ptr(), _rates(launch)
        if key not in self.planes:
            self.planes[key] = planes(vector, key[1])
        return self.planes[key]

    def _side(self, band: Band | None) -> Band:
        """A band of key less query as one of streamed less fixed."""
        if band is None:
            return Band()
        if self.mode != "key gradient":
            return band
        return Band(None if band.hi is None else -band.hi, None if band.lo is None else -band.lo)


def _rates(launch: Launch) -> tuple[int, ...]:
    return tuple(rate for _, rate in launch.chain[: launch.parts]) or (1,)


def _aligned(launch: Launch) -> bool:
    """Whether every row of a run that begins a tile begins 16 bytes of a plane of float32."""
    starts = (launch.first, launch.period if launch.count > 1 else 0)
    return all(start % (4 * rate) == 0 for rate in _rates(launch) for start in starts)


def _has_descriptors(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@lru_cache(maxsize=16)
def _shared_bytes(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin

