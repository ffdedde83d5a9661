"""How messages travel between ranks: uneven all-to-all on a process group, started early and waited for late.

One collective an exchange, the same on every rank and in the same order, also where a rank has nothing to say: gloo and
NCCL do uneven and empty ones. Before it the ranks have compared what they hold (`attnlang.parallel.agreement`), so
that a mistake is an error on every rank and not a wait without end.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor

from attnlang.parallel.rank import Start, Steps

if TYPE_CHECKING:
    from attnlang.parallel.agreement import Hosts


class RanksDisagreeError(RuntimeError):
    """Ranks called the same attention with inputs, or schedules, that do not fit together."""


class PeerLostError(RuntimeError):
    """A message did not arrive: another rank is gone, or did not come as far in time."""


def drive(steps: Steps, group: dist.ProcessGroup, hosts: Hosts, timeout: timedelta, before: Callable[[], None]) -> Any:
    """Run the steps of this rank, `before` before each exchange; what they return.

    Raises PeerLostError where a message does not arrive in time, and what `before` raises.
    """
    pending: list[tuple[Any, Tensor]] = []
    inbox: Tensor | None = None
    while True:
        try:
            step = steps.send(inbox)  # pyright: ignore[reportArgumentType] - a generator's first send is of None
        except StopIteration as end:
            return end.value
        inbox = None
        room: Tensor | None = None
        if isinstance(step, Start):
            before()  # (and what memory there is not for is a RuntimeError as well, but no rank is lost by that)
            room = step.data.new_empty(sum(step.receives))
        try:
            if isinstance(step, Start) and room is not None:
                pending.append((_started(step, room, group), room))
                hosts.exchanges += 1
            else:
                work, inbox = pending.pop(0)
                _wait(work, group, timeout)
        except RuntimeError as error:
            hosts.lose(error)
            raise _lost(group, error) from error


def _started(start: Start, room: Tensor, group: dist.ProcessGroup) -> Any:
    return dist.all_to_all_single(room, start.data, list(start.receives), list(start.sends), group=group, async_op=True)


def _wait(work: Any, group: dist.ProcessGroup, timeout: timedelta) -> None:
    if dist.get_backend(group) == "gloo":
        work.wait(timeout)
    else:
        work.wait()  # on CUDA this makes the stream wait, not the host: the group's own timeout watches it


def _lost(group: dist.ProcessGroup, error: RuntimeError) -> PeerLostError:
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    return PeerLostError(
        f"rank {rank} of {ranks}: an exchange of attention rows failed, since another rank is gone or has not come "
        f"this far in time (see the first error among the ranks); the backend says: {error}"
    )
