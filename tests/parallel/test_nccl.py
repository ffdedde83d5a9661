"""Distributed attention on two GPUs, where there are two: right, and errors instead of waits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.parallel.lost import LAST

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_two_gpus_agree_with_the_formula(backend: str) -> None:
    on_two_gpus("nccl_check", "--backend", backend)


@pytest.mark.parametrize("last", LAST)
def test_what_one_rank_gets_wrong_is_an_error_on_both(last: str) -> None:
    on_two_gpus("mistakes", "--last", last)


def on_two_gpus(script: str, *options: str) -> None:
    name = f"tests.parallel.{script}"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", name, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
