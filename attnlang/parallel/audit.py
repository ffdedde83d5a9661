"""Bytes that a rank really puts on the wire, seen where torch dispatches its collectives.

What hosts tell each other before they exchange rows (`attnlang.parallel.agreement`) goes past torch: it is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attnlang.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Traffic:
    """One exchange of one rank: bytes to each rank and from each, its own included."""

    sent: tuple[int, ...]
    received: tuple[int, ...]


class WireAudit(TorchDispatchMode):
    """While it is entered, records every all-to-all; other collectives are named in `others`.

    >>> with WireAudit() as seen:                                     # doctest: +SKIP
    ...     module(q, k, v).sum().backward()
    >>> seen.sent(rank) == sum(schedule_bytes(...))                   # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__()
        self.exchanges: list[Traffic] = []
        self.others: list[str] = []

    def sent(self, rank: int) -> int:
        """Bytes that went to other ranks."""
        return sum(size for traffic in self.exchanges for to, size in enumerate(traffic.sent) if to != rank)

    def received(self, rank: int) -> int:
        """Bytes that came from other ranks."""
        return sum(size for traffic in self.exchanges for to, size in enumerate(traffic.received) if to != rank)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func)
        if name.startswith("c10d."):
            if "alltoall_base_" in name:
                output, data, _, receives, sends = args[:5]
                self.exchanges.append(Traffic(_bytes(sends, data), _bytes(receives, output)))
            else:
                self.others.append(name)
        call: Callable[..., Any] = func
        return call(*args, **(kwargs or {}))


def _bytes(splits: Sequence[int], data: Tensor) -> tuple[int, ...]:
    return tuple(int(split) * data.element_size() for split in splits)


def planned(
    schedule: Schedule, rank: int, batch: int, dtype: torch.dtype, head_dim: int, *, backward: bool
) -> tuple[int, int]:
    """Bytes that a rank is to send to others, and to receive from them, by the schedule alone."""
    from attnlang.parallel.simulator import row_traffic
    from attnlang.schedule import RowBytes

    row = RowBytes(head_dim, dtype.itemsize)
    keys_out, queries_out, keys_in, queries_in = row_traffic(schedule, rank)
    back_k = row.key_backward_back if backward else 0
    there_q = row.query_forward + (row.query_backward if backward else 0)
    back_q = row.query_forward_back + (row.query_backward_back if backward else 0)
    sent = keys_out * row.key_forward + keys_in * back_k + queries_out * there_q + queries_in * back_q
    received = keys_in * row.key_forward + keys_out * back_k + queries_in * there_q + queries_out * back_q
    return sent * batch, received * batch
