"""Partial results merged: in torch, and by one kernel, under triton's interpreter and on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from attnlang.runtime import merge

sys.path.insert(0, str(Path(__file__).parent))
from merged_rows import KINDS, SHAPES, errors, tensors

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")


def check(found: list[dict[str, Any]]) -> None:
    assert len(found) == len(SHAPES) * len(KINDS) * 2
    for row in found:
        assert row["none"], row
        assert row["lse"] < 1e-5, row
        assert row["out"] < (4e-3 if row["half"] else 1e-5), row  # (values below 8, so half a unit is 2^-9)


@needs_triton
def test_the_kernel_equals_the_formula_under_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "compiler"), os.environ.get("PYTHONPATH", "")))
    script = [sys.executable, str(Path(__file__).with_name("merged_rows.py"))]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    check([json.loads(line) for line in done.stdout.splitlines()])


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_kernel_equals_the_formula_on_a_gpu() -> None:
    check(list(errors("cuda")))


@pytest.mark.parametrize("aside", [False, True])
def test_16_bits_are_added_up_in_float32(aside: bool) -> None:
    out, lse, part, part_lse = tensors((2, 3, 35, 16), torch.bfloat16, torch.bfloat16, "cpu", aside)
    exact, exact_lse = out.double(), lse.double()
    merge.merge_(exact, exact_lse, part.double(), part_lse.double())
    merge.merge_(out, lse, part, part_lse)
    torch.testing.assert_close(out.double(), exact, rtol=2.0**-8, atol=1e-5)  # (one rounding, to half a unit)
    torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-5, atol=1e-5)


def test_no_kernel_where_there_is_no_gpu() -> None:
    assert merge._fused(torch.device("cpu")) is None  # pyright: ignore[reportPrivateUsage] - what is chosen
