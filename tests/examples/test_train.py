"""The training example: it learns, resumes exactly, and refuses what a language model must not have."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tests.parallel.ranks import on_ranks

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "examples" / "train_text.py")
TINY = ("--context", "64", "--layers", "1", "--heads", "2", "--channels", "32", "--batch", "4", "--device", "cpu")


@pytest.fixture(autouse=True)
def _beside_the_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The script can be imported; and one thread, as more wait for one another longer than such a model computes."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(Path(__file__).read_bytes() * 3)
    return path


def process(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=environment)


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The script within this process, which spares the start; what escapes it is raised."""
    from train_text import main  # pyright: ignore[reportMissingImports] - the fixture says where it is

    with chdir(cwd):
        done = CliRunner().invoke(main, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(list(arguments), done.exit_code, done.stdout, done.stderr)


def losses(text: str) -> dict[int, float]:
    return {int(step): float(loss) for step, loss in re.findall(r"step +(\d+)  loss ([\d.]+)", text)}


def test_it_learns_and_leaves_a_checkpoint_and_a_sample(tmp_path: Path) -> None:
    done = process(SCRIPT, *TINY, "--steps", "60", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = losses(done.stdout)
    assert found[0] > 5.0
    assert found[59] < 4.0
    assert (tmp_path / "run" / "sample.txt").read_text().startswith("def ")
    assert (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path, text: Path) -> None:
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


def test_patterns_from_files_and_their_faults(tmp_path: Path, text: Path) -> None:
    fixed = (*TINY, "--text", str(text), "--steps", "1")
    (tmp_path / "mine.attn").write_text("pattern mine(w = 4) = window(w)\n")
    good = train(*fixed, "--pattern", "mine.attn", "-p", "w=7", cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    assert "mine(w=7)" in good.stdout
    ahead = train(*fixed, "--pattern", "longformer_local", cwd=tmp_path)
    assert ahead.returncode == 1
    assert "query 0 of head 0 see key 1, which lies in its future" in ahead.stderr
    unknown = train(*fixed, "--pattern", "longnett", cwd=tmp_path)
    assert unknown.returncode == 1
    assert "did you mean `longnet`?" in unknown.stderr


def on_mesh(mesh: str, ranks: int, fixed: tuple[str, ...], folder: Path) -> dict[int, float]:
    """The losses that rank 0 of forked ranks prints, which are told who they are as torchrun tells it."""

    def run(rank: int) -> tuple[int, str, str]:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
        done = train(*fixed, "--mesh", mesh, "--out", mesh, cwd=folder)
        return done.returncode, done.stdout, done.stderr

    found: list[Any] = on_ranks(ranks, run)
    assert [code for code, _, _ in found] == [0] * ranks, found
    assert not any(losses(printed) for _, printed, _ in found[1:])
    return losses(found[0][1])


def test_a_mesh_of_ranks_has_the_same_losses_step_by_step(tmp_path: Path, text: Path) -> None:
    fixed = (*TINY, "--text", str(text), "--steps", "6")
    alone = losses(train(*fixed, cwd=tmp_path).stdout)
    for mesh, ranks in (("cp=3", 3), ("dp=2,cp=2", 4)):
        spread = on_mesh(mesh, ranks, fixed, tmp_path)
        assert spread.keys() == alone.keys()
        assert all(abs(spread[step] - alone[step]) <= 2e-4 for step in alone)
        assert (tmp_path / mesh / "checkpoint.pt").exists()


def test_torchrun_starts_a_mesh(tmp_path: Path, text: Path) -> None:
    fixed = (*TINY, "--text", str(text), "--steps", "2")
    alone = losses(train(*fixed, cwd=tmp_path).stdout)
    launch = ("-m", "torch.distributed.run", "--nproc-per-node", "2", SCRIPT)
    done = process(*launch, *fixed, "--mesh", "cp=2", "--out", "spread", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    spread = losses(done.stdout)
    assert spread.keys() == alone.keys()
    assert all(abs(spread[step] - alone[step]) <= 2e-4 for step in alone)


def test_a_mesh_needs_its_ranks(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = (*TINY, "--text", str(text), "--steps", "1", "--mesh")
    wrong = train(*fixed, "cp=2", cwd=tmp_path)
    assert (wrong.returncode, "start a mesh with torchrun" in wrong.stderr) == (1, True)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    wrong = train(*fixed, "dp=2,cp=2", cwd=tmp_path)
    assert (wrong.returncode, "--mesh dp=2,cp=2 is 4 ranks, torchrun has 3" in wrong.stderr) == (1, True)
    wrong = train(*fixed, "tp=2", cwd=tmp_path)
    assert (wrong.returncode, "write --mesh cp=2, or --mesh dp=2,cp=2" in wrong.stderr) == (1, True)
