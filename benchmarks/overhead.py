"""What the module costs beside the same kernel called by hand, at N = 2048 on a GPU, in eager mode and compiled.

    python benchmarks/overhead.py

By hand is torch's scaled_dot_product_attention on cuDNN and on flash-attention, the kernel chosen once, outside of what
is timed; the module is causal attention on each backend that is there. Times are wall-clock, so that what Python does
between launches counts. Everything is compiled anew, for its own shapes: no guard of another case is evaluated, and no
graph comes from a cache on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import attnc
import click
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from common import RESULTS, machine, median_seconds, write_result
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnlang.runtime.backends import AUTO, REFERENCE, names

N = 2048
SHAPES = ((1, 8, 64), (4, 16, 64), (4, 16, 128))
"""Batch, heads, head dimension."""
INNER = 10
"""Calls in a sample."""


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def ways(heads: int, backends: tuple[str, ...]) -> dict[str, tuple[Callable[..., Any], AbstractContextManager[Any]]]:
    """What is timed, and within what."""
    found: dict[str, tuple[Callable[..., Any], AbstractContextManager[Any]]] = {
        "cudnn by hand": (by_hand, sdpa_kernel(SDPBackend.CUDNN_ATTENTION)),
        "flash by hand": (by_hand, sdpa_kernel(SDPBackend.FLASH_ATTENTION)),
    }
    for backend in backends or (AUTO, *(name for name in names() if name != REFERENCE)):
        module = attnc.compile("causal", heads=heads, backend=backend)
        try:
            module.choice("cuda", torch.bfloat16, 64)
        except ValueError as reason:
            print(f"not timed: {reason}")
        else:
            found[f"module, {backend}"] = module, nullcontext()
    return found


def times(run: Callable[..., Any], leaves: list[Tensor], dout: Tensor, repeats: int) -> dict[str, float]:
    """Microseconds of a call without gradients, and of one with its backward pass."""

    def forward() -> None:
        with torch.no_grad():
            for _ in range(INNER):
                run(*leaves)

    def both() -> None:
        for _ in range(INNER):
            torch.autograd.grad(run(*leaves), leaves, dout)

    each = {"forward": forward, "forward_backward": both}
    return {what: median_seconds(function, "cuda", repeats, 3) / INNER * 1e6 for what, function in each.items()}


def measure(batch: int, heads: int, dim: int, repeats: int, backends: tuple[str, ...]) -> list[dict[str, Any]]:
    q, k, v, dout = (torch.randn(batch, heads, N, dim, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    rows: list[dict[str, Any]] = []
    for name, (function, context) in ways(heads, backends).items():
        with context:
            for mode in ("eager", "compiled"):
                torch.compiler.reset()
                run = torch.compile(function) if mode == "compiled" else function
                us = times(run, leaves, dout, repeats)
                rows.append({"batch": batch, "heads": heads, "head_dim": dim, "way": name, "mode": mode, "us": us})
                print(
                    f"batch {batch}, {heads} heads of {dim}  {name:<18}{mode:<10}"
                    f"{us['forward']:>9.1f} us  {us['forward_backward']:>9.1f} us",
                    flush=True,
                )
    return rows


@click.command()
@click.option("--repeats", default=30, show_default=True, type=click.IntRange(1), help="Timed samples.")
@click.option("--backend", "backends", multiple=True, help="Only this backend of the module; may be repeated.")
@click.option("--out", default=RESULTS, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(repeats: int, backends: tuple[str, ...], out: Path) -> None:
    torch.compiler.config.force_disable_caches = True
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        rows += measure(*shape, repeats, backends)
        write_result("overhead", {"benchmark": "overhead", "machine": machine("cuda"), "n": N, "rows": rows}, out)


if __name__ == "__main__":
    main()
