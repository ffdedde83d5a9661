"""Partial results over disjoint (or repeated) sets of keys, put together: softmax denominators add up.

    lse = log(e^lse_a + e^lse_b),    out = e^(lse_a - lse) out_a + e^(lse_b - lse) out_b

This is LongNet's equation 10, and equal to one softmax over all keys with their multiplicity.
"""

from __future__ import annotations

import torch
from torch import Tensor


def merge_(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Merge a partial result (.., I, D), (.., I) into `out` and `lse` in place; a row without keys has lse -inf."""
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
