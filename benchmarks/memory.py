"""Peak memory of LongNet, forward and backward, beside what q, k and v themselves take: it must grow as N does.

    python benchmarks/memory.py                      # on cpu: N = 65,536 to 262,144
    python benchmarks/memory.py --device cuda        # N = 262,144 to 1,048,576

On the cpu each length runs in a process of its own, and the peak is that of its resident set less what the process held
before; on cuda it is what torch has allocated.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import attnc
import click
import torch
from common import RESULTS, machine, write_result

HEADS, DIM = 4, 64


def measure(n: int, device: str) -> dict[str, Any]:
    """Peak bytes of a forward and a backward."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    module = attnc.compile("longnet", heads=HEADS)
    short = [torch.randn(1, HEADS, 256, DIM, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    module(*short).sum().backward()  # what is loaded once is loaded now
    inputs = [torch.randn(1, HEADS, n, DIM, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    before = _held(device)
    out = module(*inputs)
    torch.autograd.grad(out, inputs, torch.ones_like(out))
    one = inputs[0].numel() * inputs[0].element_size()
    return {"n": n, "bytes_of_q": one, "peak_bytes": _peak(device) - before, "times_q": (_peak(device) - before) / one}


def _held(device: str) -> int:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return _peak(device)


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@click.command()
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--n", "lengths", multiple=True, type=click.IntRange(1), help="Lengths; may be repeated.")
@click.option("--one", is_flag=True, hidden=True, help="Measure a single length in this process.")
@click.option("--out", default=RESULTS, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.")
def main(device: str, lengths: tuple[int, ...], one: bool, out: Path) -> None:
    if one:
        print(json.dumps(measure(lengths[0], device)))
        return
    rows: list[dict[str, Any]] = []
    for n in lengths or ((65_536, 131_072, 262_144) if device == "cpu" else (262_144, 524_288, 1_048_576)):
        command = [sys.executable, __file__, "--one", "--device", device, "--n", str(n)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        row = rows[-1]
        print(f"N = {n:>9,}: {row['peak_bytes'] / 2**20:>8,.0f} MiB, {row['times_q']:.1f} times q", flush=True)
        shape = {"batch": 1, "heads": HEADS, "head_dim": DIM}
        result = {"benchmark": "memory", "machine": machine(device), **shape, "rows": rows}
        write_result(f"memory_{device}", result, out)


if __name__ == "__main__":
    main()
