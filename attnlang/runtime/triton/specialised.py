"""Launching the kernel of `hopper`: what it can run, in which shapes, and with which arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
import triton
from torch import Tensor

from attnlang.plan import Band
from attnlang.runtime.triton.launches import Launch
from attnlang.runtime.triton.matrices import Matrices
from attnlang.runtime.triton.prepared import Prepared

ROWS = 64
"""Queries of a consumer."""
HEAD_DIMS = (64, 128)
VERSIONS = ((3, 6),)
"""Versions of triton whose Gluon the kernel is written in and tested with; others run the kernel for all GPUs."""


@dataclass(frozen=True, slots=True)
class Split:
    """How a program is made up: consumers of 64 queries, keys of a tile, tiles in flight, registers of a thread."""

    consumers: int
    streamed: int
    stages: int
    registers: int

    @property
    def fixed(self) -> int:
        """Queries of a program."""
        return ROWS * self.consumers

    @property
    def consumer_registers(self) -> int:
        """What is left for a consumer's threads where the loader's have 24."""
        return (self.registers * (self.consumers + 1) - 24) // self.consumers // 8 * 8


TABLE: dict[tuple[int, bool], Split] = {
    (64, False): Split(2, 128, 2, 168),
    (64, True): Split(2, 128, 2, 168),
    (128, False): Split(2, 64, 2, 168),
    (128, True): Split(2, 64, 2, 168),
}
"""By head dimension and whether there is a band."""


@lru_cache
def available(device: torch.device) -> bool:
    """Whether the device is a Hopper GPU and this triton has the language that the kernel is written in."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0):
        return False
    return tuple(map(int, triton.__version__.split(".")[:2])) in VERSIONS


def can_run(launch: Launch) -> bool:
    """Lattices alone; nested ones only where every tile is whole."""
    if launch.columns is not None or launch.tiles_of is not None or launch.band is None:
        return False
    return launch.even or not launch.nested


def run(
    item: Prepared, split: Split, q: Tensor, streamed: tuple[Tensor, Tensor], seen: Matrices,
    out: Tensor, lse: Tensor, total: Tensor, scale: float,
) -> None:  # fmt: skip
    """One launch of the forward pass."""
    launch = item.launch
    batch, heads, n, dim = q.shape
    band = launch.band or Band()
    hopper: Any = import_module("attnlang.runtime.triton.hopper")
    grid = (len(launch.tiles) * launch.count, len(launch.entries), batch)
    hopper.attend[grid](
        q, out, lse, total, *q.stride()[:3], *out.stride()[:3], *(x.stride(2) for x in streamed),
        *seen.descriptors, *seen.places,
        item.heads, item.members, item.tiles, len(launch.tiles), item.log_m, n, heads,
        launch.first, launch.period, launch.width, tuple(x for pair in launch.chain for x in pair) or (n, 1),
        band.lo or 0, band.hi or 0,
        abs(scale) * math.log2(math.e) if scale else 1.0, math.copysign(1.0, scale) if scale else 0.0,
        D=dim, CONSUMERS=split.consumers, S=split.streamed, STAGES=split.stages, NESTED=launch.nested,
        PARTS=launch.parts, RESIDUES=launch.residues, HAS_LO=band.lo is not None, HAS_HI=band.hi is not None,
        REGISTERS=split.consumer_registers, num_warps=4, maxnreg=split.registers,
    )  # fmt: skip
