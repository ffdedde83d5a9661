"""Why a plan runs on this backend and not on another: what each can do, and what it would cost at one length.

Costs are predicted from what is computed and what is moved, against a GPU's data sheet: a bound that no backend passes,
good for comparing backends, not for promising times. On the CPU only the work is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnc.analysis.hardware import Gpu, roofline
from attnc.lower.duplicates import Duplicates, duplicates
from attnlang.pattern.walk import table_axes
from attnlang.plan import Lattice, Plan, Tiles
from attnlang.runtime.backends import names, planned
from attnlang.runtime.calls import resolve

LAUNCH_S = 5e-6
"""What a kernel launch costs at least."""
TILE_BYTES = 40
"""What a pair of a masked tile moves: its score, written and read some five times in float32."""


def explain(plan: Plan, n: int, head_dim: int, gpu: Gpu, tables: Mapping[str, Any] | None = None) -> str:
    """The plan, what `auto` takes on cpu and on cuda and why, and every backend with its refusal or its cost."""
    lines = [str(plan), ""]
    lines += [_chosen(plan, name, head_dim) for name in ("cpu", "cuda")]
    known = not any(isinstance(branch, Tiles) for branch in plan.branches) or bool(tables) or not _asks_tables(plan)
    work = duplicates(plan, n, tables) if known else None
    lines += ["", f"forward at N = {n:,}, {plan.heads} heads of {head_dim}, bfloat16, at best on {gpu.name}:"]
    lines += [f"  {name:<10} {_cost(name, plan, n, head_dim, gpu, work)}" for name in names()]
    if work is not None:
        lines += ["", *_folding(work, head_dim, gpu)]
    return "\n".join(lines)


def _folding(work: Duplicates, head_dim: int, gpu: Gpu) -> list[str]:
    """What each backend does with pairs that several branches hold, or that count several times."""
    if not work.nested and not work.repeated:
        return ["no pair is computed twice: there is nothing to fold into weights"]
    lines = ["pairs that count several times, folded into one with log m added to its score:"]
    if work.nested:
        saved = roofline(4 * head_dim * work.nested, 0, gpu).seconds
        tiled = roofline(4 * head_dim * work.chained, TILE_BYTES * work.chained, gpu).seconds
        own = roofline(4 * head_dim * work.chained, 0, gpu).seconds
        lines += [
            f"  triton     folds the {work.nested:,} that nested lattices share: {work.pairs('triton'):,} computed",
            "  sdpa       does not: torch's kernels know no weights. "
            f"On masked tiles it would save {saved * 1e3:.3f} ms and cost {(tiled - own) * 1e3:.3f} ms",
            "  flex, xformers  do not: each lattice is a run of its own",
        ]
    if work.repeated:
        lines += [
            f"  sdpa       folds the {work.repeated:,} that tiles hold again: {work.pairs('sdpa'):,} computed",
            "  triton, flex  compute such tiles as often as their pairs count",
        ]
    return lines


def _carried(plan: Plan) -> float:
    """Which share of all rows is read, and its result merged, once more by the branches after the first."""
    shares = [
        len(branch.heads) / plan.heads / (branch.dilation if isinstance(branch, Lattice) and branch.phases else 1)
        for branch in plan.branches
    ]
    return sum(shares) - max(shares, default=0.0)


def _asks_tables(plan: Plan) -> bool:
    return any(isinstance(branch, Tiles) and table_axes(branch.relation) for branch in plan.branches)


def _chosen(plan: Plan, device: str, head_dim: int) -> str:
    try:
        return f"auto on {device}: {planned('auto', plan, device, head_dim).why}"
    except ValueError as reason:
        return f"auto on {device}: {reason}"


def _cost(name: str, plan: Plan, n: int, head_dim: int, gpu: Gpu, work: Duplicates | None) -> str:
    if name != "reference":
        try:
            planned(name, plan, "cuda", head_dim)
        except ValueError as reason:
            return f"cannot: {reason}"
    rows = plan.heads * n
    pairs = None if work is None else work.pairs(name)
    if name == "reference":
        pairs, moved, launches = rows * n, 4 * 2 * head_dim * rows + 12 * rows * n, 10
    else:
        moved = int(rows * (4 * 2 * head_dim + 4 + (3 * 2 + 2 * 4) * head_dim * _carried(plan)))
        tiled = sum(isinstance(branch, Tiles) for branch in plan.branches)
        launches = len(plan.branches) if name in ("triton", "flex") else len(resolve(plan, n)) + 10 * tiled
    if pairs is None:
        return "depends on the content of the tables: give them with --table"
    bound = roofline(4 * head_dim * pairs, moved, gpu)
    seconds = bound.seconds + launches * LAUNCH_S
    return f"{seconds * 1e3:>9.3f} ms: {pairs:,} pairs computed, {bound.bound} bound, {launches} launches or more"
