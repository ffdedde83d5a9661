"""The report: its JSON follows its schema, its text says what every figure is, its figures are the datasheets'."""

from __future__ import annotations

import json
import time
from importlib.resources import files
from typing import Any

import attnc
import jsonschema
import pytest
from attnc.analysis.hardware import GPUS, gpu_named
from attnc.analysis.report import Report
from attnc.cli import main
from attnc.emit.text import print_report
from click.testing import CliRunner
from rich.console import Console

import attnlang
from tests.analysis.small import GRIDS, small_library

SCHEMA = json.loads(files("attnc.analysis").joinpath("report.schema.json").read_text("utf-8"))
LIBRARY = small_library()


def text_of(report: Report) -> str:
    console = Console(width=100, highlight=False, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(report, console)
    return console.export_text()


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("pattern", LIBRARY, ids=lambda each: each.name)
def test_reports_of_the_library_follow_the_schema_and_print(pattern: attnlang.Pattern) -> None:
    found = attnc.report(pattern, n=GRIDS.get(pattern.name, 96), heads=2, head_dim=8)
    jsonschema.validate(json.loads(json.dumps(found.to_dict())), SCHEMA)
    text = text_of(found)
    assert "All counts are exact" in text
    assert "How information travels (exact" in text


def test_a_report_with_bounds_follows_it_too() -> None:
    for found in (
        attnc.report("bigbird", n=10**9, heads=2, dependency=None),
        attnc.report("packed", n=100, heads=1, dependency=None),
        attnc.report("streaming", n=10**8, heads=1),
    ):
        jsonschema.validate(found.to_dict(), SCHEMA)
    assert found.dependency is not None
    assert found.to_dict()["dependency"]["basis"] == "measured at N = 4096"


def test_a_bound_is_called_one_in_the_text() -> None:
    text = text_of(attnc.report("packed", n=100, heads=1, dependency=None))
    assert "Counts are upper bounds: it depends on the content of doc: give -t NAME=LIST." in text
    assert "no formula: it depends on the content of doc" in text
    assert "not searched; give the content of its tables" in text
    chance = text_of(attnc.report("bigbird", n=10**9, heads=1, dependency=False))
    assert "Counts are upper bounds: which keys it draws" in chance


def test_a_formula_that_was_fitted_is_called_measured_in_the_text() -> None:
    text = text_of(attnc.report("streaming", n=4096, heads=1, dependency=False))
    assert "measured: fitted to exact counts" in text


def test_longnet_at_a_thousand_million_tokens() -> None:
    started = time.process_time()
    done = CliRunner().invoke(
        main, ["report", "longnet", "--n", "1000000000", "--heads", "12", "--head-dim", "64", "--json"]
    )
    assert time.process_time() - started < 5
    document = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA)
    assert document["pairs"]["basis"] == "exact"
    assert document["formula"]["basis"] == "exact"
    assert document["dependency"] is None
    assert document["general"]["unmet"]


def test_the_whole_report_at_32768() -> None:
    started = time.process_time()
    found = attnc.report("longnet", n=32768)
    assert time.process_time() - started < 20
    assert found.dependency is not None
    assert found.dependency.unreachable_pairs == 128
    assert found.dependency.examples[0] == (2048, 2047)
    assert found.dependency.repair is not None
    assert (found.dependency.repair.text, found.dependency.repair.verified) == ("window(12)", True)
    started = time.process_time()
    attnc.report("longnet", n=32768, dependency=False)
    assert time.process_time() - started < 2


def test_lints_stand_where_they_are_meant() -> None:
    text = "pattern p = causal & mix(segment(w) { dilate(r, shift=h) } for w, r in [[8, 1], [24, 4]])"
    found = attnc.report(attnlang.loads(text), n=48, heads=3, head_dim=8)
    spans = {
        each.code: each.span and each.span.source.text[each.span.start : each.span.end] for each in found.diagnostics
    }
    assert spans["A0406"] == "dilate(r, shift=h)"
    assert spans["A0408"] == text.removeprefix("pattern p = ")
    assert set(spans) == {"A0406", "A0407", "A0408", "A0410"}
    (gap,) = [each for each in found.diagnostics if each.code == "A0407"]
    assert "never reaches query" in gap.label
    assert gap.help is not None
    assert "window" in gap.help


# hardware -------------------------------------------------------------------------------------------------------------


def test_the_roofline_is_that_of_the_data_sheet() -> None:
    found = attnc.report("dense", n=65536, heads=16, head_dim=128, dependency=False, gpu="h100")
    assert found.forward_roofline.bound == "compute"
    assert found.forward_roofline.seconds == pytest.approx(4 * 128 * 16 * 65536**2 / 989.4e12)
    assert found.backward_roofline.seconds == pytest.approx(2.5 * found.forward_roofline.seconds)
    assert found.forward_roofline.intensity == pytest.approx(found.forward_flops / (16 * 65536 * (8 * 128 + 4)))
    thin = attnc.report("sliding", n=65536, heads=16, head_dim=128, dependency=False, w=8)
    assert thin.forward_roofline.bound == "memory"
    assert thin.forward_roofline.seconds == pytest.approx(16 * 65536 * (8 * 128 + 4) / 3.35e12)


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_has_its_source_and_sane_figures(name: str) -> None:
    gpu = GPUS[name]
    assert "sheet" in gpu.source or "paper" in gpu.source
    assert 1e14 < gpu.flops < 1e16
    assert 5e11 < gpu.bandwidth < 2e13
    assert gpu_named(gpu.name.split()[0].upper()) is gpu


def test_a_gpu_that_is_not_in_the_table_is_refused_with_what_is() -> None:
    with pytest.raises(ValueError, match="no figures for GPU 'tpu': there are a100, h100"):
        attnc.report("dense", n=8, gpu="tpu")
    done = CliRunner().invoke(main, ["report", "dense", "--n", "8", "--gpu", "b200"])
    assert "On B200" in done.output


def test_progress_is_told() -> None:
    from attnc.analysis.report import report

    told: list[Any] = []
    report(attnlang.load("sliding", w=4), 64, 1, 8, with_dependency=True, progress=told.append)
    assert told[0] == "counting pairs"
    assert any(each.startswith("layer 1") for each in told)
