"""`attnc plan` and `attnc compile --ranks`: what they print and write."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from attnc.cli import main
from click.testing import CliRunner

from attnlang.schedule import Schedule


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def test_text_says_what_moves_and_what_proves_it() -> None:
    text = " ".join(run("plan", "sliding", "-p", "w=64", "--n", "4096", "--ranks", "4", "--heads", "2").split())
    assert "halo: k and v of the" in text
    assert "the least: no plan that computes each pair" in text
    assert "dense ring attention" in text


def test_json_holds_the_schedule_itself() -> None:
    data = json.loads(run("plan", "longnet", "--n", "100003", "--ranks", "3", "--json", "--placement", "contiguous"))
    assert data["bytes_moved"] == data["certificate"]["minimum"] == data["certificate"]["bound"]
    assert data["certificate"]["gap"] == 0
    schedule = Schedule.from_json(data["schedule"])
    assert schedule.ranks == 3
    assert schedule.n == 100003
    assert sum(rank["tokens"] for rank in data["by_rank"]) == 100003
    assert sum(rank["key_rows_received"] for rank in data["by_rank"]) == data["rows_moved"]["keys"]
    assert {a["name"] for a in data["others"]} >= {"dense ring attention", "all-gather of k and v"}


@pytest.mark.parametrize("pattern", ["causal", "longnet", "star_transformer"])
def test_html_is_one_page_without_anything_from_elsewhere(tmp_path: Path, pattern: str) -> None:
    page = tmp_path / "plan.html"
    run("plan", pattern, "--n", "200", "--ranks", "5", "--heads", "2", "--html", str(page))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert text.count("<svg") >= 2
    assert "http" not in text
    assert "rank 4" in text


def test_arguments_at_fault_are_errors_of_two() -> None:
    done = CliRunner().invoke(main, ["plan", "causal", "--n", "4", "--ranks", "8"])
    assert done.exit_code == 2
    assert "use at most 4 ranks" in done.output


def test_a_compiled_module_carries_its_schedule(tmp_path: Path) -> None:
    path = tmp_path / "spread.py"
    run("compile", "sliding", "-p", "w=16", "--n", "200", "--heads", "2", "--ranks", "3", "-o", str(path))
    spec = importlib.util.spec_from_file_location("spread", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    schedule = module.Sliding().schedule
    assert (schedule.n, schedule.ranks, schedule.heads) == (200, 3, 2)
