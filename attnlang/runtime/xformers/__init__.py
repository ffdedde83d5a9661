"""The `xformers` backend: lattices and columns by the biases that it knows, packed documents as its block diagonals.

Every call is a partial attention, merged by lse; backwards each runs with the merged (out, lse). What is neither a
strided view nor documents in a row (globals, neighborhoods, random keys) xformers has no bias for, and is refused.

Shape legend: B batch, H heads, N tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from attnlang.plan import Plan, Tiles
from attnlang.runtime import strided
from attnlang.runtime.merge import accumulator_dtype, merge_
from attnlang.runtime.xformers import documents
from attnlang.runtime.xformers.documents import Documents
from attnlang.runtime.xformers.kernels import kernel_for
from attnlang.runtime.xformers.loading import missing

OTHERS = "backends 'triton', 'sdpa' and 'flex' can"


def refusal(plan: Plan, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why this backend cannot run a plan there, naming what can; None if it can."""
    if device.type != "cuda":
        return f"backend 'xformers' runs on cuda, not on {device.type}; backends 'sdpa' and 'reference' run there"
    reason = missing()
    if reason is not None:
        others = (
            f"{OTHERS} do without" if torch.cuda.is_available() else "backends 'sdpa', 'flex' and 'reference' need none"
        )
        return f"backend 'xformers' is not there: {reason}; {others}"
    if dtype == torch.float64:
        return "backend 'xformers' has no float64; backend 'reference' has"
    if head_dim % 8 or head_dim > 256:
        return (
            f"backend 'xformers' needs a head dimension that is a multiple of 8 and at most 256, not {head_dim}; pad "
            "it with zeros, or use backend 'reference'"
        )
    for branch in plan.branches:
        if isinstance(branch, Tiles):
            if documents.documents(branch, plan.heads) is None:
                shown = " ".join(str(branch).split())
                return f"xformers has no bias for {shown}; {OTHERS}"
            if dtype == torch.float32:
                return f"backend 'xformers' runs documents in float16 and bfloat16 only; {OTHERS}"
    return None


def forward(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, tables: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Out (B, H, N, D) in q's dtype and lse (B, H, N) in float32. No autograd."""
    kernel = kernel_for(q.dtype)
    call = strided.only_call(plan, q.size(2), kernel)
    if call is not None:
        k, v = (strided.repeated_heads(x, q.size(1)) for x in (k, v))
        return kernel.forward(q, k, v, call, scale)
    out = torch.zeros_like(q, dtype=accumulator_dtype(q.dtype))
    lse = out.new_full(q.shape[:3], float("-inf"))
    strided.forward_(out, lse, q, k, v, plan, kernel, scale)
    for what, sizes in _documents(plan, q.size(2), tables):
        merge_(out, lse, *documents.forward(q, k, v, what, sizes, scale))
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
    kernel = kernel_for(q.dtype)
    call = strided.only_call(plan, q.size(2), kernel)
    if call is not None:
        k_, v_ = (strided.repeated_heads(x, q.size(1)) for x in (k, v))
        dq, dk, dv = kernel.backward(dout, q, k_, v_, out, lse, call, scale)
        return dq, strided.summed_heads(dk, k.size(1)), strided.summed_heads(dv, k.size(1))
    dq, dk, dv = grads = _zeros(q), _zeros(k), _zeros(v)
    strided.backward_(grads, dout, q, k, v, out, lse, plan, kernel, scale)
    for what, sizes in _documents(plan, q.size(2), tables):
        parts = documents.backward(dout, q, k, v, out, lse, what, sizes, scale)
        for total, part in zip(grads, parts, strict=True):
            total.add_(part)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _zeros(x: Tensor) -> Tensor:
    return torch.zeros_like(x, dtype=accumulator_dtype(x.dtype))


def _documents(plan: Plan, n: int, tables: Mapping[str, Tensor]) -> Iterator[tuple[Documents, list[int]]]:
    for branch in plan.branches:
        if isinstance(branch, Tiles):
            what = documents.documents(branch, plan.heads)
            assert what is not None, "refusal() lets no other tiles through"
            yield what, documents.lengths(what, plan.heads, n, tables)
