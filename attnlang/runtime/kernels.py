"""Torch's own attention kernels on (X, Y, rows, D) views: forward with lse, and backward from a given (out, lse).

A kernel runs full, causal, and (in its own way) banded calls. Its backward takes the *merged* out and lse of all
branches, which makes the gradient of each branch exact without any gradient through an lse.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from attnlang.plan import Band
from attnlang.runtime import cudnn
from attnlang.runtime.calls import Call
from attnlang.runtime.scales import above_zero, gradient_of_q

_aten = torch.ops.aten


class Kernel(Protocol):
    """What the sdpa backend needs of a kernel. All tensors are (X, Y, rows, D), lse (X, Y, rows); lse is natural."""

    @property
    def windows(self) -> bool:
        """Whether banded calls run as they are; otherwise they are cut into tiles first."""
        ...

    @property
    def grouped(self) -> bool:
        """Whether k and v may have fewer heads (Y) than q."""
        ...

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]: ...

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]: ...


@lru_cache(maxsize=64)
def band_mask(q_len: int, k_len: int, band: Band, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An additive mask (q_len, k_len), 0 inside the band and -inf outside: as large as a tile, never as a sequence."""
    distance = torch.arange(k_len, device=device)[None, :] - torch.arange(q_len, device=device)[:, None]
    outside = torch.zeros_like(distance, dtype=torch.bool)
    if band.lo is not None:
        outside |= distance < band.lo
    if band.hi is not None:
        outside |= distance > band.hi
    return torch.zeros(q_len, k_len, dtype=dtype, device=device).masked_fill_(outside, float("-inf"))


def _mask(q: Tensor, call: Call) -> Tensor | None:
    if call.causal or call.full:
        return None
    return band_mask(call.q_len, call.k_len, call.band, q.dtype, q.device)


@dataclass(frozen=True, slots=True)
class CpuFlash:
    """`_scaled_dot_product_flash_attention_for_cpu`: float64, float32, bfloat16, float16; strided views as they are."""

    windows: bool = False
    grouped: bool = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
        q, positive, _ = above_zero(q, scale)
        return _aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, call.causal, attn_mask=_mask(q, call), scale=positive
        )

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, positive, factor = above_zero(q, scale)
        dq, dk, dv = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            dout, q, k, v, out, lse, 0.0, call.causal, attn_mask=_mask(q, call), scale=positive
        )
        return gradient_of_q(dq, factor), dk, dv


@dataclass(frozen=True, slots=True)
class CudaFlash:
    """`_flash_attention_forward` (FlashAttention 2): float16 and bfloat16, D <= 256 a multiple of 8, with windows."""

    windows: bool = True
    grouped: bool = True

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
        q, positive, _ = above_zero(q, scale)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        left, right = window(call)
        out, lse, *_ = _aten._flash_attention_forward(
            q, k, v, None, None, call.q_len, call.k_len, 0.0, call.causal, False,
            scale=positive, window_size_left=left, window_size_right=right,
        )  # fmt: skip
        return out.transpose(1, 2), lse

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, positive, factor = above_zero(q, scale)
        dout, q, k, v, out = (x.transpose(1, 2) for x in (dout, q, k, v, out))
        left, right = window(call)
        unused = torch.empty(2, dtype=torch.uint64, device=q.device)
        dq, dk, dv = _aten._flash_attention_backward(
            dout, q, k, v, out, lse.contiguous(), None, None, call.q_len, call.k_len, 0.0, call.causal,
            unused, unused, scale=positive, window_size_left=left, window_size_right=right,
        )  # fmt: skip
        return gradient_of_q(dq, factor).transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)


def window(call: Call) -> tuple[int, int]:
    """The band as flash-attn counts it: keys left and right of the diagonal that ends in the lower right corner.

    Unlimited is -1 on both sides; with one side limited the other must be given, as far as it can reach. Neither is
    ever negative then: the last row of a call has a key, and its last column a query.
    """
    if call.causal or call.full:
        return -1, -1
    corner = call.k_len - call.q_len
    left = call.q_len + call.k_len if call.band.lo is None else corner - call.band.lo
    right = call.q_len + call.k_len if call.band.hi is None else call.band.hi - corner
    return left, right


@dataclass(frozen=True, slots=True)
class CudaEfficient:
    """`_efficient_attention_forward` (cutlass): float32 on CUDA; banded calls as tiles with small masks."""

    windows: bool = False
    grouped: bool = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
        bias = expanded_mask(q, call)
        out, lse, *_ = _aten._efficient_attention_forward(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), bias, None, None, call.q_len, call.k_len,
            0.0, 1 if call.causal else 0, True, scale=scale,
        )  # fmt: skip
        return out.transpose(1, 2), lse[..., : call.q_len]

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        dout, q_, k_, v_, out = (x.transpose(1, 2) for x in (dout, q, k, v, out))
        rows = -(-call.q_len // 32) * 32  # the kernel reads lse in rows padded to 32
        padded = lse.new_full((*lse.shape[:2], rows), float("inf"))
        padded[..., : call.q_len] = lse
        zero = torch.zeros((), dtype=torch.int64, device=q.device)
        dq, dk, dv, _ = _aten._efficient_attention_backward(
            dout.contiguous(), q_, k_, v_, expanded_mask(q, call), out.contiguous(), None, None, call.q_len,
            call.k_len, padded, 0.0, zero, zero, 1 if call.causal else 0, False, scale=scale,
        )  # fmt: skip
        return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)


def expanded_mask(q: Tensor, call: Call) -> Tensor | None:
    """The mask of a banded call as a bias (X, Y, q_len, k_len), aligned as cutlass reads it; None for other calls."""
    if call.causal or call.full:
        return None
    columns = -(-call.k_len // 8) * 8  # rows of a bias must begin at multiples of 16 bytes
    mask = band_mask(call.q_len, columns, call.band, q.dtype, q.device)[:, : call.k_len]
    return mask.expand(q.size(0), q.size(1), call.q_len, call.k_len)


def no_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why torch has no kernel for a device, dtype and head dimension, naming what can; None if it has one."""
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"backend 'sdpa' runs on cpu and cuda, not on {device.type}; backend 'reference' runs anywhere"
    if dtype == torch.float64:
        return "backend 'sdpa' has no float64 kernel on cuda: use float32, or backend 'reference', or the cpu"
    if head_dim % 8 or head_dim > 256:
        return (
            f"backend 'sdpa' on cuda needs a head dimension that is a multiple of 8 and at most 256, not {head_dim}; "
            "pad it with zeros, or use backend 'reference'"
        )
    return None


@lru_cache(maxsize=256)
def kernel_for(device: torch.device, dtype: torch.dtype, head_dim: int) -> Kernel:
    """The kernel that runs a device and dtype. Raises ValueError, naming what can, where torch has none."""
    reason = no_kernel(device, dtype, head_dim)
    if reason is not None:
        raise ValueError(reason)
    if device.type == "cpu":
        return CpuFlash()
    if dtype == torch.float32:
        return CudaEfficient()
    return CudaFlash() if cudnn.refusal_here(device, dtype, head_dim) else cudnn.CudaCudnn(CudaFlash())
