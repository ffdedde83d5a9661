"""A rank that is gone, late or somewhere else: the others are told within the timeout, and at every later call."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import attnc
import pytest
import torch.distributed as dist

from attnlang.parallel import PeerLostError, agreement, distribute
from tests.parallel.lost import LAST, last
from tests.parallel.ranks import outcomes
from tests.parallel.world import World

TIMEOUT = 1.5


def heard(action: str, rank: int, direct: int = 8) -> tuple[str, float, bool]:
    agreement.DIRECT = direct
    world = World.of(dist.group.WORLD, timeout=TIMEOUT)
    found = last(world, LAST[action])
    if rank != 1:
        time.sleep((2 if action == "late" else 1) * TIMEOUT)  # (so that nobody learns of anything by this rank's end)
    return found


@pytest.mark.parametrize(("action", "ranks", "direct"), [("dead_before_backward", 3, 8), ("dead", 5, 1)])
def test_a_rank_that_ends_is_noticed_at_the_next_pass_and_not_after_the_timeout(
    action: str, ranks: int, direct: int
) -> None:
    found = outcomes(ranks, lambda rank: heard(action, rank, direct), timeout=30)
    assert found.pop(1) == (False, "ended without an answer")
    for ok, (said, seconds, again) in found:
        assert ok
        assert "not all ranks came to this call" in said
        assert seconds < TIMEOUT
        assert again


def test_a_rank_that_fails_alone_in_the_middle_of_a_call_is_an_error_on_all_that_go_on() -> None:
    found = outcomes(3, lambda rank: heard("fails_in_between", rank), timeout=30)
    for rank, (ok, (said, seconds, again)) in enumerate(found):
        assert ok
        assert ("not all ranks came" if rank == 1 else "an exchange of attention rows failed") in said
        assert seconds < TIMEOUT + 1.5
        assert again


def test_a_rank_that_comes_too_late_is_an_error_on_every_rank_itself_included() -> None:
    found = outcomes(3, lambda rank: heard("late", rank), timeout=30)
    for rank, (ok, (said, seconds, again)) in enumerate(found):
        assert ok
        assert "not all ranks came to this call within 0:00:01.5" in said
        assert seconds < (2 if rank == 1 else 1) * TIMEOUT + 1.5
        assert again


def test_a_rank_in_another_collective_is_an_error_on_those_that_wait_for_it() -> None:
    """And meets nothing of ours there."""
    found = outcomes(3, lambda rank: heard("in_another_collective", rank), timeout=8)
    for ok, (said, seconds, again) in (found[0], found[2]):
        assert ok
        assert "not all ranks came to this call" in said
        assert TIMEOUT - 0.5 < seconds < TIMEOUT + 1.5
        assert again
    assert not found[1][0]


def test_a_rank_that_never_comes_to_distribute_is_an_error_on_the_others() -> None:
    """They have no connection to it yet."""

    def job(rank: int) -> str:
        if rank == 1:
            time.sleep(3 * TIMEOUT)
            os._exit(0)
        start = time.monotonic()
        with pytest.raises(PeerLostError) as caught:
            distribute(attnc.compile("causal", heads=2), None, n=8, timeout=timedelta(seconds=TIMEOUT))
        assert time.monotonic() - start < 2.5 * TIMEOUT
        return str(caught.value)

    found = outcomes(3, job, timeout=30)
    for ok, text in (found[0], found[2]):
        assert ok
        assert "not all ranks came to this call" in text
        assert "GLOO_SOCKET_IFNAME" in text
