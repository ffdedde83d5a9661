"""A batch like the one before goes straight where that one went.

Whether q, k and v fit a module, and what runs them, is decided by their sizes, strides, dtypes and devices, by whether
their data is aligned, by autocast, and by who looks on. A batch that agrees in all of these with the one before needs
no checks and no choice: 2 us in place of 7, and among other work 5 in place of 12, for which a short call on a GPU
would wait. Whether there are gradients to come is asked where the batch runs.

What is kept are sizes and names, no tensors. A batch is compared with one other alone, and attribute by attribute: to
look it up among many, a key would be made and hashed, which takes as long again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from attnlang.runtime import cudnn
from attnlang.runtime.direct import ALIGNMENT
from attnlang.runtime.ops import unobserved
from attnlang.runtime.routes import Route, route_for

Sizes: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """A batch without lengths and tables that fits a module of so many heads, and where it goes.

    aligned   whether all data begins where a GPU wants it
    autocast  whether autocast is on there: to the batch's own dtype then
    repeats   whether results were to repeat bit by bit
    """

    heads: int
    backend: str
    dtype: torch.dtype
    device: torch.device
    device_type: str
    q_shape: Sizes
    k_shape: Sizes
    v_shape: Sizes
    q_stride: Sizes
    k_stride: Sizes
    v_stride: Sizes
    aligned: bool
    autocast: bool
    repeats: bool
    route: Route

    def is_like(self, q: Tensor, k: Tensor, v: Tensor, heads: int, backend: str) -> bool:
        """Whether what is given, which may be anything at all, fits just as well and goes the same way."""
        try:
            return (
                unobserved(q, k, v)
                and q.dtype is k.dtype is v.dtype is self.dtype
                and q.device == k.device == v.device == self.device
                and q.shape == self.q_shape
                and k.shape == self.k_shape
                and v.shape == self.v_shape
                and q.stride() == self.q_stride
                and k.stride() == self.k_stride
                and v.stride() == self.v_stride
                and ((q.data_ptr() | k.data_ptr() | v.data_ptr()) % ALIGNMENT == 0) is self.aligned
                and torch.is_autocast_enabled(self.device_type) is self.autocast
                and (not self.autocast or torch.get_autocast_dtype(self.device_type) is self.dtype)
                and cudnn.must_repeat() is self.repeats
                and heads == self.heads
                and backend == self.backend
            )
        except RuntimeError:  # nested tensors have no shape, sparse ones no strides, those left of transforms no data
            return False

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A copy of a module, or a pickle, is one that has seen nothing."""
        return type(None), ()


def seen(q: Tensor, k: Tensor, v: Tensor, program: str, heads: int, backend: str) -> Seen | None:
    """What to keep of a batch that fits; None where every such batch has to be decided on by itself.

    Raises ValueError where no backend can run the program there.
    """
    if not unobserved(q, k, v) or type(q.size(3)) is not int:  # (sizes are tensors while torch.jit traces)
        return None
    device_type = q.device.type
    autocast = torch.is_autocast_enabled(device_type)
    if autocast and torch.get_autocast_dtype(device_type) is not q.dtype:
        return None
    route = route_for(q, k, v, (), None, backend, program)
    if route is None:
        return None
    try:
        aligned = (q.data_ptr() | k.data_ptr() | v.data_ptr()) % ALIGNMENT == 0
    except RuntimeError:  # (as above)
        return None
    shapes, strides = (q.shape, k.shape, v.shape), (q.stride(), k.stride(), v.stride())
    return Seen(
        heads, backend, q.dtype, q.device, device_type, *shapes, *strides, aligned, autocast, cudnn.must_repeat(), route
    )
