"""Calls as strided 4-D views: what a library kernel accepts, without a gather and without a copy.

A call spans batch, its axes and rows; a kernel takes two outer dimensions. Dimensions that follow one another in
memory in every tensor are folded; of what remains, the two largest become the kernel's and the others a loop. Where
keys have fewer heads than queries, query head h reads head h // group of the keys.

Shape legend: B batch, H heads, N tokens, D head dimension; a launch has outer sizes X, Y and rows of q or of k.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor

from attnlang.runtime.calls import Call
from attnlang.runtime.groups import Grouped, grouped

Strides: TypeAlias = tuple[int, ...]
View: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int]
"""Size, stride and offset."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch: sizes (X, Y), and for each tensor its offset and its strides (X, Y, row), in elements."""

    call: Call
    sizes: tuple[int, int]
    offsets: tuple[int, ...]
    strides: tuple[tuple[int, int, int], ...]

    def view(self, tensor: Tensor, place: int, rows: int) -> Tensor:
        """The tensor numbered `place` as (X, Y, rows, D), or (X, Y, rows) for one without a last dimension."""
        last = (tensor.size(3), tensor.stride(3)) if tensor.dim() == 4 else None
        size, stride, offset = self.place(place, rows, last)
        return torch.as_strided(tensor, size, stride, tensor.storage_offset() + offset)

    def place(self, place: int, rows: int, last: tuple[int, int] | None) -> View:
        """Where that is: (X, Y, rows), and the last dimension, if any, as its size and stride."""
        size, stride = (*self.sizes, rows), self.strides[place]
        if last is None:
            return size, stride, self.offsets[place]
        return (*size, last[0]), (*stride, last[1]), self.offsets[place]


@lru_cache(maxsize=4096)
def launches(
    call: Call, batch: int, queries: tuple[Strides, ...], keys: tuple[Strides, ...], group: int = 1
) -> tuple[Launch, ...]:
    """The launches of a call. `queries` and `keys` are strides (B, H, N) of tensors indexed by query and by key.

    Tensors are numbered in this order: queries first, then keys.
    """
    return tuple(launch for part in grouped(call, group) for launch in _launches(part, batch, queries, keys))


def _launches(part: Grouped, batch: int, queries: tuple[Strides, ...], keys: tuple[Strides, ...]) -> Iterator[Launch]:
    call = part.call
    dims = [(batch, tuple(s[0] for s in (*queries, *keys)))]
    for axis in part.axes:
        strides = (
            *(axis.head * s[1] + axis.token * s[2] for s in queries),
            *(axis.key_head * s[1] + axis.key_token * s[2] for s in keys),
        )
        dims.append((axis.size, strides))
    dims = _folded([dim for dim in dims if dim[0] > 1])
    dims.sort(key=lambda dim: (min(dim[1]) >= 0, dim[0]))  # no view has a negative stride, but a loop can go back
    forwards = sum(min(stride) >= 0 for _, stride in dims)
    split = len(dims) - min(forwards, 2)
    looped, inner = dims[:split], dims[split:]
    zeros = (0,) * len(queries + keys)
    while len(inner) < 2:
        inner.insert(0, (1, zeros))
    first = (
        *(part.head * s[1] + part.q * s[2] for s in queries),
        *(part.key_head * s[1] + part.k * s[2] for s in keys),
    )
    rows = tuple(call.step * s[2] for s in (*queries, *keys))
    sizes = (inner[0][0], inner[1][0])
    strides = tuple(zip(inner[0][1], inner[1][1], rows, strict=True))
    for index in product(*(range(size) for size, _ in looped)):
        offsets = tuple(
            start + sum(i * stride[t] for i, (_, stride) in zip(index, looped, strict=True))
            for t, start in enumerate(first)
        )
        yield Launch(call, sizes, offsets, strides)


def _folded(dims: list[tuple[int, Strides]]) -> list[tuple[int, Strides]]:
    """(a, stride b * s) and (b, stride s)  -->  (a * b, stride s), where it holds for every tensor."""
    for i, (size, stride) in enumerate(dims):
        for j, (inner_size, inner_stride) in enumerate(dims):
            if i != j and stride == tuple(inner_size * s for s in inner_stride):
                rest = [dim for place, dim in enumerate(dims) if place not in (i, j)]
                return _folded([*rest, (size * inner_size, inner_stride)])
    return dims
