"""Partial results over disjoint (or repeated) sets of keys, put together: softmax denominators add up.

    lse = log(e^lse_a + e^lse_b),    out = e^(lse_a - lse) out_a + e^(lse_b - lse) out_b

This is LongNet's equation 10, and equal to one softmax over all keys with their multiplicity.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

OUTER = 65535
"""Sizes of outer dimensions that a grid takes."""


def merge_(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Merge a partial result (.., I, D), (.., I) into `out` and `lse` in place; a row without keys has lse -inf.

    Everything is added up in float32 (float64 for float64). On CUDA one kernel does it where triton is there.
    """
    fused = _fused(out.device) if lse.dtype == part_lse.dtype == torch.float32 else None
    if fused is not None and out.dim() in (3, 4) and out.stride(-1) == part.stride(-1) == 1:
        tensors = out, lse, part, part_lse
        four = tensors if out.dim() == 4 else tuple(x.unsqueeze(0) for x in tensors)
        if max(four[0].shape[:2]) <= OUTER:
            fused(*four)
            return
    total = out if out.dtype == accumulator_dtype(out.dtype) else out.to(lse.dtype)
    _merge_(total, lse, part, part_lse)
    if total is not out:
        out.copy_(total)


@lru_cache
def _fused(device: torch.device) -> Callable[..., None] | None:
    """The kernel that merges on a device, if there is one."""
    if device.type != "cuda" or find_spec("triton") is None or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    return import_module("attnlang.runtime.triton.merging").merge_


def _merge_(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    merged = torch.logaddexp(lse, part_lse)
    none = merged == float("-inf")
    merged = merged.masked_fill(none, 0.0)
    out.mul_((lse - merged).exp_().unsqueeze(-1))
    out.addcmul_(part.to(out.dtype), (part_lse - merged).exp_().unsqueeze(-1))
    lse.copy_(merged.masked_fill_(none, float("-inf")))


def blend_(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """The same for a partial result in which every row has a key: fewer passes, and nothing to mask.

    e^(part_lse - merged) = sigmoid(part_lse - lse), and the two weights add up to 1
    """
    weight = (part_lse - lse).sigmoid_()
    out.lerp_(part.to(out.dtype), weight.unsqueeze(-1))
    torch.logaddexp(lse, part_lse, out=lse)


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """What partial results are added up in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
