"""Every tile shape of the kernel for all GPUs that one may choose, against float64: the table's and its candidates."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attnlang.runtime.expected import NAMES

pytest.importorskip("triton")
sys.path.insert(0, str(Path(__file__).parent))
from triton.runtime.errors import OutOfResources
from triton_cases import Case, differences

from attnlang.runtime.triton.launches import Mode
from attnlang.runtime.triton.run import DEFAULT
from attnlang.runtime.triton.tuning import FLOAT, HALF, KINDS, Config, Kind, candidates, table

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SHARED = (232_448, 166_912, 101_376)
"""Bytes that a program may have on an H100, an A100, and a GPU for desktops."""
SEGMENTS = {"segments": [512, 1024], "dilations": [1, 2]}
CASES: dict[Kind, Case] = {
    "full": Case("longnet_bidirectional", 1024, SEGMENTS),
    "causal": Case("longnet", 1024, SEGMENTS, heads=2, kv_heads=1),
    "window": Case("sliding", 900, {"w": 200}),
    "lists": Case("bigbird", 1024),
}
LOST: list[str] = []
"""The case after which this process has no device any more: what runs later there fails, whatever it is."""


def shapes() -> Iterator[tuple[Mode, int, str, Kind, Config]]:
    """Each that is different, by mode, head dimension, dtype and kind."""
    for tables, dtype in ((HALF, "bfloat16"), (HALF, "float16"), (FLOAT, "float32")):
        for mode, dim in tables:
            for kind in KINDS:
                of = mode, dim, getattr(torch, dtype), kind
                found = {table(*of)} | {one for shared in SHARED for one in candidates(*of, shared)}
                yield from ((mode, dim, dtype, kind, one) for one in sorted(found, key=repr))


def shared_memory() -> int:
    return torch.cuda.get_device_properties(0).shared_memory_per_block_optin


@pytest.mark.parametrize(("mode", "dim", "dtype", "kind", "shape"), [*shapes()])
def test_shape(mode: Mode, dim: int, dtype: str, kind: Kind, shape: Config) -> None:
    if LOST:
        pytest.fail(f"not run: the device is lost since {LOST[0]}", pytrace=False)
    case = replace(CASES[kind], dim=dim, dtype=dtype)
    if shape.shared_bytes(dim, 4 if dtype == "float32" else 2, mode) > shared_memory():
        pytest.skip("does not fit into this GPU, which would not choose it")
    try:
        errors, allowed = differences(case, "cuda", replace(DEFAULT, configs=((mode, shape),), specialise=False))
    except OutOfResources as reason:
        pytest.skip(f"{reason} (and so it is not chosen there)")
    except RuntimeError:  # (an address out of line, for one: CUDA says so at every later call)
        LOST.append(f"{mode}, {dim}, {dtype}, {kind}, {shape}")
        raise
    for result, error, most in zip(NAMES, errors, allowed, strict=True):
        assert error <= most, f"{result} is off by {error:.1e}, allowed are {most:.1e}"
