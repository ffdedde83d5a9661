"""Calls that do not fit, on forked gloo ranks: the same error on every rank, instead of a wait without end.

What one rank gets wrong at a later call is in test_agreement and test_lost_ranks.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import attnc
import pytest
import torch
import torch.distributed as dist
from torch import nn

from attnlang import load
from attnlang.parallel import distribute, shard
from attnlang.parallel.choosing import kernel_of
from attnlang.parallel.wire import RanksDisagreeError
from tests.parallel.ranks import on_ranks, outcomes
from tests.parallel.test_gloo import HEADS, LONGNET, inputs, planned_for


def refused(ranks: int, job: Any) -> list[str]:
    found = outcomes(ranks, job, timeout=30)
    assert not any(ok for ok, _ in found)
    return [value for _, value in found]


def test_inputs_that_differ_are_an_error_on_every_rank() -> None:
    module, schedule = planned_for(LONGNET, 40, 3, placement="contiguous")

    def job(rank: int) -> None:
        spread = distribute(module, dist.group.WORLD, schedule=schedule)
        q, k, v = (shard(x, spread, 2) for x in inputs(40, torch.float32 if rank == 1 else torch.float64)[:3])
        spread(q, k, v)

    for text in refused(3, job):
        assert "RanksDisagreeError" in text
        assert "dtype" in text


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_gradients_wanted_on_one_rank_are_an_error_on_every_rank(which: str) -> None:
    """The others would not take part in the exchanges of its backward pass."""
    module, schedule = planned_for("causal", 40, 2, placement="contiguous")

    def job(rank: int) -> None:
        spread = distribute(module, dist.group.WORLD, schedule=schedule)
        q, k, v = (shard(x, spread, 2) for x in inputs(40)[:3])
        if rank == 1:
            {"q": q, "k": k, "v": v}[which].requires_grad_()
        spread(q, k, v)

    assert all("ranks differ in autograd" in text for text in refused(2, job))


def test_a_wrong_shard_on_one_rank_is_an_error_on_every_rank() -> None:
    module, schedule = planned_for(LONGNET, 40, 2, placement="contiguous")

    def job(rank: int) -> None:
        spread = distribute(module, dist.group.WORLD, schedule=schedule)
        q, k, v = inputs(40)[:3]
        spread(*((x if rank else shard(x, spread, 2)) for x in (q, k, v)))

    for text in refused(2, job):
        assert "RanksDisagreeError: rank 1: q must be (batch, 4, 20, head_dim)" in text
        assert "`attnlang.parallel.shard` cuts it" in text


def test_what_no_kernel_runs_on_one_rank_is_an_error_on_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """As head dimension 20 on a GPU: the first rank meets no keys of others, and torch's kernels run none there."""
    module, schedule = planned_for("causal & window(6)", 40, 2, placement="contiguous")

    def none(*_: Any) -> None:
        raise ValueError("no kernel has this head dimension")

    monkeypatch.setattr("attnlang.parallel.choosing.kernel_for", none)
    kernel_of.cache_clear()

    def job(rank: int) -> None:
        spread = distribute(module, dist.group.WORLD, schedule=schedule)
        spread(*(shard(x, spread, 2) for x in inputs(40)[:3]))

    assert all("RanksDisagreeError: rank 1: no kernel has this head dimension" in text for text in refused(2, job))


def test_a_rank_that_failed_alone_knows_the_same_calls_as_the_others() -> None:
    """All are told by the same error; then all call again, and none waits."""
    module, schedule = planned_for("segment(10)", 40, 2, placement="contiguous")
    assert not schedule.transfers

    def job(rank: int) -> bool:
        spread = distribute(module, dist.group.WORLD, schedule=schedule, timeout=timedelta(seconds=10))
        mine = [shard(x, spread, 2) for x in inputs(40)[:3]]
        work = spread._work
        if rank:
            spread._work = lambda *_: (_ for _ in ()).throw(ValueError("no room"))
        with pytest.raises(RanksDisagreeError, match="rank 1: no room"):
            spread(*mine)
        spread._work = work
        return bool(torch.equal(spread(*mine), spread(*mine)))

    assert on_ranks(2, job, timeout=30) == [True, True]


def test_other_schedules_on_other_ranks_are_an_error() -> None:
    module, schedule = planned_for(LONGNET, 40, 2, placement="contiguous")
    other = planned_for(LONGNET, 40, 2, placement="zigzag")[1]

    def job(rank: int) -> None:
        spread = distribute(module, dist.group.WORLD, schedule=other if rank else schedule)
        spread(*(shard(x, spread, 2) for x in inputs(40)[:3]))

    assert all("ranks differ in schedule" in text for text in refused(2, job))


def test_a_dead_rank_is_an_error_on_the_others() -> None:
    module, schedule = planned_for("causal", 40, 3, placement="contiguous")

    def job(rank: int) -> None:
        spread = distribute(module, dist.group.WORLD, schedule=schedule, timeout=timedelta(seconds=5))
        mine = [shard(x, spread, 2) for x in inputs(40)[:3]]
        spread(*mine)
        if rank == 1:
            os._exit(0)
        spread(*mine)

    found = outcomes(3, job, timeout=30)
    assert all("PeerLostError" in found[rank][1] for rank in (0, 2))


def test_more_ranks_than_tokens_are_refused() -> None:
    def job(rank: int) -> None:
        distribute(attnc.compile(load("causal"), heads=HEADS), dist.group.WORLD, n=1)

    assert all("every rank needs a token" in text for text in refused(2, job))


def test_a_model_without_attention_is_refused() -> None:
    def job(rank: int) -> None:
        distribute(nn.Linear(2, 2), dist.group.WORLD, n=4)

    assert all("nothing to distribute" in text for text in refused(1, job))
