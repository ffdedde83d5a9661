"""The training example: it learns, resumes exactly, and refuses what a language model must not have."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = ("--context", "64", "--layers", "1", "--heads", "2", "--channels", "32", "--batch", "4", "--device", "cpu")


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "train_text.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def losses(text: str) -> dict[int, float]:
    return {int(step): float(loss) for step, loss in re.findall(r"step +(\d+)  loss ([\d.]+)", text)}


def test_it_learns_and_leaves_a_checkpoint_and_a_sample(tmp_path: Path) -> None:
    done = train(*TINY, "--steps", "60", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = losses(done.stdout)
    assert found[0] > 5.0
    assert found[59] < 4.0
    assert (tmp_path / "run" / "sample.txt").read_text().startswith("def ")
    assert (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(Path(__file__).read_bytes() * 3)
    fixed = (*TINY, "--text", str(text))
    whole = train(*fixed, "--steps", "8", "--out", "whole", cwd=tmp_path)
    half = train(*fixed, "--steps", "6", "--out", "half", cwd=tmp_path)
    rest = train("--resume", "half/checkpoint.pt", *fixed[-2:], "--steps", "8", "--out", "rest", cwd=tmp_path)
    assert (half.returncode, rest.returncode) == (0, 0), rest.stderr
    unbroken = losses(whole.stdout)
    assert losses(rest.stdout) == {step: unbroken[step] for step in (6, 7)}
    assert (tmp_path / "rest" / "sample.txt").read_text() == (tmp_path / "whole" / "sample.txt").read_text()
    done = train("--resume", "rest/checkpoint.pt", *fixed[-2:], "--steps", "8", cwd=tmp_path)
    assert done.returncode == 1
    assert "ask for more --steps" in done.stderr


def test_patterns_from_files_and_their_faults(tmp_path: Path) -> None:
    (tmp_path / "mine.attn").write_text("pattern mine(w = 4) = window(w)\n")
    good = train(*TINY, "--steps", "1", "--pattern", "mine.attn", "-p", "w=7", cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    assert "mine(w=7)" in good.stdout
    ahead = train(*TINY, "--steps", "1", "--pattern", "longformer_local", cwd=tmp_path)
    assert ahead.returncode == 1
    assert "query 0 of head 0 see key 1, which lies in its future" in ahead.stderr
    unknown = train(*TINY, "--steps", "1", "--pattern", "longnett", cwd=tmp_path)
    assert "did you mean `longnet`?" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_a_mesh_of_ranks_has_the_same_losses_step_by_step(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(Path(__file__).read_bytes() * 3)
    fixed = (*TINY, "--text", str(text), "--steps", "6")
    alone = losses(train(*fixed, cwd=tmp_path).stdout)
    for mesh, ranks in (("cp=3", 3), ("dp=2,cp=2", 4)):
        launch = ("-m", "torch.distributed.run", "--nproc-per-node", str(ranks), str(ROOT / "examples/train_text.py"))
        command = [sys.executable, *launch, *fixed, "--mesh", mesh, "--out", mesh]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        spread = losses(done.stdout)
        assert spread.keys() == alone.keys()
        assert all(abs(spread[step] - alone[step]) <= 2e-4 for step in alone)
        assert (tmp_path / mesh / "checkpoint.pt").exists()
    wrong = train(*fixed, "--mesh", "cp=2", cwd=tmp_path)
    assert "start a mesh with torchrun" in wrong.stderr
