"""The kernels of `hopper_gradients` and `hopper_queries` on a GPU, in every build, against float64."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attnlang.runtime.expected import NAMES

pytest.importorskip("triton")
sys.path.insert(0, str(Path(__file__).parent))
from triton_cases import Case, differences

from attnlang.runtime.triton import gradients, specialised
from attnlang.runtime.triton.gradients import TABLE, Build, Gradients
from attnlang.runtime.triton.run import DEFAULT

pytestmark = pytest.mark.skipif(not specialised.available(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
                                reason="needs a Hopper GPU")  # fmt: skip
CASES = {
    "longnet": Case("longnet", 4096, {"segments": [512, 1024, 2048], "dilations": [1, 2, 4]}, batch=2, repeat=True),
    "longnet, full": Case("longnet_bidirectional", 4096, {"segments": [2048, 4096], "dilations": [1, 16]}, repeat=True),
    "causal": Case("causal", 1024, repeat=True),
    "window": Case("sliding", 2048, {"w": 300}, repeat=True, side_by_side=False),
    "window on both sides": Case("sliding_bidirectional", 1024, {"w": 100}),
    "segments": Case("chunked", 1024, {"b": 256}, batch=3),
    "heads of two kinds": Case(
        "pattern p = causal & (segment(256) if h < 2 else window(128))", 1024, heads=4, kv_heads=4
    ),
}


CASES |= {
    "later keys": Case("pattern p = offset(0..)", 1024),
    "a band beside the diagonal, whose last keys meet nothing": Case(
        "pattern p = offset(-300..-64)", 1024, batch=2, side_by_side=False
    ),
}
CASES |= {
    "causal, grouped heads": Case("causal", 1024, heads=4, kv_heads=1, repeat=True),
    "window, grouped heads, batch": Case("sliding", 1024, {"w": 300}, heads=4, batch=2, side_by_side=False),
    "nested lattices, grouped heads": Case(
        "pattern p = mix(segment(w) { dilate(r, shift=h // 2) } for w, r in zip([512, 1024], [1, 2]))", 2048, heads=6,
        kv_heads=3, repeat=True,
    ),
}  # fmt: skip
BUILDS = [Build(2, ahead=ahead, own=False, store=store) for ahead in (False, True) for store in (False, True)]


def compare(case: Case, build: Build) -> None:
    errors, allowed = differences(case, "cuda", replace(DEFAULT, build=build))
    for result, error, most in zip(NAMES, errors, allowed, strict=True):
        assert error <= most, f"{result} is off by {error:.1e}, allowed are {most:.1e}"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of launches of each pass."""
    found: list[int] = []
    run = Gradients.run
    monkeypatch.setattr(Gradients, "run", lambda made, *given: (found.append(len(made.calls)), run(made, *given))[1])
    return found


@pytest.mark.parametrize("build", BUILDS, ids=str)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_in_squares(name: str, dtype: str, dim: int, build: Build, ran: list[int]) -> None:
    compare(replace(CASES[name], dim=dim, dtype=dtype), replace(build, own=dim == 64))
    assert ran


@pytest.mark.parametrize("dim", TABLE)
@pytest.mark.parametrize("name", CASES)
def test_builds_of_the_table(name: str, dim: int, ran: list[int]) -> None:
    compare(replace(CASES[name], dim=dim, dtype="bfloat16"), TABLE[dim])


@pytest.mark.parametrize("name", ["longnet", "segments"])
def test_chunk_after_chunk_in_the_same_room(name: str, ran: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "LEAST_ROOM", 2**20)
    monkeypatch.setattr(gradients, "LEAST_PIECES", 0)
    compare(replace(CASES[name], dim=128, dtype="bfloat16"), replace(TABLE[128], room=1))
    assert ran
    assert all(launches > 2 for launches in ran)
