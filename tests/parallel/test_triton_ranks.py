"""Distributed attention with backend triton: under the interpreter, on gloo ranks, against the formula."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CASES = ("longnet", "window", "longformer", "packed", "window, as if kernels filled the GPU")
RESULTS = ("out", "dq", "dk", "dv")


@pytest.fixture(scope="module")
def interpreted() -> list[dict[str, Any]]:
    """Every case, by two processes under the interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "compiler"), os.environ.get("PYTHONPATH", "")))
    script = [sys.executable, str(Path(__file__).with_name("triton_ranks.py"))]
    workers = [
        subprocess.Popen([*script, *CASES[i::2]], env=environment, stdout=subprocess.PIPE, text=True) for i in (0, 1)
    ]
    lines = [line for worker in workers for line in worker.communicate(timeout=300)[0].splitlines()]
    return [json.loads(line) for line in lines]


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
@pytest.mark.parametrize("name", CASES)
def test_triton_under_distribute_equals_the_formula(name: str, interpreted: list[dict[str, Any]]) -> None:
    mine = [found for found in interpreted if found["name"] == name]
    assert sorted((found["ranks"], found["rank"]) for found in mine) == [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    for found in mine:
        assert "failure" not in found, found.get("failure")
        for result, (error, allowed) in zip(RESULTS, found["errors"], strict=True):
            assert error <= allowed, f"{result} of {found} is off by {error:.1e}, allowed are {allowed:.1e}"
