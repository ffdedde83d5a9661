"""Partial results merged by one small kernel, where `attnlang.runtime.merge` takes a dozen passes over the rows.

Shape legend: X, Y any two outer dimensions, N rows, D head dimension.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from attnlang.runtime.triton import on_device, rows
from attnlang.runtime.triton.kept import Call, Pointer, launch
from attnlang.runtime.triton.tuning import padded

ROWS = 32
"""Rows of a program."""

Strides: TypeAlias = tuple[int, int, int]


def merge_(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Merge a partial result (X, Y, N, D) and its float32 lse (X, Y, N) into out and lse, in place and in float32.

    Any strides but that of D, which is 1; out and part may be float32 or of 16 bits, each.
    """
    if not out.numel():
        return
    strides = tuple(x.stride()[:3] for x in (out, lse, part, part_lse))
    with on_device(out.device):
        launch((_call(tuple(out.shape), strides, out.dtype, part.dtype, out.device),), (out, lse, part, part_lse))


@lru_cache(maxsize=256)
def _call(
    shape: tuple[int, ...], strides: tuple[Strides, ...], kind: torch.dtype, part: torch.dtype, device: torch.device
) -> Call:
    """The launch, for tensors of these forms: dtypes and the device are what it is kept by besides."""
    x, y, n, dim = shape
    return Call(
        rows.merge_rows,
        (-(-n // ROWS), y, x),
        (*map(Pointer, range(4)), *(stride for each in strides for stride in each), n),
        {"D": dim, "PADDED": padded(dim), "F": ROWS},
    )
