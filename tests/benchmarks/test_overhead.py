"""What the benchmark of overhead says of a call, on the cpu and with nothing compiled."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import overhead
import tables


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "N", 32)
    monkeypatch.setattr(overhead, "WARM", 0.0)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def test_rows_of_all_rounds() -> None:
    rows = overhead.measure(1, 2, 16, 3, 2, ("auto",), "cpu")
    found = [(row["way"], row["mode"]) for row in rows]
    assert found == [(way, mode) for way in ("flash by hand", "module, auto") for mode in ("eager", "compiled")]
    for row in rows:
        for what in ("forward", "forward_backward"):
            assert 0 < row["host_us"][what] <= row["us"][what]
            assert len(row["rounds_us"][what]) == 2
            assert min(row["rounds_us"][what]) <= row["us"][what] <= max(row["rounds_us"][what])


def test_python_alone(tmp_path: Path) -> None:
    done = CliRunner().invoke(overhead.main, ["--host", "--repeats", "2", "--rounds", "1", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    shape, ways = "batch 1, 2 heads of 8", ("flash by hand", "module, auto")
    assert [line.split("us (")[0].split()[6:-1] for line in done.output.splitlines()] == [
        [*way.split(), mode] for way in ways for mode in ("eager", "compiled")
    ]
    assert done.output.count(shape) == 4
    assert not list(tmp_path.iterdir())


def test_a_backend_that_is_not_here_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(overhead.ways(2, ("xformers",), "cpu")) == ["flash by hand"]
    assert "not timed: backend 'xformers'" in capsys.readouterr().out


def test_a_trace_lists_what_ran_in_order_and_in_all() -> None:
    text = "\n".join(overhead.trace(1, 2, 16, ("auto",), "cpu"))
    for title in ("flash by hand, eager", "flash by hand, compiled", "module, auto, eager", "module, auto, compiled"):
        part = text.partition(f"batch 1, 2 heads of 16: {title}\n")[2].partition("us  in all")[0]
        *lines, total = [line.split(" us  ") for line in part.splitlines()]
        names = [name for _, name in lines]
        assert any("attention" in name for name in names)
        assert names.index(next(x for x in names if "attention" in x)) < names.index(
            next(x for x in names if "Backward" in x)
        )
        begins, lengths = zip(*(map(float, times.split()) for times, _ in lines), strict=True)
        assert sorted(begins) == list(begins)
        assert float(total[0]) == pytest.approx(sum(lengths), rel=0.01, abs=1)
    assert "Self CPU" in text


@pytest.mark.parametrize("host", [None, 20.0, 99.0])
def test_the_table_stars_what_the_host_held_up(
    host: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    us = {"forward": 100.0, "forward_backward": 100.0}
    more: dict[str, Any] = {} if host is None else {"host_us": dict.fromkeys(us, host)}
    rows = [
        {"batch": 1, "heads": 8, "head_dim": 64, "way": "by hand", "mode": mode, "us": us, **more}
        for mode in ("eager", "compiled")
    ]
    machine = {"device": "GPU", "torch": "2", "date": "today"}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "overhead.json").write_text(json.dumps({"machine": machine, "rows": rows}))
    monkeypatch.setattr(tables, "HERE", tmp_path)
    text = tables.overhead()
    assert text.count("100 us*") == (4 if host == 99.0 else 0)
    assert text.count("100 us") == 4
    assert ("the GPU waited" in text) == (host is not None)
