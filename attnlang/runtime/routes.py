"""Where a batch goes that needs nothing done to it first: to one call of torch's, or to backends as it is.

Shape legend: B batch, H heads, Hkv heads of k and v, M queries, N keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from attnlang.plan import Plan
from attnlang.runtime import hybrid
from attnlang.runtime.backends import AUTO, Backend, choose, load
from attnlang.runtime.direct import Direct, call_for
from attnlang.runtime.layouts import readable
from attnlang.runtime.program import Program, program


@dataclass(frozen=True, slots=True)
class Plain:
    """A backend, which does not differentiate, and the plan that it runs; its gradients may be another backend's."""

    plan: Plan
    runner: Backend
    gradients: Backend

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
        """Out (B, H, M, D) and lse (B, H, M)."""
        factor = q.size(-1) ** -0.5 if scale is None else scale
        return self.runner.forward(readable(q), readable(k), readable(v), self.plan, factor, {})

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Dq, dk and dv."""
        factor = q.size(-1) ** -0.5 if scale is None else scale
        read = readable(dout), readable(q), readable(k), readable(v), readable(out)
        return self.gradients.backward(*read, lse, self.plan, factor, {})


Route: TypeAlias = Direct | Plain


def route_for(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: Sequence[Tensor],
    lengths: Tensor | None,
    backend: str,
    program_text: str,
) -> Route | None:
    """Where a batch goes under a program; None where there is more to do.

    Raises ValueError where no backend can run the program there.
    """
    if lengths is not None or tables or not q.numel():
        return None
    call = call_for(q, k, v, tables, lengths, backend, program_text)
    if call is not None and backend == AUTO:
        plan = program(program_text).plan
        if hybrid.begins(q, k, v, plan, call.causal):
            return Plain(plan, load("triton"), load("sdpa"))
    if call is not None or torch.is_autocast_enabled(q.device.type):  # (a backend adds up in dtypes of its own)
        return call
    what, runner = chosen(backend, program_text, q.device, q.dtype, q.size(-1))
    whole = q.size(2) == k.size(2) or takes_fewer(runner)
    return Plain(what.plan, runner, runner) if whole else None


@lru_cache(maxsize=1024)
def chosen(
    backend: str, program_text: str, device: torch.device, dtype: torch.dtype, head_dim: int
) -> tuple[Program, Backend]:
    """What a text describes, and the backend that runs it. Raises ValueError where none can."""
    what = program(program_text)
    return what, load(choose(backend, what.plan, device, dtype, head_dim).name)


def takes_fewer(runner: Backend) -> bool:
    """Whether a backend computes the last queries alone; for others q is padded to all of them, and cut again."""
    return getattr(runner, "FEWER_QUERIES", False)
