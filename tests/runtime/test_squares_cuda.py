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

from attnlang.runtime.triton import specialised
from attnlang.runtime.triton.gradients import Build, Gradients
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


@pytest.mark.parametrize("store", [False, True])
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_in_squares(
    name: str, dtype: str, dim: int, ahead: bool, store: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    run = Gradients.run
    monkeypatch.setattr(Gradients, "run", lambda *given: (ran.append(1), run(*given))[1])
    build = Build(2, ahead=ahead, own=dim == 64, store=store)
    errors, allowed = differences(replace(CASES[name], dim=dim, dtype=dtype), "cuda", replace(DEFAULT, build=build))
    assert ran
    for result, error, most in zip(NAMES, errors, allowed, strict=True):
        assert error <= most, f"{result} is off by {error:.1e}, allowed are {most:.1e}"
