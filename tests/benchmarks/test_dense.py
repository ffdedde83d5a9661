"""The benchmark of plain attention on the cpu: what it compares, what it counts, what it leaves out."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import attnlang
from attnlang.runtime.hybrid import HOPPER, is_faster

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import dense
import tables

SMALL = dense.Case(2, 16, 48, True)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "SHAPES", ((2, 16), (3, 32)))
    monkeypatch.setattr(dense, "SHORT", ((1, 32, 64),))
    monkeypatch.setattr(dense, "FILL", 0.0)


def run(tmp_path: Path, *options: str) -> dict[str, Any]:
    given = ["--device", "cpu", "--repeats", "2", "--out", str(tmp_path), *options]
    done = CliRunner().invoke(dense.main, given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads((tmp_path / "dense_cpu.json").read_text(encoding="utf-8"))


def test_rows_of_a_run(tmp_path: Path) -> None:
    result = run(tmp_path, "--n", "64", "--n", "32")
    found = [(row["heads"], row["head_dim"], row["n"], row["causal"]) for row in result["rows"]]
    grid = [(*shape, n, causal) for n in (32, 64) for shape in ((2, 16), (3, 32)) for causal in (True, False)]
    assert found == [*grid, (1, 32, 64, True)]
    assert result["left_out"] == []
    for row in result["rows"]:
        pattern = "causal" if row["causal"] else "dense"
        report = attnlang.load(pattern).multiplicity(row["n"], heads=row["heads"])
        assert row["pairs"] == report.sum()
        for what, products in (("forward", 4), ("forward_backward", 14)):
            assert set(row["milliseconds"][what]) == {"flash", "auto"}
            for way, ms in row["milliseconds"][what].items():
                flops = products * row["head_dim"] * row["pairs"]
                assert row["tflops"][what][way] == pytest.approx(flops / ms * 1e-9)
        assert 0 <= row["differences"]["auto"] <= dense.MOST_DIFFERENCE


def test_a_part_of_it_and_a_run_without_time(tmp_path: Path) -> None:
    result = run(tmp_path, "--n", "64", "--head-dim", "32", "--limit", "0")
    assert result["rows"] == []
    assert result["left_out"] == ["H3D32 causal, 64", "H3D32 full, 64", "H1D32 causal, 64"]


def test_on_a_gpu_all_four_are_compared_and_each_has_its_place() -> None:
    each = dense.ways(SMALL, "cuda")
    assert list(each) == ["cudnn", "flash", "triton", "auto"]
    modules = [each[name][0] for name in ("triton", "auto")]
    assert [(module.backend, module.pattern.name) for module in modules] == [("triton", "causal"), ("auto", "causal")]


@pytest.mark.parametrize("wrong", ["out", "dq", "dk", "dv", "nan"])
def test_what_does_not_agree_is_not_timed(wrong: str) -> None:
    each = dense.ways(SMALL, "cpu")
    good = each["auto"][0]
    assert max(dense.differences(each, *dense.tensors(SMALL, "cpu")).values()) <= dense.MOST_DIFFERENCE

    def bad(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        inputs = [_Scaled.apply(x) if wrong == f"d{name}" else x for name, x in zip("qkv", (q, k, v), strict=True)]
        return good(*inputs) * {"out": 1.05, "nan": torch.nan}.get(wrong, 1.0)

    each["auto"] = bad, nullcontext
    gradient = wrong.startswith("d")
    said = f"{wrong if gradient else ''} of auto is off by {'nan' if wrong == 'nan' else '0.05'}"
    with pytest.raises(RuntimeError, match=said):
        dense.differences(each, *dense.tensors(SMALL, "cpu"))


class _Scaled(torch.autograd.Function):
    """The same, with a gradient that is a twentieth too large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 1.05


def mistaken(rows: list[dict[str, Any]]) -> list[str]:
    """Rows in which `auto` begins with our kernel, though cuDNN's forward pass was as fast."""
    found: list[str] = []
    for row in rows:
        shape = 1, row["heads"], row["n"], row["head_dim"]
        if is_faster(HOPPER, torch.bfloat16, row["causal"], shape, shape):
            forward = row["milliseconds"]["forward"]
            if forward["triton"] >= forward["cudnn"]:
                found.append(f"{shape}, causal {row['causal']}: {forward}")
    return found


def test_auto_begins_with_our_kernel_only_where_it_was_measured_to_be_faster() -> None:
    row = {"heads": 12, "n": 8192, "head_dim": 64, "causal": True}
    slow, fast = ({**row, "milliseconds": {"forward": {"triton": ms, "cudnn": 1.0}}} for ms in (1.1, 0.9))
    short = {**slow, "n": 1024}
    assert len(mistaken([slow, fast, short])) == 1
    path = dense.RESULTS / "dense.json"
    if not path.exists():
        pytest.skip("there is no result of benchmarks/dense.py yet")
    assert not mistaken(json.loads(path.read_text(encoding="utf-8"))["rows"])


@pytest.mark.parametrize("there", [True, False])
def test_the_table(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    if not there:
        assert "Not measured yet" in tables.dense()
        assert "<!-- end -->" in tables.with_tables("<!-- table: dense -->\n<!-- end -->")
        return
    result = run(tmp_path, "--n", "32")
    (tmp_path / "results" / "dense.json").write_text(json.dumps(result))
    lines = tables.dense().splitlines()
    assert [line.partition(" | flash")[0] for line in lines if "flash" in line] == [
        "| forward | N",
        "| forward + backward | N",
    ]
    rows = [line for line in lines if line.startswith("| H")]
    assert len(rows) == 8
    first = result["rows"][0]
    ms, rate = (first[what]["forward"]["auto"] for what in ("milliseconds", "tflops"))
    assert rows[0].startswith("| H2D16 causal | 32 | ")
    assert rows[0].endswith(f"| {ms:.3f} ms ({rate:.0f}) |")
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
