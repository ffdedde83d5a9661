"""`distribute`: the attention of a model on the ranks of a mesh, each with its rows of the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh

from attnlang.nn import PatternAttention
from attnlang.parallel.rank import Kept, RankWork
from attnlang.parallel.wire import agree, drive
from attnlang.schedule import ITEM_SIZES, Schedule

TIMEOUT = timedelta(minutes=5)


class DistributedAttention(nn.Module):
    """`PatternAttention` for a sequence that lies on several ranks, called alike on each with its own rows.

    q (B, H, C, D), k and v (B, Hkv, C, D), where C is how many tokens this rank holds: `shard` gives them. The result
    is this rank's rows of what the whole module gives, out and gradients; partial results are added up in float32
    (float64 for float64), in a fixed order. Like what it replaces it has no parameters and no buffers.

    pattern   what it computes; `attention` is the module for one device that it was made from
    schedule  how
    """

    def __init__(
        self, attention: PatternAttention, schedule: Schedule, group: dist.ProcessGroup, timeout: timedelta = TIMEOUT
    ) -> None:
        super().__init__()
        self.attention = attention
        self.pattern = attention.pattern
        self.heads = attention.heads
        self.schedule = schedule
        self.group = group
        self.timeout = timeout
        self._works: dict[tuple[torch.device, int], RankWork] = {}
        self._agreed: set[tuple[tuple[str, str], ...]] = set()

    @property
    def _backend(self) -> str:
        """What runs a rank's own rows; rows from elsewhere run on torch's kernels."""
        return "auto" if self.attention.backend == "reference" else self.attention.backend

    @property
    def rank(self) -> int:
        """Which rank of the mesh this is."""
        return dist.get_rank(self.group)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        lengths: None = None,
        return_lse: bool = False,
        **tables: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of this rank's queries to all ranks' keys.

        Raises RanksDisagreeError on every rank where any was called with something that does not fit, PeerLostError
        where a rank is gone.
        """
        q, k, v = (_readable(x) for x in (q, k, v))
        fault = self._fault(q, k, v, lengths, tables)
        factor = max(q.size(-1), 1) ** -0.5 if scale is None else float(scale)
        self._agree(q, k, factor, fault)
        out, lse = _Distributed.apply(q, k, v, self._work(q), factor, self)
        return (out, lse) if return_lse else out

    def _fault(self, q: Tensor, k: Tensor, v: Tensor, lengths: object, tables: dict[str, Tensor]) -> str:
        """What is wrong with a call on this rank, or nothing."""
        s = self.schedule
        mine, here = s.placement.sizes[self.rank], f"rank {self.rank}"
        for name, x, heads in (("q", q, s.heads), ("k", k, s.kv_heads), ("v", v, s.kv_heads)):
            if x.dim() != 4 or x.size(1) != heads or x.size(2) != mine:
                return (
                    f"{here}: {name} must be (batch, {heads}, {mine}, head_dim), this rank's rows of {s.n:,} tokens, "
                    f"but has shape {tuple(x.shape)}; `attnlang.parallel.shard` cuts it"
                )
        kinds = {(x.dtype, x.device, x.size(0), x.size(3)) for x in (q, k, v)}
        if len(kinds) > 1:
            return f"{here}: q, k and v must have one dtype, device, batch and head dimension"
        if str(q.dtype).removeprefix("torch.") not in ITEM_SIZES:
            return f"{here}: q must be float64, float32, bfloat16 or float16, not {q.dtype}"
        if lengths is not None:
            return f"{here}: lengths= has no meaning for a sequence on several ranks: pad to {s.n} tokens"
        if set(tables) - {name for name, _ in s.tables}:
            return f"{here}: the schedule has the content of its tables already: plan again for other tables"
        return ""

    def _agree(self, q: Tensor, k: Tensor, scale: float, fault: str) -> None:
        facts = {
            "batch": str(q.size(0) if q.dim() == 4 else 0),
            "head dimension": str(q.size(-1)),
            "dtype": str(q.dtype),
            "scale": repr(scale),
            "schedule": self.schedule.digest,
            "autograd": str(torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)),
            "fault": fault,
        }
        key = tuple(sorted(facts.items()))
        if key not in self._agreed:
            agree(facts, self.group, q.device, self.timeout)
            self._agreed.add(key)

    def _work(self, q: Tensor) -> RankWork:
        key = q.device, q.size(-1)
        if key not in self._works:
            self._works[key] = RankWork(self.schedule, self.rank, q.device, q.size(-1), self._backend)
        return self._works[key]

    def extra_repr(self) -> str:
        return f"{self.pattern.call}, n={self.schedule.n}, rank {self.rank} of {self.schedule.ranks}"

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a distributed module belongs to its process group: pickle the module it was made from")


def _readable(x: Tensor) -> Tensor:
    """With its rows in one piece, and in the dtype of an autocast that is on (float64 stays)."""
    if x.is_floating_point() and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return x if x.dim() == 0 or x.stride(-1) == 1 else x.contiguous()


class _Distributed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, work: RankWork, scale: float, module: DistributedAttention
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(q.device.type, enabled=False):
            out, lse, kept = drive(work.forward(q, k, v, scale), module.group, module.timeout)
        ctx.save_for_backward(q, k, v, out, lse, kept.k, kept.v, kept.q)
        ctx.work, ctx.scale, ctx.module = work, scale, module
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, lse, *kept = ctx.saved_tensors
        steps = ctx.work.backward(grads[0], q, k, v, out, lse, Kept(*kept), ctx.scale)
        return *drive(steps, ctx.module.group, ctx.module.timeout), None, None, None


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
) -> nn.Module:
    """Let the attention in a module run on sequences of n tokens that lie on the ranks of a mesh.

    module    a PatternAttention, or a model with some: each is replaced, in place, by a DistributedAttention
    mesh      a DeviceMesh of one dimension (of several: take one, `mesh["cp"]`), or its process group; None: all ranks
    n         tokens of the whole sequence; the compiler writes a schedule of each pattern, on one placement for all
    schedule  in place of n, one that was written before, for a module with one pattern
    timeout   how long to wait for another rank, where the backend can tell (gloo; NCCL has its group's own)

    head_dim, kv_heads and dtype are what rows weigh where schedules are weighed; any input runs.
    Returns the module. Raises ValueError where there is no attention in it, or more ranks than tokens.
    """
    group = _group(mesh) if isinstance(mesh, DeviceMesh) else whole_group(mesh)
    ranks = dist.get_world_size(group)
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, PatternAttention)]
    if not found:
        raise ValueError(f"there is no attnlang attention in {type(module).__name__}: nothing to distribute")
    schedules = _schedules([part for _, part in found], ranks, n, schedule, placement, head_dim, kv_heads, dtype)
    made = [
        DistributedAttention(part, planned, group, timeout) for (_, part), planned in zip(found, schedules, strict=True)
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


def _schedules(
    parts: Sequence[PatternAttention], ranks: int, n: int | None, schedule: Schedule | None, placement: str,
    head_dim: int, kv_heads: int | None, dtype: torch.dtype | str,
) -> list[Schedule]:  # fmt: skip
    written = schedule or getattr(parts[0], "schedule", None)
    if n is None and written is not None:
        return [_fitting(written, part, ranks) for part in parts]
    if n is None:
        raise ValueError("how long is the sequence? Give n=, or schedule=")
    if ranks > n:
        raise ValueError(f"{ranks} ranks for {n} tokens: every rank needs a token; use at most {n} ranks")
    plan = _compiler()
    sizes = {"n": n, "ranks": ranks, "head_dim": head_dim, "dtype": str(dtype).removeprefix("torch.")}
    distinct = {(part.pattern, part.heads): part for part in parts}
    found: dict[tuple[Any, int], Schedule] = {
        key: plan(part.pattern, heads=part.heads, kv_heads=kv_heads, placement=placement, **sizes)
        for key, part in distinct.items()
    }
    kinds = {schedule.placement.kind for schedule in found.values()}
    if len(kinds) > 1:  # one placement for the whole stack of layers
        found = _on_one_placement(distinct, kinds, plan, {**sizes, "kv_heads": kv_heads})
    return [found[part.pattern, part.heads] for part in parts]


def _on_one_placement(
    distinct: dict[tuple[Any, int], PatternAttention], kinds: set[str], plan: Any, sizes: dict[str, Any]
) -> dict[tuple[Any, int], Schedule]:
    """Schedules of all patterns on the placement that moves least; contiguous ones are cut at the same tokens."""
    options = [
        {key: plan(part.pattern, heads=part.heads, placement=kind, **sizes) for key, part in distinct.items()}
        for kind in sorted(kinds)
    ]
    alike = [option for option in options if len({s.placement.chunks for s in option.values()}) == 1]
    if not alike:
        raise ValueError(
            "the patterns of this model want their shards cut at different tokens: give placement='striped', or an n "
            "that the number of ranks divides"
        )
    return min(alike, key=lambda option: sum(s.certificate.minimum for s in option.values()))


def _fitting(schedule: Schedule, part: PatternAttention, ranks: int) -> Schedule:
    if schedule.ranks != ranks or schedule.heads != part.heads:
        raise ValueError(
            f"the schedule is for {schedule.ranks} ranks and {schedule.heads} heads, "
            f"but there are {ranks} ranks and {part.heads} heads"
        )
    return schedule


def _compiler() -> Any:
    """The compiler's `plan`, if it is installed: what runs a schedule does without it."""
    if find_spec("attnc") is None:
        raise ValueError("the compiler `attnc` is not installed here: give schedule=, written where it is")
    return import_module("attnc").plan


def schedule_of(module: nn.Module) -> Schedule:
    """The schedule of the first distributed attention in a module: its placement is that of them all."""
    for part in module.modules():
        if isinstance(part, DistributedAttention):
            return part.schedule
    raise ValueError(f"there is no distributed attention in {type(module).__name__}: call attnlang.parallel.distribute")
