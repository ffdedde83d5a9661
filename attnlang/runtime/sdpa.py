"""The `sdpa` backend: lattices as strided views into torch's own attention kernels, tiles by matrix products, merged.

Forward: each call's (out, lse) is merged into one accumulator. Backward: each call's ordinary flash backward with the
merged (out, lse) and the plain d_out; dq, dk and dv add up. Both are exact. q, k and v are never copied, and nothing
is larger than they are.

Shape legend: B batch, H heads, N tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import torch
from torch import Tensor

from attnlang.plan import Plan, Tiles
from attnlang.runtime.blocks import BlockLists
from attnlang.runtime.calls import Call, resolve
from attnlang.runtime.kernels import Kernel, kernel_for, no_kernel
from attnlang.runtime.launches import Strides, launches
from attnlang.runtime.merge import accumulator_dtype, merge_
from attnlang.runtime.tile_attention import backward_, forward_, lists_of
from attnlang.runtime.tiles import tiles


@lru_cache(maxsize=256)
def kernel_calls(plan: Plan, n: int, kernel: Kernel) -> tuple[Call, ...]:
    """The calls of a plan, banded ones cut into tiles where the kernel has no windows."""
    calls: list[Call] = []
    for call in resolve(plan, n):
        calls += (call,) if kernel.windows else tiles(call)
    return tuple(calls)


def refusal(plan: Plan, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why this backend cannot run a plan there, naming what can; None if it can."""
    return no_kernel(device, dtype, head_dim)


def _strides(*tensors: Tensor) -> tuple[Strides, ...]:
    return tuple(tensor.stride()[:3] for tensor in tensors)


def _tiles(plan: Plan, n: int, tables: Mapping[str, Tensor]) -> Iterator[BlockLists]:
    for branch in plan.branches:
        if isinstance(branch, Tiles):
            yield from lists_of(branch, plan.heads, n, tables)


def _totals(plan: Plan, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Zeros to add gradients up in: in each tensor's own layout, or contiguous, as tiles want them."""
    tiled = any(isinstance(branch, Tiles) for branch in plan.branches)
    layout = torch.contiguous_format if tiled else torch.preserve_format
    return tuple(torch.zeros_like(x, dtype=accumulator_dtype(x.dtype), memory_format=layout) for x in tensors)


def forward(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, tables: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Out (B, H, N, D) in q's dtype and lse (B, H, N) in float32, or float64 for float64. No autograd.

    k and v may have fewer heads (B, Hkv, N, D). The last dimension of all three has stride 1. Rows without keys have
    out 0 and lse -inf.
    """
    batch, heads, n, _ = q.shape
    out = torch.zeros_like(q, dtype=accumulator_dtype(q.dtype))
    lse = out.new_full((batch, heads, n), float("-inf"))
    kernel = kernel_for(q.device, q.dtype, q.size(-1))
    strides = _strides(q, out, lse), _strides(k, v)
    for call in kernel_calls(plan, n, kernel):
        for launch in launches(call, batch, *strides, heads // k.size(1)):
            q_, out_, lse_ = (launch.view(x, i, call.q_len) for i, x in enumerate((q, out, lse)))
            k_, v_ = (launch.view(x, i, call.k_len) for i, x in enumerate((k, v), 3))
            part, part_lse = kernel.forward(q_, k_, v_, call, scale)
            if call.fresh:
                out_.copy_(part)
                lse_.copy_(part_lse)
            else:
                merge_(out_, lse_, part, part_lse)
    for lists in _tiles(plan, n, tables):
        forward_(out, lse, q, k, v, lists, scale)
    return out.to(q.dtype), lse


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Dq, dk and dv from the merged (out, lse) of `forward`; lse carries no gradient."""
    dq, dk, dv = _totals(plan, q, k, v)
    kernel = kernel_for(q.device, q.dtype, q.size(-1))
    strides = _strides(dout, q, out, lse, dq), _strides(k, v, dk, dv)
    for call in kernel_calls(plan, q.size(2), kernel):
        for launch in launches(call, q.size(0), *strides, q.size(1) // k.size(1)):
            rows = (launch.view(x, i, call.q_len) for i, x in enumerate((dout, q, out, lse, dq)))
            columns = (launch.view(x, i, call.k_len) for i, x in enumerate((k, v, dk, dv), 5))
            (dout_, q_, out_, lse_, dq_), (k_, v_, dk_, dv_) = rows, columns
            parts = kernel.backward(dout_, q_, k_, v_, out_, lse_, call, scale)
            for total, part in zip((dq_, dk_, dv_), parts, strict=True):
                _add_(total, part)
    for lists in _tiles(plan, q.size(2), tables):
        backward_((dq, dk, dv), dout, q, k, v, out, lse, lists, scale)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _add_(total: Tensor, part: Tensor) -> None:
    """Add a partial gradient to a view; along a dimension in which the view repeats one row, add up all of it."""
    repeated = [dim for dim in (0, 1) if total.stride(dim) == 0 and total.size(dim) > 1]
    if repeated:
        part = part.sum(repeated, keepdim=True)
        for dim in repeated:
            total = total.narrow(dim, 0, 1)
    total.add_(part)
