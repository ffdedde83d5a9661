"""A call as one rank sees it before anything is exchanged: what it brings, checked, and what it asks of this rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor

from attnlang.parallel.agreement import Note
from attnlang.parallel.rank import RankWork
from attnlang.schedule import ITEM_SIZES, Placement

# (torch has no public way to ask for transforms)
_transforms: Callable[[], bool] = torch._C._are_functorch_transforms_active  # pyright: ignore[reportPrivateUsage] - see above


class Part(NamedTuple):
    """Items first..last - 1 of a batch, of which this rank holds so many rows, and what it does with them."""

    first: int
    last: int
    rows: int
    work: RankWork

    def of(self, x: Tensor) -> Tensor:
        return x[self.first : self.last, :, : self.rows]


class Notes(NamedTuple):
    """What ranks compare before the forward pass of a call, and before its backward pass."""

    forward: Note
    backward: Note

    @staticmethod
    def of(facts: dict[str, str], ranks: int) -> Notes:
        return Notes(*(Note.of({**facts, "pass": name}, ranks) for name in ("forward", "backward")))


class Call(NamedTuple):
    """All that a call asks of this rank.

    q, k, v  as they are read
    parts    of the batch, one after another
    padded   lengths beyond which results are blanked afterwards, where the parts do not see to that
    content  whether it brings tables or lengths: ranks compare those at every call
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    parts: list[Part]
    notes: Notes
    padded: list[int] | None = None
    content: bool = False


class Rows(NamedTuple):
    """What tensors must be on this rank: so many of the n rows, on one of these devices."""

    n: int
    mine: int
    heads: int
    kv_heads: int
    devices: tuple[str, ...]

    @staticmethod
    def on(group: dist.ProcessGroup, placement: Placement, heads: int, kv_heads: int) -> Rows:
        known = str(dist.get_backend_config(group)).split(",")
        mine = placement.sizes[group.rank()]
        return Rows(placement.n, mine, heads, kv_heads, tuple(part.partition(":")[0] for part in known))

    def check_device(self, q: Tensor) -> None:
        """Raises ValueError unless the group sends what is on this device."""
        if q.device.type not in self.devices:
            raise ValueError(f"q is on {q.device}, but the mesh sends what is on {' or '.join(self.devices)}")

    def check(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Raises ValueError unless q, k and v are this rank's rows."""
        given = k.size(1) if k.dim() == 4 and k.shape == v.shape else 0
        if given not in (0, self.kv_heads) and self.heads % given == 0:
            raise ValueError(
                f"k and v have {given} heads, but the schedule is for {self.kv_heads}: distribute(.., "
                f"kv_heads={given}), or a schedule that was planned with kv_heads={given}"
            )
        for name, x, heads in (("q", q, self.heads), ("k", k, self.kv_heads), ("v", v, self.kv_heads)):
            if x.dim() != 4 or x.size(1) != heads or x.size(2) != self.mine:
                raise ValueError(
                    f"{name} must be (batch, {heads}, {self.mine}, head_dim), this rank's rows of {self.n:,} "
                    f"tokens, but has shape {tuple(x.shape)}; `attnlang.parallel.shard` cuts it"
                )
        if len({(x.dtype, x.device, x.size(0), x.size(3)) for x in (q, k, v)}) > 1:
            raise ValueError("q, k and v must have one dtype, device, batch and head dimension")
        if str(q.dtype).removeprefix("torch.") not in ITEM_SIZES:
            raise ValueError(f"q must be float64, float32, bfloat16 or float16, not {q.dtype}")


def refuse_fakes(*tensors: object) -> None:
    """Raises ValueError for tensors without data, at once: what ranks would tell each other has none either."""
    if any(isinstance(x, FakeTensor) for x in tensors):
        raise ValueError(
            "attention on ranks cannot be traced or exported: its ranks plan and compare notes at every call. Export "
            "the module for one device that it was made from; torch.compile runs it between two graphs"
        )


def check_local(*tensors: Tensor) -> None:
    """Raises ValueError for what is no plain tensor of this rank's rows: a DTensor, or within torch.func."""
    if any(isinstance(x, DTensor) for x in tensors):
        raise ValueError("q, k and v must be this rank's rows as plain tensors, not DTensors: to_local() gives them")
    if _transforms():
        raise ValueError(
            "attention on ranks cannot be transformed by torch.func (vmap, grad, ..): fold what vmap would map into "
            "the batch, and take gradients by torch.autograd"
        )


def needs_gradients(*tensors: Tensor) -> bool:
    """Whether there will be a backward pass: every rank takes part in its exchanges then."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def readable(*tensors: Tensor) -> Iterator[Tensor]:
    """With their rows in one piece, and in the dtype of an autocast that is on (float64 stays)."""
    device = tensors[0].device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    for x in tensors:
        cast = low is not None and x.is_floating_point() and x.dtype != torch.float64
        y = x.to(low) if cast else x
        yield y if y.dim() == 0 or y.stride(-1) == 1 else y.contiguous()
