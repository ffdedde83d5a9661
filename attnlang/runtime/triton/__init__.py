"""The `triton` backend: our own kernels, one launch a branch at most, on the pairs of the pattern alone.

`kernels` is the kernel and `streams` its loops, `launches` says what is launched, `lists` holds block lists, `tuning`
tile shapes; `ready` works out the arguments of launches, `kept` keeps what was launched, and `run` launches. See
docs/kernels.md. Triton itself is imported at the first call.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from attnlang.plan import Plan

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST_HEAD_DIM = 256


def forward(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, tables: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Attention under a plan: out (B, H, N, D) in q's dtype, lse (B, H, N) in float32, natural logarithm.

    q is (B, H, N, D), k and v (B, K, N, D) with H a multiple of K. Rows without keys get out 0 and lse -inf.
    """
    from attnlang.runtime.triton import run

    with on_device(q.device):
        return run.forward(q, k, v, plan, scale, tables)


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
    """Gradients of q, k and v from d_out and the results of `forward`; two calls agree bit by bit."""
    return begin_backward(dout, q, k, v, out, lse, plan, scale, tables)()


def begin_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    plan: Plan,
    scale: float,
    tables: Mapping[str, Tensor],
) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """The same in two halves: here runs what leaves room for others on the GPU, in what is returned what fills it."""
    from attnlang.runtime.triton import run

    with on_device(q.device):
        rest = run.begin_backward(dout, q, k, v, out, lse, plan, scale, tables)

    def finish() -> tuple[Tensor, Tensor, Tensor]:
        with on_device(q.device):
            return rest()

    return finish


def refusal(plan: Plan, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why this backend cannot run a plan, and what can; None if it can."""
    others = "backends 'sdpa' and 'reference' can"
    if importlib.util.find_spec("triton") is None:
        return f"backend 'triton' needs the package triton, which is not installed; {others} do without"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not (device.type == "cpu" and interpreted):
        return f"backend 'triton' runs on CUDA devices, not on {device.type}; {others}"
    if dtype not in DTYPES:
        if device.type == "cuda" and dtype == torch.float64:
            others = "backend 'reference' can, and 'sdpa' on the cpu"
        return f"backend 'triton' computes in float16, bfloat16 and float32, not in {_name(dtype)}; {others}"
    if interpreted and dtype == torch.bfloat16:
        return f"triton's interpreter gets bfloat16 products wrong; use float16 or float32 there; {others}"
    if not 1 < head_dim <= LARGEST_HEAD_DIM:
        return f"backend 'triton' needs a head dimension of 2 to {LARGEST_HEAD_DIM}, not {head_dim}; {others}"
    there = device.type == "cuda" and torch.cuda.is_available()  # else a plan for another machine's GPU
    if there and torch.cuda.get_device_capability(device) < (8, 0):
        return f"backend 'triton' needs a GPU of compute capability 8.0 or later; {others}"
    return None


def has_hopper_kernels(device: torch.device) -> bool:
    """Whether the kernels for Hopper run what they can on a device, with the triton that is here."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    from attnlang.runtime.triton import specialised

    return specialised.available(device)


def forward_on_hopper(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> bool:
    """Whether `forward` runs in the kernel for Hopper on such tensors; of any scale above 0."""
    from attnlang.runtime.triton import run

    with on_device(q.device):
        return run.is_specialised(q, k, v, plan, q.size(-1) ** -0.5)


def remark(device: torch.device) -> str:
    """What `attnc env` says beside the dtypes: which kernel does not run there, and why."""
    if device.type != "cuda":
        return ""
    import triton

    from attnlang.runtime.triton import specialised

    return specialised.refusal(torch.cuda.get_device_capability(device), triton.__version__) or ""


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device; tensors may be on another."""
    if device.type != "cuda" or device.index in (None, torch.cuda.current_device()):
        return nullcontext()
    return torch.cuda.device(device)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
