"""The `sdpa` backend: lattices as strided views into torch's own attention kernels, tiles by matrix products, merged.

Nothing is larger than q, k and v, and those are never copied; only heads of keys that queries share are, where the
pattern is a single call and torch's kernel has no way to say it.

Shape legend: B batch, H heads, N tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from attnlang.plan import Plan, Tiles
from attnlang.runtime import cudnn, strided, tile_attention
from attnlang.runtime.blocks import BlockLists
from attnlang.runtime.kernels import Kernel, kernel_for, no_kernel
from attnlang.runtime.merge import accumulator_dtype

FEWER_QUERIES = True
"""q may hold the last queries alone."""


def refusal(plan: Plan, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why this backend cannot run a plan there, naming what can; None if it can."""
    return no_kernel(device, dtype, head_dim)


def remark(device: torch.device) -> str:
    """What `attnc env` says beside the dtypes: whether cuDNN runs 16-bit calls there, or why flash-attention does."""
    if device.type != "cuda":
        return ""
    reason = cudnn.refusal_here(device, torch.bfloat16, 64)
    return "16-bit by cuDNN" if reason is None else f"16-bit by flash-attention ({reason})"


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Plan,
    scale: float,
    tables: Mapping[str, Tensor],
    kernel: Kernel | None = None,
) -> tuple[Tensor, Tensor]:
    """Out (B, H, M, D) in q's dtype and lse (B, H, M) in float32, or float64 for float64. No autograd.

    q holds the last M of N queries, and no others are computed. k and v may have fewer heads (B, Hkv, N, D). The last
    dimension of all three has stride 1. Rows without keys have out 0 and lse -inf. `kernel` is the one that suits the
    tensors unless given.
    """
    kernel = kernel or kernel_for(q.device, q.dtype, q.size(-1))
    n, first = k.size(2), k.size(2) - q.size(2)
    call = strided.only_call(plan, n, kernel, first)
    if call is not None:
        return kernel.forward(q, *_heads_for(kernel, q, k, v), call, scale)
    total = q.dtype if strided.stored_once(plan, n, kernel, first) else accumulator_dtype(q.dtype)
    out = torch.zeros_like(q, dtype=total)
    lse = q.new_full(q.shape[:3], float("-inf"), dtype=accumulator_dtype(q.dtype))
    strided.forward_(out, lse, q, k, v, plan, kernel, scale)
    for lists in _tiles(plan, n, first, tables):
        tile_attention.forward_(out, lse, q, k, v, lists, scale)
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
    kernel: Kernel | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Dq, dk and dv from the merged (out, lse) of `forward`; lse carries no gradient."""
    kernel = kernel or kernel_for(q.device, q.dtype, q.size(-1))
    n, first = k.size(2), k.size(2) - q.size(2)
    call = strided.only_call(plan, n, kernel, first)
    if call is not None:
        dq, dk, dv = kernel.backward(dout, q, *_heads_for(kernel, q, k, v), out, lse, call, scale)
        return dq, strided.summed_heads(dk, k.size(1)), strided.summed_heads(dv, k.size(1))
    if q.size(1) == k.size(1) and strided.stored_once(plan, n, kernel, first):
        grads = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        strided.backward_(grads, dout, q, k, v, out, lse, plan, kernel, scale, store=True)
        return grads
    dq, dk, dv = grads = _totals(plan, q, k, v)
    strided.backward_(grads, dout, q, k, v, out, lse, plan, kernel, scale)
    for lists in _tiles(plan, n, first, tables):
        tile_attention.backward_(grads, dout, q, k, v, out, lse, lists, scale)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _heads_for(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """K and v with the heads that a kernel wants of them."""
    if k.size(1) == q.size(1) or kernel.grouped:
        return k, v
    return strided.repeated_heads(k, q.size(1)), strided.repeated_heads(v, q.size(1))


def _tiles(plan: Plan, n: int, first: int, tables: Mapping[str, Tensor]) -> Iterator[BlockLists]:
    for branch in plan.branches:
        if isinstance(branch, Tiles):
            yield from tile_attention.lists_of(branch, plan.heads, n, tables, first)


def _totals(plan: Plan, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros to add gradients up in: in each tensor's own layout, or contiguous, as tiles want them."""
    tiled = any(isinstance(branch, Tiles) for branch in plan.branches)
    layout = torch.contiguous_format if tiled else torch.preserve_format

    def zeros(x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=accumulator_dtype(x.dtype), memory_format=layout)

    return zeros(q), zeros(k), zeros(v)
