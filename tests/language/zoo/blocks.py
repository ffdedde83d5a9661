"""Patterns that their authors lay out in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.language.zoo.frame import Definition, Frame

BLOCK = 8


def spread(layout: Any, f: Frame, block: int = BLOCK) -> Any:
    """A layout of blocks as a mask of tokens."""
    return np.kron(layout, np.ones((block, block), int))[..., : f.N, : f.N]


def count(f: Frame, block: int = BLOCK) -> int:
    return -(-f.N // block)


def bigbird(f: Frame) -> Any:
    """Window of three, first and last block global; the random blocks are tested by themselves."""
    n = count(f)
    i, j = np.indices((n, n))
    return spread((abs(i - j) <= 1) | np.isin(i, [0, n - 1]) | np.isin(j, [0, n - 1]), f)


def deepspeed_fixed(f: Frame, local: int = 4, verticals: int = 2, patterns: int = 2, horizontal: bool = False) -> Any:
    """FixedSparsityConfig.make_layout: set_local_layout, then set_global_layout."""
    n = count(f)
    layout = np.zeros((f.H, n, n), int)
    for head in range(f.H):
        for i in range(0, n, local):
            layout[head, i : i + local, i : i + local] = 1
        first = local - (1 + head % patterns) * verticals
        end = n - n % local
        for i in range(first, end, local):
            layout[head, :, i : i + verticals] = 1
            if horizontal:
                layout[head, i : i + verticals, :] = 1
        if end < n:
            start = min(end + first, n - verticals)
            layout[head, :, start : start + verticals] = 1
            if horizontal:
                layout[head, start : start + verticals, :] = 1
    return spread(layout, f)


def deepspeed_variable(f: Frame) -> Any:
    """VariableSparsityConfig: windows 2, 1, 3, 3, 3, .. and the global columns 0 and 4."""
    n = count(f)
    layout = np.zeros((n, n), int)
    start, windows = 0, [2, 1, 3]
    while start < n:
        size = windows.pop(0) if len(windows) > 1 else windows[0]
        layout[start : start + size, start : start + size] = 1
        start += size
    layout[:, [0, 4]] = 1
    return spread(layout, f)


def bslongformer(f: Frame) -> Any:
    n = count(f)
    layout = np.zeros((n, n), int)
    for row in range(n):
        layout[row, max(0, row - 2) : row + 3] = 1
    for block in (0, 3):
        layout[block, :] = layout[:, block] = 1
    return spread(layout, f)


def deepspeed_bigbird(f: Frame) -> Any:
    n = count(f)
    layout = np.zeros((n, n), int)
    for row in range(n):
        layout[row, max(0, row - 1) : row + 2] = 1
    layout[:2, :] = layout[:, :2] = 1
    return spread(layout, f)


def phi3_small(f: Frame) -> Any:
    """vllm's `_get_sparse_attn_mask_heads`: local blocks, or a column whose number and head hit the stride."""
    n, step = count(f), max(1, 4 // f.H)
    layout = np.zeros((f.H, n, n), int)
    for head in range(f.H):
        for row in range(n):
            for column in range(row + 1):
                layout[head, row, column] = row - column < 2 or (column + head * step + 1) % 4 == 0
    return spread(layout, f) & f.past


def block_diffusion(f: Frame, b: int = 6) -> Any:
    """BD3-LM's block_diff_mask: x0_flag marks the clean half; block diagonal, offset block causal, block causal."""
    half = f.N // 2
    x0_q, x0_k = f.q >= half, f.k >= half
    block_q, block_k = np.where(x0_q, f.q - half, f.q) // b, np.where(x0_k, f.k - half, f.k) // b
    diagonal = (block_q == block_k) & (x0_q == x0_k) & ~x0_q
    offset = (block_q > block_k) & x0_k & ~x0_q
    return diagonal | offset | ((block_q >= block_k) & x0_k & x0_q)


def phi3_small_layer(f: Frame) -> Any:
    """Layer 3 of Phi-3-small: (layer + 1) % 3 > 0, so that it is sparse; blocks of 64, 16 local ones, stride 8."""
    i, j = f.q // 64, f.k // 64
    return f.past & ((i - j < 16) | ((j + f.h * max(1, 8 // f.H) + 1) % 8 == 0))


def svg_spatial_gym(f: Frame, prompt: int = 5, frame: int = 10, width: int = 2, rounded: int = 8) -> Any:
    """spatial_mask_mod of attn_gym/masks/svg.py, with attn_sink."""
    return (f.q < prompt) | (f.k < prompt + frame) | (abs(f.d) < width * frame // rounded * rounded)


def svg_temporal_gym(f: Frame, prompt: int = 5, frames: int = 4, frame: int = 10, width: int = 2) -> Any:
    """temporal_mask_mod of attn_gym/masks/svg.py."""
    near = abs((f.q - prompt) % frame - (f.k - prompt) % frame) < width * frame // frames
    return (f.q < prompt) | (f.k < prompt) | near


DEFINITIONS: dict[str, Definition] = {
    "bigbird": ({"b": BLOCK, "r": 0}, bigbird),
    "deepspeed_fixed": ({"block": BLOCK, "verticals": 2, "patterns": 2}, deepspeed_fixed),
    "deepspeed_fixed_causal": (
        {"block": BLOCK, "verticals": 2, "patterns": 2}, lambda f: deepspeed_fixed(f) & f.past
    ),
    "deepspeed_variable": ({"block": BLOCK, "windows": [2, 1, 3], "globals": [0, 4]}, deepspeed_variable),
    "deepspeed_bigbird": ({"block": BLOCK, "r": 0, "g": 2}, deepspeed_bigbird),
    "bslongformer": ({"block": BLOCK, "window_blocks": 5, "globals": [0, 3]}, bslongformer),
    "deepspeed_sliding": (
        {"block": BLOCK, "window_blocks": 5}, lambda f: f.past & (f.q // BLOCK - f.k // BLOCK <= 2)
    ),
    "phi3_small": ({"block": BLOCK, "local": 2, "stride": 4}, phi3_small),
    "block_diffusion": ({"b": 6}, block_diffusion),
    "phi3_small_layers": ({"every": 3, "layer": 3, "L": 6}, phi3_small_layer),
    "svg_spatial_gym": (
        {"prompt": 5, "frame": 10, "width": 2, "rounded": 8, "sink": True}, svg_spatial_gym
    ),
    "svg_temporal_gym": ({"prompt": 5, "frames": 4, "frame": 10, "width": 2}, svg_temporal_gym),
    "svg_spatial": (
        {"frame": 10, "radius": 1}, lambda f: (abs(f.q // 10 - f.k // 10) <= 1) | (f.k // 10 == 0)
    ),
    "svg_temporal": (
        {"frame": 10, "w": 2}, lambda f: (abs(f.q % 10 - f.k % 10) <= 2) | (f.k // 10 == 0)
    ),
}  # fmt: skip
