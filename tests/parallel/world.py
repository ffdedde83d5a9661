"""Two layers and one with a table on every rank of a group: what tests call, rightly and wrongly. Rank 1 errs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from unittest import mock

import attnc
import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnlang import Pattern, loads
from attnlang.parallel import distribute, shard
from attnlang.runtime import reference

HEADS, N = 4, 45
PLAIN = "p = causal & window(9)"
PACKED = "p(doc: table) = causal & same(doc[pos])"


@dataclass(frozen=True, slots=True)
class World:
    """Two layers and one with a table on all ranks of a group, and what to call them with."""

    group: dist.ProcessGroup
    device: torch.device
    dtype: torch.dtype
    timeout: timedelta
    layers: nn.ModuleList
    pattern: Pattern = field(default_factory=lambda: loads(f"pattern {PLAIN}"))

    @staticmethod
    def of(
        group: dist.ProcessGroup, device: str = "cpu", dtype: torch.dtype = torch.float64, timeout: float = 20.0,
        **options: Any,
    ) -> World:  # fmt: skip
        """`timeout` is that of calls, in seconds: on a busy machine ranks may come to `distribute` later than that."""
        limit, patience = timedelta(seconds=timeout), timedelta(seconds=max(timeout, 20.0))
        texts = (PLAIN, PLAIN, PACKED)
        layers = nn.ModuleList(attnc.compile(loads(f"pattern {text}"), heads=HEADS) for text in texts)
        kind = str(dtype).removeprefix("torch.")
        sizes = {"n": N, "placement": "contiguous", "head_dim": 16, "dtype": kind, "timeout": patience, **options}
        for layer in distribute(layers, group, **sizes):
            layer.timeout = limit
        return World(group, torch.device(device), dtype, limit, layers)

    @property
    def errs(self) -> bool:
        return dist.get_rank(self.group) == 1

    @property
    def plain(self) -> Any:
        return self.layers[0]

    @property
    def packed(self) -> Any:
        return self.layers[2]

    def doc(self, *, moved: bool = False) -> Tensor:
        return ((torch.arange(N) + moved) // 17).to(self.device)

    def whole(self, batch: int = 2) -> list[Tensor]:
        """Q, k, v and the gradient of out, the same on every rank."""
        generator = torch.Generator().manual_seed(batch)
        shape = batch, HEADS, N, 16
        made = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4))
        return [x.to(self.device, self.dtype) for x in made]

    def rows(self, batch: int = 2, dtype: torch.dtype | None = None, *, gradients: bool = True) -> list[Tensor]:
        mine = (shard(x, self.plain, 2).to(dtype or self.dtype) for x in self.whole(batch)[:3])
        return [x.requires_grad_(gradients) for x in mine]

    def right(self) -> bool:
        """Whether a good call gives the right out, dq, dk and dv on this rank."""
        *inputs, dout = self.whole()
        exact = self._by_formula([x.double() for x in inputs], dout.double())
        near = self._by_formula(inputs, dout)
        mine = self.rows()
        out = self.plain(*mine)
        found = [out, *torch.autograd.grad(out, mine, shard(dout, self.plain, 2))]
        least = 1e-12 if self.dtype == torch.float64 else 2e-5
        return all(
            _apart(f, shard(e, self.plain, 2)) <= 2 * _apart(x, e) + least
            for f, e, x in zip(found, exact, near, strict=True)
        )

    def _by_formula(self, inputs: list[Tensor], dout: Tensor) -> list[Tensor]:
        inputs = [x.detach().requires_grad_() for x in inputs]
        out = reference.attention(*inputs, self.pattern, 0.25, inputs[0].dtype)[0]
        return [out, *torch.autograd.grad(out, inputs, dout)]


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).detach().abs().max())


@contextmanager
def failing(world: World, where: Any, name: str, error: BaseException) -> Iterator[None]:
    """On rank 1 only, a method raises an error."""

    def fail(*_: Any) -> None:
        raise error

    with mock.patch.object(where, name, fail) if world.errs else nullcontext():
        yield
