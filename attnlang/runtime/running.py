"""A program run on a batch by a backend: padding, pieces of a batch that differ, and queries fewer than keys.

What backends share, once for all of them. `attnlang.runtime.ops` is what torch and users call.

Shape legend: B batch, H heads, Hkv heads of k and v, M queries, N keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from attnlang.runtime.batches import NEVER, Piece, padded_rows, work
from attnlang.runtime.layouts import full_length, readable
from attnlang.runtime.merge import accumulator_dtype
from attnlang.runtime.program import Program
from attnlang.runtime.routes import chosen, route_for, takes_fewer


def run_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: Sequence[Tensor],
    lengths: Tensor | None,
    backend: str,
    program_text: str,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    """Out (B, H, M, D) and lse (B, H, M) of a program; q (B, H, M, D), k and v (B, Hkv, N, D).

    Raises ValueError where no backend can run it.
    """
    if not q.numel():
        return torch.zeros_like(q), lse_like(q).fill_(float("-inf"))
    route = route_for(q, k, v, tables, lengths, backend, program_text)
    if route is not None:
        return route.forward(q, k, v, scale)
    what, runner = chosen(backend, program_text, q.device, q.dtype, q.size(-1))
    factor = q.size(-1) ** -0.5 if scale is None else scale
    n, fewer = k.size(2), takes_fewer(runner)
    q_, k_, v_ = (readable(x) for x in (q, k, v))
    q_ = q_ if fewer else full_length(q_, n)
    padding = _padding(what, lengths, q_)
    if padding is not None:
        q_, k_, v_ = (x.masked_fill(padding[..., None], 0.0) for x in (q_, k_, v_))
    with _no_autocast(q.device) if torch.is_autocast_enabled(q.device.type) else nullcontext():
        todo = work(what, q_.size(0), n, tables, lengths)
        if len(todo) == 1 and _is_whole(todo[0], k_):
            out, lse = runner.forward(q_, k_, v_, what.plan, factor, todo[0].tables)
        else:
            out, lse = torch.zeros_like(q_), lse_like(q_).fill_(float("-inf"))
            for piece in todo:
                q1, k1, v1 = map(piece.of, (q_, k_, v_))
                part, part_lse = runner.forward(q1, k1, v1, what.plan, factor, piece.tables)
                piece.of(out).copy_(part)
                piece.of(lse).copy_(part_lse)
        if padding is not None:
            out, lse = out.masked_fill(padding[..., None], 0.0), lse.masked_fill(padding, float("-inf"))
    if q_.size(2) != q.size(2):
        first = q_.size(2) - q.size(2)
        out, lse = out[:, :, first:], lse[:, :, first:]
    return out, lse


def run_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    tables: Sequence[Tensor],
    lengths: Tensor | None,
    backend: str,
    program_text: str,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Dq, dk and dv from the merged out and lse."""
    if not q.numel():
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    route = route_for(q, k, v, tables, lengths, backend, program_text)
    if route is not None:
        return route.backward(dout, q, k, v, out, lse, scale)
    what, runner = chosen(backend, program_text, q.device, q.dtype, q.size(-1))
    factor = q.size(-1) ** -0.5 if scale is None else scale
    n, fewer = k.size(2), takes_fewer(runner)
    k_, v_ = readable(k), readable(v)
    dout_, q_, out_ = (readable(x) if fewer else full_length(readable(x), n) for x in (dout, q, out))
    lse_ = lse if q_.size(2) == q.size(2) else torch.nn.functional.pad(lse, (n - q.size(2), 0), value=NEVER)
    padding = _padding(what, lengths, q_)
    if padding is not None:
        dout_, q_, k_, v_ = (x.masked_fill(padding[..., None], 0.0) for x in (dout_, q_, k_, v_))
        lse_ = lse_.masked_fill(padding, NEVER)
    with _no_autocast(q.device) if torch.is_autocast_enabled(q.device.type) else nullcontext():
        todo = work(what, q_.size(0), n, tables, lengths)
        if len(todo) == 1 and _is_whole(todo[0], k_):
            grads = runner.backward(dout_, q_, k_, v_, out_, lse_, what.plan, factor, todo[0].tables)
        else:
            grads = torch.zeros_like(q_), torch.zeros_like(k_), torch.zeros_like(v_)
            for piece in todo:
                dout1, q1, k1, v1, out1, lse1 = map(piece.of, (dout_, q_, k_, v_, out_, lse_))
                parts = runner.backward(dout1, q1, k1, v1, out1, lse1, what.plan, factor, piece.tables)
                for total, part in zip(grads, parts, strict=True):
                    piece.of(total).copy_(part)
    dq, dk, dv = grads
    return dq[:, :, dq.size(2) - q.size(2) :], dk, dv


def _padding(what: Program, lengths: Tensor | None, q: Tensor) -> Tensor | None:
    """Rows (B, 1, N) to be blanked before and after a run at full length: they may hold anything, even NaNs."""
    return padded_rows(lengths, q.size(2), q.device) if lengths is not None and what.ignores_padding else None


def _is_whole(piece: Piece, k: Tensor) -> bool:
    return (piece.first, piece.last, piece.n) == (0, k.size(0), k.size(2))


def lse_like(q: Tensor) -> Tensor:
    """An lse (B, H, M) for q, in the dtype that it is added up in."""
    return torch.empty(q.shape[:3], dtype=accumulator_dtype(q.dtype), device=q.device)


@contextmanager
def _no_autocast(device: torch.device) -> Generator[None]:
    """Inputs have their dtype by now; what is added up inside keeps its own."""
    with torch.autocast(device.type, enabled=False):
        yield
