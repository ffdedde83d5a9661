"""Other patterns on our kernels against FlexAttention, forward and forward + backward, on one GPU.

    python benchmarks/patterns.py                     # all of them
    python benchmarks/patterns.py sliding longformer  # some of them
    python benchmarks/patterns.py sliding --head-dim 64 --head-dim 128

FlexAttention gets its block mask ready-made, and our lists are made in the first call: only attention is timed, with
what every call does. That is, for the runtime tables of packed documents, to compare them with those of the last call:
three times in forward + backward. bfloat16, 12 heads of 64 or 16 of 128; N by pattern.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import attnc
import click
import numpy as np
import torch
from common import RESULTS, machine, write_result
from longnet import both, milliseconds, tensors
from peers import flex

from attnlang.plan import Plan, Tiles
from attnlang.runtime import triton
from attnlang.runtime.blocks import block_lists

HEADS = {64: 12, 128: 16}
"""By head dimension."""


def _no_tables(n: int) -> dict[str, torch.Tensor]:
    return {}


@dataclass(frozen=True, slots=True)
class Case:
    """A pattern, its parameters and length, and the same as FlexAttention's mask_mod."""

    pattern: str
    n: int
    mask: Callable[[Plan], Any]
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    by_head: bool = False
    tables: Callable[[int], dict[str, torch.Tensor]] = _no_tables


def _sliding(_: Plan) -> Any:
    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (q >= k) & (q - k < 1024)

    return mask


def _longformer(_: Plan) -> Any:
    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        return ((q - k).abs() <= 256) | (k < 1) | (q < 1)

    return mask


def _strided(_: Plan) -> Any:
    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (q >= k) & ((q - k <= 128) | ((q - k) % 128 == 0))

    return mask


def _fixed(_: Plan) -> Any:
    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (q >= k) & ((q // 128 == k // 128) | (k % 128 >= 120))

    return mask


def _natten1d(_: Plan) -> Any:
    n = 131072

    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        start = (q - 128).clamp(0, n - 257)
        return (k >= start) & (k < start + 257)

    return mask


def _natten2d(_: Plan) -> Any:
    side, window = 128, 13

    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        row = (q // side - window // 2).clamp(0, side - window)
        column = (q % side - window // 2).clamp(0, side - window)
        ky, kx = k // side, k % side
        return (ky >= row) & (ky < row + window) & (kx >= column) & (kx < column + window)

    return mask


def _bigbird(plan: Plan) -> Any:
    n, block = 32768, 64
    table = np.zeros((plan.heads, n // block, n // block), bool)
    for branch in plan.branches:
        if isinstance(branch, Tiles):
            for lists in block_lists(branch, plan.heads, n, block, block):
                for head in lists.heads:
                    table[head, lists.rows, lists.blocks] = True
    chosen = torch.from_numpy(table).cuda()

    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        return chosen[h, q // block, k // block]

    return mask


def _documents(n: int) -> dict[str, torch.Tensor]:
    """Documents of 512 to 8191 tokens, packed."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(512, 8192, (n // 512,), generator=generator)
    return {"doc": torch.repeat_interleave(torch.arange(len(lengths)), lengths)[:n].cuda()}


def _packed(_: Plan) -> Any:
    doc = _documents(65536)["doc"]

    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (q >= k) & (doc[q] == doc[k])

    return mask


CASES = {
    "sliding": Case("sliding", 131072, _sliding, {"w": 1024}),
    "longformer": Case("longformer", 131072, _longformer),
    "bigbird": Case("bigbird", 32768, _bigbird, by_head=True),
    "strided": Case("strided", 32768, _strided),
    "fixed": Case("fixed", 32768, _fixed),
    "natten1d": Case("natten1d", 131072, _natten1d, {"w": 257}),
    "natten2d": Case("natten2d", 16384, _natten2d, {"rows": 128, "cols": 128, "w": 13}),
    "packed": Case("packed", 65536, _packed, tables=_documents),
}


def measure(name: str, dim: int, repeats: int) -> dict[str, Any]:
    case, heads = CASES[name], HEADS[dim]
    inputs = tensors(heads, case.n, dim)
    q, k, v, dout = inputs
    plan = attnc.compile(case.pattern, heads=heads, **case.parameters).plan
    tables = case.tables(case.n)
    assert plan is not None

    def forward() -> Any:
        return triton.forward(q, k, v, plan, dim**-0.5, tables)

    def forward_backward() -> object:
        out, lse = forward()
        return triton.backward(dout, q, k, v, out, lse, plan, dim**-0.5, tables)

    start = time.perf_counter()
    forward_backward()
    torch.cuda.synchronize()
    first = time.perf_counter() - start
    start = time.perf_counter()
    peer = flex(case.mask(plan), case.n, heads if case.by_head else None)
    difference = float((forward()[0].float() - peer(q, k, v).float()).abs().max())
    peer_both = both(peer, inputs)
    peer_both()
    torch.cuda.synchronize()
    peer_first = time.perf_counter() - start
    found = {
        "forward": {"ours": milliseconds(forward, repeats), "flex": milliseconds(lambda: peer(q, k, v), repeats)},
        "forward_backward": {"ours": milliseconds(forward_backward, repeats), "flex": milliseconds(peer_both, repeats)},
    }
    speedup = {what: times["flex"] / times["ours"] for what, times in found.items()}
    print(
        f"{name:<11} D = {dim:<3} N = {case.n:>6}  "
        f"forward {found['forward']['ours']:7.3f} ms, {speedup['forward']:5.2f}x flex;  "
        f"both {found['forward_backward']['ours']:7.3f} ms, {speedup['forward_backward']:5.2f}x flex;  "
        f"first {first:.1f} s, flex {peer_first:.1f} s;  out differs by {difference:.1e}",
        flush=True,
    )
    return {
        "pattern": name,
        "parameters": case.parameters,
        "n": case.n,
        "heads": heads,
        "head_dim": dim,
        "milliseconds": found,
        "speedup": speedup,
        "first_seconds": {"ours": first, "flex": peer_first},
        "largest_difference": difference,
    }


def _label(row: dict[str, Any]) -> str:
    return row["pattern"] if row["head_dim"] == 64 else f"{row['pattern']}\nD = {row['head_dim']}"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 4))
    for i, what in enumerate(("forward", "forward_backward")):
        axis.bar(
            [x + 0.4 * i for x in range(len(rows))],
            [r["speedup"][what] for r in rows],
            0.4,
            label=what.replace("_", " + "),
        )
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_xticks([x + 0.2 for x in range(len(rows))], [_label(r) for r in rows])
    axis.set_ylabel("times as fast as FlexAttention")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CASES)))
@click.option("--head-dim", "dims", multiple=True, default=(64,), show_default=True, type=click.Choice(list(HEADS)))
@click.option("--repeats", default=10, show_default=True, type=click.IntRange(1))
@click.option("--out", default=RESULTS, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(names: tuple[str, ...], dims: tuple[int, ...], repeats: int, out: Path) -> None:
    here = machine("cuda")
    rows = earlier(here, out)
    for name, dim in product(names or CASES, dims):
        try:
            rows[name, dim] = measure(name, dim, repeats) | {"date": here["date"]}
        except RuntimeError as error:
            print(f"{name}: {str(error)[:300]}", flush=True)
        ordered = [rows[known] for known in product(CASES, HEADS) if known in rows]
        write_result("patterns", {"benchmark": "patterns", "machine": here, "rows": ordered}, out)
        plot(ordered, out / "patterns.svg")


def earlier(here: dict[str, Any], out: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows of an earlier result, by pattern and head dimension, if it is of the same kind of GPU and torch."""
    path = out / "patterns.json"
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if any(found["machine"][what] != here[what] for what in ("device", "torch")):
        return {}
    return {(row["pattern"], row["head_dim"]): row for row in found["rows"]}


if __name__ == "__main__":
    main()
