"""Gradients without gradients of their own.

torch's `once_differentiable` cuts them off: who differentiates them is told that they were "not used in the graph", and
with allow_unused=True gets None, as if second derivatives were 0. Here they keep hanging on what they were computed
from, by a node that refuses.

Nor are there derivatives in forward mode: an operator that has no rule for them answers 0, so they are refused before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad


def differentiable_once(found: Sequence[Tensor | None], *inputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients `found` of a pass over inputs, to be differentiated by nobody: that raises RuntimeError."""
    return tuple(None if x is None else _Refusal.apply(x, *inputs) for x in found)


def refuse_forward_mode(*inputs: Tensor) -> None:
    """Raise ValueError where an input carries a tangent."""
    # (torch has no public way to ask whether there may be tangents)
    if forward_ad._current_level < 0:  # pyright: ignore[reportPrivateUsage] - see above
        return
    if any(forward_ad.unpack_dual(x).tangent is not None for x in inputs):
        raise ValueError(
            "attention under a pattern has no forward-mode derivatives (torch.func.jvp, jacfwd, forward_ad): take them "
            "in reverse mode (vjp, jacrev, autograd.grad), or use backend 'reference', which has derivatives of both"
        )


class _Refusal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: Tensor, *inputs: Tensor | None) -> Tensor:
        return found.view_as(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError(
            "attention under a pattern is differentiable once: its gradients have no derivatives (create_graph=True "
            "asked for them); on one device, backend 'reference' is differentiable to any order"
        )
