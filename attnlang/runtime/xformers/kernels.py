"""xformers' operators as kernels on (X, Y, rows, D) views, and the biases that name a call's pairs.

full                  None
causal square         LowerTriangularMask
any other band        LocalAttentionFromBottomRightMask, as keys left and right of the diagonal
that ends in the lower right corner; with cutlass, small tiles under a tensor
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnlang.runtime.calls import Call
from attnlang.runtime.kernels import expanded_mask, window
from attnlang.runtime.scales import above_zero, gradient_of_q
from attnlang.runtime.xformers.loading import ops


def bias_name(call: Call) -> str:
    """The bias class that stands for a call on the flash operators; empty for none."""
    if call.full:
        return ""
    return "LowerTriangularMask" if call.causal else "LocalAttentionFromBottomRightMask"


@dataclass(frozen=True, slots=True)
class Flash:
    """`fmha.flash`: float16 and bfloat16, D <= 256 a multiple of 8, with windows."""

    windows: bool = True
    grouped: bool = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
        return _forward(ops().flash.FwOp, q, k, v, self._bias(call), scale)

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _backward(ops().flash.BwOp, dout, q, k, v, out, lse, self._bias(call), scale)

    def _bias(self, call: Call) -> Any:
        name = bias_name(call)
        if not name:
            return None
        kind = getattr(ops().attn_bias, name)
        return kind(*window(call)) if name.startswith("Local") else kind()


@dataclass(frozen=True, slots=True)
class Cutlass:
    """`fmha.cutlass`: float32; banded calls as tiles with small masks."""

    windows: bool = False
    grouped: bool = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
        return _forward(ops().cutlass.FwOp, q, k, v, self._bias(q, call), scale)

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        bias = self._bias(q, call)
        return _backward(ops().cutlass.BwOp, dout.contiguous(), q, k, v, out.contiguous(), lse, bias, scale)

    def _bias(self, q: Tensor, call: Call) -> Any:
        return ops().attn_bias.LowerTriangularMask() if call.causal else expanded_mask(q, call)


def kernel_for(dtype: torch.dtype) -> Flash | Cutlass:
    """The operators for a dtype."""
    return Cutlass() if dtype == torch.float32 else Flash()


def _forward(op: Any, q: Tensor, k: Tensor, v: Tensor, bias: Any, scale: float) -> tuple[Tensor, Tensor]:
    q, positive, _ = above_zero(q, scale)
    q_, k_, v_ = (x.transpose(1, 2) for x in (q, k, v))
    out, lse = ops().memory_efficient_attention_forward_requires_grad(q_, k_, v_, bias, scale=positive, op=op)
    return out.transpose(1, 2), lse[..., : q.size(2)]


def _backward(
    op: Any, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, bias: Any, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    q, positive, factor = above_zero(q, scale)
    dout_, out_, q_, k_, v_ = (x.transpose(1, 2) for x in (dout.to(q.dtype), out.to(q.dtype), q, k, v))
    dq, dk, dv = ops().memory_efficient_attention_backward(
        dout_, out_, lse.contiguous(), q_, k_, v_, bias, scale=positive, op=op
    )
    return gradient_of_q(dq, factor).transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)
