"""Tile shapes: a table of measured ones, and measuring where there is no table.

A configuration is F x S, warps, stages: rows of the fixed tile, rows of a streamed tile, warps of a program, and how
many streamed tiles are in flight; and a bound on registers where more programs on a multiprocessor are worth it. What
is best depends on the GPU, the head dimension, and how the plan masks: not at all, by an open band (causal), by a
window, or by block lists.

The table was measured on an H100 (docs/kernels.md) and holds for GPUs of its kind. On another one the configurations
of the table are tried on a small problem at the first call (`attnlang.runtime.triton.measuring`), and the best is kept
in ~/.cache/attnlang, or in the folder that ATTNLANG_CACHE names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch

from attnlang.plan import Lattice, Plan, Tiles
from attnlang.runtime.triton.launches import Mode

Kind: TypeAlias = Literal["full", "causal", "window", "lists"]
KINDS: tuple[Kind, ...] = ("full", "causal", "window", "lists")
LIST_BLOCK = 64
"""Queries and keys of a tile in block lists: a multiple of F and S of every configuration for them."""


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


def _kinds(full: Config, causal: Config | None = None, window: Config | None = None) -> dict[Kind, Config]:
    """Configurations by kind: what is good for a window is for block lists."""
    causal = causal or full
    window = window or causal
    return {"full": full, "causal": causal, "window": window, "lists": window}


HALF: dict[tuple[Mode, int], dict[Kind, Config]] = {
    ("forward", 64): _kinds(Config(64, 64, 4, 3), Config(64, 128, 4, 3), Config(64, 64, 4, 3)),
    ("forward", 128): _kinds(Config(64, 64, 4, 3)),
    ("forward", 256): _kinds(Config(128, 32, 8, 3), window=Config(64, 32, 4, 3)),
    ("query gradient", 64): _kinds(Config(64, 64, 4, 3, 160), window=Config(64, 64, 4, 3)),
    ("query gradient", 128): _kinds(Config(64, 64, 4, 2)),
    ("query gradient", 256): _kinds(Config(64, 16, 4, 2)),
    ("key gradient", 64): _kinds(Config(64, 64, 4, 3), Config(64, 64, 4, 2), Config(64, 32, 4, 3, 160)),
    ("key gradient", 128): _kinds(Config(64, 32, 4, 3)),
    ("key gradient", 256): _kinds(Config(32, 32, 4, 2)),
}
"""float16 and bfloat16, by mode and padded head dimension (64 stands for less as well)."""

FLOAT: dict[tuple[Mode, int], dict[Kind, Config]] = {
    ("forward", 64): _kinds(Config(64, 64, 4, 2)),
    ("forward", 128): _kinds(Config(64, 32, 8, 2)),
    ("forward", 256): _kinds(Config(32, 32, 8, 1)),
    ("query gradient", 64): _kinds(Config(64, 32, 4, 2)),
    ("query gradient", 128): _kinds(Config(32, 32, 4, 2)),
    ("query gradient", 256): _kinds(Config(32, 16, 4, 1)),
    ("key gradient", 64): _kinds(Config(64, 32, 4, 2)),
    ("key gradient", 128): _kinds(Config(32, 32, 4, 2)),
    ("key gradient", 256): _kinds(Config(32, 16, 4, 1)),
}
"""float32, whose products do not use tensor cores (their tf32 would be too coarse)."""


def padded(head_dim: int) -> int:
    """The power of two that a head dimension is padded to."""
    return max(16, 1 << (head_dim - 1).bit_length())


def kind_of(plan: Plan) -> Kind:
    """How a plan masks: by lists, if it has any; else as the narrowest of its bands."""
    if any(isinstance(branch, Tiles) for branch in plan.branches):
        return "lists"
    bands = [branch.band for branch in plan.branches if isinstance(branch, Lattice)]
    if any(band.lo is not None and band.hi is not None for band in bands):
        return "window"
    return "causal" if any(band.lo is not None or band.hi is not None for band in bands) else "full"


def table(mode: Mode, head_dim: int, dtype: torch.dtype, kind: Kind) -> Config:
    """What was measured on an H100."""
    configs = FLOAT if dtype == torch.float32 else HALF
    return configs[mode, max(64, padded(head_dim))][kind]


def candidates(mode: Mode, head_dim: int, dtype: torch.dtype, kind: Kind, shared_bytes: int) -> tuple[Config, ...]:
    """What to try on a GPU without a table: the table's configurations, with fewer stages, and smaller, if they fit."""
    first = table(mode, head_dim, dtype, kind)
    wider = replace(first, fixed=min(128, first.fixed * 2), warps=8) if kind != "lists" else first
    shorter = replace(first, streamed=max(16, first.streamed // 2))
    fewer = replace(first, stages=max(1, first.stages - 1))
    found = (replace(config, registers=None) for config in (first, fewer, shorter, wider))
    return tuple(dict.fromkeys(fitting(config, mode, head_dim, dtype, shared_bytes) for config in found))


def fitting(config: Config, mode: Mode, head_dim: int, dtype: torch.dtype, shared_bytes: int) -> Config:
    """The configuration with fewer stages, and then shorter streamed tiles, until it fits in shared memory."""
    while config.shared_bytes(padded(head_dim), dtype.itemsize, mode) > shared_bytes:
        if config.stages > 1:
            config = replace(config, stages=config.stages - 1)
        elif config.streamed > 16:
            config = replace(config, streamed=config.streamed // 2)
        else:
            break
    return config
