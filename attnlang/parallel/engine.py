"""What a rank computes, on tensors: plans on stretches of its own rows, and groups of rows from anywhere.

Everything is added up in float32 (float64 for float64) and in the order of the recipe, so that a run repeats bit for
bit. Rows of a group are gathered into small contiguous tensors, run, and merged back.

Shape legend: B batch, H heads, N tokens, R flat rows, X little attentions of a group, Q and K their rows, D head dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from attnlang.parallel.choosing import kernel_of
from attnlang.parallel.groups import Group
from attnlang.plan import Plan
from attnlang.runtime.calls import Axis, Call, resolve
from attnlang.runtime.kernels import Kernel
from attnlang.runtime.launches import launches
from attnlang.runtime.merge import accumulator_dtype, merge_
from attnlang.runtime.tiles import tiles

WORK = 2**25
"""How many numbers of gathered rows, or of scores, are held at once."""


@dataclass(frozen=True, eq=False, slots=True)
class Partial:
    """A result that others are merged into: out (B, R, D) and lse (B, R)."""

    out: Tensor
    lse: Tensor

    @staticmethod
    def empty(like: Tensor, rows: int) -> Partial:
        out = like.new_zeros((like.size(0), rows, like.size(-1)), dtype=accumulator_dtype(like.dtype))
        return Partial(out, out.new_full(out.shape[:2], float("-inf")))

    @staticmethod
    def of(out: Tensor, lse: Tensor) -> Partial:
        """A first result, as it is but for its precision."""
        kind = accumulator_dtype(out.dtype)
        return Partial(out.to(kind), lse.to(kind))

    def merge(self, rows: Tensor, part: Tensor, part_lse: Tensor) -> None:
        """Merge (B, n, D) and (B, n) into rows that are all different."""
        mine, mine_lse = self.out[:, rows], self.lse[:, rows]
        merge_(mine, mine_lse, part, part_lse)
        self.out[:, rows] = mine
        self.lse[:, rows] = mine_lse


@dataclass(frozen=True, eq=False, slots=True)
class Work:
    """A part of a group on a device.

    q_first, k_first  the first row where rows of q, or of k, are one stretch in order: then they are not gathered
    """

    q: Tensor
    k: Tensor
    call: Call
    times: Tensor | None
    keys_differ: bool
    q_first: int | None
    k_first: int | None

    @staticmethod
    def of(q: Tensor, k: Tensor, call: Call, times: Tensor | None) -> Work:
        """Rows of q (X, Q) and of k (X, K) under a call, or as often as `times` (X, Q, K) says."""
        return Work(q, k, call, times, times is None, first_of_stretch(q), first_of_stretch(k))


def prepared(groups: Sequence[Group], device: torch.device, head_dim: int) -> list[Work]:
    """Groups as tensors of row numbers, cut so that what is gathered at once stays small."""
    return [work for group in groups for work in _prepared(group, device, head_dim)]


def _prepared(group: Group, device: torch.device, head_dim: int) -> Iterator[Work]:
    count, q_len, k_len = len(group.q), group.q.shape[1], group.k.shape[1]
    each = q_len * k_len if group.times is not None else (q_len + k_len) * head_dim
    per_part = max(1, WORK // max(each, 1))
    for at in range(0, count, per_part):
        part = slice(at, at + per_part)
        q, k = (torch.from_numpy(x[part]).to(device) for x in (group.q, group.k))
        times = None if group.times is None else torch.from_numpy(group.times[part]).to(device)
        size = len(group.q[part])
        axes = (Axis(size, 0, 0, 1),) if size > 1 else ()
        yield Work.of(q, k, Call(0, 0, 0, q_len, k_len, 1, axes, group.band), times)


def first_of_stretch(rows: Tensor) -> int | None:
    """The first of some rows if they follow one another in order; None if not."""
    if not rows.numel():
        return None
    first = int(rows.flatten()[0])
    expected = torch.arange(first, first + rows.numel(), device=rows.device)
    return first if torch.equal(rows.flatten(), expected) else None


def take(x: Tensor, rows: Tensor, first: int | None) -> Tensor:
    """Rows (X, Q) of (B, R, ..) as (B, X, Q, ..): a view where they are one stretch."""
    return x[:, rows] if first is None else x[:, first : first + rows.numel()].unflatten(1, rows.shape)


@lru_cache(maxsize=1024)
def _cut(call: Call, windows: bool) -> tuple[Call, ...]:
    return (call,) if windows else tuple(tiles(call))


@lru_cache(maxsize=256)
def plan_calls(plan: Plan, n: int, windows: bool) -> tuple[Call, ...]:
    """The calls of a plan, as a kernel takes them."""
    return tuple(part for call in resolve(plan, n) for part in _cut(call, windows))


def run_calls(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, calls: Sequence[Call], scale: float, kernel: Kernel
) -> None:
    """Merge calls into out (B, H, N, D) and lse (B, H, N); k and v may have another length than q, and fewer heads."""
    group = q.size(1) // k.size(1)
    strides = tuple(x.stride()[:3] for x in (q, out, lse)), tuple(x.stride()[:3] for x in (k, v))
    for call in calls:
        for launch in launches(call, q.size(0), *strides, group):
            q_, out_, lse_ = (launch.view(x, i, call.q_len) for i, x in enumerate((q, out, lse)))
            k_, v_ = (launch.view(x, i, call.k_len) for i, x in enumerate((k, v), 3))
            part, part_lse = kernel.forward(q_, k_, v_, call, scale)
            if call.fresh:
                out_.copy_(part)
                lse_.copy_(part_lse)
            else:
                merge_(out_, lse_, part, part_lse)


def run_calls_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    grads: tuple[Tensor, Tensor, Tensor], calls: Sequence[Call], scale: float, kernel: Kernel,
) -> None:  # fmt: skip
    """Add the gradients of calls, from the merged out and lse, to dq, dk and dv."""
    dq, dk, dv = grads
    group = q.size(1) // k.size(1)
    of_q, of_k = (dout, q, out, lse, dq), (k, v, dk, dv)
    strides = tuple(x.stride()[:3] for x in of_q), tuple(x.stride()[:3] for x in of_k)
    for call in calls:
        for launch in launches(call, q.size(0), *strides, group):
            dout_, q_, out_, lse_, dq_ = (launch.view(x, i, call.q_len) for i, x in enumerate(of_q))
            k_, v_, dk_, dv_ = (launch.view(x, i, call.k_len) for i, x in enumerate(of_k, 5))
            parts = kernel.backward(dout_, q_, k_, v_, out_, lse_, call, scale)
            for total, part in zip((dq_, dk_, dv_), parts, strict=True):
                _add_(total, part)


def _add_(total: Tensor, part: Tensor) -> None:
    repeated = [dim for dim in (0, 1) if total.stride(dim) == 0 and total.size(dim) > 1]
    if repeated:
        part = part.sum(repeated, keepdim=True)
        for dim in repeated:
            total = total.narrow(dim, 0, 1)
    total.add_(part)


def run(
    q: Tensor, k: Tensor, v: Tensor, into: Partial, work: Sequence[Work], scale: float, backend: str = "auto"
) -> None:
    """Merge groups into a partial result. q, k and v are (B, R, D), each with rows of its own.

    backend  what runs a rank's own rows: see `attnlang.parallel.choosing`
    """
    for part in work:
        q_ = take(q, part.q, part.q_first)  # (B, X, Q, D)
        k_, v_ = (take(x, part.k, part.k_first) for x in (k, v))  # (B, X, K, D)
        if part.times is None:
            kernel = kernel_of(part.call, backend, q.device, q.dtype, q.size(-1))
            if part.q_first is not None:
                out, lse = (take(x, part.q, part.q_first) for x in (into.out, into.lse))
                run_calls(q_, k_, v_, out, lse, _cut(part.call, kernel.windows), scale, kernel)
                continue
            out = q_.new_zeros(q_.shape, dtype=into.out.dtype)
            lse = out.new_full(out.shape[:3], float("-inf"))
            run_calls(q_, k_, v_, out, lse, _cut(part.call, kernel.windows), scale, kernel)
        else:
            p, lse = _weights(q_, k_, part.times, scale, into.out.dtype)
            out = _product(p.to(v.dtype), v_).to(into.out.dtype)
        into.merge(part.q.flatten(), out.flatten(1, 2), lse.flatten(1))


def run_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    grads: tuple[Tensor, Tensor, Tensor], work: Sequence[Work], scale: float, backend: str = "auto",
) -> None:  # fmt: skip
    """Add the gradients of groups, from the merged out and lse, to dq (B, R, D), dk and dv."""
    for part in work:
        q_, dout_, out_, lse_ = (take(x, part.q, part.q_first) for x in (q, dout, out, lse))
        k_, v_ = (take(x, part.k, part.k_first) for x in (k, v))
        kind = grads[0].dtype
        if part.times is None:
            kernel = kernel_of(part.call, backend, q.device, q.dtype, q.size(-1))
            calls = _cut(part.call, kernel.windows)
            if part.q_first is not None and part.k_first is not None:
                dq_ = take(grads[0], part.q, part.q_first)
                dk_, dv_ = (take(x, part.k, part.k_first) for x in grads[1:])
                run_calls_backward(dout_, q_, k_, v_, out_, lse_, (dq_, dk_, dv_), calls, scale, kernel)
                continue
            parts = tuple(x.new_zeros(x.shape, dtype=kind) for x in (q_, k_, v_))
            run_calls_backward(dout_, q_, k_, v_, out_, lse_, (parts[0], parts[1], parts[2]), calls, scale, kernel)
            dq_, dk_, dv_ = parts
        else:
            p = _weights_from(q_, k_, part.times, scale, lse_, kind)
            delta = (dout_.to(kind) * out_.to(kind)).sum(-1, keepdim=True)
            ds = (p * (_product(dout_, v_.mT).to(kind) - delta) * scale).to(q.dtype)
            dq_, dk_ = _product(ds, k_), _product(ds.mT, q_)
            dv_ = _product(p.to(v.dtype).mT, dout_)
        for total, rows, added in zip(grads, (part.q, part.k, part.k), (dq_, dk_, dv_), strict=True):
            add_rows(total, rows.flatten(), added.flatten(1, 2), rows is part.q or part.keys_differ)


def add_rows(total: Tensor, rows: Tensor, added: Tensor, all_differ: bool) -> None:
    """Add (B, n, D) to rows of (B, R, D); in an order of its own making where a row comes several times."""
    added = added.to(total.dtype)
    if all_differ:
        total[:, rows] += added
    elif total.is_cuda:  # sorted by row, so that sums repeat bit for bit; index_add_ uses atomics there
        batch = torch.arange(total.size(0), device=total.device)[:, None]
        total.index_put_((batch, rows[None]), added, accumulate=True)
    else:
        total.index_add_(1, rows, added)


def _scores(q: Tensor, k: Tensor, times: Tensor, scale: float, kind: torch.dtype) -> Tensor:
    """Scaled scores plus the log of how often a pair counts: -inf where it does not."""
    return _product(q, k.mT).to(kind) * scale + times.to(kind).log()


def _weights(q: Tensor, k: Tensor, times: Tensor, scale: float, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    s = _scores(q, k, times, scale, kind)
    lse = s.logsumexp(-1)
    return (s - lse.masked_fill(lse == float("-inf"), 0.0).unsqueeze(-1)).exp_(), lse


def _weights_from(q: Tensor, k: Tensor, times: Tensor, scale: float, lse: Tensor, kind: torch.dtype) -> Tensor:
    s = _scores(q, k, times, scale, kind)
    return (s - lse.masked_fill(lse == float("-inf"), float("inf")).unsqueeze(-1)).exp_()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product; half precisions are added up in float32."""
    if a.dtype in (torch.float16, torch.bfloat16):
        return a.float() @ b.float()
    return a @ b
