"""What the module costs beside the same kernel called by hand, at N = 2048 on a GPU, in eager mode and compiled.

    python benchmarks/overhead.py                       # times
    python benchmarks/overhead.py --trace kernels.txt   # what the GPU runs in one forward and backward, of each way
    python benchmarks/overhead.py --host                # what Python does alone, on any machine

By hand is torch's scaled_dot_product_attention on cuDNN and on flash-attention, the kernel chosen once, outside of what
is timed; the module is causal attention on each backend that is there. Times are wall-clock, so that what Python does
between launches counts; beside each stands the host's part, the time until everything was launched: where both are the
same, the GPU waited for Python. What is compiled is a function that calls it, as in a model, of which attention is a
part: torch.compile of a module by itself adds some 6 us around it, whatever it is. Everything is compiled anew in each
round, for its own shapes: no guard of another case is evaluated, no graph comes from a cache on disk, and no process
that helps a compiler runs beside what is timed.

With --host the same runs on the cpu with next to nothing to compute: what is left is what a call takes before a kernel
is launched, and after. It is printed and kept nowhere.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import attnc
import click
import torch
import torch._inductor.config as inductor
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from common import RESULTS, machine, synchronize, what_runs, write_result
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnlang.runtime.backends import AUTO, REFERENCE, names

N = 2048
SHAPES = ((1, 8, 64), (4, 16, 64), (4, 16, 128))
"""Batch, heads, head dimension."""
NOTHING = (1, 2, 8)
"""The same of tensors of two tokens with which a kernel is done at once."""
INNER = 10
"""Calls in a sample."""
WARM = 0.3
"""Seconds of calls before the first sample, in which what a compiler leaves behind comes to rest."""

Way: TypeAlias = tuple[Callable[..., Any], AbstractContextManager[Any]]
"""What is called, and within what."""


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def ways(heads: int, backends: tuple[str, ...], device: str) -> dict[str, Way]:
    """What is timed."""
    found: dict[str, Way] = {"cudnn by hand": (by_hand, sdpa_kernel(SDPBackend.CUDNN_ATTENTION))}
    if device == "cpu":
        found.clear()
    found["flash by hand"] = by_hand, sdpa_kernel(SDPBackend.FLASH_ATTENTION)
    for backend in backends or (AUTO, *(name for name in names() if name != REFERENCE)):
        module = attnc.compile("causal", heads=heads, backend=backend)
        try:
            module.choice(device, torch.bfloat16, 64)
        except ValueError as reason:
            print(f"not timed: {reason}")
        else:
            found[f"module, {backend}"] = module, nullcontext()
    return found


def runs(each: dict[str, Way]) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """Every way in both modes, compiled anew, within its context."""
    for name, (function, context) in each.items():
        with context:
            for mode in ("eager", "compiled"):
                torch.compiler.reset()
                yield name, mode, torch.compile(caller(function)) if mode == "compiled" else function


def caller(function: Callable[..., Any]) -> Callable[..., Any]:
    """What calls it: what is compiled, as in a model, of which attention is a part."""

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return function(q, k, v)

    return call


def tensors(batch: int, heads: int, dim: int, device: str, n: int | None = None) -> tuple[list[Tensor], Tensor]:
    """Q, k and v, and d_out."""
    n = N if n is None else n
    q, k, v, dout = (torch.randn(batch, heads, n, dim, device=device, dtype=torch.bfloat16) for _ in range(4))
    return [x.requires_grad_() for x in (q, k, v)], dout


def samples(function: Callable[[], object], device: str, repeats: int) -> list[tuple[float, float]]:
    """Microseconds of a call, and of the host's part in it, for each sample."""
    end = time.perf_counter() + WARM
    while time.perf_counter() < end:
        function()
        synchronize(device)
    found: list[tuple[float, float]] = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(INNER):
            function()
        launched = time.perf_counter()
        synchronize(device)
        found.append(((time.perf_counter() - start) / INNER * 1e6, (launched - start) / INNER * 1e6))
    return found


def measure(
    batch: int,
    heads: int,
    dim: int,
    repeats: int,
    rounds: int,
    backends: tuple[str, ...],
    device: str = "cuda",
    n: int | None = None,
) -> list[dict[str, Any]]:
    """Medians of all samples of all rounds, and of each round by itself."""
    leaves, dout = tensors(batch, heads, dim, device, n)
    seen: dict[tuple[str, str], dict[str, list[list[tuple[float, float]]]]] = {}
    for _ in range(rounds):
        for name, mode, run in runs(ways(heads, backends, device)):

            def forward(run: Callable[..., Any] = run) -> None:
                with torch.no_grad():
                    run(*leaves)

            def both(run: Callable[..., Any] = run) -> None:
                torch.autograd.grad(run(*leaves), leaves, dout)

            for what, function in (("forward", forward), ("forward_backward", both)):
                kept = seen.setdefault((name, mode), {}).setdefault(what, [])
                kept.append(samples(function, device, repeats))
    rows: list[dict[str, Any]] = []
    for (name, mode), each in seen.items():
        row: dict[str, Any] = {"batch": batch, "heads": heads, "head_dim": dim, "way": name, "mode": mode}
        row["us"] = {what: _median(found, 0) for what, found in each.items()}
        row["host_us"] = {what: _median(found, 1) for what, found in each.items()}
        row["rounds_us"] = {what: [_median([one], 0) for one in found] for what, found in each.items()}
        rows.append(row)
    return rows


def _median(rounds: list[list[tuple[float, float]]], place: int) -> float:
    return statistics.median(sample[place] for one in rounds for sample in one)


def show(row: dict[str, Any]) -> None:
    title = f"batch {row['batch']}, {row['heads']} heads of {row['head_dim']}  {row['way']:<18}{row['mode']:<10}"
    cells = [
        f"{row['us'][what]:>8.1f} us ({row['host_us'][what]:.0f} on the host; "
        f"rounds {', '.join(f'{us:.0f}' for us in row['rounds_us'][what])})"
        for what in row["us"]
    ]
    print(title, *cells, flush=True)


def trace(batch: int, heads: int, dim: int, backends: tuple[str, ...], device: str = "cuda") -> Iterator[str]:
    """What one forward and backward runs, for each way: the device's kernels in their order, and torch's own table."""
    leaves, dout = tensors(batch, heads, dim, device)
    for name, mode, run in runs(ways(heads, backends, device)):
        yield f"\nbatch {batch}, {heads} heads of {dim}: {name}, {mode}"
        yield from what_runs(lambda run=run: torch.autograd.grad(run(*leaves), leaves, dout), device)


@click.command()
@click.option("--repeats", default=30, show_default=True, type=click.IntRange(1), help="Timed samples in a round.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="How often all is compiled anew.")
@click.option("--backend", "backends", multiple=True, help="Only this backend of the module; may be repeated.")
@click.option(
    "--trace", "traced", type=click.Path(dir_okay=False, path_type=Path), help="Write what runs, time nothing."
)
@click.option("--host", is_flag=True, help="Time Python alone: on the cpu, with next to nothing to compute.")
@click.option("--out", default=RESULTS, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(repeats: int, rounds: int, backends: tuple[str, ...], traced: Path | None, host: bool, out: Path) -> None:
    torch.compiler.config.force_disable_caches = True
    inductor.compile_threads = 1
    if host:
        torch.set_num_threads(1)
        for row in measure(*NOTHING, repeats, rounds, backends or (AUTO,), "cpu", n=2):
            show(row)
        return
    if traced is not None:
        text = "\n".join(line for shape in SHAPES for line in trace(*shape, backends))
        print(text)
        traced.write_text(f"{text}\n", encoding="utf-8")
        return
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        found = measure(*shape, repeats, rounds, backends)
        for row in found:
            show(row)
        rows += found
        write_result("overhead", {"benchmark": "overhead", "machine": machine("cuda"), "n": N, "rows": rows}, out)


if __name__ == "__main__":
    main()
