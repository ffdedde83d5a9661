"""The `reference` backend: the formula of the language, dense, in float64 (or float32 for lesser dtypes).

    out[q] = sum_k m e^s v_k / sum_k m e^s,    s = scale * <q, k>,    lse = log sum_k m e^s

Differentiable by autograd, to any order. For small N: it holds a matrix of N x N for every head.

Shape legend: B batch, H heads, M queries, N keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attnlang.pattern import Pattern
from attnlang.runtime import multiplicity
from attnlang.runtime.batches import padded_rows
from attnlang.runtime.merge import accumulator_dtype


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern | str,
    scale: float,
    dtype: torch.dtype | None = None,
    tables: Sequence[Tensor] = (),
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention under a pattern, by its formula: out (B, H, M, D) in q's dtype, lse (B, H, M) in float32 or float64.

    The pattern may be given as the text that `multiplicity.text` makes of it, as torch.compile wants it.
    `dtype` is what the formula is computed in; float64 for float64 inputs and else float32, unless given. `tables`
    holds the content of each runtime table in the pattern's order, of one axis more where items of the batch have
    their own; `lengths` (B,) the length of each sequence. k and v may have fewer heads; q may have fewer positions,
    and they are the last.
    """
    dtype = dtype or accumulator_dtype(q.dtype)
    if lengths is not None:  # padding may hold anything, and 0 times that need not be 0
        q, k, v = (x.masked_fill(padded_rows(lengths, x.size(2), x.device)[..., None], 0.0) for x in (q, k, v))
    heads, queries, n = q.size(1), q.size(2), k.size(2)
    k, v = (x.to(dtype).repeat_interleave(heads // x.size(1), 1) for x in (k, v))
    text = pattern if isinstance(pattern, str) else multiplicity.text(pattern)
    m_BHNN = multiplicity.matrix(text, n, heads, tables, lengths)[:, :, n - queries :]
    m_BHNN = m_BHNN.to(device=q.device, dtype=dtype)
    s_BHNN = q.to(dtype) @ k.transpose(-1, -2) * scale
    if not s_BHNN.numel():
        return (q.to(dtype) + k.sum() + v.sum()).to(q.dtype), s_BHNN.new_zeros(q.shape[:3])  # of all three, and empty
    largest = s_BHNN.detach().masked_fill(m_BHNN == 0, float("-inf")).amax(-1, keepdim=True)
    largest = largest.masked_fill(largest == float("-inf"), 0.0)
    p_BHNN = m_BHNN * (s_BHNN - largest).masked_fill(m_BHNN == 0, float("-inf")).exp()
    total = p_BHNN.sum(-1, keepdim=True)
    empty = total == 0
    out = (p_BHNN @ v) / total.masked_fill(empty, 1.0)
    lse = (largest + total.masked_fill(empty, 1.0).log()).masked_fill(empty, float("-inf"))
    return out.to(q.dtype), lse.squeeze(-1)
