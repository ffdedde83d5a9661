"""Tile shapes: a table of measured ones.

A configuration is F x S, warps, stages: rows of the fixed tile, rows of a streamed tile, warps of a program, and how
many streamed tiles are in flight. The table was measured on an H100 (docs/kernels.md); other GPUs use it too, with
tiles that fit their shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from attnlang.runtime.triton.launches import Mode


@dataclass(frozen=True, slots=True)
class Config:
    """F, S, warps and stages of a launch, and a bound on the registers of a thread where that pays."""

    fixed: int
    streamed: int
    warps: int
    stages: int
    registers: int | None = None

    def shared_bytes(self, head_dim: int, itemsize: int, mode: Mode) -> int:
        """What the tiles take of shared memory, about: fixed ones once, streamed ones as often as there are stages."""
        fixed = self.fixed * (1 if mode == "forward" else 2) + self.streamed * 2 * self.stages
        return fixed * head_dim * itemsize + (0 if mode == "forward" else self.fixed * self.streamed * itemsize)


HALF: dict[tuple[Mode, int], Config] = {
    ("forward", 64): Config(128, 128, 8, 3),
    ("forward", 128): Config(128, 64, 8, 3),
    ("forward", 256): Config(128, 64, 8, 2),
    ("query gradient", 64): Config(128, 128, 8, 2),
    ("query gradient", 128): Config(128, 64, 8, 2),
    ("query gradient", 256): Config(64, 32, 8, 2),
    ("key gradient", 64): Config(128, 64, 8, 2),
    ("key gradient", 128): Config(128, 64, 8, 2),
    ("key gradient", 256): Config(64, 32, 8, 2),
}
"""float16 and bfloat16, by mode and padded head dimension (64 stands for less as well)."""

FLOAT: dict[tuple[Mode, int], Config] = {
    ("forward", 64): Config(64, 64, 4, 2),
    ("forward", 128): Config(64, 32, 8, 2),
    ("forward", 256): Config(32, 32, 8, 1),
    ("query gradient", 64): Config(64, 32, 4, 2),
    ("query gradient", 128): Config(32, 32, 4, 2),
    ("query gradient", 256): Config(32, 16, 4, 1),
    ("key gradient", 64): Config(64, 32, 4, 2),
    ("key gradient", 128): Config(32, 32, 4, 2),
    ("key gradient", 256): Config(32, 16, 4, 1),
}
"""float32, whose products do not use tensor cores (their tf32 would be too coarse)."""

LIST_BLOCK = 128
"""Queries and keys of a tile in block lists: a multiple of every F and S above."""


def padded(head_dim: int) -> int:
    """The power of two that a head dimension is padded to."""
    return max(16, 1 << (head_dim - 1).bit_length())


def config(mode: Mode, head_dim: int, dtype: torch.dtype, shared_bytes: int | None = None) -> Config:
    """The measured configuration, with fewer stages and smaller tiles until they fit `shared_bytes` (None: any)."""
    table = FLOAT if dtype == torch.float32 else HALF
    found = table[mode, max(64, padded(head_dim))]
    while shared_bytes is not None and found.shared_bytes(padded(head_dim), dtype.itemsize, mode) > shared_bytes:
        if found.stages > 1:
            found = replace(found, stages=found.stages - 1)
        elif found.streamed > 16:
            found = replace(found, streamed=found.streamed // 2)
        else:
            break
    return found
