"""Scales that are not above 0, for kernels that scale what they have masked.

-inf times a scale below 0 is inf, and times 0 it is no number: torch's flash-attention (on the cpu and on CUDA), cuDNN
and xformers answer nan there. So such a scale goes into q, and out of dq. The same of one that float32, in which they
scale, has no normal number for.
"""

from __future__ import annotations

from torch import Tensor

LEAST = 2.0**-126
"""The smallest normal number of float32."""


def above_zero(q: Tensor, scale: float | None) -> tuple[Tensor, float | None, float]:
    """(c q, a scale above 0, c), where c times this scale is the one given. A scale of None, D ** -0.5, is above 0."""
    if scale is None or scale >= LEAST:
        return q, scale, 1.0
    factor, positive = (-1.0, -scale) if scale <= -LEAST else (scale, 1.0)
    return q * factor, positive, factor


def gradient_of_q(dq: Tensor, factor: float) -> Tensor:
    """The gradient of q from that of c q."""
    return dq if factor == 1 else dq * factor
