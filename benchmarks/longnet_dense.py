"""LongNet on the sdpa backend against dense causal SDPA, on one machine, in one run.

    python benchmarks/longnet_dense.py                      # on cpu: float32, N = 8192 and 32768
    python benchmarks/longnet_dense.py --device cuda        # bfloat16, N = 32768 and 131072

Both compute causal attention over the same q, k and v. Dense SDPA is torch's own choice of kernel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attnc
import click
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from common import RESULTS, machine, median_seconds, write_result

SEGMENTS, DILATIONS = [2048, 4096, 8192, 16384, 32768], [1, 2, 4, 8, 16]


def measure(n: int, heads: int, dim: int, device: str, repeats: int) -> dict[str, Any]:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    q, k, v, dout = (torch.randn(1, heads, n, dim, device=device, dtype=dtype) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    module = attnc.compile("longnet", heads=heads, segments=SEGMENTS, dilations=DILATIONS)
    cost = attnc.report(module.pattern, n=n, heads=heads, head_dim=dim)

    def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def both(function: Any) -> Any:
        return lambda: torch.autograd.grad(function(*leaves), leaves, dout)

    def forward(function: Any) -> Any:
        def run() -> torch.Tensor:
            with torch.no_grad():
                return function(q, k, v)

        return run

    result: dict[str, Any] = {"n": n, "heads": heads, "head_dim": dim, "dtype": str(dtype).removeprefix("torch.")}
    result["pairs"] = {"longnet": cost.bag, "dense_causal": heads * n * (n + 1) // 2}
    result["seconds"] = {
        f"{name}_{what}": median_seconds(wrap(function), device, repeats)
        for name, function in (("longnet", module), ("dense", dense))
        for what, wrap in (("forward", forward), ("forward_backward", both))
    }
    seconds = result["seconds"]
    result["speedup"] = {
        what: seconds[f"dense_{what}"] / seconds[f"longnet_{what}"] for what in ("forward", "forward_backward")
    }
    return result


@click.command()
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--n", "lengths", multiple=True, type=click.IntRange(1), help="Lengths; may be repeated.")
@click.option("--heads", default=12, show_default=True)
@click.option("--head-dim", default=64, show_default=True)
@click.option("--repeats", type=click.IntRange(1), help="Timed calls; 3 on cpu, 20 on cuda unless given.")
@click.option("--out", default=RESULTS, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(device: str, lengths: tuple[int, ...], heads: int, head_dim: int, repeats: int | None, out: Path) -> None:
    chosen = lengths or ((8192, 32768) if device == "cpu" else (32768, 131072))
    rows: list[dict[str, Any]] = []
    for n in chosen:
        row = measure(n, heads, head_dim, device, repeats or (3 if device == "cpu" else 20))
        rows.append(row)
        seconds, speedup = row["seconds"], row["speedup"]
        for what in ("forward", "forward_backward"):
            print(
                f"N = {n:>7}  {what:<17} longnet {seconds[f'longnet_{what}'] * 1e3:>10.1f} ms  "
                f"dense {seconds[f'dense_{what}'] * 1e3:>10.1f} ms  {speedup[what]:>6.2f}x",
                flush=True,
            )
    parameters = {"segments": SEGMENTS, "dilations": DILATIONS}
    result = {"benchmark": "longnet_dense", "machine": machine(device), "parameters": parameters, "rows": rows}
    write_result(f"longnet_dense_{device}", result, out)


if __name__ == "__main__":
    main()
