"""Plain attention, causal and full: our kernels beside cuDNN and flash-attention, forward and forward + backward.

    python benchmarks/dense.py                                # N = 2048 to 32768, H12D64 and H16D128; bfloat16, one GPU
    python benchmarks/dense.py --n 8192 --head-dim 64         # some of it
    python benchmarks/dense.py --device cpu --n 64            # that it runs: without our kernels, which want a GPU

Ours is the module of the pattern with backend `triton`, and with `auto`, which chooses; theirs is torch's
scaled_dot_product_attention, held to one kernel outside of what is timed. All four run on the same tensors, in turn: a
sample of each, then the next sample of each, so that they meet the same clocks. A sample is as many calls as fill some
10 ms, one queued behind the other: what Python does before a launch counts where the GPU has to wait for it. Times are
medians; TFLOP/s count the pairs that the mask leaves. Before anything is timed, out and all gradients of each are
compared with cuDNN's. After `--limit` seconds no further row is begun; every row is written as it comes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import attnc
import click
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from common import RESULTS, machine, synchronize, write_result
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

LENGTHS = (2048, 4096, 8192, 16384, 32768)
SHAPES = ((12, 64), (16, 128))
"""Heads and head dimension."""
SHORT = ((12, 128, 4096), (12, 128, 8192), (8, 64, 8192), (8, 128, 8192))
"""Heads, head dimension and N of more causal launches with few pieces of work for each multiprocessor."""
FILL = 0.010
"""Seconds that the calls of a sample are to fill."""
MOST_CALLS = 200
MOST_DIFFERENCE = 0.02
"""How far a result may be from cuDNN's, as a part of its size (root of the mean square): bfloat16 has 0.002 to 0.01."""
RESULTS_OF = ("out", "dq", "dk", "dv")

Way: TypeAlias = tuple[Callable[..., Tensor], Callable[[], AbstractContextManager[Any]]]
"""What is called, and within what."""


@dataclass(frozen=True, slots=True)
class Case:
    """One sequence under one mask."""

    heads: int
    dim: int
    n: int
    causal: bool

    def __str__(self) -> str:
        return f"H{self.heads}D{self.dim} {'causal' if self.causal else 'full'}, {self.n}"


def cases(lengths: Sequence[int], dims: Sequence[int]) -> Iterator[Case]:
    """Every case of these lengths and head dimensions, short ones first."""
    found = [Case(*shape, n, causal) for n, shape, causal in product(lengths, SHAPES, (True, False))]
    found += [Case(heads, dim, n, True) for heads, dim, n in SHORT if n in lengths]
    yield from sorted((case for case in found if not dims or case.dim in dims), key=lambda case: case.n)


def ways(case: Case, device: str) -> dict[str, Way]:
    """What is compared, cuDNN first where there is a GPU."""
    name = "causal" if case.causal else "dense"

    def by_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=case.causal)

    flash: dict[str, Way] = {"flash": (by_torch, partial(sdpa_kernel, SDPBackend.FLASH_ATTENTION))}
    cudnn: dict[str, Way] = {"cudnn": (by_torch, partial(sdpa_kernel, SDPBackend.CUDNN_ATTENTION))}
    theirs, mine = (flash, ("auto",)) if device == "cpu" else (cudnn | flash, ("triton", "auto"))
    return theirs | {one: (attnc.compile(name, heads=case.heads, backend=one), nullcontext) for one in mine}


def tensors(case: Case, device: str) -> tuple[list[Tensor], Tensor]:
    """Q, k, v and d_out as a model has them: (1, N, H, D) in memory, (1, H, N, D) to look at."""
    torch.manual_seed(0)
    shape = 1, case.n, case.heads, case.dim
    *leaves, dout = (torch.randn(shape, device=device, dtype=torch.bfloat16).transpose(1, 2) for _ in range(4))
    return [x.requires_grad_() for x in leaves], dout


def differences(each: dict[str, Way], leaves: list[Tensor], dout: Tensor) -> dict[str, float]:
    """The largest relative difference of out and gradients of each way from those of the first."""
    first: list[Tensor] = []
    found: dict[str, float] = {}
    for name, (function, context) in each.items():
        with context():
            out = function(*leaves)
        results = [x.detach().float() for x in (out, *torch.autograd.grad(out, leaves, dout))]
        first = first or results
        parts = {what: _difference(x, y) for what, x, y in zip(RESULTS_OF, results, first, strict=True)}
        worst = max(parts, key=parts.__getitem__)
        if not all(part <= MOST_DIFFERENCE for part in parts.values()):  # (so written, a NaN is none either)
            raise RuntimeError(f"{worst} of {name} is off by {parts[worst]:.2g} of its size; nothing is timed")
        found[name] = parts[worst]
    return found


def _difference(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


def measure(case: Case, repeats: int, device: str = "cuda") -> dict[str, Any]:
    """Milliseconds and TFLOP/s of each way. Raises RuntimeError where their results do not agree."""
    leaves, dout = tensors(case, device)
    each = ways(case, device)
    off = differences(each, leaves, dout)
    pairs = case.heads * (case.n * (case.n + 1) // 2 if case.causal else case.n**2)
    flops = {"forward": 4 * case.dim * pairs, "forward_backward": 14 * case.dim * pairs}
    times = {what: in_turn(_calls(each, leaves, dout, what), repeats, device) for what in flops}
    return {
        "heads": case.heads,
        "head_dim": case.dim,
        "n": case.n,
        "causal": case.causal,
        "pairs": pairs,
        "milliseconds": {what: {way: s * 1e3 for way, s in found.items()} for what, found in times.items()},
        "tflops": {what: {way: flops[what] / s / 1e12 for way, s in found.items()} for what, found in times.items()},
        "differences": off,
    }


def _calls(each: dict[str, Way], leaves: list[Tensor], dout: Tensor, what: str) -> dict[str, Way]:
    """The same without arguments: a forward pass, or one with its gradients."""

    def forward(function: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            return function(*leaves)

    def both(function: Callable[..., Tensor]) -> Any:
        return torch.autograd.grad(function(*leaves), leaves, dout)

    run: Callable[..., Any] = forward if what == "forward" else both
    return {name: (partial(run, function), context) for name, (function, context) in each.items()}


def in_turn(each: dict[str, Way], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of a call of each: a sample of one after a sample of another."""
    calls: dict[str, int] = {}
    for name, way in each.items():
        _sample(way, 2, device)
        calls[name] = max(1, min(MOST_CALLS, int(FILL / _sample(way, 1, device))))
    seen: dict[str, list[float]] = {name: [] for name in each}
    for _ in range(repeats):
        for name, way in each.items():
            seen[name].append(_sample(way, calls[name], device))
    return {name: statistics.median(found) for name, found in seen.items()}


def _sample(way: Way, calls: int, device: str) -> float:
    function, context = way
    with context():
        synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            function()
        synchronize(device)
        return (time.perf_counter() - start) / calls


def show(case: Case, row: dict[str, Any]) -> None:
    for what, found in row["milliseconds"].items():
        cells = (f"{way} {ms:8.3f} ms {row['tflops'][what][way]:4.0f} TFLOP/s" for way, ms in found.items())
        print(f"{case!s:<22} {what:<17}", "   ".join(cells), flush=True)


@click.command()
@click.option("--n", "lengths", default=LENGTHS, multiple=True, type=click.IntRange(2), help="May be repeated.")
@click.option("--head-dim", "dims", multiple=True, type=int, help="Only this head dimension; may be repeated.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Timed samples of each.")
@click.option("--limit", default=70.0, show_default=True, help="Seconds after which no further row is begun.")
@click.option("--device", default="cuda", show_default=True, type=click.Choice(["cuda", "cpu"]))
@click.option("--out", default=RESULTS, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(lengths: tuple[int, ...], dims: tuple[int, ...], repeats: int, limit: float, device: str, out: Path) -> None:
    end = time.monotonic() + limit
    result: dict[str, Any] = {"benchmark": "dense", "machine": machine(device), "repeats": repeats}
    result |= {"rows": [], "left_out": []}
    name = "dense" if device == "cuda" else f"dense_{device}"
    for case in cases(lengths, dims):
        if time.monotonic() >= end:
            result["left_out"].append(str(case))
            continue
        row = measure(case, repeats, device)
        result["rows"].append(row)
        show(case, row)
        write_result(name, result, out)  # what was measured stays, whatever comes after
    if result["left_out"]:
        print(f"left out after {limit:g} s: {'; '.join(result['left_out'])}")
        write_result(name, result, out)


if __name__ == "__main__":
    main()
