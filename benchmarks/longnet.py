"""LongNet on our kernels against the authors' code, cuDNN on views without a copy, dense cuDNN, and FlexAttention.

    python benchmarks/longnet.py                # N = 131072, H12D64 and H16D128, full and causal; bfloat16, one GPU
    python benchmarks/longnet.py --flex         # FlexAttention too, at N = 32768 (its first result takes a minute)
    python benchmarks/longnet.py --scaling      # time per token from 32K to 4M tokens

Everything that is compared runs in one process on one GPU, on the same tensors. Times are medians.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attnc
import click
import torch
from common import RESULTS, machine, write_result
from peers import cudnn_views, dense, flex, longnet_fewer_copies, longnet_reference
from torch import Tensor

from attnlang.runtime import triton

SEGMENTS, DILATIONS = [2048, 4096, 8192, 16384, 32768], [1, 2, 4, 8, 16]
SHAPES = ((12, 64), (16, 128))


def milliseconds(function: Callable[[], object], repeats: int) -> float:
    """Median over samples, by events on the device.

    A sample is as many calls as fill some 20 ms, one queued behind the other as in training: what Python does before a
    launch counts where the GPU has to wait for it, and not where it is busy.
    """
    function()
    calls = max(1, min(10, int(20 / max(_sample(function, 1), 1e-3))))
    return sorted(_sample(function, calls) for _ in range(repeats))[repeats // 2]


def _sample(function: Callable[[], object], calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def tensors(heads: int, n: int, dim: int) -> list[Tensor]:
    """q, k, v, d_out as a model has them: (B, N, H, D) in memory, (B, H, N, D) to look at."""
    torch.manual_seed(0)
    return [torch.randn(1, n, heads, dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for _ in range(4)]


def both(function: Any, inputs: list[Tensor]) -> Callable[[], object]:
    """Forward and backward by autograd."""
    leaves = [x.detach().requires_grad_() for x in inputs[:3]]
    return lambda: torch.autograd.grad(function(*leaves), leaves, inputs[3])


def ours(name: str, heads: int, dim: int, inputs: list[Tensor]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Our kernels forward, and forward and backward."""
    module = attnc.compile(name, heads=heads, segments=SEGMENTS, dilations=DILATIONS)
    plan, scale = module.plan, dim**-0.5
    assert plan is not None
    q, k, v, dout = inputs

    def forward() -> tuple[Tensor, Tensor]:
        return triton.forward(q, k, v, plan, scale, {})

    def forward_backward() -> object:
        out, lse = forward()
        return triton.backward(dout, q, k, v, out, lse, plan, scale, {})

    return forward, forward_backward


def measure(heads: int, dim: int, causal: bool, n: int, repeats: int, with_flex: bool) -> dict[str, Any]:
    inputs = tensors(heads, n, dim)
    q, k, v, dout = inputs
    name = "longnet" if causal else "longnet_bidirectional"
    start = time.perf_counter()
    forward, forward_backward = ours(name, heads, dim, inputs)
    forward_backward()
    torch.cuda.synchronize()
    first = time.perf_counter() - start
    module = attnc.compile(name, heads=heads, segments=SEGMENTS, dilations=DILATIONS)
    plan = module.plan
    assert plan is not None
    pairs = attnc.report(module.pattern, n=n, heads=heads, head_dim=dim, dependency=False).bag
    views = cudnn_views(plan, dim**-0.5)
    reference = longnet_reference(SEGMENTS, DILATIONS, causal)
    fewer = longnet_fewer_copies(SEGMENTS, DILATIONS, causal)

    def views_both() -> object:
        out, lse = views.forward(q, k, v)
        return views.backward(dout, q, k, v, out, lse)

    runs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "ours": (forward, forward_backward),
        "reference": (lambda: reference(q, k, v), both(reference, inputs)),
        "reference_fewer_copies": (lambda: fewer(q, k, v), both(fewer, inputs)),
        "cudnn_views": (lambda: views.forward(q, k, v), views_both),
        "dense": (lambda: dense(causal)(q, k, v), both(dense(causal), inputs)),
    }
    if with_flex:
        union = flex(_union(causal), n, heads, _log_m())
        runs["flex"] = (lambda: union(q, k, v), both(union, inputs))
    found: dict[str, dict[str, float]] = {}
    for peer, functions in runs.items():
        for what, function in zip(("forward", "forward_backward"), functions, strict=True):
            few = 3 if peer in ("dense", "flex") else repeats
            try:
                found.setdefault(what, {})[peer] = milliseconds(function, few)
            except (RuntimeError, ValueError) as error:
                print(f"{peer} {what}: {str(error)[:200]}")
    flops = {"forward": 4 * dim * pairs, "forward_backward": 14 * dim * pairs}
    return {
        "heads": heads,
        "head_dim": dim,
        "causal": causal,
        "n": n,
        "pairs": pairs,
        "first_seconds": first,
        "milliseconds": found,
        "tflops": {what: flops[what] / found[what]["ours"] / 1e9 for what in found},
        "speedup": {
            what: {p: t / times["ours"] for p, t in times.items() if p != "ours"} for what, times in found.items()
        },
    }


def _levels(q: Any, k: Any, h: Any) -> list[Any]:
    """Whether a pair is in each branch, as FlexAttention's functions say it."""
    return [(q // w == k // w) & (q % r == h % r) & (k % r == h % r) for w, r in zip(SEGMENTS, DILATIONS, strict=True)]


def _union(causal: bool) -> Any:
    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        first, *rest = _levels(q, k, h)
        for member in rest:
            first = first | member
        return first & (q >= k) if causal else first

    return mask


def _log_m() -> Any:
    def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        count: Any = sum(member.to(torch.float32) for member in _levels(q, k, h))
        return s + torch.log(count)

    return score


def scaling(repeats: int) -> list[dict[str, Any]]:
    """Time per token of forward, and of both, by length; H4D64 so that 4M tokens fit."""
    rows: list[dict[str, Any]] = []
    for n in (2**15, 2**17, 2**19, 2**21, 2**22):
        inputs = tensors(4, n, 64)
        forward, forward_backward = ours("longnet", 4, 64, inputs)
        times = [milliseconds(function, repeats) for function in (forward, forward_backward)]
        rows.append({"n": n, "ns_per_token": [ms * 1e6 / n for ms in times]})
        print(f"N = {n:>8}  {times[0] * 1e6 / n:6.2f} ns a token forward, {times[1] * 1e6 / n:6.2f} with backward")
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    for axis, what in zip(axes, ("forward", "forward_backward"), strict=True):
        labels = [f"D {r['head_dim']}\n{'causal' if r['causal'] else 'full'}" for r in rows]
        peers = [p for p in rows[0]["milliseconds"][what] if p != "flex"]
        width = 0.8 / len(peers)
        for i, peer in enumerate(peers):
            heights = [r["milliseconds"][what].get(peer, math.nan) for r in rows]
            axis.bar([x + width * i for x in range(len(rows))], heights, width, label=peer.replace("_", " "))
        axis.set_xticks([x + width * (len(peers) - 1) / 2 for x in range(len(rows))], labels)
        axis.set_yscale("log")
        axis.set_title(f"LongNet, N = {rows[0]['n']}, {what.replace('_', ' + ')}")
        axis.set_ylabel("ms")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path)


def _show(row: dict[str, Any]) -> None:
    for what, speedup in row["speedup"].items():
        peers = ", ".join(f"{times:.2f}x {peer}" for peer, times in speedup.items())
        title = f"D {row['head_dim']:>3} {'causal' if row['causal'] else 'full':<6} {what:<16}"
        mine = row["milliseconds"][what]["ours"]
        print(f"{title} {mine:7.3f} ms {row['tflops'][what]:4.0f} TFLOP/s  {peers}", flush=True)
    print(f"first result after {row['first_seconds']:.1f} s", flush=True)


@click.command()
@click.option("--n", default=131072, show_default=True, type=click.IntRange(1))
@click.option("--repeats", default=10, show_default=True, type=click.IntRange(1))
@click.option("--head-dim", "dims", multiple=True, type=int, help="Only this head dimension; may be repeated.")
@click.option("--flex", "with_flex", is_flag=True, help="FlexAttention too, causal H12D64 at N = 32768.")
@click.option("--scaling", "with_scaling", is_flag=True, help="Also time per token from 32K to 4M tokens.")
@click.option("--out", default=RESULTS, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(n: int, repeats: int, dims: tuple[int, ...], with_flex: bool, with_scaling: bool, out: Path) -> None:
    result: dict[str, Any] = {"benchmark": "longnet", "machine": machine("cuda"), "rows": []}
    for heads, dim in (shape for shape in SHAPES if not dims or shape[1] in dims):
        for causal in (False, True):
            row = measure(heads, dim, causal, n, repeats, False)
            result["rows"].append(row)
            _show(row)
            write_result("longnet", result, out)  # what was measured stays, whatever comes after
    plot(result["rows"], out / "longnet.svg")
    if with_scaling:
        rows = scaling(repeats)
        write_result("longnet_scaling", {"benchmark": "longnet_scaling", "machine": machine("cuda"), "rows": rows}, out)
    if with_flex:
        row = measure(12, 64, True, 32768, repeats, True)
        _show(row)
        write_result("longnet_flex", {"benchmark": "longnet_flex", "machine": machine("cuda"), "rows": [row]}, out)


if __name__ == "__main__":
    main()
