"""What the module costs beside the same kernel called by hand, at N = 2048 on a GPU, in eager mode and compiled.

    python benchmarks/overhead.py

By hand is torch's scaled_dot_product_attention on cuDNN and on flash-attention; the module is causal attention on each
backend that is there. Times are wall-clock, so that what Python does between launches counts.
"""

from __future__ import annotations

from collections.abc import Callable
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


def by_hand(kernel: SDPBackend) -> Callable[..., Tensor]:
    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(kernel):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return run


def ways(heads: int, backends: tuple[str, ...]) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {
        "cudnn by hand": by_hand(SDPBackend.CUDNN_ATTENTION),
        "flash by hand": by_hand(SDPBackend.FLASH_ATTENTION),
    }
    for backend in backends or (AUTO, *(name for name in names() if name != REFERENCE)):
        module = attnc.compile("causal", heads=heads, backend=backend)
        try:
            module.choice("cuda", torch.bfloat16, 64)
        except ValueError as reason:
            print(f"not timed: {reason}")
        else:
            found[f"module, {backend}"] = module
    return found


def measure(batch: int, heads: int, dim: int, repeats: int, backends: tuple[str, ...]) -> list[dict[str, Any]]:
    q, k, v, dout = (torch.randn(batch, heads, N, dim, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    rows: list[dict[str, Any]] = []
    for name, function in ways(heads, backends).items():
        for mode in ("eager", "compiled"):
            run = torch.compile(function) if mode == "compiled" else function

            def forward(run: Callable[..., Any] = run) -> None:
                with torch.no_grad():
                    for _ in range(INNER):
                        run(q, k, v)

            def both(run: Callable[..., Any] = run) -> None:
                for _ in range(INNER):
                    torch.autograd.grad(run(*leaves), leaves, dout)

            times = {
                what: median_seconds(each, "cuda", repeats, 3) / INNER * 1e6
                for what, each in (("forward", forward), ("forward_backward", both))
            }
            rows.append({"batch": batch, "heads": heads, "head_dim": dim, "way": name, "mode": mode, "us": times})
            print(
                f"batch {batch}, {heads} heads of {dim}  {name:<18}{mode:<10}"
                f"{times['forward']:>9.1f} us  {times['forward_backward']:>9.1f} us",
                flush=True,
            )
    return rows


@click.command()
@click.option("--repeats", default=30, show_default=True, type=click.IntRange(1), help="Timed samples.")
@click.option("--backend", "backends", multiple=True, help="Only this backend of the module; may be repeated.")
@click.option("--out", default=RESULTS, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(repeats: int, backends: tuple[str, ...], out: Path) -> None:
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        rows += measure(*shape, repeats, backends)
        write_result("overhead", {"benchmark": "overhead", "machine": machine("cuda"), "n": N, "rows": rows}, out)


if __name__ == "__main__":
    main()
