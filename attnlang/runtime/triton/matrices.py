"""Tensors as matrices, for tensor descriptors: a tile of strided rows of one head is a rectangle of a matrix.

Row r of the matrix of rate `step` holds tokens r * step .. r * step + step - 1, one after another, and of each token
whatever lies beside it in memory. So token t of a head is in row t // step, and the head and t mod step are a column.
A batch axis or a head axis lies either beside the tokens (columns) or after them (as if it were more tokens).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from attnlang.runtime.triton.nesting import MOST_PARTS

Place: TypeAlias = tuple[int, int, int, int]
"""How far to move for each batch item and head: tokens, tokens, columns, columns."""


@dataclass(frozen=True, slots=True)
class Matrices:
    """Descriptors of two streamed tensors, MOST_PARTS each (None after the last rate), and where heads are in them.

    places  for each tensor, where its batch items and heads are
    """

    descriptors: tuple[Any, ...]
    places: tuple[Place, Place]


def matrices(
    streamed: tuple[Tensor, Tensor], rates: tuple[int, ...], rows: int, gluon: bool = False
) -> Matrices | None:
    """Matrices of both tensors for each rate, in tiles of so many rows; None where the strides do not allow it.

    gluon: for a kernel in Gluon, whose descriptors say how a tile lies in shared memory.
    """
    places = places_of(streamed, rates)
    if places is None:
        return None
    found: list[Any] = []
    for x, place in zip(streamed, places, strict=True):
        made = [_matrix(x, place, rate, rows, gluon) for rate in rates]
        found += made + [None] * (MOST_PARTS - len(made))
    return Matrices(tuple(found), places)


def places_of(streamed: tuple[Tensor, Tensor], rates: tuple[int, ...]) -> tuple[Place, Place] | None:
    """Where batch items and heads are in the matrices of both tensors; None where their strides allow no matrix."""
    x, y = (_place(tensor, rates) for tensor in streamed)
    if x is None or y is None:
        return None
    rows = max(tensor.numel() for tensor in streamed) // streamed[0].size(-1)
    return (x, y) if rows * len(rates) < 2**31 else None


def planes(vector: Tensor, rates: tuple[int, ...]) -> Tensor:
    """A vector (B, H, N) once for each rate, rows of a residue class side by side: (rates, size of the largest plane).

    A plane of rate r is (B, H, r, rows) with N / r rows, rounded up to a multiple of 4 (16 bytes).
    """
    batch, heads, n = vector.shape
    if rates == (1,) and n % 4 == 0:
        return vector.reshape(1, -1)
    rows = [-(-n // (4 * rate)) * 4 for rate in rates]
    found = vector.new_zeros(len(rates), batch * heads * max(r * c for r, c in zip(rows, rates, strict=True)))
    for plane, count, rate in zip(found, rows, rates, strict=True):
        whole = torch.nn.functional.pad(vector, (0, count * rate - n))
        room = plane[: whole.numel()].view(batch, heads, rate, count)
        room.copy_(whole.view(batch, heads, count, rate).transpose(2, 3))
    return found


def vector_descriptor(vectors: Tensor, rows: int) -> TensorDescriptor:
    """Planes as one long vector, in tiles of so many rows."""
    return TensorDescriptor(vectors, [vectors.numel()], [1], [rows])


def _place(x: Tensor, rates: tuple[int, ...]) -> Place | None:
    batch, heads, n, dim = x.shape
    stride = x.stride(2)
    if dim < 16 or dim & (dim - 1) or any(n % rate for rate in rates):
        return None
    if x.data_ptr() % 16 or stride <= 0 or stride * x.element_size() % 16:
        return None
    tokens: list[int] = []
    columns: list[int] = []
    width = dim
    for size, step in ((batch, x.stride(0)), (heads, x.stride(1))):
        beside = size == 1 or 0 <= step * (size - 1) < stride
        if not beside and (step % stride or any(step // stride % rate for rate in rates)):
            return None
        tokens.append(0 if beside else step // stride)
        columns.append(step if beside and size > 1 else 0)
        width += columns[-1] * (size - 1)
    if width > stride:
        return None
    return tokens[0], tokens[1], columns[0], columns[1]


def _matrix(x: Tensor, place: Place, rate: int, rows: int, gluon: bool) -> Any:
    batch, heads, n, dim = x.shape
    tokens = n + place[0] * (batch - 1) + place[1] * (heads - 1)
    width = dim + place[2] * (batch - 1) + place[3] * (heads - 1)
    stride = x.stride(2)
    kind, layout = _gluon(rows, dim, x.dtype) if gluon else (TensorDescriptor, None)
    # not by its constructor, which takes as long as all the rest of a launch to check what `_place` has checked
    found: Any = object.__new__(kind)
    found.base = x
    found.shape, found.strides = [tokens // rate, (rate - 1) * stride + width], [rate * stride, 1]
    found.block_shape = [rows, dim]
    if gluon:
        found.layout = layout
    return found  # (of its other fields the defaults hold)


@lru_cache
def _gluon(rows: int, dim: int, dtype: torch.dtype) -> tuple[type, Any]:
    """Gluon's class of descriptors, and how a tile lies in shared memory."""
    from triton.experimental.gluon import language
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as Described

    dtypes: Any = {torch.float16: language.float16, torch.bfloat16: language.bfloat16}
    return Described, language.NVMMASharedLayout.get_default_for([rows, dim], dtypes[dtype])
