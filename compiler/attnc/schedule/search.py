"""The search: which placement, and which branches owners compute, by the predicted time of forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attnc.lower import lower
from attnc.schedule.cost import balance, dense_schemes, times, work_of
from attnc.schedule.placements import PLACEMENTS, at_length, given, longer_units, placement
from attnc.schedule.solution import Problem, Solution
from attnc.schedule.solver import solve
from attnlang.parallel.machines import DEVICES, LINKS, Device, Link, rated
from attnlang.pattern import Pattern
from attnlang.plan import Columns, Lattice, Plan
from attnlang.schedule import ITEM_SIZES, Alternative, Placement, RowBytes, Schedule

MANY = 64
"""Above so many ranks, placements in several chunks are tried only where they are asked for."""


EVEN = 0.95
"""A contiguous placement whose mean work is above this share of its largest needs no other for balance."""
NEAR = 8
"""Two stretches a rank cut elsewhere are tried where those at multiples cost at most an 8th more than the best."""
SMALL = 4096
"""Up to so many tokens every placement is tried."""


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """A schedule with the solution behind it, and what it was predicted on."""

    schedule: Schedule
    solution: Solution
    device: Device
    link: Link


def search(
    pattern: Pattern, n: int, ranks: int, heads: int, kv_heads: int, head_dim: int, dtype: str, where: str | Placement,
    device: Device, link: Link | None, backward: bool, tables: Mapping[str, Any], objective: str = "",
    backend: str = "auto",
) -> Found:  # fmt: skip
    """The schedule with the least predicted time, or bytes; of equals, the one that is least in the other.

    objective  'time' or 'bytes'; unless given, time where the placement is searched too, bytes where it is given
    backend    whose kernels times are predicted for
    """
    objective = objective or ("time" if where == "auto" else "bytes")
    if objective not in ("time", "bytes"):
        raise ValueError(f"unknown objective {objective!r}: there are 'time' and 'bytes'")
    if heads % kv_heads:
        raise ValueError(f"{heads} heads of q cannot share {kv_heads} heads of k and v evenly: it must divide them")
    plan = at_length(lower(pattern, heads), n)
    device = rated(device, backend, work_of(plan), head_dim)
    link = link or LINKS["nvlink" if ranks <= 8 else "infiniband"]
    row = RowBytes(head_dim, ITEM_SIZES[dtype])
    tried: list[tuple[str, Solution]] = []

    def cost(solution: Solution) -> float:
        return _seconds(solution, device, link) if objective == "time" else solution.bytes_total

    for kind in _kinds(where, ranks, n):
        if where != "auto" or not tried or _worth_trying(kind, tried[0][1]):
            for name, placed in _placements(where, kind, plan, n, ranks, tried, cost):
                problem = Problem(plan, placed, kv_heads, row, backward, tables)
                tried += _of_placement(name, problem, device, link, objective)
    if objective == "time":
        tried.sort(key=lambda item: (round(_seconds(item[1], device, link), 12), item[1].bytes_total))
    else:
        tried.sort(key=lambda item: (item[1].bytes_total, _seconds(item[1], device, link)))
    best = tried[0][1]
    rejected = tuple(_alternative(name, solution, device, link) for name, solution in tried if solution is not best)
    schedule = best.schedule(
        dtype=dtype,
        pattern=pattern.call,
        tables=tuple(sorted((name, _plain(content)) for name, content in tables.items())),
        choices=tuple(_choice(best, number) for number in range(len(plan.branches))),
        rejected=rejected,
        others=tuple(dense_schemes(n, ranks, heads, kv_heads, row, backward)),
    )
    return Found(schedule, best, device, link)


def _kinds(where: str | Placement, ranks: int, n: int) -> Sequence[str]:
    if isinstance(where, Placement):
        return (where.kind,)
    if where != "auto":
        return (where,)
    if ranks == 1 or ranks > MANY:
        return ("contiguous",)
    return [kind for kind in PLACEMENTS if kind != "zigzag" or n >= 2 * ranks]


def _placements(
    where: str | Placement, kind: str, plan: Plan, n: int, ranks: int, tried: Sequence[tuple[str, Solution]],
    cost: Callable[[Solution], float],
) -> Iterator[tuple[str, Placement]]:  # fmt: skip
    """The placements of one kind to be tried, with their names; what was found of one is in `tried` before the next.

    Where the search is free, and equal shards cut what the pattern repeats, also shards at multiples of its period:
    more lies within one rank, and less evenly. What they cost decides. (Two stretches a rank that are cut elsewhere are
    long to plan, and hardly better: they are left out where those at multiples are far from the best)
    """
    if isinstance(where, Placement):
        yield kind, given(where, plan, n, ranks)
        return
    units = longer_units(kind, plan, n, ranks) if where == "auto" else ()
    longer = [(f"{kind} at multiples of {unit:,}", placement(kind, plan, n, ranks, unit)) for unit in units]
    if kind == "contiguous":
        yield kind, placement(kind, plan, n, ranks)
        yield from longer if tried[0][1].bytes_total else ()
        return
    yield from longer
    best, near = (
        min((cost(found) for name, found in tried if name.startswith(some)), default=0.0) for some in ("", kind)
    )
    if not longer or n <= SMALL or near * NEAR <= best * (NEAR + 1):
        yield kind, placement(kind, plan, n, ranks)


def _of_placement(
    name: str, problem: Problem, device: Device, link: Link, objective: str
) -> list[tuple[str, Solution]]:
    kind = problem.placement.kind
    least = solve(problem)
    found = [(f"{name}, each pair at one of its homes, least bytes", least)]
    if least.queries_in.any():
        stay = solve(replace(problem, queries_stay=True))
        stay.certificate = least.certificate  # lattices whose keys cover tiles beside them are not weighed with these
        found.append((f"{name}, each pair where its query lives", stay))
    chosen = _worth_gathering(problem, device, link, objective) if kind == "contiguous" else ()
    if chosen:
        owned = solve(problem, chosen)
        owned.certificate = least.certificate  # what it is to be measured by: no owners
        found.append((f"{name}, {_named(problem.plan, chosen)}", owned))
    return found


def _worth_gathering(problem: Problem, device: Device, link: Link, objective: str) -> tuple[int, ...]:
    """Branches that, taken alone, are done sooner by owners than at the homes of their pairs.

    Where bytes are the objective, those that move less and still keep every rank at work.
    """
    chosen: list[int] = []
    shard = max(problem.placement.sizes)
    for number, branch in enumerate(problem.plan.branches):
        if not isinstance(branch, Lattice) or (branch.runs is not None and branch.runs.width <= shard):
            continue
        alone = Problem(
            Plan(problem.plan.heads, (branch,)), problem.placement, problem.kv_heads, problem.row, problem.backward
        )
        home, owned = solve(alone), solve(alone, (0,))
        if objective == "bytes":
            better = owned.bytes_total < home.bytes_total and bool(owned.owned.all())
        else:
            better = _seconds(owned, device, link) < _seconds(home, device, link)
        if better:
            chosen.append(number)
    return tuple(chosen)


def _named(plan: Plan, chosen: Sequence[int]) -> str:
    numbers = ", ".join(str(number + 1) for number in chosen)
    return f"branch{'es' if len(chosen) > 1 else ''} {numbers} of {len(plan.branches)} by owners"


def _seconds(solution: Solution, device: Device, link: Link) -> float:
    forward, backward = times(solution, device, link)
    return forward.seconds + (backward.seconds if solution.problem.backward else 0.0)


def _worth_trying(kind: str, contiguous: Solution) -> bool:
    """Whether a placement can be better than the contiguous one: by balance, or where distances alone matter.

    Stripes cut every run of a segment into pieces, so that they move more, and are long to plan.
    """
    branches = contiguous.problem.plan.branches
    uneven = balance(contiguous) < EVEN
    if kind == "zigzag":
        return uneven
    apart = all(isinstance(branch, Lattice) and branch.runs is None for branch in branches)
    small = contiguous.problem.placement.n <= SMALL
    return (apart or small) and (uneven or contiguous.bytes_total > 0)


def _alternative(name: str, solution: Solution, device: Device, link: Link) -> Alternative:
    return Alternative(name, solution.bytes_total, solution.bytes_busiest, _seconds(solution, device, link))


def _choice(solution: Solution, number: int) -> str:
    """How a branch is computed, in the field's words."""
    branch, kinds = solution.problem.plan.branches[number], solution.kinds[number]
    for name in ("all-to-all by head", "re-shard by residue"):
        if name in kinds:
            return f"{name}: owners compute, q, k, v go there and out comes back"
    if not kinds:
        return "local: nothing moves"
    if kinds >= {"keys", "queries"}:
        return "mixed cover: some rows of k and v are sent, some rows of q are shipped and reduced"
    if "queries" in kinds:
        return "queries are shipped to the keys, partial results come back and are reduced"
    if isinstance(branch, Lattice) and branch.runs is not None:
        sparse = " of one residue class a head" if branch.dilation > 1 else ""
        return f"gather of k and v{sparse} within the segment's ranks"
    if "far" not in kinds:
        return "halo: k and v of the neighbouring rank's edge"
    if isinstance(branch, Columns):
        return "broadcast of the chosen keys"
    return "k and v rows go where their queries live"


def _plain(content: Any) -> Any:
    import numpy as np

    return _tuples(np.asarray(content).tolist())


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


__all__ = ["DEVICES", "Found", "search"]
