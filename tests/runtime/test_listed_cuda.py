"""The kernels of `hopper_lists` on a GPU, against float64: block lists alone, and beside a lattice."""

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
from attnlang.runtime.triton.kept import Call
from attnlang.runtime.triton.run import DEFAULT
from attnlang.runtime.triton.specialised import LISTS, TABLE, Split

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(not specialised.available(DEVICE), reason="needs a Hopper GPU")
CASES = {
    "documents": Case("packed", 2000, repeat=True),
    "documents, grouped heads, batch": Case("packed", 1024, heads=4, kv_heads=2, batch=2, repeat=True),
    "heads after tokens": Case("packed", 1100, batch=2, side_by_side=False),
    "a grid": Case("natten2d", 2048, {"rows": 32, "cols": 64, "w": 9}, repeat=True),
    "a band, and lists at its ends": Case("natten1d", 2048, {"w": 201}, repeat=True, batch=2),
    "a triangle, and lists at its beginning": Case("prefix_lm", 1500, {"p": 300}, kv_heads=1, repeat=True),
    "rows without keys": Case("pattern some = offset(-300..0) & query(pos % 5 < 2) & key(pos < 900)", 1500),
    "pairs that count twice": Case("pattern p = mix(same(pos // w) for w in [500, 800])", 1408),
    "a few blocks": Case("packed", 170),
    "heads of two kinds": Case("pattern kinds = causal & (same(pos // 600) if h < 2 else window(200))", 1300, heads=4),
}
SPLITS = {dim: [LISTS[dim], TABLE[dim, "short"], Split(2, 64, 4, 168, q_shared=True, under=True)] for dim in (64, 128)}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels of each forward pass."""
    found: list[str] = []
    steps = specialised.steps

    def seen(*given: object) -> object:
        made = steps(*given)  # pyright: ignore[reportArgumentType]
        calls: tuple[Call, ...] = made[1] if made else ()
        found.extend(call.kernel.fn.__module__.rpartition(".")[2] for call in calls)
        return made

    monkeypatch.setattr(specialised, "steps", seen)
    return found


def compare(case: Case, split: Split | None) -> None:
    errors, allowed = differences(case, "cuda", replace(DEFAULT, split=split))
    for result, error, most in zip(NAMES, errors, allowed, strict=True):
        assert error <= most, f"{result} is off by {error:.1e}, allowed are {most:.1e}"


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_lists(name: str, dtype: str, dim: int, ran: list[str]) -> None:
    compare(replace(CASES[name], dim=dim, dtype=dtype), None)
    assert "hopper_lists" in ran


@pytest.mark.parametrize("under", [False, True])
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("name", ["documents, grouped heads, batch", "a grid", "a band, and lists at its ends"])
def test_splits(name: str, dim: int, number: int, under: bool, ran: list[str]) -> None:
    compare(replace(CASES[name], dim=dim, dtype="bfloat16"), replace(SPLITS[dim][number], under=under))
    assert "hopper_lists" in ran
