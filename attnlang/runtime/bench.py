"""Timing a pattern beside what one would use instead: dense attention, and FlexAttention in the order of tokens.

    dense            scaled_dot_product_attention over all pairs, causal where the pattern is
    flex, as it is   FlexAttention with a block mask of exactly the pattern's pairs, tokens in their own order
    BACKEND          the pattern on each backend that runs it here

Each is warmed up, then timed until it has been run often enough; what is told is the median and the quartiles. All run
in one process, one after another, on the same inputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any, TypeAlias

import torch
from torch import Tensor

from attnlang.pattern import Pattern
from attnlang.plan import Plan, Tiles
from attnlang.runtime import ops
from attnlang.runtime.backends import AUTO, FORWARD_ONLY, REFERENCE, choose, names
from attnlang.runtime.program import Program
from attnlang.runtime.specimens import Specimen

Run: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]

WARM_UP = 3
LEAST, MOST = 5, 100
SECONDS = 0.6
"""Each is timed this long, within the numbers of runs above."""
DENSE = "dense"
AS_IT_IS = "flex, as it is"


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds of one way at one length: median and quartiles; or, without them, why there are none."""

    name: str
    n: int
    median: float | None
    lower: float | None = None
    upper: float | None = None
    runs: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Bench:
    """All timings of a pattern. `str()` is a table; `to_dict()` for JSON."""

    pattern: str
    device: str
    torch: str
    dtype: str
    batch: int
    heads: int
    head_dim: int
    what: str
    auto: str
    timings: tuple[Timing, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; times in microseconds."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.pattern}, {self.what}: batch {self.batch}, {self.heads} heads of {self.head_dim}, {self.dtype}",
            f"{self.device}, torch {self.torch}; auto is {self.auto}",
            f"{'N':>9}  {'':<16}{'median us':>12}{'quartiles':>24}{'runs':>6}  times faster than dense",
        ]
        for one in self.timings:
            if one.median is None:
                continue
            dense = next((t.median for t in self.timings if (t.name, t.n) == (DENSE, one.n)), None)
            faster = f"{dense / one.median:>8.2f}" if dense else ""
            spread = f"{one.lower:,.0f} .. {one.upper:,.0f}"
            lines.append(f"{one.n:>9,}  {one.name:<16}{one.median:>12,.0f}{spread:>24}{one.runs:>6}  {faster}")
        refused = {(one.name, one.reason) for one in self.timings if one.median is None}
        return "\n".join((*lines, *(f"not timed: {name}: {reason}" for name, reason in sorted(refused))))


def bench(
    pattern: Pattern,
    plan: Plan,
    *,
    lengths: Sequence[int],
    causal: bool,
    backends: Sequence[str] = (),
    batch: int = 1,
    head_dim: int = 64,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    backward: bool = True,
    progress: Callable[[str], None] = lambda what: None,
) -> Bench:
    """Time a plan at several lengths, forward or forward and backward.

    causal    whether dense attention, to be a fair peer, is causal
    backends  those to time; all that run it here, unless given
    dtype     bfloat16 on cuda and float32 on cpu, unless given
    progress  is told what is being timed

    Raises ValueError for a device that is not there.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: torch finds no CUDA device here")
    kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    kind = kind or (torch.bfloat16 if where.type == "cuda" else torch.float32)
    wanted = list(backends) or [name for name in names() if name != REFERENCE]
    timings: list[Timing] = []
    for n in lengths:
        tables = {name: torch.from_numpy(table).to(where) for name, table in _tables(pattern, n, plan.heads).items()}
        shape = (batch, plan.heads, n, head_dim)
        inputs = [torch.randn(shape, dtype=kind, device=where).requires_grad_(backward) for _ in range(3)]
        for name, make in _ways(pattern, plan, causal, wanted, where, backward):
            progress(f"{name}, N = {n:,}")
            timings.append(_timed(name, make, inputs, tables, backward))
    title = torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu"
    return Bench(
        pattern.call,
        title,
        torch.__version__,
        str(kind).removeprefix("torch."),
        batch,
        plan.heads,
        head_dim,
        "forward and backward" if backward else "forward",
        _auto(plan, where, kind, head_dim),
        tuple(timings),
    )


def _tables(pattern: Pattern, n: int, heads: int) -> Mapping[str, Any]:
    return Specimen(pattern).tables(n, heads)


def _auto(plan: Plan, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    try:
        return choose(AUTO, plan, device, dtype, head_dim).name
    except ValueError:
        return "none"


def _ways(
    pattern: Pattern, plan: Plan, causal: bool, backends: Sequence[str], device: torch.device, backward: bool
) -> Iterator[tuple[str, Callable[[Mapping[str, Tensor]], Run]]]:
    """Name of each way, and how to make it of the content of the tables. Making may raise ValueError."""
    yield DENSE, lambda tables: _dense(causal)
    natural = Plan(plan.heads, (Tiles(tuple(range(plan.heads)), pattern.relation),))
    ways = [(AS_IT_IS, natural, "flex"), *((name, plan, name) for name in backends)]
    for name, what, backend in ways:
        if not (backward and (backend, device.type) in FORWARD_ONLY):
            yield name, lambda tables, what=what, backend=backend: _pattern(what, pattern, backend, tables)


def _dense(causal: bool) -> Run:
    return lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)


def _pattern(plan: Plan, pattern: Pattern, backend: str, tables: Mapping[str, Tensor]) -> Run:
    program = Program(plan, pattern.tables).text()
    content = [tables[name] for name, _ in pattern.tables]
    return lambda q, k, v: ops.attention(q, k, v, program, backend=backend, tables=content)[0]


def _timed(
    name: str,
    make: Callable[[Mapping[str, Tensor]], Run],
    inputs: Sequence[Tensor],
    tables: Mapping[str, Tensor],
    backward: bool,
) -> Timing:
    n = inputs[0].size(2)
    q, k, v = inputs
    weight = torch.randn_like(q)

    def once() -> None:
        out = run(q, k, v)
        if backward:
            torch.autograd.grad(out, inputs, weight)

    try:
        run = make(tables)
        for _ in range(WARM_UP):
            once()
    except (ValueError, torch.OutOfMemoryError) as reason:
        return Timing(name, n, None, reason=str(reason).partition("\n")[0])
    times = _times(once, q.device)
    lower, median, upper = quantiles(times, n=4)
    return Timing(name, n, median, lower, upper, len(times))


def _times(once: Callable[[], None], device: torch.device) -> list[float]:
    """Microseconds of each of some runs: on cuda between events, on the cpu by the clock."""
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < LEAST or (len(times) < MOST and time.perf_counter() - begun < SECONDS):
        times.append(_event_time(once) if device.type == "cuda" else _clock_time(once))
    return times


def _clock_time(once: Callable[[], None]) -> float:
    begun = time.perf_counter()
    once()
    return (time.perf_counter() - begun) * 1e6


def _event_time(once: Callable[[], None]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    once()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1e3
