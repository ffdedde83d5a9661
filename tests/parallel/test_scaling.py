"""The scaling benchmark on two gloo ranks: it runs, and the wire carries what was planned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_two_ranks_of_a_cpu(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "benchmarks/scaling.py"]
    sizes = ["--tokens", "128", "--heads", "2", "--head-dim", "8", "--repeats", "1", "--device", "cpu"]
    path = os.pathsep.join((str(ROOT), str(ROOT / "compiler")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [*launch, *sizes, "--strong", "512", "--longest", "--out", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "scaling_2.json").read_text(encoding="utf-8"))
    for kind in ("weak", "strong"):
        assert set(result[kind]) == {"longnet", "window", "longnet_whole"}
        for found in result[kind].values():
            assert found["bytes_on_the_wire"] == found["bytes_planned"]
            assert min(found["seconds"].values()) > 0
    assert result["weak"]["window"]["bytes_on_the_wire"] > 0
    assert result["longest"]["n"] >= 256
    assert result["complete"]


def test_a_run_without_time_leaves_what_it_has(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "benchmarks/scaling.py"]
    sizes = ["--tokens", "128", "--heads", "2", "--head-dim", "8", "--repeats", "1", "--device", "cpu"]
    path = os.pathsep.join((str(ROOT), str(ROOT / "compiler")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [*launch, *sizes, "--limit", "0", "--out", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "scaling_2.json").read_text(encoding="utf-8"))
    assert set(result["one_gpu"]) == {"longnet", "window", "longnet_whole"}
    assert result["left_out"] == ["weak longnet", "weak window", "weak longnet_whole"]
    assert not result["complete"]
