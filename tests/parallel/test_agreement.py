"""What one rank gets wrong, at whichever call, is the same error on every rank at once; and the next call is right."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from datetime import timedelta
from typing import Any
from unittest import mock

import attnc
import pytest
import torch
import torch.distributed as dist

from attnlang import load
from attnlang.parallel import agreement, distribute, wire
from attnlang.parallel.agreement import FAULT, Hosts, disagreement, hosts_of
from attnlang.parallel.planning import KEPT
from attnlang.parallel.rank import RankWork
from tests.parallel.mistakes import MISTAKES, Outcome, outcome
from tests.parallel.ranks import on_ranks, outcomes
from tests.parallel.world import HEADS, N, World


@pytest.fixture(scope="module", params=["3 ranks", "5 ranks by doubling"])
def ended(request: pytest.FixtureRequest) -> list[dict[str, Outcome]]:
    """How each mistake ended, by rank: all of them made one after another on the same ranks."""

    def job(rank: int) -> dict[str, Outcome]:
        if "doubling" in request.param:
            agreement.DIRECT = 1
        world = World.of(dist.group.WORLD)
        assert world.right()
        return {mistake.__name__: outcome(world, mistake) for mistake in MISTAKES}

    return on_ranks(int(request.param[0]), job)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_the_same_error_on_every_rank_and_the_next_call_is_right(
    ended: list[dict[str, Outcome]], mistake: Any
) -> None:
    found = [of_rank[mistake.__name__] for of_rank in ended]
    assert all(MISTAKES[mistake] in each.said for each in found)
    assert len({each.said for each in found}) == 1
    assert all(each.seconds < 10 for each in found)  # (the timeout is 20)
    assert all(each.right for each in found)


def test_what_differs_is_told_with_the_ranks_where_it_is_so() -> None:
    told = [{"batch": "2", "scale": "0.5"}, {"batch": "3", "scale": "0.5"}, {"batch": "2", "scale": "0.5"}]
    assert disagreement(told) == "ranks differ in batch: 2 on ranks 0, 2, 3 on rank 1. All must be called alike"
    assert disagreement([{FAULT: "no"}, {FAULT: "no"}]) == "every rank: no"
    assert disagreement([{FAULT: "no", "batch": "1"}, {"batch": "2"}, {"batch": "2", "scale": "1.0"}]) == (
        "rank 0: no. ranks differ in batch: 1 on rank 0, 2 on ranks 1, 2. All must be called alike"
    )
    many = [{"batch": str(rank // 20)} for rank in range(40)]
    assert "0 on ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more" in disagreement(many)


@pytest.mark.parametrize(("agree", "times"), [("every call", 6), ("first call", 2)])
def test_how_often_ranks_compare(agree: str, times: int) -> None:
    def job(rank: int) -> int:
        world = World.of(dist.group.WORLD, agree=agree)
        compared, asked = [0], Hosts.asked

        def counted(self: Hosts, note: Any, timeout: timedelta) -> Any:
            compared[0] += 1
            return asked(self, note, timeout)

        Hosts.asked = counted  # (in this process, which ends with the job)
        assert all(world.right() for _ in range(3))
        before = compared[0]
        for _ in range(2):
            world.packed(*world.rows(gradients=False), doc=world.doc())
        assert compared[0] == before + 2  # tables are compared whenever they come
        return before

    assert on_ranks(2, job) == [times, times]


def test_ranks_that_would_compare_at_other_calls_are_told() -> None:
    def job(rank: int) -> None:
        World.of(dist.group.WORLD, agree="first call" if rank else "every call").right()

    found = outcomes(2, job, timeout=30)
    assert all("ranks differ in agree: every call on rank 0, first call on rank 1" in text for _, text in found)


def test_when_to_compare_has_two_names() -> None:
    def job(rank: int) -> None:
        distribute(attnc.compile(load("causal"), heads=HEADS), None, n=N, agree="never")  # pyright: ignore[reportArgumentType] - refused

    ((ok, text),) = outcomes(1, job)
    assert not ok
    assert "agree must be 'every call' or 'first call', not 'never'" in text


def test_one_rank_alone_is_told_what_it_got_wrong() -> None:
    def job(rank: int) -> None:
        world = World.of(dist.group.WORLD)
        assert world.right()
        world.plain(*(x[:, :, 1:] for x in world.rows()))

    ((ok, text),) = outcomes(1, job)
    assert not ok
    assert "RanksDisagreeError: rank 0: q must be" in text


def test_groups_of_a_mesh_agree_each_for_itself() -> None:
    """Also where ranks are in differently many groups, so that names made from their number would differ."""

    def job(rank: int) -> str:
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "cp"))
        dist.new_group([0, 3])
        world = World.of(mesh["cp"].get_group())
        assert world.right()
        said = ""
        if rank >= 2:  # (of these two, rank 3 is the one that errs)
            said = outcome(world, next(iter(MISTAKES))).said
        assert world.right()
        return said

    found = on_ranks(4, job)
    assert found[:2] == ["", ""]
    assert found[2] == found[3] == "ranks differ in batch: 2 on rank 0, 3 on rank 1. All must be called alike"


def test_nothing_is_left_of_a_group_that_is_gone_and_the_next_one_works() -> None:
    """Modules on one group share connections, whatever their timeouts."""
    with tempfile.TemporaryDirectory() as folder:

        def job(rank: int) -> list[int]:
            first = World.of(dist.group.WORLD)
            assert first.right()
            assert World.of(dist.group.WORLD).right()
            assert World.of(dist.group.WORLD, timeout=10.0).right()
            assert hosts_of(dist.group.WORLD, first.timeout) is first.plain._hosts
            known = len(agreement._hosts)
            del first
            gc.collect()
            dist.destroy_process_group()
            gc.collect()
            left = len(agreement._hosts)
            store = dist.FileStore(os.path.join(folder, "again"), 2)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=30))
            assert World.of(dist.group.WORLD).right()
            return [known, left]

        assert on_ranks(2, job) == [[1, 0], [1, 0]]


def test_all_ranks_may_fail_in_the_middle_of_a_call_and_go_on() -> None:
    """As where a batch needs more memory than any has."""

    def job(rank: int) -> bool:
        world = World.of(dist.group.WORLD)
        assert world.right()
        with pytest.raises(MemoryError), mock.patch.object(RankWork, "forward", side_effect=MemoryError):
            world.plain(*world.rows())
        return world.right()

    assert on_ranks(2, job) == [True, True]


def test_where_there_is_no_room_for_what_arrives_memory_is_named_and_no_rank_is_lost() -> None:
    def job(rank: int) -> bool:
        world = World.of(dist.group.WORLD)
        new_empty = torch.Tensor.new_empty

        def short(self: torch.Tensor, *size: Any, **kinds: Any) -> torch.Tensor:
            if sys._getframe(1).f_globals["__name__"] == wire.__name__:  # pyright: ignore[reportPrivateUsage] - who asks
                raise torch.OutOfMemoryError("no room for this")
            return new_empty(self, *size, **kinds)

        with pytest.raises(torch.OutOfMemoryError), mock.patch.object(torch.Tensor, "new_empty", short):
            world.plain(*world.rows())
        out = world.plain(*(rows := world.rows()))
        with pytest.raises(torch.OutOfMemoryError), mock.patch.object(torch.Tensor, "new_empty", short):
            torch.autograd.grad(out.sum(), rows)
        return world.right()

    assert on_ranks(2, job) == [True, True]


def test_the_first_call_may_be_one_of_a_compiled_model() -> None:
    """What hosts do is not traced: not how they connect, nor what they plan."""

    def job(rank: int) -> bool:
        world = World.of(dist.group.WORLD)
        rows = world.rows()

        def layer(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return world.plain(2 * q, k, v).sin()

        model = torch.compile(layer, backend="eager")
        found = torch.autograd.grad(model(*rows).sum(), rows)
        expected = torch.autograd.grad(layer(*rows).sum(), rows)
        return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)) and world.right()

    assert on_ranks(2, job) == [True, True]


def test_what_runs_a_call_is_kept_within_one_bound() -> None:
    """Kinds of calls and lengths together, each with work of its own."""

    def job(rank: int) -> int:
        world = World.of(dist.group.WORLD)
        for dim in range(1, KEPT + 5):
            q = torch.zeros(1, HEADS, N, dim, dtype=torch.float64)
            world.plain(q, q, q)
        for length in range(1, KEPT + 5):
            world.plain(*world.rows(batch=1), lengths=torch.tensor([length]))
        assert world.right()
        gc.collect()
        return sum(isinstance(x, RankWork) for x in gc.get_objects())

    assert on_ranks(1, job) == [KEPT]
