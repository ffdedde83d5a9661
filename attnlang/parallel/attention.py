"""`DistributedAttention`: `PatternAttention` for a sequence that lies on several ranks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from attnlang.nn import PatternAttention
from attnlang.nn.checks import check_lengths, check_scale, check_tables, check_tensors
from attnlang.parallel.agreement import KINDS, Agreement, Hosts, Note, When, hosts_of, refuse
from attnlang.parallel.calls import (
    Call,
    Notes,
    Part,
    Rows,
    check_local,
    needs_gradients,
    readable,
    refuse_fakes,
)
from attnlang.parallel.dense import positions
from attnlang.parallel.planning import KEPT, Planner
from attnlang.parallel.rank import Kept, RankWork, Steps
from attnlang.parallel.wire import drive
from attnlang.runtime.batches import checked_lengths
from attnlang.runtime.contents import Contents
from attnlang.runtime.merge import accumulator_dtype
from attnlang.runtime.once import differentiable_once
from attnlang.runtime.program import Program
from attnlang.schedule import Placement, Schedule

TIMEOUT = timedelta(minutes=5)


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
        self, attention: PatternAttention, planner: Planner, group: dist.ProcessGroup, timeout: timedelta = TIMEOUT,
        agree: When = "every call", name: str = "",
    ) -> None:  # fmt: skip
        super().__init__()
        self.attention = attention
        self.pattern = attention.pattern
        self.heads = attention.heads
        self.group = group
        self.timeout = timeout
        self._first_only = agree == "first call"
        self._about = {"attention": f"{attention.pattern.call} {name}".rstrip(), "agree": agree}
        self._planner = planner
        self._works: OrderedDict[tuple[int, torch.device, int], tuple[Schedule, RankWork]] = OrderedDict()
        self._kinds: dict[tuple[Any, ...], Notes] = {}
        self._agreed: set[int] = set()

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

    def positions(self, device: torch.device | str | None = None) -> Tensor:
        """The tokens that this rank holds, int64 (C,)."""
        return torch.from_numpy(positions(self.placement, self.rank)).to(device)

    @torch.compiler.disable(reason="hosts plan and compare notes")  # pyright: ignore[reportUntypedFunctionDecorator] - torch has no types for it
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

        Raises RanksDisagreeError, on every rank and in the same words, where any was called with what does not fit or
        cannot do what it was called for: nothing was exchanged then, and the next call finds all ranks where they were.
        Raises PeerLostError where a rank is gone, or has not come to this call within the timeout; no later call runs.
        The backward pass raises them likewise.
        """
        refuse_fakes(q, k, v)
        facts = self._about.copy()
        try:
            call = self._called(facts, q, k, v, scale, lengths, tables)
        except BaseException as error:  # (whatever it is, the other ranks must not wait for this one)
            self.refuse(facts, error)
            raise
        agreement = self.agreement(call.notes.forward, call.content)
        back = call.notes.backward
        out, lse = _Distributed.apply(call.q, call.k, call.v, call.parts, call.scale, agreement, back, self)
        if call.padded is not None:
            padding = self._padding(call.padded, q.device)
            out, lse = out.masked_fill(padding[..., None], 0.0), lse.masked_fill(padding, float("-inf"))
        return (out, lse) if return_lse else out

    # what ranks agree on --------------------------------------------------------------------------------------------

    @cached_property
    def _hosts(self) -> Hosts:
        return hosts_of(self.group, self.timeout)

    @cached_property
    def _rows(self) -> Rows:
        return Rows.on(self.group, self.placement, self.heads, self._planner.kv_heads)

    def agreement(self, note: Note, always: bool = False) -> Agreement:
        """Begin to compare notes with all ranks, unless that is to be done once and was done."""
        once = self._first_only and not always
        return Agreement(note, self._hosts, self.timeout, self._agreed if once else None)

    def refuse(self, facts: Mapping[str, str], error: BaseException) -> None:
        """Tell all ranks that this one cannot go on. Raises RanksDisagreeError, as they do; not for an interrupt."""
        refuse(facts, error, self._hosts, self.timeout)

    def driven(self, steps: Steps, agreement: Agreement) -> Any:
        """Run the steps of this rank, the agreement settled before the first exchange; what they return."""
        return drive(steps, self.group, self._hosts, self.timeout, agreement.settle)

    # what a call brings ---------------------------------------------------------------------------------------------

    def _called(
        self, facts: dict[str, str], q: Tensor, k: Tensor, v: Tensor, scale: float | None, lengths: Tensor | None,
        tables: Mapping[str, Tensor],
    ) -> Call:  # fmt: skip
        """What is to be done, checked and planned, and noted in facts as far as it comes."""
        check_tensors(q, k, v)
        check_local(q, k, v)
        check_scale(scale)
        self._rows.check_device(q)
        q, k, v = readable(q, k, v)
        factor = max(q.size(-1), 1) ** -0.5 if scale is None else float(scale)
        if tables or lengths is not None or self.pattern.tables:
            return self._with_content(facts, q, k, v, factor, lengths, tables)
        needed = needs_gradients(q, k, v)
        kind = (q.shape, k.shape, v.shape, q.dtype, k.dtype, v.dtype, q.device, k.device, v.device, factor, needed)
        notes = self._kinds.get(kind)
        if notes is not None:
            return Call(q, k, v, factor, self._parts(q, {}, None), notes)
        self._note(facts, q, k, v, factor)
        parts = self._checked_parts(q, {}, None)
        if len(self._kinds) >= KINDS:
            self._kinds.clear()
        notes = self._kinds[kind] = Notes.of(facts, self._hosts.ranks)
        return Call(q, k, v, factor, parts, notes)

    def _with_content(
        self, facts: dict[str, str], q: Tensor, k: Tensor, v: Tensor, factor: float, lengths: Tensor | None,
        tables: Mapping[str, Tensor],
    ) -> Call:  # fmt: skip
        """The same where a call brings tables or lengths: every rank plans for them, before they agree."""
        self._note(facts, q, k, v, factor)
        contents, sizes = self._contents(tables, q.size(0)), self._sizes(lengths, q, k)
        facts["tables"] = Contents(contents).digest if contents else "none"
        facts["lengths"] = "none" if sizes is None else repr(sizes)
        own_length = sizes is not None and not self._ignores_padding
        parts = self._checked_parts(q, contents, sizes if own_length else None)
        padded = None if own_length else sizes
        return Call(q, k, v, factor, parts, Notes.of(facts, self._hosts.ranks), padded, content=True)

    def _note(self, facts: dict[str, str], q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
        """Note what ranks must agree on, whatever is asked of them. Raises ValueError on what no rank may bring."""
        self._rows.check(q, k, v)
        facts |= {
            "batch": str(q.size(0)),
            "head dimension": str(q.size(-1)),
            "dtype": str(q.dtype),
            "device": q.device.type,
            "scale": repr(scale),
            "schedule": self._planner.digest,
            "tokens of the whole sequence": str(self.placement.n),
            "autograd": str(needs_gradients(q, k, v)),
        }

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
        return self.positions(device) >= torch.tensor(sizes, device=device)[:, None, None]

    # what is to be done ---------------------------------------------------------------------------------------------

    def _checked_parts(self, q: Tensor, contents: dict[str, NDArray[np.int64]], sizes: list[int] | None) -> list[Part]:
        """Raises ValueError where a part has no schedule, or no kernel here."""
        parts = self._parts(q, contents, sizes)
        for part in parts:
            part.work.check(q)
        return parts

    def _parts(self, q: Tensor, contents: dict[str, NDArray[np.int64]], sizes: list[int] | None) -> list[Part]:
        """The batch by items that have one schedule, next to one another."""
        batch, schedule = q.size(0), self.schedule
        if batch and schedule is not None and not contents and sizes is None:
            return [Part(0, batch, self._rows.mine, self._work(schedule, q))]
        return list(self._parts_with_content(q, contents, sizes))

    def _parts_with_content(
        self, q: Tensor, contents: dict[str, NDArray[np.int64]], sizes: list[int] | None
    ) -> Iterator[Part]:
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

    def __deepcopy__(self, memo: dict[int, Any]) -> DistributedAttention:
        """The same on the same ranks: what an average of a model's weights, for one, begins with."""
        agree: When = "first call" if self._first_only else "every call"
        copied = DistributedAttention(self.attention, self._planner, self.group, self.timeout, agree)
        copied._about = self._about
        return copied.train(self.training)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a distributed module belongs to its process group: pickle the module it was made from")


class _Distributed(torch.autograd.Function):
    """All parts of a call in one function, one after another, so that every rank exchanges in the same order."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: list[Part], scale: float, agreement: Agreement, back: Note,
        module: DistributedAttention,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        whole = len(parts) == 1 and parts[0].of(q).shape == q.shape
        out = lse = q.new_empty(0)
        kept: list[Tensor] = []
        with agreement, torch.autocast(q.device.type, enabled=False):
            if not whole:
                out = torch.zeros_like(q)
                lse = q.new_full(q.shape[:3], float("-inf"), dtype=accumulator_dtype(q.dtype))
            for part in parts:
                q1, k1, v1 = (part.of(x) for x in (q, k, v))
                found, found_lse, came = module.driven(part.work.forward(q1, k1, v1, scale), agreement)
                kept += [came.k, came.v, came.q]
                if whole:
                    out, lse = found, found_lse
                else:
                    part.of(out).copy_(found)
                    part.of(lse).copy_(found_lse)
        ctx.save_for_backward(q, k, v, out, lse, *kept)
        ctx.parts, ctx.scale, ctx.note, ctx.module, ctx.whole = parts, scale, back, module, whole
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            saved = ctx.saved_tensors  # (checkpointing computes them again, and lets them be asked for once)
        except BaseException as error:  # (such as one that was changed in place, on this rank alone)
            ctx.module.refuse(ctx.note.facts, error)
            raise
        with torch.no_grad():
            found = _Distributed.gradients(ctx, saved, grads[0])
        if torch.is_grad_enabled():  # create_graph=True
            found = differentiable_once(found, *saved[:3], grads[0])
        return *found, None, None, None, None, None

    @staticmethod
    def gradients(ctx: Any, saved: Sequence[Tensor], dout: Tensor) -> tuple[Tensor, ...]:
        """dq, dk and dv of this rank's rows."""
        q, k, v, out, lse, *kept = saved
        module: DistributedAttention = ctx.module
        with module.agreement(ctx.note) as agreement:
            totals = () if ctx.whole else tuple(torch.zeros_like(x) for x in (q, k, v))
            for number, part in enumerate(ctx.parts):
                came = Kept(*kept[3 * number : 3 * number + 3])
                dout1, q1, k1, v1, out1, lse1 = (part.of(x) for x in (dout, q, k, v, out, lse))
                steps = part.work.backward(dout1, q1, k1, v1, out1, lse1, came, ctx.scale)
                found = module.driven(steps, agreement)
                if ctx.whole:
                    totals = found
                else:
                    for total, piece in zip(totals, found, strict=True):
                        part.of(total).copy_(piece)
        return totals
