"""Runs a Schedule on torch.distributed, or on one device rank after rank, or without tensors.

    model = attnlang.parallel.distribute(model, mesh, n=1_000_003)   # every PatternAttention in it
    q = attnlang.parallel.shard(q, model, dim=2)                     # this rank's rows
    out = attnlang.parallel.unshard(model(q, k, v), model, dim=2)    # and back, if ever needed

Names that need torch are loaded when asked for: the schedule itself, its recipes and the simulator do without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnlang.parallel.attention import DistributedAttention
    from attnlang.parallel.audit import WireAudit
    from attnlang.parallel.loss import mean_loss
    from attnlang.parallel.module import distribute, schedule_of
    from attnlang.parallel.sharding import positions, shard, unshard
    from attnlang.parallel.simulator import simulate
    from attnlang.parallel.streaming import attention_by_ranks
    from attnlang.parallel.wire import PeerLostError, RanksDisagreeError

_WHERE = {
    "WireAudit": "audit",
    "DistributedAttention": "attention",
    "distribute": "module",
    "schedule_of": "module",
    "mean_loss": "loss",
    "positions": "sharding",
    "shard": "sharding",
    "unshard": "sharding",
    "simulate": "simulator",
    "attention_by_ranks": "streaming",
    "PeerLostError": "wire",
    "RanksDisagreeError": "wire",
}

__all__ = [
    "DistributedAttention",
    "PeerLostError",
    "RanksDisagreeError",
    "WireAudit",
    "attention_by_ranks",
    "distribute",
    "mean_loss",
    "positions",
    "schedule_of",
    "shard",
    "simulate",
    "unshard",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
