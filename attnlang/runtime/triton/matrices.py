"""Tensors as matrices, for tensor descriptors: a tile of strided rows of one head is a rectangle of a matrix.

Row r of the matrix of rate `step` holds tokens r * step .. r * step + step - 1, one after another, and of each token
whatever lies beside it in memory. So token t of a head is in row t // step, and the head and t mod step are a column.
A batch axis or a head axis lies either beside the tokens (columns) or after them (as if it were more tokens).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from attnlang.runtime.triton.nesting import MOST_PARTS

MAP_BYTES = 128
"""What a tensor map copies begins at a multiple of so many bytes of shared memory."""
Place: TypeAlias = tuple[int, int, int, int]
"""How far to move for each batch item and head: tokens, tokens, columns, columns."""


class Form(NamedTuple):
    """All that is known of a tensor but where it is and what it holds: what launches are made ready for.

    aligned  whether its address is a multiple of 16 bytes
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    aligned: bool = True

    def like(self) -> Form:
        """The form of `torch.empty_like` of such a tensor."""
        model = torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta")
        return Form(self.shape, torch.empty_like(model).stride(), self.dtype)

    def empty(self, near: Tensor) -> Tensor:
        """A tensor of this form on the device of another, of the same dtype."""
        return near.new_empty_strided(self.shape, self.strides)


def form_of(x: Tensor) -> Form:
    """The form of a tensor."""
    return Form(x.shape, x.stride(), x.dtype, not x.data_ptr() & 15)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A descriptor but for its address: of which tensor, its shape, strides and tiles.

    layout  how a tile lies in shared memory, for a kernel in Gluon
    """

    number: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, ...]
    layout: Any = None

    def of(self, tensors: Sequence[Tensor]) -> Any:
        """The descriptor of its tensor among those of a launch."""
        # not by its constructor, which takes as long as all the rest of a launch to check what `_place` has checked
        found: Any = object.__new__(TensorDescriptor if self.layout is None else _gluon_descriptor())
        found.base = tensors[self.number]
        found.shape, found.strides, found.block_shape = list(self.shape), list(self.strides), list(self.block)
        if self.layout is not None:
            found.layout = self.layout
        return found  # (of its other fields the defaults hold)


@dataclass(frozen=True, slots=True)
class Matrices:
    """Descriptors of two streamed tensors, MOST_PARTS each (None after the last rate), and where heads are in them.

    places  for each tensor, where its batch items and heads are
    """

    descriptors: tuple[Matrix | None, ...]
    places: tuple[Place, Place]


def matrices(
    streamed: tuple[Form, Form], numbers: tuple[int, int], rates: tuple[int, ...], rows: int, gluon: bool = False
) -> Matrices | None:
    """Matrices of both tensors for each rate, in tiles of so many rows; None where the strides do not allow it.

    numbers: which tensors of a launch they are. gluon: for a kernel in Gluon, which says how a tile lies in memory.
    """
    places = places_of(streamed, rates)
    if places is None:
        return None
    found: list[Matrix | None] = []
    for x, number, place in zip(streamed, numbers, places, strict=True):
        made = [matrix(x, number, place, rate, rows, gluon) for rate in rates]
        found += made + [None] * (MOST_PARTS - len(made))
    return Matrices(tuple(found), places)


def places_of(streamed: tuple[Form, Form], rates: tuple[int, ...]) -> tuple[Place, Place] | None:
    """Where batch items and heads are in the matrices of both tensors; None where their strides allow no matrix."""
    x, y = (_place(form, rates) for form in streamed)
    if x is None or y is None:
        return None
    rows = max(math.prod(form.shape) for form in streamed) // streamed[0].shape[-1]
    return (x, y) if rows * len(rates) < 2**31 else None


def plane_rows(n: int, rates: tuple[int, ...]) -> list[int]:
    """Rows of a residue class in the plane of each rate: n / r, rounded up to a multiple of 4 (16 bytes)."""
    return [-(-n // (4 * rate)) * 4 for rate in rates]


def plane_size(batch: int, heads: int, n: int, rates: tuple[int, ...]) -> int:
    """Numbers from one plane to the next."""
    return batch * heads * max(r * c for r, c in zip(plane_rows(n, rates), rates, strict=True))


def planes(vector: Tensor, rates: tuple[int, ...]) -> Tensor:
    """A vector (B, H, N) once for each rate, rows of a residue class side by side: (rates, size of the largest plane).

    A plane of rate r is (B, H, r, rows); what is beyond N or the end of a plane is 0.
    """
    batch, heads, n = vector.shape
    found = vector.new_zeros(len(rates), plane_size(batch, heads, n, rates))
    for plane, count, rate in zip(found, plane_rows(n, rates), rates, strict=True):
        whole = torch.nn.functional.pad(vector, (0, count * rate - n))
        room = plane[: whole.numel()].view(batch, heads, rate, count)
        room.copy_(whole.view(batch, heads, count, rate).transpose(2, 3))
    return found


def _place(x: Form, rates: tuple[int, ...]) -> Place | None:
    batch, heads, n, dim = x.shape
    stride = x.strides[2]
    if dim < 16 or dim & (dim - 1) or any(n % rate for rate in rates):
        return None
    if not x.aligned or stride <= 0 or stride * x.dtype.itemsize % 16:
        return None
    tokens: list[int] = []
    columns: list[int] = []
    width = dim
    for size, step in ((batch, x.strides[0]), (heads, x.strides[1])):
        beside = size == 1 or 0 <= step * (size - 1) < stride
        if not beside and (step % stride or any(step // stride % rate for rate in rates)):
            return None
        tokens.append(0 if beside else step // stride)
        columns.append(step if beside and size > 1 else 0)
        width += columns[-1] * (size - 1)
    if width > stride:
        return None
    return tokens[0], tokens[1], columns[0], columns[1]


def matrix(x: Form, number: int, place: Place, rate: int, rows: int, gluon: bool) -> Matrix:
    """The matrix of one rate of a tensor that is seen at this place, in tiles of so many rows."""
    batch, heads, n, dim = x.shape
    tokens = n + place[0] * (batch - 1) + place[1] * (heads - 1)
    width = dim + place[2] * (batch - 1) + place[3] * (heads - 1)
    stride = x.strides[2]
    shape, strides = (tokens // rate, (rate - 1) * stride + width), (rate * stride, 1)
    return Matrix(number, shape, strides, (rows, dim), layout_of(rows, dim, x.dtype) if gluon else None)


def layout_of(rows: int, dim: int, dtype: torch.dtype) -> Any:
    """How Gluon has a tile lie in shared memory."""
    from triton.experimental.gluon import language

    dtypes: Any = {torch.float16: language.float16, torch.bfloat16: language.bfloat16}
    return language.NVMMASharedLayout.get_default_for([rows, dim], dtypes[dtype])


def layout_of_vectors() -> Any:
    """How Gluon has a stretch of a float32 vector lie in shared memory."""
    from triton.experimental.gluon import language

    return language.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=1)


@lru_cache
def _gluon_descriptor() -> type:
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as Described

    return Described
