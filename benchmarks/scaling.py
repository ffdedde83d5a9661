"""Weak and strong scaling of generated schedules on the GPUs (or CPUs) of a host, as LongNet's Figure 5 draws it.

    torchrun --nproc-per-node 8 benchmarks/scaling.py                        # weak scaling at 262144 tokens a GPU
    torchrun --nproc-per-node 8 benchmarks/scaling.py --strong 4194304       # and strong scaling at 4M tokens
    torchrun --nproc-per-node 8 benchmarks/scaling.py --longest              # and the longest sequence that fits
    torchrun --nproc-per-node 8 benchmarks/scaling.py --backend triton --limit 150
    torchrun --nproc-per-node 2 benchmarks/scaling.py --trace rank           # what each rank runs, in rank0.txt ...
    python benchmarks/scaling.py --plot benchmarks/results/scaling_*.json    # one picture of several runs

Every rank first runs its own number of tokens alone, without a word to the others: the slowest of them is what one GPU
takes. Efficiency is that time over the time of all ranks together on R times the tokens, corrected for pairs where a
pattern has more of them a token on the longer sequence. Samples of both are taken in turn: a GPU that has worked for a
minute is some per cent slower than one that begins. A sample is `--steps` steps that follow one another, as in
training: the host prepares one while the GPU runs the one before. LongNet with segments up to the whole sequence has a
segment of 2048 tokens, one of a rank's tokens, and one of all; alone, of an R-th of its tokens and of all. Rows are
printed, and the result file is written, as they come; after `--limit` seconds no other row is begun.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import attnc
import click
import torch
import torch.distributed as dist
from attnc.api import found_schedule
from attnc.schedule.cost import times
from torch import Tensor

from attnlang import Pattern, load, loads
from attnlang.parallel import WireAudit, distribute
from attnlang.parallel.audit import planned
from attnlang.parallel.machines import Device
from attnlang.schedule import Schedule

sys.path.insert(0, str(Path(__file__).parent))
from common import RESULTS, machine, what_runs
from on_ranks import Results, in_turn, made, runs, say, seconds


def patterns(each: int, n: int, ranks: int) -> dict[str, Pattern]:
    """What is measured: LongNet as published, LongNet with segments up to the whole sequence, and a window."""
    segments = [2048, max(1, n // ranks), n]
    return {
        "longnet": load("longnet"),
        "window": loads(f"pattern window_{min(4096, each)} = causal & window({min(4096, each)})"),
        "longnet_whole": load("longnet", segments=segments, dilations=[max(1, w // 2048) for w in segments]),
    }


@dataclass
class Alone:
    """What one device takes for its own tokens, and how many pairs it computes.

    seconds          of each pass, as they were measured last
    passes, tensors  to be run in turn with those of all ranks, on the same tensors; none for another number of tokens
    """

    seconds: dict[str, float]
    pairs: int
    passes: dict[str, Callable[[], object]]
    tensors: list[Tensor]


def measured(name: str, n: int, each: int, options: dict[str, Any], alone: Alone) -> dict[str, Any]:
    """One pattern on all ranks at n tokens: seconds, bytes on the wire and planned, and what the model predicted."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    heads, dim, device, dtype = (options[key] for key in ("heads", "head_dim", "device", "dtype"))
    pattern = patterns(each, n, ranks)[name]
    kind = str(dtype).removeprefix("torch.")
    found = found_schedule(
        pattern, n=n, ranks=ranks, heads=heads, head_dim=dim, kv_heads=None, dtype=kind, placement="contiguous",
        gpu=options["gpu"], link=options["link"], backward=True, tables=None, objective="time",
        backend=options["backend"],
    )  # fmt: skip
    schedule: Schedule = found.schedule
    module = distribute(attnc.compile(pattern, heads=heads, backend=options["backend"]), None, schedule=schedule)
    tensors = alone.tensors or made(heads, schedule.placement.sizes[rank], dim, device, dtype)
    result: dict[str, Any] = {"pattern": pattern.call, "n": n, "ranks": ranks, "choices": list(schedule.choices)}
    passes = runs(module, tensors)
    with WireAudit() as seen:
        passes["forward_backward"]()
    moved = torch.tensor([seen.sent(rank), *planned(schedule, rank, 1, dtype, dim, backward=True)], device=device)
    dist.all_reduce(moved)
    result["bytes_on_the_wire"], result["bytes_planned"] = int(moved[0]), int(moved[1])
    result["seconds"] = {}
    for what, run in passes.items():
        both = [run, alone.passes[what]] if alone.passes else [run]
        found_seconds = in_turn(both, device, options["repeats"], options["steps"])
        result["seconds"][what] = found_seconds[0]
        if alone.passes:
            alone.seconds[what] = found_seconds[1]
    for named, machine_ in (
        ("predicted", found.device),
        ("predicted_from_one_gpu", like_one(found.device, dim, alone)),
    ):
        forward, backward = times(found.solution, machine_, found.link)
        result[named] = {"forward": forward.seconds, "forward_backward": forward.seconds + backward.seconds}
    result["rates"] = found.device.source
    if options["trace"] is not None:
        trace(pattern, passes, options)
    result["pairs"] = sum(int(getattr(found.solution, part).sum()) for part in ("local", "at_query", "at_key", "owned"))
    if alone.passes:
        share = result["pairs"] / ranks / alone.pairs
        result["seconds_alone"] = dict(alone.seconds)
        result["efficiency"] = {what: value * share / result["seconds"][what] for what, value in alone.seconds.items()}
    data = like_an_exchange(schedule, rank, tensors[0])

    def exchange() -> None:
        dist.all_to_all_single(torch.empty_like(data), data)

    result["seconds"]["exchange_alone"] = seconds(exchange, device, options["repeats"])
    if device == "cuda":
        result["peak_memory"] = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    return result


def trace(pattern: Pattern, passes: dict[str, Callable[[], object]], options: dict[str, Any]) -> None:
    """Append what this rank runs to its file."""
    path: Path = options["trace"]
    with path.with_name(f"{path.name}{dist.get_rank()}.txt").open("a", encoding="utf-8") as file:
        for what, run in passes.items():
            file.writelines(f"{line}\n" for line in (f"\n{pattern.call}, {what}", *what_runs(run, options["device"])))


def like_one(device: Device, head_dim: int, alone: Alone) -> Device:
    """The device with the rates that one of it reached alone, so that what is predicted is the scaling."""
    forward, both = alone.seconds["forward"], alone.seconds["forward_backward"]
    rates = 4 * head_dim * alone.pairs / forward, 10 * head_dim * alone.pairs / max(both - forward, 1e-9)
    return replace(device, forward=rates[0], backward=rates[1], source="this run, one device", start=0.0)


def like_an_exchange(schedule: Schedule, rank: int, like: Tensor) -> Tensor:
    """As many bytes as the busiest rank sends forward and backward, for all ranks alike: what there is to hide."""
    sent, _ = planned(schedule, rank, 1, like.dtype, like.size(-1), backward=True)
    most = torch.tensor(sent, device=like.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    ranks = dist.get_world_size()
    each = max(1, int(most) // max(1, ranks - 1) // like.element_size())
    return like.new_zeros(each * ranks)


def longest(options: dict[str, Any], results: Results) -> None:
    """The longest sequence that fits, forward only: by doubling, and then half as long again. The last one is kept."""
    fits, by, device = options["tokens"], 2, options["device"]
    each = fits
    while not results.time_is_up(f"longest at {each * dist.get_world_size():,} tokens", device):
        row = at_length(each, options)
        if row:
            results.add("longest", "", row)
            fits = each
        if by != 2 or (device == "cpu" and each >= 4 * options["tokens"]):
            return
        by = 2 if row else 1.5
        each = int(fits * by)


def at_length(each: int, options: dict[str, Any]) -> dict[str, Any]:
    """LongNet's forward pass at so many tokens a rank; nothing where that does not fit on every rank."""
    n = each * dist.get_world_size()
    row: dict[str, Any] = {}
    try:
        module = distribute(
            attnc.compile(load("longnet"), heads=options["heads"], backend=options["backend"]), None, n=n,
            placement="contiguous", head_dim=options["head_dim"],
        )  # fmt: skip
        q, k, v = made(options["heads"], each, options["head_dim"], options["device"], options["dtype"], count=3)
        run = runs(module, [q, k, v, q])["forward"]
        row = {"n": n, "tokens_a_rank": each, "seconds": seconds(run, options["device"], 3)}
    except torch.cuda.OutOfMemoryError:
        say(f"{n:,} tokens do not fit")
    all_fit = torch.tensor(int(bool(row)), device=options["device"])
    dist.all_reduce(all_fit, dist.ReduceOp.MIN)
    return row if int(all_fit) else {}


def benchmark(options: dict[str, Any], strong: int, with_longest: bool, results: Results) -> None:
    """All measurements of this run, a row after the other."""
    ranks, each, device = dist.get_world_size(), options["tokens"], options["device"]
    heads, dim, dtype = options["heads"], options["head_dim"], options["dtype"]
    alone: dict[str, Alone] = {}
    tensors = made(heads, each, dim, device, dtype)
    for name, pattern in patterns(each, each, ranks).items():
        module = attnc.compile(pattern, heads=heads, backend=options["backend"])
        passes = runs(module, tensors)
        took = {what: seconds(run, device, options["repeats"], options["steps"]) for what, run in passes.items()}
        pairs = attnc.report(pattern, n=each, heads=heads, head_dim=dim, dependency=False).bag
        alone[name] = Alone(took, pairs, passes, tensors)
        results.add("one_gpu", name, {**took, "pairs": pairs})
    del tensors
    for kind, n in (("weak", each * ranks), ("strong", strong)):
        for name in patterns(each, n, ranks) if n else ():
            if not results.time_is_up(f"{kind} {name}", device):
                results.add(kind, name, measured(name, n, each, options, alone[name]))
        alone = {name: replace(one, passes={}, tensors=[]) for name, one in alone.items()}
    if with_longest:
        longest(options, results)


def plot(files: tuple[Path, ...], output: Path) -> None:
    """Weak-scaling efficiency over ranks, of all files."""
    import matplotlib.pyplot as plt

    lines: dict[str, list[tuple[int, float]]] = {}
    for file in files:
        data = json.loads(file.read_text(encoding="utf-8"))
        for name, found in data["weak"].items():
            lines.setdefault(name, []).append((found["ranks"], found["efficiency"]["forward_backward"]))
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for name, points in lines.items():
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, [100 * value for value in y], marker="o", label=name)
    axes.set(xlabel="GPUs", ylabel="weak scaling, forward + backward (%)", ylim=(0, 110))
    axes.axhline(100, color="grey", linewidth=0.5)
    axes.legend(frameon=False)
    figure.savefig(output, dpi=150)
    print(f"wrote {output}")


@click.command()
@click.option("--tokens", default=262_144, show_default=True, help="Tokens a rank, weak scaling.")
@click.option("--heads", default=12, show_default=True)
@click.option("--head-dim", default=64, show_default=True)
@click.option("--strong", default=0, help="Also strong scaling, at so many tokens in all.")
@click.option("--longest", "with_longest", is_flag=True, help="Also the longest sequence that fits, forward.")
@click.option("--backend", default="auto", show_default=True, help="What runs a rank's own rows: auto, triton, sdpa.")
@click.option("--limit", default=540.0, show_default=True, help="Seconds after which no further row is begun.")
@click.option("--repeats", default=10, show_default=True)
@click.option("--steps", default=8, show_default=True, help="Steps of a sample, which follow one another.")
@click.option("--device", default="auto", help="cuda, cpu, or auto.")
@click.option("--gpu", default="h100", show_default=True, help="What predictions are made for.")
@click.option("--link", default="nvlink", show_default=True, help="What predictions are made for.")
@click.option("--out", default=RESULTS, type=click.Path(file_okay=False, path_type=Path))
@click.option("--trace", type=click.Path(path_type=Path), help="Also write what each rank runs, to this name and rank.")
@click.option("--plot", "plotted", is_flag=True, help="Draw the result files given; run nothing.")
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
def main(
    tokens: int, heads: int, head_dim: int, strong: int, with_longest: bool, backend: str, limit: float, repeats: int,
    steps: int, device: str, gpu: str, link: str, out: Path, trace: Path | None, plotted: bool, files: tuple[Path, ...],
) -> None:  # fmt: skip
    """Measure scaling on the ranks that torchrun starts."""
    if plotted:
        plot(files, out / "scaling.png")
        return
    if "RANK" not in os.environ:
        raise click.UsageError("start it with torchrun: torchrun --nproc-per-node R benchmarks/scaling.py")
    where = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if where == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    rank_device = torch.device("cuda", torch.cuda.current_device()) if where == "cuda" else None
    dist.init_process_group("nccl" if where == "cuda" else "gloo", device_id=rank_device)
    options: dict[str, Any] = {
        "trace": trace,
        "tokens": tokens, "heads": heads, "head_dim": head_dim, "repeats": repeats, "steps": steps,
        "device": where, "gpu": gpu, "link": link, "backend": backend,
        "dtype": torch.bfloat16 if where == "cuda" else torch.float32,
    }  # fmt: skip
    head = {
        "machine": machine(where), "ranks": dist.get_world_size(), "tokens_a_rank": tokens, "heads": heads,
        "head_dim": head_dim, "dtype": str(options["dtype"]), "backend": backend, "repeats": repeats, "steps": steps,
    }  # fmt: skip
    results = Results(head, out, limit)
    benchmark(options, strong, with_longest, results)
    results.data["complete"] = "left_out" not in results.data
    results.write()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
