"""Plain attention by two: our forward pass on Hopper, and cuDNN's gradients from the out and lse that it leaves.

cuDNN's gradients are mostly faster than ours (at 32,768 tokens and D = 64 they are not), and so is its forward pass on
short sequences; on long ones at D = 64 ours is.
A backward pass takes any out and any natural lse, so that the two go together with no copy between them. What is here
is the rule, which `auto` follows (`attnlang.runtime.routes`); a backend asked for by name runs both passes itself.

The rule is a table made from measurements (`benchmarks/dense.py`; docs/kernels.md) and leaves to cuDNN whatever they
do not cover: fewer queries than keys, few rows, other head dimensions. D = 128 is not in it, where the
two are as close as one H100 is to another. Grouped heads are in it by a script that is not in the repository (12 and 32
heads of q on 4 and 8, 8,192 and 16,384 tokens: forward 1.18 to 1.34 times as fast as cuDNN's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from attnlang.plan import FULL, Lattice, Plan
from attnlang.runtime import triton

HOPPER = (9, 0)


@dataclass(frozen=True, slots=True)
class Least:
    """From where on our forward pass is the faster: tokens of a sequence, and rows of all heads of all sequences.

    Every head of every sequence is work of its own to both, so that a batch counts as so many more heads.
    """

    tokens: int
    rows: int


MEASURED: dict[tuple[int, bool], Least] = {
    (64, True): Least(8192, 8 * 8192),
    (64, False): Least(8192, 12 * 8192),
}
"""By head dimension, and whether the call is causal; on an H100, 8 and 12 heads of one sequence are the least.

tests/benchmarks/test_dense.py holds it to the results of the benchmark.
"""


def least_of(capability: tuple[int, int], dtype: torch.dtype, head_dim: int, causal: bool) -> Least | None:
    """From where on our forward pass is known to be faster than cuDNN's on a GPU of this capability; None: nowhere."""
    known = capability == HOPPER and dtype in (torch.float16, torch.bfloat16)
    return MEASURED.get((head_dim, causal)) if known else None


def is_faster(
    capability: tuple[int, int], dtype: torch.dtype, causal: bool, q_shape: Sequence[int], k_shape: Sequence[int]
) -> bool:
    """Whether our forward pass is known to be the faster on tensors of these shapes.

    q_shape (B, H, M, D) and k_shape (B, Hkv, N, D) are integers.
    """
    batch, heads, n, dim = q_shape
    least = least_of(capability, dtype, dim, causal)
    if least is None or n != k_shape[2]:
        return False
    return n >= least.tokens and batch * heads * n >= least.rows


@lru_cache(maxsize=16)
def capability_of(device: torch.device) -> tuple[int, int] | None:
    """The compute capability of a GPU of this machine; None for any other device."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" and torch.cuda.is_available() else None


def may_begin(q: Tensor, k: Tensor, causal: bool) -> bool:
    """Whether the forward pass is ours, as far as shapes and the device say: a compiler that traces knows no more.

    Where it has symbols for sizes no answer would hold for all of them, and cuDNN runs any.
    """
    capability = capability_of(q.device)
    if capability is None or not all(type(size) is int for size in (*q.shape, *k.shape)):
        return False
    return is_faster(capability, q.dtype, causal, q.shape, k.shape) and triton.has_hopper_kernels(q.device)


def remark(plan: Plan, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """From where on the forward pass of a plan of one call may be ours on a device, in words; "" where it never is."""
    capability = capability_of(device)
    causal = not any(isinstance(branch, Lattice) and branch.band == FULL for branch in plan.branches)
    least = None if capability is None else least_of(capability, dtype, head_dim, causal)
    if least is None or not triton.has_hopper_kernels(device):
        return ""
    return f"; from {least.tokens:,} tokens and {least.rows:,} rows of all heads on, triton runs the forward pass"


def begins(q: Tensor, k: Tensor, v: Tensor, plan: Plan, causal: bool) -> bool:
    """Whether the forward pass of a plan of one call is ours: our kernel must read the tensors as they lie, too."""
    return may_begin(q, k, causal) and triton.forward_on_hopper(q, k, v, plan)
