"""`DistributedAttention`: `PatternAttention` for a sequence that lies on several ranks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attnlang.nn import PatternAttention
from attnlang.nn.checks import check_lengths, check_tables
from attnlang.parallel.dense import positions
from attnlang.parallel.planning import KEPT, Planner
from attnlang.parallel.rank import Kept, RankWork
from attnlang.parallel.wire import agree, drive
from attnlang.runtime.batches import checked_lengths
from attnlang.runtime.contents import Contents
from attnlang.runtime.merge import accumulator_dtype
from attnlang.runtime.program import Program
from attnlang.schedule import ITEM_SIZES, Placement, Schedule

TIMEOUT = timedelta(minutes=5)
KINDS = 64
"""Kinds of calls (shapes, dtypes, scales) that are kept: ranks compare them at the first of each."""


class Part(NamedTuple):
    """Items first..last - 1 of a batch, of which this rank holds so many rows, and what it does with them."""

    first: int
    last: int
    rows: int
    work: RankWork

    def of(self, x: Tensor) -> Tensor:
        return x[self.first : self.last, :, : self.rows]


class DistributedAttention(nn.Module):
    """`PatternAttention` for a sequence that lies on several ranks, called alike on each with its own rows.

    q (B, H, C, D), k and v (B, Hkv, C, D), where C is how many tokens this rank holds: `shard` gives them. The result
    is this rank's rows of what the whole module gives, out and gradients; partial results are added up in float32
    (float64 for float64), in a fixed order. Like what it replaces it has no parameters and no buffers.

    pattern    what it computes; `attention` is the module for one device that it was made from
    placement  which tokens each rank holds
    schedule   how, where that was planned before; None where it is planned at the call, from runtime tables
    """

    def __init__(
        self, attention: PatternAttention, planner: Planner, group: dist.ProcessGroup, timeout: timedelta = TIMEOUT
    ) -> None:
        super().__init__()
        self.attention = attention
        self.pattern = attention.pattern
        self.heads = attention.heads
        self.group = group
        self.timeout = timeout
        self._planner = planner
        self._works: OrderedDict[tuple[int, torch.device, int], tuple[Schedule, RankWork]] = OrderedDict()
        self._kinds: dict[tuple[Any, ...], list[Part]] = {}

    @property
    def placement(self) -> Placement:
        """Which tokens each rank holds."""
        return self._planner.placement

    @property
    def schedule(self) -> Schedule | None:
        """What was planned before any call; None where calls bring tables."""
        return self._planner.fixed

    @property
    def _backend(self) -> str:
        """What runs a rank's own rows, and bands of squares among rows from elsewhere; torch's kernels run the rest."""
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
        lengths: Tensor | None = None,
        return_lse: bool = False,
        **tables: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of this rank's queries to all ranks' keys.

        lengths  (B,) integers, as of the whole module, the same on every rank
        tables   content of runtime tables, by name: of the *whole* sequence, the same on every rank, with a batch axis
                 or without. Ranks compare what they were given, and plan for it; the last few plans are kept

        Raises RanksDisagreeError on every rank where any was called with something that does not fit, PeerLostError
        where a rank is gone.
        """
        q, k, v = (_readable(x) for x in (q, k, v))
        factor = max(q.size(-1), 1) ** -0.5 if scale is None else float(scale)
        if tables or lengths is not None or self.pattern.tables:
            out, lse = self._with_content(q, k, v, factor, lengths, tables)
        else:
            out, lse = _Distributed.apply(q, k, v, self._known(q, k, v, factor), factor, self)
        return (out, lse) if return_lse else out

    def _known(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> list[Part]:
        """What is to be done with tensors that bring nothing but themselves: agreed on once for each kind of them."""
        tensors = q, k, v
        needed = _needs_gradients(*tensors)
        kind = (*(x.shape for x in tensors), *(x.dtype for x in tensors), *(x.device for x in tensors), scale, needed)
        known = self._kinds.get(kind)
        if known is None:
            fault = self._fault(q, k, v)
            if not fault:
                try:
                    known = list(self._parts(q, {}, None))
                    for part in known:
                        part.work.check(q)
                except ValueError as error:
                    fault = f"rank {self.rank}: {error}"
            self._agree(q, scale, needed, fault, {}, None)
            assert known is not None  # (or every rank has raised an error)
            if len(self._kinds) >= KINDS:
                self._kinds.clear()
            self._kinds[kind] = known  # (nothing can fail in between, so ranks that agree know the same kinds)
        return known

    def _with_content(
        self, q: Tensor, k: Tensor, v: Tensor, factor: float, lengths: Tensor | None, tables: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Out and lse where a call brings tables or lengths: ranks compare them, and plan for them."""
        fault = self._fault(q, k, v)
        contents: dict[str, NDArray[np.int64]] = {}
        sizes: list[int] | None = None
        if not fault:
            try:
                contents, sizes = self._contents(tables, q.size(0)), self._sizes(lengths, q, k)
            except ValueError as error:
                fault = f"rank {self.rank}: {error}"
        self._agree(q, factor, _needs_gradients(q, k, v), fault, contents, sizes)
        own_length = sizes is not None and not self._ignores_padding
        parts = list(self._parts(q, contents, sizes if own_length else None))
        out, lse = _Distributed.apply(q, k, v, parts, factor, self)
        if sizes is not None and not own_length:
            padding = self._padding(sizes, q.device)
            return out.masked_fill(padding[..., None], 0.0), lse.masked_fill(padding, float("-inf"))
        return out, lse

    # what a call brings ---------------------------------------------------------------------------------------------

    def _fault(self, q: Tensor, k: Tensor, v: Tensor) -> str:
        """What is wrong with the tensors of a call on this rank, or nothing."""
        mine, here = self.placement.sizes[self.rank], f"rank {self.rank}"
        kv_heads = self._planner.kv_heads
        for name, x, heads in (("q", q, self.heads), ("k", k, kv_heads), ("v", v, kv_heads)):
            if x.dim() != 4 or x.size(1) != heads or x.size(2) != mine:
                return (
                    f"{here}: {name} must be (batch, {heads}, {mine}, head_dim), this rank's rows of "
                    f"{self.placement.n:,} tokens, but has shape {tuple(x.shape)}; `attnlang.parallel.shard` cuts it"
                )
        kinds = {(x.dtype, x.device, x.size(0), x.size(3)) for x in (q, k, v)}
        if len(kinds) > 1:
            return f"{here}: q, k and v must have one dtype, device, batch and head dimension"
        if str(q.dtype).removeprefix("torch.") not in ITEM_SIZES:
            return f"{here}: q must be float64, float32, bfloat16 or float16, not {q.dtype}"
        return ""

    def _contents(self, tables: Mapping[str, Tensor], batch: int) -> dict[str, NDArray[np.int64]]:
        """Tables as arrays. Raises ValueError unless they are the pattern's, or none where all is planned."""
        if not tables and (self.schedule is not None or not self.pattern.tables):
            return {}
        check_tables(self.pattern, tables, batch)
        return {name: x.detach().to("cpu", torch.int64).numpy() for name, x in tables.items()}

    def _sizes(self, lengths: Tensor | None, q: Tensor, k: Tensor) -> list[int] | None:
        check_lengths(lengths, q, k)
        return None if lengths is None else checked_lengths(lengths, self.placement.n)

    @property
    def _ignores_padding(self) -> bool:
        plan = self.attention.plan
        return plan is not None and Program(plan, self.pattern.tables).ignores_padding

    def _padding(self, sizes: Sequence[int], device: torch.device) -> Tensor:
        """Which of this rank's rows are padding: (B, 1, C)."""
        mine = torch.from_numpy(positions(self.placement, self.rank)).to(device)
        return mine >= torch.tensor(sizes, device=device)[:, None, None]

    def _agree(
        self, q: Tensor, scale: float, needed: bool, fault: str, contents: Mapping[str, NDArray[np.int64]],
        sizes: list[int] | None,
    ) -> None:  # fmt: skip
        facts = {
            "batch": str(q.size(0) if q.dim() == 4 else 0),
            "head dimension": str(q.size(-1)),
            "dtype": str(q.dtype),
            "scale": repr(scale),
            "schedule": self._planner.digest,
            "tables": Contents(contents).digest if contents else "none",
            "lengths": "none" if sizes is None else repr(sizes),
            "autograd": str(needed),
            "fault": fault,
        }
        agree(facts, self.group, q.device, self.timeout)

    # what is to be done ---------------------------------------------------------------------------------------------

    def _parts(self, q: Tensor, contents: dict[str, NDArray[np.int64]], sizes: list[int] | None) -> Iterator[Part]:
        """The batch by items that have one schedule, next to one another."""
        batch, n = q.size(0), self.placement.n
        own = {name for name, axes in self.pattern.tables if name in contents and contents[name].ndim > axes}
        for (_, size), group in groupby(
            range(batch), lambda item: (item if own else 0, n if sizes is None else sizes[item])
        ):
            members = list(group)
            tables = {name: x[members[0]] if name in own else x for name, x in contents.items()}
            if size:
                schedule = self._planner.schedule(size, tables)
                work = self._work(schedule, q)
                yield Part(members[0], members[-1] + 1, schedule.placement.sizes[self.rank], work)

    def _work(self, schedule: Schedule, q: Tensor) -> RankWork:
        key = id(schedule), q.device, q.size(-1)
        if key not in self._works:  # the schedule is kept beside, so that its id stays its own
            self._works[key] = schedule, RankWork(schedule, self.rank, q.device, q.size(-1), self._backend)
        self._works.move_to_end(key)
        while len(self._works) > KEPT:
            self._works.popitem(last=False)
        return self._works[key][1]

    def extra_repr(self) -> str:
        return f"{self.pattern.call}, n={self.placement.n}, rank {self.rank} of {self.placement.ranks}"

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a distributed module belongs to its process group: pickle the module it was made from")


def _needs_gradients(*tensors: Tensor) -> bool:
    """Whether there will be a backward pass: every rank takes part in its exchanges then."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _readable(x: Tensor) -> Tensor:
    """With its rows in one piece, and in the dtype of an autocast that is on (float64 stays)."""
    if x.is_floating_point() and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return x if x.dim() == 0 or x.stride(-1) == 1 else x.contiguous()


class _Distributed(torch.autograd.Function):
    """All parts of a call in one function, one after another, so that every rank exchanges in the same order."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: list[Part], scale: float, module: DistributedAttention
    ) -> tuple[Tensor, Tensor]:
        whole = len(parts) == 1 and parts[0].of(q).shape == q.shape
        out = lse = q.new_empty(0)
        if not whole:
            out = torch.zeros_like(q)
            lse = q.new_full(q.shape[:3], float("-inf"), dtype=accumulator_dtype(q.dtype))
        kept: list[Tensor] = []
        with torch.autocast(q.device.type, enabled=False):
            for part in parts:
                q1, k1, v1 = (part.of(x) for x in (q, k, v))
                steps = part.work.forward(q1, k1, v1, scale)
                found, found_lse, came = drive(steps, module.group, module.timeout)
                kept += [came.k, came.v, came.q]
                if whole:
                    out, lse = found, found_lse
                else:
                    part.of(out).copy_(found)
                    part.of(lse).copy_(found_lse)
        ctx.save_for_backward(q, k, v, out, lse, *kept)
        ctx.parts, ctx.scale, ctx.module, ctx.whole = parts, scale, module, whole
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, lse, *kept = ctx.saved_tensors
        totals = () if ctx.whole else tuple(torch.zeros_like(x) for x in (q, k, v))
        for number, part in enumerate(ctx.parts):
            came = Kept(*kept[3 * number : 3 * number + 3])
            dout1, q1, k1, v1, out1, lse1 = (part.of(x) for x in (grads[0], q, k, v, out, lse))
            steps = part.work.backward(dout1, q1, k1, v1, out1, lse1, came, ctx.scale)
            found = drive(steps, ctx.module.group, ctx.module.timeout)
            if ctx.whole:
                totals = found
            else:
                for total, piece in zip(totals, found, strict=True):
                    part.of(total).copy_(piece)
        return *totals, None, None, None
