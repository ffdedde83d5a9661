"""A plan's lattices and columns on strided views: every call launched on a library's kernel, results merged.

What the backends `sdpa` and `xformers` share. Forward: each call's (out, lse) is merged into one accumulator, or is the
result where there is one call. Backward: each call's ordinary flash backward with the merged (out, lse) and the plain
d_out; dq, dk and dv add up. Both are exact, and q, k and v are never copied.

Shape legend: B batch, H heads, N tokens, D head dimension.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from attnlang.plan import Plan
from attnlang.runtime.calls import Call, resolve
from attnlang.runtime.kernels import Kernel
from attnlang.runtime.launches import Launch, Strides, launches
from attnlang.runtime.merge import merge_
from attnlang.runtime.tiles import tiles


@lru_cache(maxsize=256)
def kernel_calls(plan: Plan, n: int, kernel: Kernel) -> tuple[Call, ...]:
    """The calls of a plan, banded ones cut into tiles where the kernel has no windows."""
    calls: list[Call] = []
    for call in resolve(plan, n):
        calls += (call,) if kernel.windows else tiles(call)
    return tuple(calls)


def only_call(plan: Plan, n: int, kernel: Kernel) -> Call | None:
    """The call of a plan that is one dense, causal or banded square over all tokens of all heads; else None."""
    if len(plan.branches) != 1:
        return None
    calls = kernel_calls(plan, n, kernel)
    if len(calls) != 1:
        return None
    call = calls[0]
    heads = len(call.axes) == 1 and (call.axes[0].size, call.axes[0].head, call.axes[0].token) == (plan.heads, 1, 0)
    all_heads = heads or (plan.heads == 1 and not call.axes)
    everything = (call.head, call.q, call.k, call.q_len, call.k_len, call.step) == (0, 0, 0, n, n, 1)
    return call if all_heads and everything else None


def forward_(
    out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, plan: Plan, kernel: Kernel, scale: float
) -> None:
    """Merge the attention of all calls into out (B, H, N, D) and lse (B, H, N)."""
    strides = _strides(q, out, lse), _strides(k, v)
    for call in kernel_calls(plan, q.size(2), kernel):
        for launch in launches(call, q.size(0), *strides, q.size(1) // k.size(1)):
            q_, out_, lse_ = _views(launch, call.q_len, 0, q, out, lse)
            k_, v_ = _views(launch, call.k_len, 3, k, v)
            part, part_lse = kernel.forward(q_, k_, v_, call, scale)
            if call.fresh:
                out_.copy_(part)
                lse_.copy_(part_lse)
            else:
                merge_(out_, lse_, part, part_lse)


def backward_(
    grads: tuple[Tensor, Tensor, Tensor],
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    plan: Plan,
    kernel: Kernel,
    scale: float,
) -> None:
    """Add the gradients of all calls to dq (B, H, N, D), dk and dv (B, Hkv, N, D), from the merged out and lse."""
    dq, dk, dv = grads
    strides = _strides(dout, q, out, lse, dq), _strides(k, v, dk, dv)
    for call in kernel_calls(plan, q.size(2), kernel):
        for launch in launches(call, q.size(0), *strides, q.size(1) // k.size(1)):
            dout_, q_, out_, lse_, dq_ = _views(launch, call.q_len, 0, dout, q, out, lse, dq)
            k_, v_, dk_, dv_ = _views(launch, call.k_len, 5, k, v, dk, dv)
            parts = kernel.backward(dout_, q_, k_, v_, out_, lse_, call, scale)
            for total, part in zip((dq_, dk_, dv_), parts, strict=True):
                _add_(total, part)


def _strides(*tensors: Tensor) -> tuple[Strides, ...]:
    return tuple(tensor.stride()[:3] for tensor in tensors)


def _views(launch: Launch, rows: int, first: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(launch.view(tensor, number, rows) for number, tensor in enumerate(tensors, first))


def _add_(total: Tensor, part: Tensor) -> None:
    """Add a partial gradient to a view; along a dimension in which the view repeats one row, add up all of it."""
    repeated = [dim for dim in (0, 1) if total.stride(dim) == 0 and total.size(dim) > 1]
    if repeated:
        part = part.sum(repeated, keepdim=True)
        for dim in repeated:
            total = total.narrow(dim, 0, 1)
    total.add_(part)


def repeated_heads(x: Tensor, heads: int) -> Tensor:
    """Keys or values (B, Hkv, N, D) for each of so many query heads: a copy, unless they have as many or one."""
    if x.size(1) == heads:
        return x
    return x.expand(-1, heads, -1, -1) if x.size(1) == 1 else x.repeat_interleave(heads // x.size(1), 1)


def summed_heads(x: Tensor, kv_heads: int) -> Tensor:
    """The gradient of `repeated_heads`, added up in float32: (B, H, N, D)  -->  (B, Hkv, N, D)"""
    if x.size(1) == kv_heads:
        return x
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.unflatten(1, (kv_heads, -1)).sum(2, dtype=kind).to(x.dtype)
