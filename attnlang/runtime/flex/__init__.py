"""The `flex` backend: FlexAttention, with block masks that are written down instead of found.

Forward: each piece of the plan is one FlexAttention over rows put in order, and results are merged by lse. Backward:
each piece again, and from it its share of the gradient: with the weight w = e^(lse_piece - lse) of a piece in the
merged result,

    d_out_piece = w d_out        d_lse_piece = <d_out_piece, out_piece> - w <d_out, out>

which FlexAttention differentiates, its lse included. Runs on cuda; on the cpu FlexAttention has no backward, and writes
all scores down, so that is for tests.

Shape legend: B batch, H heads, G heads of a piece, N tokens, L and S rows of queries and keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from attnlang.plan import Plan
from attnlang.runtime.flex import kernel
from attnlang.runtime.flex.rows import Rows, rows_of
from attnlang.runtime.merge import accumulator_dtype, merge_


def refusal(plan: Plan, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why this backend cannot run a plan there, naming what can; None if it can."""
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return (
            f"backend 'flex' runs on cuda, and forwards on cpu, not on {device.type}; backend 'reference' runs anywhere"
        )
    if dtype == torch.float64:
        return "backend 'flex' has no float64 on cuda: use float32, or backend 'reference', or the cpu"
    if not 16 <= head_dim <= 256:
        return (
            f"backend 'flex' on cuda needs a head dimension of 16 to 256, not {head_dim}; pad it with zeros, or use "
            "backend 'sdpa' or 'reference'"
        )
    return None


def forward(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, tables: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Out (B, H, N, D) in q's dtype and lse (B, H, N) in float32, or float64 for float64. No autograd."""
    parts = rows_of(plan, q.size(2), q.size(0), q.size(1) // k.size(1), q.device, tables)
    with torch.no_grad(), _untracked():
        if len(parts) == 1 and parts[0].whole:
            out, lse = _piece(parts[0], q, k, v, scale)
            return parts[0].unfolded(out), parts[0].unfolded(lse)
        out = torch.zeros(q.shape, dtype=accumulator_dtype(q.dtype), device=q.device)
        lse = out.new_full(q.shape[:3], float("-inf"))
        for rows in parts:
            part, part_lse = _piece(rows, q, k, v, scale)
            _merge(rows, out, lse, part, part_lse)
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
    """Dq, dk and dv from the merged (out, lse) of `forward`; lse carries no gradient.

    Raises ValueError on the cpu.
    """
    reason = kernel.no_backward(q.device)
    if reason is not None:
        raise ValueError(reason)
    kind = accumulator_dtype(q.dtype)
    dq, dk, dv = (torch.zeros(x.shape, dtype=kind, device=x.device) for x in (q, k, v))
    inner = (dout.to(kind) * out.to(kind)).sum(-1)
    for rows in rows_of(plan, q.size(2), q.size(0), q.size(1) // k.size(1), q.device, tables):
        with torch.no_grad(), _untracked():
            q_, k_, v_ = rows.queries(q), rows.keys(k), rows.keys(v)
            dout_, lse_, inner_ = rows.queries(dout), rows.queries(lse), rows.queries(inner)
        q_, k_, v_ = leaves = [x.detach().requires_grad_() for x in (q_, k_, v_)]
        with _autograd():
            part, part_lse = kernel.run(rows.function, q_, k_, v_, rows.mask, rows.orders, scale)
        weight = (part_lse - lse_).exp_().masked_fill_(part_lse == float("-inf"), 0.0).to(kind)
        share = (weight[..., None] * dout_).to(part.dtype)
        own = (share.to(kind) * part.detach().to(kind)).sum(-1)  # of what is rounded, so that it cancels in the kernel
        shares = share, (own - weight * inner_).to(part_lse.dtype)
        with _autograd():
            grads = torch.autograd.grad((part, part_lse), leaves, shares)
        rows.add_queries_(dq, grads[0])
        rows.add_keys_(dk, grads[1])
        rows.add_keys_(dv, grads[2])
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _piece(rows: Rows, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    q_, k_, v_ = rows.queries(q.detach()), rows.keys(k.detach()), rows.keys(v.detach())
    return kernel.run(rows.function, q_, k_, v_, rows.mask, rows.orders, scale)


def _merge(rows: Rows, out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Merge the result of a piece into the rows that it is about."""
    mine, mine_lse = rows.own(out), rows.own(lse)
    merge_(mine, mine_lse, rows.real(part), rows.real(part_lse).to(lse.dtype))
    rows.put_(out, mine)
    rows.put_(lse, mine_lse)


@contextmanager
def _untracked() -> Generator[None]:
    """Do not note what is a view of what: it is a thing to compile for by itself, and no one asks."""
    c = torch._C  # pyright: ignore[reportPrivateUsage] - there is no public way to say it
    with c._ExcludeDispatchKeyGuard(c.DispatchKeySet(c.DispatchKey.ADInplaceOrView)):  # pyright: ignore[reportPrivateUsage]
        yield


@contextmanager
def _autograd() -> Generator[None]:
    """Let autograd record inside an operator, where dispatch is below it."""
    c = torch._C  # pyright: ignore[reportPrivateUsage] - there is no public way to say it
    excluded = c._dispatch_tls_local_exclude_set()  # pyright: ignore[reportPrivateUsage]
    for name in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor", "ADInplaceOrView"):
        excluded = excluded.remove(getattr(c.DispatchKey, name))
    included = c._dispatch_tls_local_include_set()  # pyright: ignore[reportPrivateUsage]
    with c._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():  # pyright: ignore[reportPrivateUsage]
        yield
