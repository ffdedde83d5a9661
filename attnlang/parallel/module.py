"""`distribute`: the attention of a model on the ranks of a mesh, each with its rows of the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from operator import index
from typing import Any, SupportsIndex, get_args

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from attnlang.nn import PatternAttention
from attnlang.parallel.agreement import When, alike
from attnlang.parallel.attention import TIMEOUT, DistributedAttention
from attnlang.parallel.planning import Planner, compiler_part
from attnlang.plan import Branch, Lattice, Plan
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
    schedule  in place of n, one that was written before, for a module with one pattern: this one
    placement as of `attnc.plan`, where schedules are written here
    kv_heads  heads of k and v, where they are fewer than of q
    timeout   how long a rank waits for the others to come to the same call, and on gloo for their rows (NCCL's group
              has a timeout of its own for those). It includes what planning, here or at the call, takes others longer
    agree     "every call": ranks compare what they were called with before they exchange anything, forward and
              backward. "first call": only at the first call of each kind (shapes, dtypes, scale, whether gradients are
              needed), and where tables or lengths come with it; what differs later is then found by an exchange that
              does not fit, or not at all. For models whose layers are so short that hosts cannot keep up

    head_dim and dtype are what rows weigh where schedules are weighed; inputs with others run.
    An attention that stands in several places of the module, as one shared by all layers, is one in all of them.

    Every rank of the mesh calls this, with the same arguments. They compare them before they plan, and what they have
    planned after it, so that none is left alone with a module that the others do not have.

    Returns the module. Raises ValueError where there is no attention in it, where some is distributed already, for
    more ranks than tokens, for a schedule of another pattern, and for other arguments that do not fit. Where other
    ranks raise that, or are interrupted while they plan, or were given something else, raises RanksDisagreeError, which
    names them and says what they said; PeerLostError where a rank does not come in time. (A mesh that is none is an
    error on its own rank: it is what ranks would tell each other by.)
    """
    group = _group(mesh) if isinstance(mesh, DeviceMesh) else whole_group(mesh)
    ranks = dist.get_world_size(group)
    if ranks > 1 and not dist.is_gloo_available():
        raise ValueError("this torch is built without gloo, by which ranks compare what they are called with")
    limit = timeout if _is_limit(timeout) else TIMEOUT
    with alike("distribute", group, limit) as facts:
        _check(module, n, schedule, timeout, agree)
        found = _attentions(module)
        parts = list(dict.fromkeys(part for _, part in found))
        written = _written(parts, ranks, n, schedule, placement)
        facts |= _facts(found, agree, n, written)
        if written is None:
            facts |= {"head_dim": str(head_dim), "kv_heads": str(kv_heads), "dtype": str(dtype).removeprefix("torch.")}
            facts["placement"] = getattr(placement, "kind", str(placement))
    names = {part: name for name, part in reversed(found)}
    with alike("distribute", group, limit) as facts:
        planners = _planners(parts, ranks, n, written, placement, head_dim, kv_heads, dtype)
        facts["schedule"] = ", ".join(dict.fromkeys(planner.digest for planner in planners))
    made = {
        part: DistributedAttention(part, planner, group, timeout, agree, names[part])
        for part, planner in zip(parts, planners, strict=True)
    }
    if isinstance(module, PatternAttention):
        return made[module]
    for name, part in found:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, made[part])
    return module


def _is_limit(timeout: object) -> bool:
    return isinstance(timeout, timedelta) and timeout > timedelta(0)


def _facts(
    found: Sequence[tuple[str, PatternAttention]], agree: When, n: int | None, written: Schedule | None
) -> dict[str, str]:
    """What all ranks must be called with, whatever they would plan."""
    patterns = ", ".join(dict.fromkeys(part.pattern.call for _, part in found))
    tokens = n if written is None else written.n
    return {
        "agree": agree,
        "attention": f"{patterns} in {counted(len(found), 'place')}",
        "tokens of the whole sequence": str(tokens),
    }


def _check(module: object, n: object, schedule: object, timeout: object, agree: object) -> None:
    """Raises ValueError for arguments that fit no module and no group."""
    if agree not in get_args(When):
        raise ValueError(f"agree must be 'every call' or 'first call', not {agree!r}")
    if not isinstance(module, nn.Module):
        raise ValueError(f"module must be a PatternAttention, or an nn.Module with some, not {type(module).__name__}")
    if n is not None and (isinstance(n, bool) or not isinstance(n, SupportsIndex) or index(n) < 1):
        raise ValueError(f"n must be an integer of at least 1, not {n!r}")
    if not _is_limit(timeout):
        raise ValueError(f"timeout must be a datetime.timedelta above 0, as timedelta(seconds=60), not {timeout!r}")
    if schedule is None:
        return
    if not isinstance(schedule, Schedule):
        raise ValueError(
            f"schedule must be what attnc.plan returns, or Schedule.from_json, not {type(schedule).__name__}"
        )
    if n not in (None, schedule.n):
        raise ValueError(f"the schedule is for {schedule.n:,} tokens, but n is {n:,}: give one of them")


def _attentions(module: nn.Module) -> list[tuple[str, PatternAttention]]:
    """The attention in a module by name, one that is shared under each of its names.

    Raises ValueError where there is none, or one that is distributed already.
    """
    parts = list(module.named_modules(remove_duplicate=False))
    for name, part in parts:
        if isinstance(part, DistributedAttention):
            raise ValueError(
                f"{name or 'the module'} is distributed already, over {counted(part.placement.ranks, 'rank')} and "
                f"{part.placement.n:,} tokens: distribute a module with the attention it was made from (.attention)"
            )
    found = [(name, part) for name, part in parts if isinstance(part, PatternAttention)]
    if not found:
        raise ValueError(f"there is no attnlang attention in {type(module).__name__}: nothing to distribute")
    return found


def whole_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    """The group given, or the one of all ranks. Raises ValueError before init_process_group."""
    found = group if group is not None else dist.group.WORLD
    if found is not None and not isinstance(found, dist.ProcessGroup):  # pyright: ignore[reportUnnecessaryIsInstance] - not everyone checks types
        raise ValueError(
            f"mesh must be a DeviceMesh, a process group, or None for all ranks, not {type(found).__name__}"
        )
    if found is None:
        raise ValueError("no ranks yet: call torch.distributed.init_process_group, or make a DeviceMesh, first")
    return found


def _group(mesh: DeviceMesh) -> dist.ProcessGroup:
    if mesh.ndim != 1:
        names = ", ".join(mesh.mesh_dim_names or ()) or "unnamed"
        raise ValueError(f"the mesh has {mesh.ndim} dimensions ({names}): give one of them, as in mesh['cp']")
    return mesh.get_group()


def _written(
    parts: Sequence[PatternAttention], ranks: int, n: int | None, schedule: Schedule | None, placement: str
) -> Schedule | None:
    """The schedule that was written before: the one given, or the module's own. None where n says how long to plan for.

    Raises ValueError where it does not fit, and where neither is there.
    """
    written = schedule or (getattr(parts[0], "schedule", None) if n is None else None)
    if written is not None:
        if placement not in ("auto", written.placement.kind, written.placement):
            raise ValueError(
                f"a schedule was written for these tokens, on placement {written.placement.kind!r}: give n= in its "
                f"place, for one on placement {placement!r}"
            )
        for part in parts:
            _check_fits(written, part, ranks)
        return written
    if n is None:
        raise ValueError("how long is the sequence? Give n=, or schedule=")
    if ranks > n:
        raise ValueError(
            f"{counted(ranks, 'rank')} for {counted(n, 'token')}: every rank needs a token; use at most {n} ranks"
        )
    return None


def _planners(
    parts: Sequence[PatternAttention], ranks: int, n: int | None, written: Schedule | None, placement: str,
    head_dim: int, kv_heads: int | None, dtype: torch.dtype | str,
) -> list[Planner]:  # fmt: skip
    if written is not None:
        return [Planner.of(written, part.plan) for part in parts]
    assert n is not None
    kind = str(dtype).removeprefix("torch.")
    sizes = {"n": n, "ranks": ranks, "head_dim": head_dim, "dtype": kind}
    fixed = {(part.pattern, part.heads): part for part in parts if not part.pattern.tables}
    found = _schedules(fixed, placement, {**sizes, "kv_heads": kv_heads})
    if found:
        where = next(iter(found.values())).placement
    else:
        where = compiler_part("attnc.schedule.percall").placement_for(_plan(parts[0]), n, ranks, placement)
    made: dict[tuple[Any, int], Planner] = {}  # (layers alike share what is planned at the call)
    for part in parts:
        key = part.pattern, part.heads
        if key in made:
            continue
        known = found.get(key)
        weights = kv_heads or part.heads, head_dim, kind
        planned = None if known is None else Planner.of(known, _plan(part))
        made[key] = planned or Planner(_plan(part), where, *weights, part.pattern.call)
    return [made[part.pattern, part.heads] for part in parts]


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


def _check_fits(schedule: Schedule, part: PatternAttention, ranks: int) -> None:
    """Raises ValueError unless a schedule is of the pattern of a module, for so many ranks."""
    if schedule.ranks != ranks or schedule.heads != part.heads:
        raise ValueError(
            f"the schedule is for {schedule.ranks} ranks and {schedule.heads} heads, "
            f"but there are {ranks} ranks and {part.heads} heads"
        )
    if not is_of(schedule, part):
        raise ValueError(
            f"the schedule is of {schedule.pattern or 'another pattern'}, and not of {part.pattern.call} as it stands: "
            "write one of this pattern (`attnc.plan`), or give n= in place of schedule="
        )


def is_of(schedule: Schedule, part: PatternAttention) -> bool:
    """Whether a schedule computes the pattern of a module."""
    if part.plan is None:  # (backend 'reference' did without)
        return schedule.pattern == part.pattern.call
    mine, its = part.plan.branches, schedule.plan.branches
    return len(mine) == len(its) and all(_alike(a, b) for a, b in zip(mine, its, strict=True))


def _alike(branch: Branch, planned: Branch) -> bool:
    """Whether a branch is what was planned: in a schedule, one run that holds the whole sequence is no run."""
    if isinstance(branch, Lattice) and isinstance(planned, Lattice) and planned.runs is None:
        branch, planned = (replace(x, runs=None, phases=None) for x in (branch, planned))
    return branch == planned


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
