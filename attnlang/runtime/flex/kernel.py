"""The two functions that are compiled: FlexAttention under intervals, and under the bits of tiles.

Everything that differs from plan to plan is an argument, so one compilation serves all patterns, lengths and tables of
a dtype and head dimension. Batch and heads are one dimension X; the heads of FlexAttention are 1.

Shape legend: X batch times heads, L rows of queries, S of keys, D head dimension, P lists.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeAlias

import torch
import torch._dynamo.config as dynamo  # pyright: ignore[reportPrivateUsage] - where its limits are set
import torch.fx.experimental._config as shapes  # pyright: ignore[reportPrivateUsage]
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from attnlang.runtime.flex.lists import SIDE

Orders: TypeAlias = Sequence[Tensor]
"""Counts and indices of kv, full_kv, q and full_q: eight tensors, (P, rows) and (P, rows, width)."""
MaskMod: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

LOG2_SIDE = SIDE.bit_length() - 1
"""Blocks are found by shifts: of // and % inductor writes out what they do to negative numbers, for every pair."""
KERNEL = {"FORCE_USE_FLEX_ATTENTION": True}
"""Not the kernel for decoding, which FlexAttention takes for few rows: it would be compiled for by itself."""
TUNED = (64, 128, 256)
"""Head dimensions for which torch 2.11 has tile shapes for every dtype and GPU."""
MOST_GRAPHS = 256
"""Compilations of one function: dtypes, head dimensions, scales, and sizes of 1."""
LARGEST_ON_CPU = 2**28
"""Scores that FlexAttention may write down on the cpu, where it has no kernel that returns lse."""


def under_intervals(
    q: Tensor, k: Tensor, v: Tensor, mask: Sequence[Tensor], orders: Orders, scale: float
) -> tuple[Tensor, Tensor]:
    """Out (X, 1, L, D) and lse (X, 1, L) where row i of x sees keys lower[which[x], i]..upper[which[x], i]."""
    which, lower, upper = mask

    def holds(x: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        row = which[x]
        return (j >= lower[row, i]) & (j <= upper[row, i])

    return _flex(q, k, v, holds, orders, scale)


def under_tiles(
    q: Tensor, k: Tensor, v: Tensor, mask: Sequence[Tensor], orders: Orders, scale: float
) -> tuple[Tensor, Tensor]:
    """Out (X, 1, L, D) and lse (X, 1, L) under the pairs that `pieces.TileBits` describes."""
    offset, first, width, base, table, bits = mask

    def holds(x: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        row = i >> LOG2_SIDE
        place = (j >> LOG2_SIDE) - first[row]
        inside = (place >= 0) & (place < width[row])
        number = base[row] + table[torch.where(inside, offset[row] + place, 0)]
        byte = bits[number, i & (SIDE - 1), (j & (SIDE - 1)) >> 3]
        return ((byte.to(torch.int32) >> (j & 7)) & 1) != 0

    return _flex(q, k, v, holds, orders, scale, under_bits=True)


def _flex(
    q: Tensor, k: Tensor, v: Tensor, holds: MaskMod, orders: Orders, scale: float, under_bits: bool = False
) -> tuple[Tensor, Tensor]:
    block_mask = BlockMask(
        (q.size(2), k.size(2)), *(order.unsqueeze(1) for order in orders), BLOCK_SIZE=(SIDE, SIDE), mask_mod=holds
    )
    dim = q.size(-1)
    tiles = _forward_tiles(dim, q.element_size()) if dim not in TUNED or (under_bits and dim == 64) else {}
    options: Any = {**KERNEL, **tiles}
    out, stats = flex_attention(
        q, k, v, block_mask=block_mask, scale=scale, return_aux=AuxRequest(lse=True), kernel_options=options
    )
    assert stats.lse is not None
    return out, stats.lse


def _forward_tiles(head_dim: int, itemsize: int) -> dict[str, int]:
    """Queries and keys of a tile of the forward, where torch's choice does not fit.

    For head dimensions that it has no shapes for it takes 64 x 64, which from 129 on is more than the shared memory of
    an A100, and in float32 of an H100. At 64 it takes 128 x 128 pairs for four warps on an H100: with the bits of so
    many pairs, registers spill by kilobytes.
    """
    return {"fwd_BLOCK_M": 64, "fwd_BLOCK_N": (128 if head_dim <= 128 else 64) // itemsize}


def no_backward(device: torch.device) -> str | None:
    """Why there is no backward on a device, naming what has one; None where there is."""
    if device.type == "cpu":
        return "backend 'flex' has no backward on the cpu, as FlexAttention has none; backend 'sdpa' has"
    return None


@lru_cache(maxsize=2)
def _compiled(function: Callable[..., Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(function, dynamic=True, fullgraph=True)


@contextmanager
def one_for_all() -> Generator[None]:
    """Compile without the assumption that sizes which are equal once always are, and as often as there are dtypes.

    The scale is a number in the kernel's text: as the symbol that dynamic=True makes of a float, it has no name there.
    """
    limits = dynamo.patch(
        recompile_limit=MOST_GRAPHS, accumulated_recompile_limit=4 * MOST_GRAPHS, specialize_float=True
    )
    with limits, shapes.patch(use_duck_shape=False):  # pyright: ignore[reportAttributeAccessIssue]
        yield


def run(
    function: Callable[..., Any],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Sequence[Tensor],
    orders: Orders,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """One of the two functions, compiled on cuda and as it stands on the cpu."""
    if q.is_cuda:
        with one_for_all():
            return _compiled(function)(q, k, v, mask, orders, scale)
    scores = q.size(0) * q.size(2) * k.size(2)
    if scores > LARGEST_ON_CPU:
        raise ValueError(
            f"backend 'flex' writes down all {scores:,} scores on the cpu, and makes at most {LARGEST_ON_CPU:,}; "
            "backend 'sdpa' does without"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return function(q, k, v, mask, orders, scale)
