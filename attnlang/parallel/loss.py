"""A mean over the tokens of all ranks, whose gradients add up to those of one device."""

from __future__ import annotations

from math import nan
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from attnlang.parallel.wire import RanksDisagreeError


def mean_loss(
    losses: Tensor, weights: Tensor | None, group: dist.ProcessGroup | None = None, *, averaged: bool = True
) -> Tensor:
    """sum(weights * losses) / sum(weights), both sums over the tokens of all ranks.

    losses    of this rank's tokens, any shape; weights likewise (None: all 1; 0 for tokens that do not count)
    group     the ranks over which is summed; all, unless given
    averaged  whether gradients of parameters are averaged over the ranks of the group afterwards, as DDP and FSDP do:
              the gradient of the loss is then that of R ranks, so that the average is right. False where they are
              summed

    The value is the same on every rank. Where no token counts on any rank it is 0, with gradients 0; where some
    rank has none, its gradients are 0 and nothing is NaN.

    Raises ValueError unless weights have the shape of losses. The others raise RanksDisagreeError then, where losses
    are on the CPU. On a GPU they have NaN: no host waits there for a sum to see whether it is one. Their backward pass
    meets attention next, which notices that this rank is gone, or elsewhere.
    """
    return _MeanLoss.apply(losses, weights, group, averaged)


class _MeanLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, losses: Tensor, weights: Tensor | None, group: dist.ProcessGroup | None, averaged: bool
    ) -> Tensor:
        kind = torch.float64 if losses.dtype == torch.float64 else torch.float32
        try:
            weights = _checked(losses, weights).to(kind)
            counted = torch.where(weights != 0, losses.to(kind) * weights, 0.0)  # 0 * NaN of a padded token is 0
            sums = torch.stack([counted.sum(), weights.sum()]).double()  # (whatever dtype losses have on other ranks)
        except Exception as error:  # (whatever it is, the other ranks wait for this one's sums)
            _added(losses.new_full((2,), nan, dtype=torch.float64), group, str(error))
            raise
        sums = _added(sums, group).to(kind)
        total = torch.where(sums[1] == 0, 1.0, sums[1])
        factor = dist.get_world_size(group) if averaged else 1
        ctx.save_for_backward(weights * (factor / total))
        ctx.kind = losses.dtype
        return sums[0] / total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (share,) = ctx.saved_tensors
        return (grads[0] * share).to(ctx.kind), None, None, None


def _checked(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Weights, 1 unless given. Raises ValueError unless there is one for each loss."""
    if weights is None:
        return torch.ones_like(losses)
    if weights.shape != losses.shape:
        raise ValueError(
            f"weights must have the shape of losses, one a token, but have {tuple(weights.shape)} and not "
            f"{tuple(losses.shape)}"
        )
    return weights


def _added(sums: Tensor, group: dist.ProcessGroup | None, fault: str = "") -> Tensor:
    """Sums over ranks, in place; a rank that has none brings NaN, and says why. The others raise RanksDisagreeError.

    A sum of NaN is what all ranks see, and the only one for which they ask each other why: it costs no other anything.
    """
    dist.all_reduce(sums, group=group)
    if sums.is_cpu and sums.isnan().all():
        said: list[str] = [""] * dist.get_world_size(group)
        dist.all_gather_object(said, fault, group=group)
        faults = [f"rank {rank}: {text}" for rank, text in enumerate(said) if text]
        if faults and not fault:
            raise RanksDisagreeError(f"mean_loss: {'. '.join(faults)}")
    return sums
