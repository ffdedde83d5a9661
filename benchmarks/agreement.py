"""What it costs a call that ranks compare notes: the comparison alone, and a small layer with it and without.

    torchrun --nproc-per-node 2 benchmarks/agreement.py                    # NCCL
    torchrun --nproc-per-node 4 benchmarks/agreement.py --device cpu       # gloo

Microseconds a call, medians of rank 0, printed and kept nowhere. The layers have next to nothing to compute, so that
on a GPU what is timed is the host: a GPU that is busy meanwhile hides it. "First call" is without it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import attnc
import click
import torch
import torch.distributed as dist
from common import synchronize

from attnlang import loads
from attnlang.parallel import distribute
from attnlang.parallel.agreement import Note, hosts_of

N, HEADS, DIM = 256, 4, 16
PATTERNS = {"nothing moves": "segment(8)", "window": "causal & window(9)"}
LIMIT = timedelta(seconds=60)


def microseconds(function: Callable[[], object], device: str, calls: int = 500) -> float:
    """The median of a call, all ranks beginning together and none waiting for its device within."""
    for _ in range(50):
        function()
    synchronize(device)
    dist.barrier()
    samples: list[float] = []
    for _ in range(calls):
        start = time.perf_counter()
        function()
        samples.append(time.perf_counter() - start)
    synchronize(device)
    return 1e6 * statistics.median(samples)


def layer(text: str, device: str, agree: Any) -> dict[str, float]:
    ranks = dist.get_world_size()
    made = attnc.compile(loads(f"pattern p = {text}"), heads=HEADS)
    options: dict[str, Any] = {"n": N, "placement": "contiguous", "head_dim": DIM, "dtype": "float32"}
    module = distribute(made, None, timeout=LIMIT, agree=agree, **options)
    q, k, v = (torch.randn(1, HEADS, N // ranks, DIM, device=device, requires_grad=True) for _ in range(3))

    def forward() -> None:
        with torch.no_grad():
            module(q, k, v)

    def both() -> None:
        module(q, k, v).sum().backward()

    return {"forward": microseconds(forward, device), "with backward": microseconds(both, device)}


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
def main(device: str) -> None:
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    group = dist.group.WORLD
    assert group is not None
    hosts, note = hosts_of(group, LIMIT), Note.of({"a": "fact"}, dist.get_world_size())
    lines = [f"the comparison alone: {microseconds(lambda: hosts.asked(note, LIMIT)(), device):.0f} us"]
    for name, text in PATTERNS.items():
        for agree in ("first call", "every call"):
            found = ", ".join(f"{what} {us:.0f} us" for what, us in layer(text, device, agree).items())
            lines.append(f"{name}, ranks compare at the {agree}: {found}".replace("at the every", "at every"))
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} ranks, {device}", *lines, sep="\n")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
