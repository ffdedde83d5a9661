"""cuDNN's attention through torch, as a kernel of the sdpa backend: the faster one on Hopper, where it is safe.

It runs full and causal calls; what it has no graph for (windows, single rows, rows that a view repeats) goes to
flash-attention. On an H100 it is 1.3 to 1.7 times as fast as flash-attention 2 (`benchmarks/`).

A graph is compiled for shapes and strides, and torch keeps it by the strides of q, k and v alone. So that no kept graph
ever meets another layout, d_out and out are handed to the backward pass in q's own layout, as the forward pass of cuDNN
writes out: then every stride is a function of those of q, k and v. That holds for torch's own autograd of the kernel
too: a hook looks at each d_out before its backward pass does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnlang.runtime.calls import Call
from attnlang.runtime.scales import above_zero, gradient_of_q

if TYPE_CHECKING:
    from attnlang.runtime.kernels import Kernel

# (private, as nothing else gives the lse; the same operator to autograd and to tracers as in torch.ops, and called 1 us
# sooner; its backward is in torch.ops alone)
_forward = torch._scaled_dot_product_cudnn_attention  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage] - see above
_backward = torch.ops.aten._scaled_dot_product_cudnn_attention_backward.default

HOPPER = (9, 0)
FIRST_VERSION = 91501
"""Before 9.15.1, cuDNN got lengths wrong that are no multiple of 128; torch itself prefers it from there on."""
LARGEST_HEAD_DIM = 128
LARGEST_GRID = 65535
"""Sizes of a batch, and of heads, that cuDNN takes."""


def refusal(
    capability: tuple[int, int], version: int | None, dtype: torch.dtype, head_dim: int, *, unwanted: bool = False
) -> str | None:
    """Why flash-attention runs instead of cuDNN; None where cuDNN does.

    capability  of the GPU
    version     cuDNN's, as 91501 for 9.15.1; None where torch has none
    unwanted    whether the user told torch to leave cuDNN aside
    """
    if unwanted:
        return "TORCH_CUDNN_SDPA_DEPRIORITIZED is set"
    if capability != HOPPER:
        return f"cuDNN is the faster on compute capability 9.0, and this GPU has {capability[0]}.{capability[1]}"
    if version is None:
        return "this torch has no cuDNN"
    if version < FIRST_VERSION:
        return f"cuDNN {_version_text(version)} is older than {_version_text(FIRST_VERSION)}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"cuDNN runs float16 and bfloat16, not {str(dtype).removeprefix('torch.')}"
    if head_dim % 8 or head_dim > LARGEST_HEAD_DIM:
        return f"cuDNN runs head dimensions that are multiples of 8 up to {LARGEST_HEAD_DIM}, not {head_dim}"
    return None


@lru_cache(maxsize=64)
def refusal_here(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """The same for a device of this machine."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return "there is no GPU here"
    version = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    unwanted = os.environ.get("TORCH_CUDNN_SDPA_DEPRIORITIZED") == "1"
    return refusal(torch.cuda.get_device_capability(device), version, dtype, head_dim, unwanted=unwanted)


def _version_text(version: int) -> str:
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def must_repeat() -> bool:
    """Whether gradients must repeat bit by bit, which cuDNN's do not: then others run, as by torch's own choice.

    That is what `torch.use_deterministic_algorithms` asks for.
    """
    return torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()


def has_graph(call: Call, q: Tensor, k: Tensor) -> bool:
    """Whether cuDNN runs a call on such views (X, Y, rows, D), as things stand."""
    if not (call.causal or call.full) or call.q_len < 2 or call.k_len < 2 or must_repeat():
        return False
    repeated = any(x.stride(dim) == 0 and x.size(dim) > 1 for x in (q, k) for dim in (0, 1))
    return not repeated and max(q.size(0), q.size(1)) <= LARGEST_GRID


@dataclass(frozen=True, slots=True)
class CudaCudnn:
    """`_scaled_dot_product_cudnn_attention` where it has a graph, and another kernel for the other calls."""

    others: Kernel
    windows: bool = True
    grouped: bool = True

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
        if not has_graph(call, q, k):
            return self.others.forward(q, k, v, call, scale)
        return forward(q, k, v, call.causal, scale)

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not has_graph(call, q, k):
            return self.others.backward(dout, q, k, v, out, lse, call, scale)
        return backward(dout, q, k, v, out, lse, call.causal, scale)


def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> tuple[Tensor, Tensor]:
    """Out (B, H, M, D) and lse (B, H, M) of one full or causal call; torch's own autograd is that of out.

    scale is D ** -0.5 where it is None.
    """
    q, positive, _ = above_zero(q, scale)
    out, lse, *_ = _forward(q, k, v, None, True, 0.0, causal, scale=positive)
    if out.requires_grad:
        _lay_gradients_as(out)
    return out, lse.squeeze(-1) if lse.dim() == 4 else lse


def output(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Tensor:
    """Out alone. No lse is written where no backward pass will read it, as by scaled_dot_product_attention."""
    gradients = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    q, positive, _ = above_zero(q, scale)
    out = _forward(q, k, v, None, gradients, 0.0, causal, scale=positive)[0]
    if gradients:
        _lay_gradients_as(out)
    return out


def _lay_gradients_as(out: Tensor) -> None:
    """Have each d_out brought into the layout of out before torch's backward pass sees it."""
    node = out.grad_fn
    assert node is not None
    node.register_prehook(_into_layout(out.stride()))


def backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Dq, dk and dv of one full or causal call."""
    unused = _unused(q.device)
    q, positive, factor = above_zero(q, scale)
    dq, dk, dv = _backward(
        in_layout(dout, q), q, k, v, in_layout(out, q), lse.contiguous().unsqueeze(-1), unused, unused,
        None, None, None, q.size(2), k.size(2), 0.0, causal, scale=positive,
    )  # fmt: skip
    return gradient_of_q(dq, factor), dk, dv


def in_layout(x: Tensor, q: Tensor) -> Tensor:
    """The tensor in q's dtype with the strides of a dense tensor laid out as q is: a copy, unless it is so already."""
    if x.dtype == q.dtype and x.is_contiguous() and q.is_contiguous():
        return x
    wanted = torch.empty_like(q)
    return x if x.stride() == wanted.stride() and x.dtype == q.dtype else wanted.copy_(x)


@lru_cache(maxsize=256)
def _into_layout(strides: tuple[int, ...]) -> Callable[[tuple[Tensor | None, ...]], tuple[Tensor | None, ...] | None]:
    """What brings the d_out of a call into the layout of its out, before torch's backward pass sees it."""

    def hook(grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...] | None:
        dout = grads[0]
        if dout is None or dout.stride() == strides:
            return None
        return torch.empty_strided(dout.shape, strides, dtype=dout.dtype, device=dout.device).copy_(dout), *grads[1:]

    return hook


@lru_cache(maxsize=16)
def _unused(device: torch.device) -> Tensor:
    """The state of a dropout that there is none of."""
    return torch.zeros(2, dtype=torch.int64, device=device)
