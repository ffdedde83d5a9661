"""`distribute`: the attention of a model on the ranks of a mesh, each with its rows of the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, get_args

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from attnlang.nn import PatternAttention
from attnlang.parallel.agreement import When
from attnlang.parallel.attention import TIMEOUT, DistributedAttention
from attnlang.parallel.planning import Planner, compiler_part
from attnlang.plan import Plan
from attnlang.schedule import Placement, Schedule, counted

__all__ = ["DistributedAttention", "distribute", "schedule_of", "whole_group"]


def distribute(
    module: nn.Module,
    mesh: DeviceMesh | dist.ProcessGroup | None,
    *,
    n: int | None = None,
    schedule: Schedule | None = None,
    placement: str = "auto",
    head_dim: int = 64,
    kv_heads: int | None = None,
    dtype: torch.dtype | str = "bfloat16",
    timeout: timedelta = TIMEOUT,
    agree: When = "every call",
) -> nn.Module:
    """Let the attention in a module run on sequences of n tokens that lie on the ranks of a mesh.

    module    a PatternAttention, or a model with some: each is replaced, in place, by a DistributedAttention
    mesh      a DeviceMesh of one dimension (of several: take one, `mesh["cp"]`), or its process group; None: all ranks
    n         tokens of the whole sequence; the compiler writes a schedule of each pattern, on one placement for all.
              Patterns with runtime tables are scheduled at the call, when their content is known
    schedule  in place of n, one that was written before, for a module with one pattern
    timeout   how long a rank waits for the others to come to the same call, and on gloo for their rows (NCCL's group
              has a timeout of its own for those). It includes what planning at the call takes others longer
    agree     "every call": ranks compare what they were called with before they exchange anything, forward and
              backward. "first call": only at the first call of each kind (shapes, dtypes, scale, whether gradients are
              needed), and where tables or lengths come with it; what differs later is then found by an exchange that
              does not fit, or not at all. For models whose layers are so short that hosts cannot keep up

    head_dim, kv_heads and dtype are what rows weigh where schedules are weighed; any input runs.
    Returns the module. Raises ValueError where there is no attention in it, or more ranks than tokens.
    """
    if agree not in get_args(When):
        raise ValueError(f"agree must be 'every call' or 'first call', not {agree!r}")
    group = _group(mesh) if isinstance(mesh, DeviceMesh) else whole_group(mesh)
    ranks = dist.get_world_size(group)
    if ranks > 1 and not dist.is_gloo_available():
        raise ValueError("this torch is built without gloo, by which ranks compare what they are called with")
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, PatternAttention)]
    if not found:
        raise ValueError(f"there is no attnlang attention in {type(module).__name__}: nothing to distribute")
    planners = _planners([part for _, part in found], ranks, n, schedule, placement, head_dim, kv_heads, dtype)
    made = [
        DistributedAttention(part, planner, group, timeout, agree, name)
        for (name, part), planner in zip(found, planners, strict=True)
    ]
    if isinstance(module, PatternAttention):
        return made[0]
    for (name, _), part in zip(found, made, strict=True):
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, part)
    return module


def whole_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    """The group given, or the one of all ranks. Raises ValueError before init_process_group."""
    found = group if group is not None else dist.group.WORLD
    if found is None:
        raise ValueError("no ranks yet: call torch.distributed.init_process_group, or make a DeviceMesh, first")
    return found


def _group(mesh: DeviceMesh) -> dist.ProcessGroup:
    if mesh.ndim != 1:
        names = ", ".join(mesh.mesh_dim_names or ()) or "unnamed"
        raise ValueError(f"the mesh has {mesh.ndim} dimensions ({names}): give one of them, as in mesh['cp']")
    return mesh.get_group()


def _planners(
    parts: Sequence[PatternAttention], ranks: int, n: int | None, schedule: Schedule | None, placement: str,
    head_dim: int, kv_heads: int | None, dtype: torch.dtype | str,
) -> list[Planner]:  # fmt: skip
    written = schedule or getattr(parts[0], "schedule", None)
    if n is None and written is not None:
        return [Planner.of(_fitting(written, part, ranks), part.plan) for part in parts]
    if n is None:
        raise ValueError("how long is the sequence? Give n=, or schedule=")
    if ranks > n:
        raise ValueError(
            f"{counted(ranks, 'rank')} for {counted(n, 'token')}: every rank needs a token; use at most {n} ranks"
        )
    kind = str(dtype).removeprefix("torch.")
    sizes = {"n": n, "ranks": ranks, "head_dim": head_dim, "dtype": kind}
    fixed = {(part.pattern, part.heads): part for part in parts if not part.pattern.tables}
    found = _schedules(fixed, placement, {**sizes, "kv_heads": kv_heads})
    if found:
        where = next(iter(found.values())).placement
    else:
        where = compiler_part("attnc.schedule.percall").placement_for(_plan(parts[0]), n, ranks, placement)
    planners: list[Planner] = []
    for part in parts:
        known = found.get((part.pattern, part.heads))
        weights = kv_heads or part.heads, head_dim, kind
        made = None if known is None else Planner.of(known, _plan(part))
        planners.append(made or Planner(_plan(part), where, *weights, part.pattern.call))
    return planners


def _plan(part: PatternAttention) -> Plan:
    """The plan of a module, made now where backend 'reference' did without one."""
    return part.plan or compiler_part("attnc.lower").lower(part.pattern, part.heads)


def _schedules(
    distinct: dict[tuple[Any, int], PatternAttention], placement: str, sizes: dict[str, Any]
) -> dict[tuple[Any, int], Schedule]:
    """Schedules of all patterns without tables, on one placement."""
    if not distinct:
        return {}
    plan = compiler_part("attnc").plan
    found: dict[tuple[Any, int], Schedule] = {
        key: plan(part.pattern, heads=part.heads, placement=placement, **sizes) for key, part in distinct.items()
    }
    places = {schedule.placement.chunks: schedule.placement for schedule in found.values()}
    return found if len(places) == 1 else _on_one_placement(distinct, found, list(places.values()), plan, sizes)


def _on_one_placement(
    distinct: dict[tuple[Any, int], PatternAttention], found: dict[tuple[Any, int], Schedule],
    places: Sequence[Placement], plan: Any, sizes: dict[str, Any],
) -> dict[tuple[Any, int], Schedule]:  # fmt: skip
    """Schedules of all patterns on one of the placements that were found for them: the one that moves least."""
    options = [
        {
            key: found[key]
            if found[key].placement.chunks == where.chunks
            else plan(part.pattern, heads=part.heads, placement=where, **sizes)
            for key, part in distinct.items()
        }
        for where in places
    ]
    return min(options, key=lambda option: sum(s.certificate.minimum for s in option.values()))


def _fitting(schedule: Schedule, part: PatternAttention, ranks: int) -> Schedule:
    if schedule.ranks != ranks or schedule.heads != part.heads:
        raise ValueError(
            f"the schedule is for {schedule.ranks} ranks and {schedule.heads} heads, "
            f"but there are {ranks} ranks and {part.heads} heads"
        )
    return schedule


def schedule_of(module: nn.Module) -> Schedule:
    """The schedule of the first distributed attention in a module: its placement is that of them all.

    Raises ValueError where there is none, or where it is made at the call.
    """
    for part in module.modules():
        if isinstance(part, DistributedAttention):
            if part.schedule is None:
                raise ValueError(f"{part.pattern.call} is planned at the call, when the content of its tables is known")
            return part.schedule
    raise ValueError(f"there is no distributed attention in {type(module).__name__}: call attnlang.parallel.distribute")
