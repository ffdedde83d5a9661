"""The kernel of `hopper` on a GPU, on nested lattices, against float64: exponentials under the next scores, and not."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import attnc
import pytest
import torch
from torch import Tensor

from attnlang.runtime.expected import expected

pytest.importorskip("triton")
sys.path.insert(0, str(Path(__file__).parent))
from triton_cases import Case, pattern_of

from attnlang.runtime.triton import run, specialised
from attnlang.runtime.triton.matrices import form_of
from attnlang.runtime.triton.specialised import SCALES, TABLE, Split, Way

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(not specialised.available(DEVICE), reason="needs a Hopper GPU")
CASES = {
    "causal": Case("longnet", 4096, {"segments": [1024, 2048, 4096], "dilations": [1, 2, 4]}, heads=3, kv_heads=3),
    "full": Case("longnet_bidirectional", 4096, {"segments": [1024, 4096], "dilations": [1, 8]}, heads=4),
    "batch": Case("longnet", 2048, {"segments": [512, 1024, 2048], "dilations": [1, 2, 4]}, batch=2, kv_heads=1),
}


def inputs(case: Case, steep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, d_out. Steep: scores grow the way that tiles are walked, so that references must follow them."""
    generator = torch.Generator().manual_seed(case.n)

    def tensor(heads: int, spread: Tensor | float = 1.0) -> Tensor:
        x = torch.randn((case.batch, case.n, heads, case.dim), generator=generator, dtype=torch.float64) * spread
        return x.to(getattr(torch, case.dtype)).to(DEVICE).transpose(1, 2)

    falling = torch.linspace(3.0, 0.1, case.n, dtype=torch.float64)[:, None, None]
    q, k = tensor(case.heads, 3.0 if steep else 1.0), tensor(case.kv_heads, falling if steep else 1.0)
    return q, k, tensor(case.kv_heads), tensor(case.heads)


def check(case: Case, under: bool | None, ran_under: bool, steep: bool = False, split: Split | None = None) -> str:
    """What is wrong with out and lse; nothing if they are right and come out the same twice."""
    pattern = pattern_of(case)
    plan = attnc.compile(pattern, heads=case.heads).plan
    assert plan is not None
    q, k, v, dout = inputs(case, steep)
    scale = case.dim**-0.5 if case.scale is None else case.scale
    split = replace(split or specialised.split_for(plan, case.n, case.dim), under=under)
    found = specialised.steps(form_of(q), form_of(k), form_of(v), plan, scale, split, True, DEVICE)
    assert found is not None
    assert {call.constants["UNDER"] for call in found[1]} == {ran_under}
    first, second = (run.forward(q, k, v, plan, scale, {}, replace(run.DEFAULT, split=split)) for _ in range(2))
    if not all(torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        return "two runs differ"
    true = expected(pattern, [q, k, v, dout], scale)
    out, lse = true.errors(first)
    most_out, most_lse = true.allowed[:2]
    most_lse = min(most_lse, 1e-4 * max(1.0, float(true.exact[1].abs().max())))  # lse is made in float32
    return (
        ""
        if out <= most_out and lse <= most_lse
        else f"out {out:.1e} of {most_out:.1e}, lse {lse:.1e} of {most_lse:.1e}"
    )


@pytest.mark.parametrize("steep", [False, True])
@pytest.mark.parametrize("under", [False, True])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_nested_lattices(name: str, dtype: str, dim: int, under: bool, steep: bool) -> None:
    assert not check(replace(CASES[name], dim=dim, dtype=dtype), under, under, steep)


SINGLE = {
    "full": Case("dense", 1000, heads=3, kv_heads=3),
    "causal": Case("causal", 1000, heads=4, kv_heads=2),
    "segments": Case("chunked", 1100, {"b": 512}, heads=2, batch=2),
    "window": Case("sliding", 1500, {"w": 700}, heads=3, kv_heads=3),
    "short window": Case("sliding", 1500, {"w": 70}, heads=3, kv_heads=3),
    "both sides": Case("sliding_bidirectional", 1300, {"w": 250}, heads=2, kv_heads=1),
    "some without keys": Case("pattern apart = offset(-300..-129)", 900),
}


@pytest.mark.parametrize("steep", [False, True])
@pytest.mark.parametrize("under", [False, True])
@pytest.mark.parametrize(("dim", "way"), TABLE)
@pytest.mark.parametrize("name", SINGLE)
def test_one_lattice_in_every_split(name: str, dim: int, way: Way, under: bool, steep: bool) -> None:
    case = replace(SINGLE[name], dim=dim, dtype="bfloat16")
    assert not check(case, under, under, steep, TABLE[dim, way])


@pytest.mark.parametrize("scale", [1e-30, SCALES[0], 3.0])
def test_scales(scale: float) -> None:
    """Weights in units of scores are huge where scales are tiny, until they are not used."""
    assert not check(replace(CASES["causal"], dim=64, dtype="bfloat16", scale=scale), None, scale >= SCALES[0])
