"""Which backends there are, which of them can run a plan, and which one `auto` takes.

A backend is a module of this package with three functions: `forward`, `backward` and `refusal`. One that says
FEWER_QUERIES = True takes the last M of N queries as they are; for others q is padded. It is imported when it is first
asked for. `reference` is none of them: it runs the pattern itself, by its formula, and needs no plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

import torch
from torch import Tensor

from attnlang.plan import Plan
from attnlang.runtime import cudnn, hybrid

PREFERENCE: dict[str, tuple[str, ...]] = {
    "cpu": ("sdpa", "flex", "triton", "xformers"),
    "cuda": ("triton", "sdpa", "flex", "xformers"),
}
"""What `auto` tries on a device, in this order."""

FORWARD_ONLY = {("flex", "cpu")}
"""Backends that have no backward on a device."""

REFERENCE = "reference"
AUTO = "auto"


class Backend(Protocol):
    """What a backend's module holds. Tensors are (B, H, N, D), k and v (B, Hkv, N, D), all with last stride 1."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, tables: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Out in q's dtype and natural lse (B, H, N) in float32 (float64 for float64); no autograd inside.

        Rows without keys have out 0 and lse -inf.
        """
        ...

    def backward(
        self,
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        plan: Plan,
        scale: float,
        tables: Mapping[str, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Dq, dk and dv from the merged (out, lse)."""
        ...

    def refusal(self, plan: Plan, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Why it cannot run this, naming what can; None if it can."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend, and one sentence on why it was taken."""

    name: str
    why: str


def names() -> tuple[str, ...]:
    """The backends that this version has, `reference` last."""
    return (*(name for name in PREFERENCE["cuda"] if _exists(name)), REFERENCE)


@lru_cache(maxsize=16)
def _exists(name: str) -> bool:
    return find_spec(f"attnlang.runtime.{name}") is not None


@lru_cache(maxsize=16)
def load(name: str) -> Backend:
    """The module of a backend. Raises ValueError for an unknown name."""
    if name == REFERENCE or not _exists(name):
        raise ValueError(f"unknown backend {name!r}: there are {', '.join(map(repr, (AUTO, *names())))}")
    return cast("Backend", import_module(f"attnlang.runtime.{name}"))


@lru_cache(maxsize=1024)
def choose(name: str, plan: Plan, device: torch.device, dtype: torch.dtype, head_dim: int) -> Choice:
    """The backend asked for, or for `auto` the first on the device's list that can run the plan.

    Plain full and causal attention goes to cuDNN by way of `sdpa`, where that is the faster; on long sequences its
    forward pass may still be that of `triton` (`attnlang.runtime.hybrid`).

    Raises ValueError with the backends' own reasons where none can.
    """
    if name != AUTO:
        reason = load(name).refusal(plan, device, dtype, head_dim)
        if reason is not None:
            raise ValueError(reason)
        return Choice(name, f"backend {name!r} was asked for")
    if plan.is_dense and cudnn.refusal_here(device, dtype, head_dim) is None:
        why = "sdpa is the first choice for one dense call on this GPU, where torch has cuDNN for it"
        return Choice("sdpa", why + hybrid.remark(plan, device, dtype, head_dim))
    refusals: list[str] = []
    for candidate in PREFERENCE.get(device.type, PREFERENCE["cuda"]):
        if not _exists(candidate):
            continue
        reason = load(candidate).refusal(plan, device, dtype, head_dim)
        if reason is None:
            first = "the first choice" if not refusals else f"the next choice, as {'; '.join(refusals)}"
            return Choice(candidate, f"{candidate} is {first} on {device.type}")
        refusals.append(reason)
    raise ValueError(f"no backend can run this on {device.type}: {'; '.join(refusals)}")


def planned(name: str, plan: Plan, device: str, head_dim: int) -> Choice:
    """What would run a plan on a device of that type, here or elsewhere: in float32 on the cpu, else in bfloat16.

    Raises ValueError as `choose` does.
    """
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return choose(name, plan, torch.device(device), dtype, head_dim)
