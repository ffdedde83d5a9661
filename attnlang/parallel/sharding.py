"""The rows of a tensor that a rank holds, by the placement of a module, and back."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnlang.parallel.agreement import Note
from attnlang.parallel.attention import DistributedAttention
from attnlang.parallel.calls import needs_gradients, refuse_fakes
from attnlang.parallel.dense import positions as placed
from attnlang.schedule import Placement


def _attention(module: nn.Module) -> DistributedAttention:
    for part in module.modules():
        if isinstance(part, DistributedAttention):
            return part
    raise ValueError(f"there is no distributed attention in {type(module).__name__}: call attnlang.parallel.distribute")


def positions(module: nn.Module, device: torch.device | str | None = None) -> Tensor:
    """The tokens that this rank holds, int64 (C,): position ids for RoPE and embeddings."""
    return _attention(module).positions(device)


def shard(x: Tensor, module: nn.Module, dim: int) -> Tensor:
    """The rows that this rank holds, of a tensor that every rank has whole: inputs, labels, position ids.

    Labels are shifted before they are sharded: `shard(tokens[:, 1:], ..)`, so that no label is on another rank.
    Differentiable where x is. Raises ValueError where x has another length along dim than the sequence.
    """
    attention = _attention(module)
    if x.size(dim) != attention.placement.n:
        raise ValueError(
            f"dimension {dim} has {x.size(dim)} entries (shape {tuple(x.shape)}), but the schedule is for "
            f"{attention.placement.n} tokens"
        )
    return x.index_select(dim, positions(module, x.device))


def unshard(x: Tensor, module: nn.Module, dim: int) -> Tensor:
    """The whole tensor on every rank, in token order, from each rank's rows. Differentiable.

    Its gradient is this rank's rows of the *sum* over ranks of the gradients of the whole tensor. As before attention,
    ranks compare what they were called with: raises RanksDisagreeError, on every rank, where the shape, the dtype or
    dim differs, or a rank brings other rows than its own; PeerLostError where a rank does not come in time.
    """
    attention = _attention(module)
    refuse_fakes(x)
    ranks = attention.placement.ranks
    facts = {"pass": "unshard"}
    try:
        facts |= _gathered(x, dim, attention.placement.sizes[attention.rank])
    except BaseException as error:  # (whatever it is, the other ranks must not wait for this one)
        attention.refuse(facts, error)
        raise
    attention.agreement(Note.of(facts, ranks), always=True).settle()
    return _Unshard.apply(x, attention.placement, attention.group, dim)


def _gathered(x: Tensor, dim: int, mine: int) -> dict[str, str]:
    """What ranks must agree on before they gather rows along dim. Raises ValueError for other rows than this rank's."""
    if not isinstance(x, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance] - not everyone checks types
        raise ValueError(f"x must be a tensor, this rank's rows, not {type(x).__name__}")
    shape = list(x.shape)
    if x.size(dim) != mine:
        raise ValueError(
            f"dimension {dim} has {x.size(dim)} entries (shape {tuple(shape)}), but this rank holds {mine} tokens"
        )
    shape[dim] = -1
    autograd = str(needs_gradients(x))
    return {"shape": str(shape), "dtype": str(x.dtype), "device": x.device.type, "autograd": autograd}


class _Unshard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, placement: Placement, group: dist.ProcessGroup, dim: int) -> Tensor:
        ctx.placement, ctx.group, ctx.dim = placement, group, dim
        rows = x.movedim(dim, 0).contiguous()
        each = rows[0].numel() if len(rows) else 0
        arrived = rows.new_empty((placement.n, *rows.shape[1:]))
        ranks = placement.ranks
        dist.all_to_all_single(
            arrived.view(-1), rows.view(-1).repeat(ranks), [size * each for size in placement.sizes],
            [len(rows) * each] * ranks, group=group,
        )  # fmt: skip
        whole = torch.empty_like(arrived)
        whole[_order(placement, x.device)] = arrived
        return whole.movedim(0, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        placement, rank = ctx.placement, dist.get_rank(ctx.group)
        rows = grads[0].movedim(ctx.dim, 0)[_order(placement, grads[0].device)].contiguous()
        each = rows[0].numel() if len(rows) else 0
        mine = placement.sizes[rank]
        arrived = rows.new_empty((placement.ranks, mine, *rows.shape[1:]))
        dist.all_to_all_single(
            arrived.view(-1), rows.view(-1), [mine * each] * placement.ranks,
            [size * each for size in placement.sizes], group=ctx.group,
        )  # fmt: skip
        return arrived.sum(0).movedim(0, ctx.dim), None, None, None


def _order(placement: Placement, device: torch.device) -> Tensor:
    """The tokens of rank 0, of rank 1, ..: where each arriving row belongs."""
    return torch.cat([torch.from_numpy(placed(placement, rank)) for rank in range(placement.ranks)]).to(device)
