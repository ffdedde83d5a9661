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
    assert "the least: on this placement no plan with each pair at one of its two homes" in text
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--n 4 --ranks 8", "use at most 4 ranks"),
        ("--n 0", "0 is not in the range 1<=x<=34359738368"),
        ("--n 99999999999999999999", "is not in the range 1<=x<=34359738368"),
        ("--n 1000000000 --ranks 1000000", "1000000 is not in the range 1<=x<=16384"),
        ("--heads 100000000", "100000000 is not in the range 1<=x<=65536"),
        (
            "--head-dim 100000000000000000000",
            "what all of them exchange at most is counted in bytes, in 64 bits; n is to",
        ),
        (
            "--backend cudnn",
            "no rates of backend 'cudnn' are known on h100: there are those of 'auto', 'triton', 'sdpa'",
        ),
        ("--backend flex --gpu a100", "no rates of backend 'flex' are known on a100"),
    ],
)
def test_arguments_at_fault_are_errors_of_two(arguments: str, message: str) -> None:
    done = CliRunner().invoke(main, ["plan", "causal", *arguments.split()])
    assert done.exit_code == 2
    assert message in done.output


def test_a_plan_without_memory_for_it_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("attnc.schedule.search.search", none)
    done = CliRunner().invoke(main, ["plan", "causal", "--n", "64"])
    assert done.exit_code == 2
    assert "there is not the memory to plan causal for 64 tokens on 8 ranks" in done.output


def test_a_wide_gap_is_told_by_its_ends() -> None:
    text = run("plan", "logsparse", "--n", "4000000000", "--ranks", "8", "--placement", "contiguous")
    assert "on this placement is between 29,007,209,580,864 and 61,263,209,299,968 bytes" in " ".join(text.split())


@pytest.mark.parametrize("command", ["plan", "compile", "report"])
def test_the_tables_that_a_schedule_needs_are_asked_for(command: str) -> None:
    done = CliRunner().invoke(main, [command, "packed", "--n", "30", "--ranks", "2"])
    assert done.exit_code == 2
    assert "give -t doc=LIST" in done.output


def test_modules_of_patterns_with_tables_carry_the_schedule_of_their_content() -> None:
    assert "SCHEDULE" in run("compile", "packed", "--n", "30", "--ranks", "2", "-t", "doc=[i // 7 for i in range(30)]")


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
