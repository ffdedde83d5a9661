"""A plan's lattices and columns on strided views: every call launched on a library's kernel, results merged.

What the backends `sdpa` and `xformers` share. Forward: each call's (out, lse) is merged into one accumulator, or is the
result where there is one call. Backward: each call's ordinary flash backward with the merged (out, lse) and the plain
d_out; dq, dk and dv add up. Both are exact, and q, k and v are never copied.

Shape legend: B batch, H heads, N tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from attnlang.plan import Lattice, Plan
from attnlang.runtime.calls import Call, resolve
from attnlang.runtime.kernels import Kernel
from attnlang.runtime.last_rows import last_rows
from attnlang.runtime.launches import Strides, View, launches
from attnlang.runtime.merge import blend_
from attnlang.runtime.tiles import tiles


@lru_cache(maxsize=256)
def kernel_calls(plan: Plan, n: int, kernel: Kernel, first: int = 0) -> tuple[Call, ...]:
    """The calls of a plan for the queries from `first` on, banded ones cut into tiles if the kernel has no windows."""
    calls: list[Call] = []
    for whole in resolve(plan, n):
        for call in last_rows(whole, first):
            calls += (call,) if kernel.windows else tiles(call)
    return tuple(calls)


def only_call(plan: Plan, n: int, kernel: Kernel, first: int = 0) -> Call | None:
    """The call of a plan that is one dense, causal or banded call over all tokens of all heads; else None."""
    if len(plan.branches) != 1:
        return None
    calls = kernel_calls(plan, n, kernel, first)
    if len(calls) != 1:
        return None
    call = calls[0]
    heads = len(call.axes) == 1 and (call.axes[0].size, call.axes[0].head, call.axes[0].token) == (plan.heads, 1, 0)
    all_heads = heads or (plan.heads == 1 and not call.axes)
    everything = (call.head, call.q, call.k, call.q_len, call.k_len, call.step) == (0, 0, 0, n - first, n, 1)
    return call if all_heads and everything else None


@lru_cache(maxsize=256)
def stored_once(plan: Plan, n: int, kernel: Kernel, first: int = 0) -> bool:
    """Whether the calls are the whole plan, and no two of them touch the same rows of one head, queries or keys."""
    lattices = all(isinstance(branch, Lattice) for branch in plan.branches)
    return lattices and all(call.fresh for call in kernel_calls(plan, n, kernel, first))


@dataclass(frozen=True, slots=True)
class _Step:
    """One launch: its call, and the view of each tensor."""

    call: Call
    views: tuple[View, ...]

    def of(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The views of tensors, in the order of their strides."""
        return [
            x.as_strided(size, stride, offset + x.storage_offset())
            for x, (size, stride, offset) in zip(tensors, self.views, strict=True)
        ]


@lru_cache(maxsize=512)
def _steps(
    plan: Plan,
    shape: tuple[int, ...],
    group: int,
    kernel: Kernel,
    queries: tuple[Strides, ...],
    keys: tuple[Strides, ...],
) -> tuple[_Step, ...]:
    """All launches on tensors of these strides: (B, H, M or N, D), or (B, H, M). `shape` is that of q, and N."""
    batch, _, rows_of_q, dim, n = shape
    rows = tuple(tuple(stride[:3] for stride in strides) for strides in (queries, keys))
    last = [(dim, stride[3]) if len(stride) == 4 else None for stride in (*queries, *keys)]
    found: list[_Step] = []
    for call in kernel_calls(plan, n, kernel, n - rows_of_q):
        lengths = (call.q_len,) * len(queries) + (call.k_len,) * len(keys)
        for launch in launches(call, batch, *rows, group):
            views = (launch.place(i, *what) for i, what in enumerate(zip(lengths, last, strict=True)))
            found.append(_Step(call, tuple(views)))
    return tuple(found)


def _steps_of(
    plan: Plan, kernel: Kernel, q: Tensor, k: Tensor, tensors: Sequence[Tensor], queries: int
) -> tuple[_Step, ...]:
    """The launches on some tensors, of which the first so many are indexed by query."""
    strides = tuple(x.stride() for x in tensors)
    return _steps(plan, (*q.shape, k.size(2)), q.size(1) // k.size(1), kernel, strides[:queries], strides[queries:])


def forward_(
    out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, plan: Plan, kernel: Kernel, scale: float
) -> None:
    """Merge the attention of all calls into out (B, H, M, D) and lse (B, H, M): of the last M of N queries."""
    tensors = q, out, lse, k, v
    for step in _steps_of(plan, kernel, q, k, tensors, 3):
        q_, out_, lse_, k_, v_ = step.of(tensors)
        part, part_lse = kernel.forward(q_, k_, v_, step.call, scale)
        if step.call.fresh:
            out_.copy_(part)
            lse_.copy_(part_lse)
        else:
            blend_(out_, lse_, part, part_lse)


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
    *,
    store: bool = False,
) -> None:
    """Add the gradients of all calls to dq (B, H, M, D), dk and dv (B, Hkv, N, D), from the merged out and lse.

    With `store`, they are written there instead: for calls no two of which touch the same rows.
    """
    dq, dk, dv = grads
    tensors = dout, q, out, lse, dq, k, v, dk, dv
    for step in _steps_of(plan, kernel, q, k, tensors, 5):
        dout_, q_, out_, lse_, dq_, k_, v_, dk_, dv_ = step.of(tensors)
        parts = kernel.backward(dout_, q_, k_, v_, out_, lse_, step.call, scale)
        for total, part in zip((dq_, dk_, dv_), parts, strict=True):
            if store:
                total.copy_(part)
            else:
                _add_(total, part)


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
