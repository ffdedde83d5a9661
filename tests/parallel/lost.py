"""How rank 1 is lost, and what the others hear of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

import torch
import torch.distributed as dist

from attnlang.parallel import PeerLostError, RanksDisagreeError
from attnlang.parallel.rank import RankWork
from tests.parallel.world import World, failing


def dead(world: World) -> None:
    if world.errs:
        os._exit(0)


def dead_before_backward(world: World) -> None:
    out = world.plain(*world.rows())
    dead(world)
    out.sum().backward()


def late(world: World) -> None:
    if world.errs:
        time.sleep(2 * world.timeout.total_seconds())


def in_another_collective(world: World) -> None:
    if world.errs:
        alone = torch.ones(1, device=world.device)
        dist.all_reduce(alone, group=world.group)
        alone.item()  # (with NCCL it is here that the host waits)


def fails_in_between(world: World) -> None:
    """After all agreed. On gloo the others wait for its rows; with NCCL their hosts go on, and find it out of step."""
    with suppress(MemoryError), failing(world, RankWork, "forward", MemoryError("out of memory")):
        world.plain(*world.rows())


LAST = {
    action.__name__: action for action in (dead, dead_before_backward, late, in_another_collective, fails_in_between)
}


LOST = ("not all ranks came", "an exchange of attention rows failed", "exchanges so far")
"""What the others hear of it."""


HELD: list[RuntimeError] = []
"""Errors that somebody holds, as a debugger does: that must not hold the other ranks up."""


def last(world: World, action: Callable[[World], None]) -> tuple[str, float, bool]:
    """What a rank hears of a lost one, after how many seconds, and whether a later call says so at once."""
    assert world.right()
    said, again = "nothing", False
    start = time.monotonic()
    try:
        action(world)
        world.plain(*world.rows())
    except (PeerLostError, RanksDisagreeError) as error:
        HELD.append(error)
        said = str(error)
    seconds = time.monotonic() - start
    try:
        world.plain(*world.rows())
    except (PeerLostError, RanksDisagreeError) as error:
        HELD.append(error)
        again = time.monotonic() - start - seconds < 1
    return said, seconds, again
