"""What one rank refuses, or is stopped in while it plans, outside of attention itself: the others hear of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest import mock

import attnc
import pytest
import torch
import torch.distributed as dist
from torch import nn

from attnlang import loads
from attnlang.parallel import PeerLostError, RanksDisagreeError, agreement, distribute, mean_loss, unshard
from attnlang.parallel import module as distributing
from attnlang.parallel.agreement import Hosts
from tests.parallel.ranks import on_ranks
from tests.parallel.world import HEADS, World, failing

SIZES: dict[str, Any] = {"n": 40, "placement": "contiguous", "timeout": timedelta(seconds=20)}
WINDOW = "causal & window(9)"


def attention(text: str = WINDOW) -> nn.Module:
    return attnc.compile(loads(f"pattern p = {text}"), heads=HEADS)


def works() -> bool:
    """Whether the ranks of the group can go on together."""
    layer = distribute(attention(), None, **SIZES)
    rows = torch.ones(1, HEADS, 20 if dist.get_world_size() == 2 else layer.positions().numel(), 8)
    return bool(torch.allclose(layer(rows, rows, rows), rows))


def said(action: Callable[[], Any], *kinds: type[BaseException]) -> tuple[str, float]:
    """The error that an action raises, and after how many seconds."""
    start = time.monotonic()
    with pytest.raises(kinds) as caught:
        action()
    return f"{type(caught.value).__name__}: {caught.value}", time.monotonic() - start


def check(found: list[tuple[tuple[str, float], bool]], mine: str, theirs: str) -> None:
    """Rank 1 says the one and the others the other, all at once; and then they go on."""
    for rank, ((text, seconds), again) in enumerate(found):
        assert (mine if rank == 1 else theirs) in text
        assert seconds < 10  # (the timeout is 20)
        assert again


@contextmanager
def planning(rank: int, then: Callable[[], None]) -> Iterator[None]:
    """While a rank plans something happens."""
    planners = distributing._planners

    def changed(*args: Any) -> Any:
        then()
        return planners(*args)

    with mock.patch.object(distributing, "_planners", changed if dist.get_rank() == rank else planners):
        yield


def fail(error: BaseException) -> Callable[[], None]:
    def now() -> None:
        raise error

    return now


ALONE: dict[str, tuple[dict[str, Any], str]] = {
    "agree": ({"agree": "never"}, "agree must be 'every call' or 'first call', not 'never'"),
    "n": ({"n": "40"}, "n must be an integer of at least 1, not '40'"),
    "no n": ({"n": None}, "how long is the sequence? Give n=, or schedule="),
    "ranks": ({"n": 2}, "3 ranks for 2 tokens: every rank needs a token; use at most 2 ranks"),
    "timeout": ({"timeout": 5}, "timeout must be a datetime.timedelta above 0"),
    "schedule": ({"schedule": "longnet"}, "schedule must be what attnc.plan returns"),
    "module": ({"module": nn.Linear(2, 2)}, "there is no attnlang attention in Linear: nothing to distribute"),
}
"""What rank 1 alone gives to distribute, and what it says to that."""

DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "n": ({"n": 44}, "ranks differ in tokens of the whole sequence: 40 on ranks 0, 2, 44 on rank 1"),
    "agree": ({"agree": "first call"}, "ranks differ in agree: every call on ranks 0, 2, first call on rank 1"),
    "head_dim": ({"head_dim": "many"}, "ranks differ in head_dim: 64 on ranks 0, 2, many on rank 1"),
    "placement": ({"placement": "zigzag"}, "ranks differ in placement: contiguous on ranks 0, 2, zigzag on rank 1"),
    "layers": ({"module": nn.ModuleList([attention()] * 2)}, "ranks differ in attention: p in 1 place on ranks 0, 2"),
    "pattern": ({"module": attention("causal")}, "ranks differ in schedule: "),
}
"""What rank 1 alone gives to distribute and might be given everywhere: no rank knows which was meant."""


def distributed(changes: dict[str, Any]) -> tuple[tuple[str, float], bool]:
    more = {"module": attention(), **SIZES, **(changes if dist.get_rank() == 1 else {})}
    return said(lambda: distribute(mesh=None, **more), ValueError, RanksDisagreeError), works()


@pytest.fixture(scope="module", params=["3 ranks", "3 ranks by doubling"])
def ended(request: pytest.FixtureRequest) -> list[dict[str, tuple[tuple[str, float], bool]]]:
    """How each case ended, by rank: all one after another on the same ranks."""

    def job(rank: int) -> dict[str, tuple[tuple[str, float], bool]]:
        if "doubling" in request.param:
            agreement.DIRECT = 1
        cases = [*ALONE.values(), *DIFFERENT.values()]
        return {words: distributed(changes) for changes, words in cases}

    return on_ranks(3, job)


@pytest.mark.parametrize("name", ALONE)
def test_what_a_rank_refuses_is_its_error_and_the_others_are_told_it(ended: Any, name: str) -> None:
    words = ALONE[name][1]
    check([of_rank[words] for of_rank in ended], f"ValueError: {words}", f"RanksDisagreeError: rank 1: {words}")


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_ranks_are_given_differently_is_one_error_on_all(ended: Any, name: str) -> None:
    words = DIFFERENT[name][1]
    found = [of_rank[words] for of_rank in ended]
    check(found, words, words)
    assert len({text for (text, _), _ in found}) == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError("no room"), "MemoryError: no room"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_what_stops_a_rank_while_it_plans_is_told_to_the_others(error: BaseException, text: str) -> None:
    def job(rank: int) -> tuple[tuple[str, float], bool]:
        model = nn.ModuleList([attention()])
        with planning(1, fail(error)):
            found = said(lambda: distribute(model, None, **SIZES), RanksDisagreeError, type(error))
        return found, works() and distribute(model, None, **SIZES) is model  # (none was half distributed)

    check(on_ranks(3, job), text, f"RanksDisagreeError: rank 1: {text}")


def test_all_ranks_interrupted_at_once_end_by_that_and_can_go_on() -> None:
    def job(rank: int) -> tuple[tuple[str, float], bool]:
        with planning(rank, fail(KeyboardInterrupt())):
            found = said(lambda: distribute(attention(), None, **SIZES), KeyboardInterrupt)
        return found, works()

    check(on_ranks(2, job), "KeyboardInterrupt", "KeyboardInterrupt")


@pytest.mark.parametrize("direct", [8, 1])
def test_an_interrupted_rank_does_not_stay_for_those_that_plan_for_long_and_leaves_word(direct: int) -> None:
    def job(rank: int) -> tuple[tuple[str, float], bool]:
        agreement.DIRECT, agreement.PATIENCE = direct, timedelta(seconds=0.3)
        happens = fail(KeyboardInterrupt()) if rank == 1 else lambda: time.sleep(1.5)
        with planning(rank, happens):
            found = said(lambda: distribute(attention(), None, **SIZES), PeerLostError, KeyboardInterrupt)
        if rank == 1:
            assert found[1] < 1.2
            time.sleep(2.5)  # (so that nobody learns of anything by this rank's end)
        return found, True

    check(on_ranks(3, job), "KeyboardInterrupt", "Of a rank that left there is word, rank 1: KeyboardInterrupt. ")


def test_an_interrupt_while_a_call_is_planned_is_told_to_the_others() -> None:
    def job(rank: int) -> tuple[tuple[str, float], bool]:
        world = World.of(dist.group.WORLD)
        with failing(world, world.packed._planner, "schedule", KeyboardInterrupt()):
            found = said(lambda: world.packed(*world.rows(), doc=world.doc()), RanksDisagreeError, KeyboardInterrupt)
        return found, world.right()

    check(on_ranks(3, job), "KeyboardInterrupt: ", "RanksDisagreeError: rank 1: KeyboardInterrupt")


def test_ranks_compare_twice_to_distribute_and_not_again_for_what_they_called_before() -> None:
    def job(rank: int) -> list[int]:
        asked, compared = Hosts.asked, [0]

        def counted(self: Hosts, note: Any, timeout: timedelta) -> Any:
            compared[0] += 1
            return asked(self, note, timeout)

        counts = list[int]()
        with mock.patch.object(Hosts, "asked", counted):
            layer = distribute(attention(), None, **SIZES)
            for _ in range(3):
                counts.append(compared[0])
                rows = torch.ones(1, HEADS, 20, 8)
                layer(rows, rows, rows)
        return counts

    assert on_ranks(2, job) == [[2, 3, 4]] * 2


def test_rows_that_are_no_tensor_are_an_error_on_every_rank() -> None:
    def job(rank: int) -> tuple[tuple[str, float], bool]:
        layer = distribute(attention(), None, **SIZES)
        rows: Any = [1.0] if rank == 1 else torch.ones(20)
        return said(lambda: unshard(rows, layer, 0), RanksDisagreeError), works()

    words = "RanksDisagreeError: rank 1: x must be a tensor, this rank's rows, not list"
    check(on_ranks(2, job), words, words)


def test_weights_that_do_not_fit_on_one_rank_are_its_error_and_the_others_are_told() -> None:
    """By the sum that all wait for anyway. A weight of NaN is nobody's error."""

    def job(rank: int) -> tuple[tuple[str, float], bool]:
        losses = torch.ones(8)
        weights = torch.ones(8, 1) if rank == 1 else None
        found = said(lambda: mean_loss(losses, weights), RanksDisagreeError, ValueError)
        gone = mean_loss(losses, torch.full((8,), torch.nan))
        return found, bool(gone.isnan()) and float(mean_loss(losses, None)) == 1.0

    words = "weights must have the shape of losses, one a token, but have (8, 1) and not (8,)"
    check(on_ranks(3, job), f"ValueError: {words}", f"RanksDisagreeError: mean_loss: rank 1: {words}")
