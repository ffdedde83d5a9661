"""Predicted times against measured ones that are in benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attnc.api import found_schedule
from attnc.lower import lower
from attnc.schedule.cost import times, work_of

from attnlang import load, loads
from attnlang.parallel.machines import DEVICES, KERNELS, rated

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["longnet", "window", "longnet_whole"])
def test_two_gpus_take_what_is_predicted(name: str) -> None:
    """Within 20 %; longnet_whole is of a length and of segments that no rate was taken from."""
    data = result("scaling_2")
    row = data["weak"][name]
    pattern = {
        "longnet": load("longnet"),
        "window": loads("pattern w = causal & window(4096)"),
        "longnet_whole": load("longnet", segments=[2048, 262144, 524288], dilations=[1, 128, 256]),
    }[name]
    found = found_schedule(
        pattern, n=row["n"], ranks=row["ranks"], heads=data["heads"], head_dim=data["head_dim"], kv_heads=None,
        dtype="bfloat16", placement="contiguous", gpu="h100", link="nvlink", backward=True, tables=None,
        objective="time", backend="sdpa",
    )  # fmt: skip
    forward, backward = times(found.solution, found.device, found.link)
    predicted = {"forward": forward.seconds, "forward_backward": forward.seconds + backward.seconds}
    for what, seconds in predicted.items():
        assert seconds == pytest.approx(row["seconds"][what], rel=0.2)
        assert seconds == pytest.approx(row["predicted"][what], rel=0.05)  # (by the rates of that day)
    assert "sdpa" in found.device.source


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", ["longnet", "window", "longnet_whole"])
def test_our_kernels_on_several_gpus_take_what_is_predicted(name: str, ranks: int) -> None:
    """Within 20 %."""
    data = result(f"scaling_{ranks}_triton")
    each, row = data["tokens_a_rank"], data["weak"][name]
    n = each * ranks
    pattern = {
        "longnet": load("longnet"),
        "window": loads("pattern w = causal & window(4096)"),
        "longnet_whole": load("longnet", segments=[2048, each, n], dilations=[1, each // 2048, n // 2048]),
    }[name]
    found = found_schedule(
        pattern, n=n, ranks=ranks, heads=data["heads"], head_dim=data["head_dim"], kv_heads=None, dtype="bfloat16",
        placement="contiguous", gpu="h200", link="nvlink", backward=True, tables=None, objective="time",
        backend="triton",
    )  # fmt: skip
    forward, backward = times(found.solution, found.device, found.link)
    predicted = {"forward": forward.seconds, "forward_backward": forward.seconds + backward.seconds}
    for what, seconds in predicted.items():
        assert seconds == pytest.approx(row["seconds"][what], rel=0.2)


def test_segments_that_do_not_divide_one_another_have_rates_of_their_own() -> None:
    plans = [lower(load("longnet", segments=[64, 128, 256], dilations=rates), 4) for rates in ([1, 2, 4], [1, 4, 6])]
    assert [work_of(plan) for plan in plans] == ["causal segments", "causal segments apart"]
    assert work_of(lower(load("longnet_bidirectional", segments=[64, 96], dilations=[1, 2]), 4)) == "segments apart"


def test_one_gpu_takes_what_is_predicted() -> None:
    for row in result("longnet")["rows"]:
        work = "causal segments" if row["causal"] else "segments"
        device = rated(DEVICES["h100"], "auto", work, row["head_dim"])
        forward = device.start + 4 * row["head_dim"] * row["pairs"] / device.forward
        both = forward + device.start + 10 * row["head_dim"] * row["pairs"] / device.backward
        for what, seconds in (("forward", forward), ("forward_backward", both)):
            assert 1000 * seconds == pytest.approx(row["milliseconds"][what]["ours"], rel=0.05)


def test_what_was_not_measured_takes_the_nearest_and_says_so() -> None:
    device = rated(DEVICES["h100"], "flex", "window", 80)
    assert "nearest to flex, window" in device.source
    assert device.forward in {kernel.forward for kernel in KERNELS["h100"]}
    assert rated(DEVICES["a100"], "sdpa", "window", 64) == DEVICES["a100"]
