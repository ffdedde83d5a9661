"""A schedule on one device, rank after rank: the same steps as on many, with messages handed over in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnlang.parallel.dense import positions
from attnlang.parallel.rank import Kept, RankWork, Start, Steps
from attnlang.schedule import Schedule


def driven(all_steps: Sequence[Steps]) -> list[Any]:
    """Run the steps of all ranks, in turn, and hand messages over; the results by rank.

    Raises RuntimeError where one rank expects what another does not send.
    """
    ranks = len(all_steps)
    results: list[Any] = [None] * ranks
    inbox: list[Any] = [None] * ranks
    running = set(range(ranks))
    while running:
        starts: dict[int, Start] = {}
        for rank in sorted(running):
            try:
                step = all_steps[rank].send(inbox[rank])
                if isinstance(step, Start):
                    starts[rank] = step
                    step = next(all_steps[rank])
                inbox[rank] = None
            except StopIteration as end:
                results[rank] = end.value
        running = set(starts)
        for rank, start in starts.items():
            inbox[rank] = _received(starts, rank, start)
    return results


def _received(starts: dict[int, Start], rank: int, start: Start) -> Tensor:
    parts: list[Tensor] = []
    for sender, theirs in starts.items():
        size = theirs.sends[rank]
        if size != start.receives[sender]:
            raise RuntimeError(
                f"rank {sender} sends {size} numbers to rank {rank}, which expects {start.receives[sender]}"
            )
        at = sum(theirs.sends[:rank])
        parts.append(theirs.data[at : at + size])
    return torch.cat(parts)


def attention_by_ranks(
    q: Tensor, k: Tensor, v: Tensor, schedule: Schedule, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Attention under a schedule, all its ranks on this device: out (B, H, N, D) and lse (B, H, N), in token order.

    q is (B, H, N, D); k and v are (B, Hkv, N, D). Differentiable once, as if run on one rank; lse carries no gradient.
    """
    factor = max(q.size(-1), 1) ** -0.5 if scale is None else float(scale)
    return _ByRanks.apply(q, k, v, schedule, factor)


class _ByRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, schedule: Schedule, scale: float) -> tuple[Tensor, Tensor]:
        works = [RankWork(schedule, rank, q.device, q.size(-1)) for rank in range(schedule.ranks)]
        where = [torch.from_numpy(positions(schedule.placement, rank)).to(q.device) for rank in range(schedule.ranks)]
        held = [[x[:, :, tokens] for x in (q, k, v)] for tokens in where]
        results = driven([work.forward(q1, k1, v1, scale) for work, (q1, k1, v1) in zip(works, held, strict=True)])
        out, lse = torch.empty_like(q), results[0][1].new_empty(q.shape[:3])
        for tokens, (part, part_lse, _) in zip(where, results, strict=True):
            out[:, :, tokens], lse[:, :, tokens] = part, part_lse
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.works, ctx.where, ctx.scale = works, where, scale
        ctx.kept = [kept for _, _, kept in results]
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, lse = ctx.saved_tensors
        works: list[RankWork] = ctx.works
        kept: list[Kept] = ctx.kept
        steps: list[Steps] = []
        for work, tokens, mine in zip(works, ctx.where, kept, strict=True):
            dout1, q1, k1, v1, out1, lse1 = (x[:, :, tokens] for x in (grads[0], q, k, v, out, lse))
            steps.append(work.backward(dout1, q1, k1, v1, out1, lse1, mine, ctx.scale))
        totals = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for tokens, parts in zip(ctx.where, driven(steps), strict=True):
            for total, part in zip(totals, parts, strict=True):
                total[:, :, tokens] = part
        return *totals, None, None
