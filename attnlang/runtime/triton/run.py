"""Forward and backward: operands, accumulators, and every launch in order.

Shape legend: B batch, H heads of q, K heads of k and v, N tokens, D head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnlang.plan import Band, Plan
from attnlang.runtime.triton import kernels, measuring, rows, specialised, streams
from attnlang.runtime.triton.launches import Launch, Mode, column_rows
from attnlang.runtime.triton.matrices import Matrices, matrices, planes, vector_descriptor
from attnlang.runtime.triton.nesting import MOST_PARTS, Shape
from attnlang.runtime.triton.prepared import Operands, Prepared, work
from attnlang.runtime.triton.specialised import Split
from attnlang.runtime.triton.tuning import LIST_BLOCK, Config, kind_of, padded

MODES: dict[Mode, Any] = {
    "forward": streams.FORWARD,
    "query gradient": streams.QUERY_GRADIENT,
    "key gradient": streams.KEY_GRADIENT,
}
_attend: Any = kernels.attend  # (triton's types describe what a kernel is, not how one is launched)
_collect: Any = rows.collect
_prepare_rows: Any = rows.row_products
COLLECTED_ROWS = 16
"""Rows of a block that one program of `collect` puts together."""


@dataclass(frozen=True, slots=True)
class Options:
    """What tests and benchmarks may choose themselves.

    configs      tile shapes by mode, instead of the table's
    descriptors  tensor descriptors or pointers, instead of what the GPU has
    nest         whether nested lattices become one launch
    split        how programs of the specialised kernel are made up, instead of the table's
    specialise   whether the kernel of `hopper` runs what it can
    """

    configs: tuple[tuple[Mode, Config], ...] = ()
    descriptors: bool | None = None
    list_block: int = LIST_BLOCK
    nest: bool = True
    split: Split | None = None
    specialise: bool = True


DEFAULT = Options()


def forward(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, tables: Mapping[str, Tensor], options: Options = DEFAULT
) -> tuple[Tensor, Tensor]:
    """Out (B, H, N, D) in q's dtype and lse (B, H, N) in float32 of q (B, H, N, D), k and v (B, K, N, D)."""
    q, k, v = (_rows_in_order(x) for x in (q, k, v))
    out = torch.empty_like(q)
    lse = q.new_full(q.shape[:3], -math.inf, dtype=torch.float32)
    if not q.numel():
        return out, lse
    hopper = specialised.forward(q, k, v, plan, scale, options.split, options.nest) if options.specialise else None
    todo = hopper or Pass("forward", q, k, plan, scale, tables, options)
    total = torch.empty(q.shape, dtype=torch.float32, device=q.device) if todo.work.accumulate else out
    todo.run(Operands((q, q), (k, v), lse, lse, (out, out), (total, total)))
    if todo.work.unfinished:
        heads = _heads(todo.work.unfinished, out)
        found = lse[:, heads].unsqueeze(-1) > -math.inf
        out[:, heads] = torch.where(found, total[:, heads], 0.0).to(out.dtype) if todo.work.accumulate else 0.0
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
    options: Options = DEFAULT,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv from the merged out and lse; every sum in float32 and in one order."""
    dout, q, k, v, out = (_rows_in_order(x) for x in (dout, q, k, v, out))
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    if not q.numel():
        return dq, dk, dv
    log2_lse, delta = _row_products(out, dout, lse.contiguous())
    todo = Pass("query gradient", q, k, plan, scale, tables, options)
    (total,) = todo.totals(dq)
    todo.run(Operands((q, dout), (k, v), log2_lse, delta, (dq, dq), (total, total)))
    todo.finish((dq, total))
    todo = Pass("key gradient", q, k, plan, scale, tables, options)
    totals = todo.totals(dk, dv)
    todo.run(Operands((k, v), (q, dout), log2_lse, delta, (dk, dv), (totals[0], totals[1])))
    todo.finish((dk, totals[0]), (dv, totals[1]))
    return dq, dk, dv


def _row_products(out: Tensor, dout: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    batch, heads, n, dim = out.shape
    delta, log2_lse = torch.empty_like(lse), torch.empty_like(lse)
    size = 32 if dim > 64 else 64
    _prepare_rows[(-(-n // size), heads, batch)](
        out, dout, lse, delta, log2_lse, *out.stride()[:3], *dout.stride()[:3], n, heads,
        D=dim, PADDED=padded(dim), F=size,
    )  # fmt: skip
    return log2_lse, delta


def _rows_in_order(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _heads(heads: tuple[int, ...], x: Tensor) -> slice | list[int]:
    return slice(None) if len(heads) == x.size(1) else list(heads)


class Pass:
    """One mode over one set of tensors."""

    def __init__(
        self, mode: Mode, q: Tensor, k: Tensor, plan: Plan, scale: float, tables: Mapping[str, Tensor], options: Options
    ) -> None:
        self.mode: Mode = mode
        self.config = dict(options.configs).get(mode) or measuring.config(
            mode, q.size(-1), q.dtype, kind_of(plan), q.device, timed
        )
        self.options = options
        self.scale = scale
        self._planes: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        self.shape = Shape(q.size(2), q.size(1), k.size(1), self.config.fixed, self.config.streamed, options.nest)
        self.work = work(plan, self.shape, mode, options.list_block, tables, q.device)

    def totals(self, *results: Tensor) -> tuple[Tensor, ...]:
        """Accumulators for gradients, where there must be any."""
        if not self.work.accumulate:
            return results
        return tuple(torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in results)

    def finish(self, *results: tuple[Tensor, Tensor]) -> None:
        """Write the results that no launch has written."""
        for x, total in results if self.work.unfinished else ():
            heads = _heads(self.work.unfinished, x)
            x[:, heads] = total[:, heads].to(x.dtype) if self.work.accumulate else 0.0

    def run(self, operands: Operands) -> None:
        """Every launch, in order; blocks with long lists before the launch that they belong to."""
        for item in self.work.prepared:
            if item.chunks:
                self._collect(item, operands)
            self._launch(item, operands, None)

    def _collect(self, item: Prepared, operands: Operands) -> None:
        """Chunks of long lists, each into a place of its own, and then together into the accumulator."""
        assert item.lists is not None
        batch, heads, n, dim = operands.fixed[0].shape
        block, results, lse = self.options.list_block, operands.results, operands.lse
        room = (batch, item.chunks, block, dim)
        parts = [
            torch.empty(room, dtype=torch.float32, device=lse.device) for _ in range(1 + (results[0] is not results[1]))
        ]
        part_lse = torch.empty(room[:3], dtype=torch.float32, device=lse.device) if self.mode == "forward" else lse
        own = replace(operands, lse=part_lse, accumulators=(parts[0], parts[-1]))
        self._launch(item, own, item.lists.chunks)
        _collect[(len(item.lists.collected) * (block // COLLECTED_ROWS), batch)](
            parts[0], parts[-1], part_lse, *operands.accumulators, lse, item.lists.collected, n, heads, item.chunks,
            MODE=MODES[self.mode], D=dim, PADDED=padded(dim), F=COLLECTED_ROWS, BLOCK=block,
        )  # fmt: skip

    def _launch(self, item: Prepared, operands: Operands, chunks: Tensor | None) -> None:
        launch, lists, chosen, block = item.launch, item.lists, self.config, self.options.list_block
        batch, fixed_heads, n, dim = operands.fixed[0].shape
        grid = (len(launch.tiles) * launch.count, len(launch.entries), batch)
        if chunks is not None:
            grid = (len(chunks) * (block // chosen.fixed), 1, batch)
        if not all(grid):
            return
        band, columns = self._side(launch.band), launch.columns if chunks is None else None
        column_band = self._side(columns.band) if columns else Band()
        rates = tuple(rate for _, rate in launch.chain[: launch.parts]) or (1,)
        seen = self._matrices(operands.streamed, rates)
        (lse, delta), plane, described = self._vectors(operands, launch, rates, seen)
        tensors = (*operands.fixed, *operands.streamed, *operands.results)
        _attend[grid](
            *operands.fixed, *operands.streamed, lse, delta, *operands.results, *operands.accumulators,
            *(stride for x in tensors for stride in x.stride()[:3]),
            *(seen.descriptors if seen else operands.streamed[:1] * (2 * MOST_PARTS)),
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
            MODE=MODES[self.mode], D=dim, PADDED=padded(dim), F=chosen.fixed, S=chosen.streamed,
            BAND=launch.band is not None and chunks is None, NESTED=launch.nested, PARTS=launch.parts,
            RESIDUES=launch.residues, HAS_LO=band.lo is not None, HAS_HI=band.hi is not None,
            COLUMNS=columns.last - columns.first if columns else 0,
            COLUMNS_LO=column_band.lo is not None, COLUMNS_HI=column_band.hi is not None,
            LISTS=lists is not None, BLOCK=block, CHUNKED=chunks is not None,
            EVEN=launch.even, TMA=seen is not None, VECTORS=described,
            GROUPED=any(len(entry.members) > 1 for entry in launch.entries),
            PRECISION="ieee" if tensors[0].dtype == torch.float32 else "tf32",
            num_warps=chosen.warps, num_stages=chosen.stages, maxnreg=chosen.registers,
        )  # fmt: skip

    def _side(self, band: Band | None) -> Band:
        """A band of key less query as one of streamed less fixed."""
        if band is None:
            return Band()
        if self.mode != "key gradient":
            return band
        return Band(None if band.hi is None else -band.hi, None if band.lo is None else -band.lo)

    def _matrices(self, streamed: tuple[Tensor, Tensor], rates: tuple[int, ...]) -> Matrices | None:
        wanted, device = self.options.descriptors, streamed[0].device
        if wanted is None:
            wanted = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
        return matrices(streamed, rates, self.config.streamed) if wanted else None

    def _vectors(
        self, operands: Operands, launch: Launch, rates: tuple[int, ...], seen: Matrices | None
    ) -> tuple[tuple[Any, Any], int, bool]:
        """Lse and delta as the kernel wants them, the size of a plane, and whether by descriptors."""
        if self.mode != "key gradient":
            return (operands.lse, operands.delta), 0, False
        both = self._in_planes(operands.lse, rates), self._in_planes(operands.delta, rates)
        starts = (launch.first, launch.period if launch.count > 1 else 0)
        if seen is None or any(start % (4 * rate) for rate in rates for start in starts):
            return both, both[0].size(1), False
        lse, delta = (vector_descriptor(x, self.config.streamed) for x in both)
        return (lse, delta), both[0].size(1), True

    def _in_planes(self, vector: Tensor, rates: tuple[int, ...]) -> Tensor:
        key = vector.data_ptr(), rates
        if key not in self._planes:
            self._planes[key] = planes(vector, rates)
        return self._planes[key]


def timed(
    plan: Plan, mode: Mode, config: Config, head_dim: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], object]:
    """A function that runs one mode of a plan with a configuration, on tensors of 2^17 rows."""
    n = 8192
    plan = replace(plan, heads=16, branches=tuple(replace(branch, heads=tuple(range(16))) for branch in plan.branches))
    q, k, v, dout = (torch.randn(1, n, 16, head_dim, dtype=dtype, device=device).transpose(1, 2) for _ in range(4))
    todo = Pass(mode, q, k, plan, head_dim**-0.5, {}, Options(((mode, config),)))
    lse, delta = (torch.zeros(1, 16, n, device=device) for _ in range(2))
    x, y = torch.empty_like(q), torch.empty_like(q)
    fixed, streamed = ((k, v), (q, dout)) if mode == "key gradient" else ((q, dout), (k, v))
    return lambda: todo.run(Operands(fixed, streamed, lse, delta, (x, y), (x, y)))
