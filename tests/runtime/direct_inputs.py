"""Inputs and comparisons for the tests of plans that are one call of torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ROUNDING = {"rtol": 0, "atol": 1e-12}
ON_CPU = "_scaled_dot_product_flash_attention_for_cpu"


def tensors(
    n: int = 40, heads: int = 4, batch: int = 2, grad: bool = True, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    shapes = (batch, 4, n, 8), (batch, heads, n, 8), (batch, heads, n, 8)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_(grad) for shape in shapes]


def with_grads(module: Callable[..., Any], inputs: list[Tensor], **rest: Any) -> list[Tensor]:
    out, lse = module(*inputs, return_lse=True, **rest)
    return [out, lse, *torch.autograd.grad(out, inputs, torch.ones_like(out).cumsum(-1))]


def same(mine: list[Tensor], true: list[Tensor]) -> None:
    for a, b in zip(mine, true, strict=True):
        torch.testing.assert_close(a, b, **(ROUNDING if a.dtype == torch.float64 else {}))
