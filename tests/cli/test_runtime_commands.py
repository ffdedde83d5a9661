"""`attnc verify`, `attnc bench` and `attnc env`."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attnc.cli import main
from attnc.cli.workers import Crash, InProcesses
from click.testing import CliRunner, Result

import attnlang
from attnlang.pattern.library import library_names
from attnlang.runtime import bench, expected, specimens
from attnlang.runtime.specimens import library_specimens, specimen

SMALL = ("-p", "segments=[16,32]", "-p", "dilations=[1,2]")


def attnc(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_verify_is_a_table_over_backends() -> None:
    done = attnc("verify", "longnet", *SMALL, "--heads", "2", "--n", "40", "--device", "cpu")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "longnet(segments=[16, 32], dilations=[1, 2]), 2 heads, on cpu, against the formula"
    assert lines[1].split() == ["backend", "dtype", "N", "out", "lse", "dq", "dk", "dv", "verdict"]
    rows = [line.split() for line in lines[2:-1]]
    assert ["sdpa", "float64", "40"] in [row[:3] for row in rows]
    assert {len(row) for row in rows if row[0] == "flex"} == {6}, "flex has no gradients on the cpu"
    assert any(line.startswith("xformers  refused: backend 'xformers' runs on cuda") for line in lines)
    assert lines[-1] == "all agree"


def test_verify_as_json_with_tables_filled() -> None:
    done = attnc("verify", "packed", "--heads", "2", "--backend", "sdpa", "--dtype", "float64", "--json")
    found = json.loads(done.stdout)
    assert found["passed"] is True
    (pattern,) = found["patterns"]
    assert [finding["n"] for finding in pattern["findings"]] == list(specimens.LENGTHS)
    assert set(pattern["findings"][0]["errors"]) == {"out", "lse", "dq", "dk", "dv"}


def test_verify_all_goes_through_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [what for what in library_specimens() if what.pattern.name in ("causal", "tree", "axial")]
    monkeypatch.setattr(specimens, "library_specimens", lambda: iter(few))
    done = attnc("verify", "--all", "--heads", "2", "--dtype", "float64", "--device", "cpu")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split("(")[0].split()[0] for line in lines[:-1]] == ["axial", "causal", "tree"]
    assert all("sdpa ok 0.0" in line and "flex ok 0.0" in line and "xformers refuses" in line for line in lines[:-1])
    assert lines[-1] == "3 patterns: all agree"


def test_verify_all_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [what for what in library_specimens() if what.pattern.name in ("causal", "tree", "axial")]
    monkeypatch.setattr(specimens, "library_specimens", lambda: iter(few))
    arguments = ("--all", "--heads", "2", "--dtype", "float64", "--device", "cpu", "--backend", "sdpa")
    alone, together = attnc("verify", *arguments), attnc("verify", *arguments, "--jobs", "2")
    assert (alone.exit_code, together.exit_code) == (0, 0), together.output
    assert together.stdout == alone.stdout
    assert together.stdout.count("sdpa ok 0.0") == 3


@pytest.mark.parametrize("jobs", [(), ("--jobs", "2")])
def test_a_pattern_that_crashes_fails_alone(jobs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    few = [what for what in library_specimens() if what.pattern.name in ("causal", "packed")]
    broken = replace(few[1], filling=_no_tables)
    monkeypatch.setattr(specimens, "library_specimens", lambda: iter([broken, few[0]]))
    arguments = ("--all", "--heads", "2", "--dtype", "float64", "--device", "cpu", "--backend", "sdpa", *jobs)
    done = attnc("verify", *arguments)
    assert done.exit_code == 1
    crashed, fine, last = done.stdout.splitlines()
    assert crashed.split(maxsplit=1) == ["packed", "CRASHED: RuntimeError: no tables today"]
    assert (fine.split()[:3], last) == (["causal", "sdpa", "ok"], "2 patterns: NOT all agree")


def _no_tables(n: int, heads: int, generator: Any) -> Any:
    raise RuntimeError("no tables today\nnor tomorrow")


def test_a_process_that_ends_is_a_crash_of_its_item_alone() -> None:
    ((_, ended),) = InProcesses(os._exit, 1).results([3])
    assert ended == Crash("the process ended with exit status 3")
    roots = list(InProcesses(math.sqrt, 2).results([4.0, -1.0, 9.0, 16.0]))
    assert [result for _, result in roots if not isinstance(result, Crash)] == [2.0, 3.0, 4.0]
    assert isinstance(roots[1][1], Crash)
    assert roots[1][1].what.startswith("ValueError: ")
    (killed,) = InProcesses(signal.raise_signal, 1).results([signal.SIGKILL])
    assert killed[1] == Crash("the process was ended by signal SIGKILL")


def test_verify_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected, "EXACT", 0.0)
    done = attnc("verify", "causal", "--n", "40", "--backend", "sdpa", "--dtype", "float64")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (1, "NOT all agree")
    assert "WRONG" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a PATTERN, or --all"),
        (("--all", "causal"), "give a PATTERN, or --all"),
        (("causal", "--jobs", "2"), "--jobs is for --all"),
        (("--all", "--n", "3"), "--all chooses parameters and lengths itself"),
        (("causal", "--dtype", "int8"), "dtype 'int8': there are float64, float32, bfloat16, float16"),
        (("causal", "--backend", "flash"), "unknown backend 'flash': there are 'auto', "),
        (("causal", "--device", "cuda"), "torch finds no CUDA device here"),
        (("sta",), "no meaning at any length tried"),
    ],
)
def test_verify_refuses_what_it_cannot_do(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = attnc("verify", *arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_every_library_pattern_is_among_the_specimens() -> None:
    found = list(library_specimens())
    assert {what.pattern.name for what in found} == set(library_names())
    assert all(max(what.lengths) <= 400 for what in found)
    unnamed = specimen(
        __import__("attnlang").loads("pattern p(a: table, b: table) = same(a[pos]) & pairs(b[h][q] < 2)")
    )
    tables = unnamed.tables(7, 3)
    assert {name: table.shape for name, table in tables.items()} == {"a": (8,), "b": (8, 8)}
    unnamed.pattern.multiplicity(7, 3, **tables)


@pytest.fixture
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.0)


@pytest.mark.usefixtures("_brief")
def test_bench_prints_and_draws(tmp_path: Path) -> None:
    picture = tmp_path / "times.png"
    done = attnc(
        "bench", "longnet", *SMALL, "--n", "32", "--n", "64", "--heads", "2", "--device", "cpu", "-o", str(picture)
    )
    assert done.exit_code == 0, done.output
    assert "longnet(segments=[16, 32], dilations=[1, 2]), forward and backward: batch 1, 2 heads of 64" in done.stdout
    assert done.stdout.count("  sdpa  ") == done.stdout.count("  dense  ") == 2
    assert "not timed: xformers: backend 'xformers' runs on cuda" in done.stdout
    assert "auto is sdpa" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_brief")
def test_bench_as_json() -> None:
    arguments = ("--n", "32", "--heads", "2", "--forward", "--device", "cpu", "--backend", "sdpa", "--dtype", "float64")
    found: dict[str, Any] = json.loads(attnc("bench", "packed", *arguments, "--json").stdout)
    assert (found["dtype"], found["what"], found["auto"]) == ("float64", "forward", "sdpa")
    assert [timing["name"] for timing in found["timings"]] == ["dense", "flex, as it is", "sdpa"]
    for timing in found["timings"]:
        assert 0 < timing["lower"] <= timing["median"] <= timing["upper"]
        assert timing["runs"] >= 5


def test_bench_is_against_causal_attention_only_where_that_is_proved() -> None:
    from attnc.cli.bench_ import _causal

    assert _causal(attnlang.load("longnet"), 2)
    assert not _causal(attnlang.load("longformer"), 2)


def test_bench_refuses_an_unknown_picture() -> None:
    done = attnc("bench", "causal", "-o", "times.txt")
    assert (done.exit_code, "a picture ends in .png, .svg, .pdf" in done.output) == (2, True)


def test_env_names_versions_and_backends() -> None:
    done = attnc("env")
    assert done.exit_code == 0
    assert f"torch                     {torch.__version__}" in done.stdout
    assert "  sdpa       cpu   float64, float32, bfloat16, float16" in done.stdout
    assert "  flex       cpu   float64, float32, bfloat16, float16, forward only" in done.stdout
    assert "  xformers   cpu   backend 'xformers' runs on cuda" in done.stdout
    found = json.loads(attnc("env", "--json").stdout)
    assert found["packages"]["torch"] == torch.__version__
    assert {one["backend"] for one in found["backends"]} >= {"sdpa", "flex", "xformers", "reference"}
