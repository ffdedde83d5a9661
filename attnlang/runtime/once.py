"""Gradients without gradients of their own.

torch's `once_differentiable` cuts them off: who differentiates them is told that they were "not used in the graph", and
with allow_unused=True gets None, as if second derivatives were 0. Here they keep hanging on what they were computed
from, by a node that refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor


def differentiable_once(found: Sequence[Tensor | None], *inputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients `found` of a pass over inputs, to be differentiated by nobody: that raises RuntimeError."""
    return tuple(None if x is None else _Refusal.apply(x, *inputs) for x in found)


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
