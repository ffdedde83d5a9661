"""What is measured on several ranks at once: samples that all begin together, and results written as they come."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from common import synchronize, write_result
from torch import Tensor


def seconds(function: Callable[[], object], device: str, repeats: int, steps: int = 1) -> float:
    """Median seconds of a step, of `steps` that follow one another, all ranks starting together; the slowest rank's."""
    return in_turn([function], device, repeats, steps)[0]


def in_turn(functions: Sequence[Callable[[], object]], device: str, repeats: int, steps: int) -> list[float]:
    """The same of several functions, a sample of each in turn, so that all meet the GPU as warm as the others do."""
    samples: list[list[float]] = [[] for _ in functions]
    for number in range(repeats + 2):
        for function, found in zip(functions, samples, strict=True):
            synchronize(device)
            dist.barrier()
            start = time.perf_counter()
            for _ in range(steps):
                function()
            synchronize(device)
            if number >= 2:
                found.append((time.perf_counter() - start) / steps)
    slowest = torch.tensor([statistics.median(found) for found in samples], dtype=torch.float64, device=device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return slowest.tolist()


def runs(module: torch.nn.Module, tensors: list[Tensor]) -> dict[str, Callable[[], object]]:
    """Forward alone, and forward and backward."""
    q, k, v, dout = tensors
    inputs = [x.detach().requires_grad_() for x in (q, k, v)]

    def forward() -> object:
        with torch.no_grad():
            return module(q, k, v)

    return {"forward": forward, "forward_backward": lambda: torch.autograd.grad(module(*inputs), inputs, dout)}


def made(heads: int, tokens: int, head_dim: int, device: str, dtype: torch.dtype, count: int = 4) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, heads, tokens, head_dim, device=device, dtype=dtype) for _ in range(count)]


class Results:
    """The result file of a run: written by rank 0 after every row, so that what is cut off leaves what it had."""

    def __init__(self, head: dict[str, Any], folder: Path, limit: float) -> None:
        self.data: dict[str, Any] = {**head, "one_gpu": {}, "weak": {}, "strong": {}, "complete": False}
        self.folder = folder
        self.limit = limit
        self.start = time.monotonic()
        self.write()

    def add(self, kind: str, name: str, row: dict[str, Any]) -> None:
        """Keep a row, print it, write the file."""
        if name:
            self.data[kind][name] = row
        else:
            self.data[kind] = row
        say(json.dumps({"kind": kind, "name": name, **row}))
        self.write()

    def write(self) -> None:
        if dist.get_rank() == 0:
            write_result(f"scaling_{self.data['ranks']}", self.data, self.folder)

    def time_is_up(self, what: str, device: str) -> bool:
        """Whether rank 0 has no time left to begin with a row; the same answer on all ranks."""
        left = torch.tensor(self.limit - (time.monotonic() - self.start), device=device)
        dist.broadcast(left, 0)
        if float(left) > 0:
            return False
        say(f"left out for want of time: {what}")
        self.data.setdefault("left_out", []).append(what)
        self.write()
        return True


def say(text: str) -> None:
    if dist.get_rank() == 0:
        print(text, file=sys.stderr, flush=True)
