"""Tensors in the layouts that kernels read and operators promise: copies, unless they are so already."""

from __future__ import annotations

import torch
from torch import Tensor


def readable(x: Tensor) -> Tensor:
    """The tensor with last stride 1, and on cuda with every row at a multiple of 16 bytes, as kernels read them."""
    if not x.is_cuda:
        return x if x.stride(-1) == 1 or x.size(-1) == 1 else x.contiguous()
    unit = max(1, 16 // x.element_size())
    if x.is_contiguous() and x.size(-1) % unit == 0:
        aligned = True
    elif x.stride(-1) != 1 and x.size(-1) != 1:
        return x.contiguous()
    else:
        aligned = all(x.stride(dim) % unit == 0 for dim in range(x.dim() - 1) if x.size(dim) > 1)
    return x if aligned and x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.contiguous_format)


def full_length(x: Tensor, n: int) -> Tensor:
    """Rows (B, H, M, D) as the last of n rows; the others are 0 and cut off again."""
    return x if x.size(2) == n else torch.nn.functional.pad(x, (0, 0, n - x.size(2), 0))


def like(x: Tensor, model: Tensor) -> Tensor:
    """The tensor in the layout that the operator promises: that of torch.empty_like(model)."""
    if x.stride() == model.stride():
        return x
    wanted = layout(model)
    return x if x.stride() == wanted.stride() else wanted.copy_(x)


def layout(model: Tensor) -> Tensor:
    """An empty tensor in that layout."""
    return torch.empty_like(model, memory_format=torch.preserve_format)
