"""The `reference` backend: the formula of the language, dense, in float64 (or float32 for lesser dtypes).

    out[q] = sum_k m e^s v_k / sum_k m e^s,    s = scale * <q, k>,    lse = log sum_k m e^s

Differentiable by autograd, to any order. For small N: it holds a matrix of N x N for every head.

Shape legend: B batch, H heads, N tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from attnlang.pattern import Pattern
from attnlang.runtime.merge import accumulator_dtype


@lru_cache(maxsize=8)
def _fixed(pattern: Pattern, n: int, heads: int) -> Tensor:
    return torch.from_numpy(pattern.multiplicity(n, heads))


def _multiplicity(pattern: Pattern, n: int, heads: int, batch: int, tables: Mapping[str, Tensor]) -> Tensor:
    """M as (heads, N, N), or as (B, heads, N, N) where a table has one content for each item of the batch."""
    if not tables:
        return _fixed(pattern, n, heads)
    shared = {name: table.cpu().numpy() for name, table in tables.items()}
    batched = {name for name, axes in pattern.tables if tables[name].dim() > axes}
    if not batched:
        return torch.from_numpy(pattern.multiplicity(n, heads, **shared))
    items = [
        {name: table[item] if name in batched else table for name, table in shared.items()} for item in range(batch)
    ]
    return torch.stack([torch.from_numpy(pattern.multiplicity(n, heads, **item)) for item in items])


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    scale: float,
    dtype: torch.dtype | None = None,
    tables: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention under a pattern, by its formula: out (B, H, N, D) in q's dtype, lse (B, H, N) in float32 or float64.

    `dtype` is what the formula is computed in; float64 for float64 inputs and else float32, unless given. `tables`
    holds the content of each runtime table, of one axis more where items of the batch have their own.
    """
    dtype = dtype or accumulator_dtype(q.dtype)
    m_HNN = _multiplicity(pattern, q.size(2), q.size(1), q.size(0), tables or {}).to(device=q.device, dtype=dtype)
    s_BHNN = q.to(dtype) @ k.to(dtype).transpose(-1, -2) * scale
    if not s_BHNN.numel():
        return q + k + v, s_BHNN.new_zeros(q.shape[:3])  # empty, and still a function of all three
    largest = s_BHNN.detach().masked_fill(m_HNN == 0, float("-inf")).amax(-1, keepdim=True)
    largest = largest.masked_fill(largest == float("-inf"), 0.0)
    p_BHNN = m_HNN * (s_BHNN - largest).masked_fill(m_HNN == 0, float("-inf")).exp()
    total = p_BHNN.sum(-1, keepdim=True)
    empty = total == 0
    out = (p_BHNN @ v.to(dtype)) / total.masked_fill(empty, 1.0)
    lse = (largest + total.masked_fill(empty, 1.0).log()).masked_fill(empty, float("-inf"))
    return out.to(q.dtype), lse.squeeze(-1)
