"""Rotary position embedding (Su et al., arXiv:2104.09864), in the convention of transformers' Llama: rotate-half.

Dimension i < D/2 is turned with dimension i + D/2 by the angle  position * theta^(-2i/D);  GPT-J's convention, which
pairs neighbouring dimensions, is another one, and weights trained with it need their rows permuted.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Turn x (B, H, N, D) by its positions (N,) or (B, N); computed in float32 (float64 for float64), D even."""
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    half = x.size(-1) // 2
    rates = theta ** (-torch.arange(half, device=x.device, dtype=kind) / half)
    angles = positions.to(x.device, kind)[..., None] * rates  # (.., N, D/2)
    if angles.dim() == 3:
        angles = angles[:, None]
    cos, sin = angles.cos(), angles.sin()
    first, second = x.to(kind).split(half, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)
