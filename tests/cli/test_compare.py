"""`attnc compare` and the pages of `attnc report`, as a user meets them."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import attnc
import jsonschema
import pytest
from attnc.cli import main
from click.testing import CliRunner, Result
from referencing import Registry, Resource

SCHEMAS = {
    name: json.loads(files("attnc.analysis").joinpath(name).read_text("utf-8"))
    for name in ("report.schema.json", "compare.schema.json")
}
REGISTRY = Registry().with_resources((name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMAS["compare.schema.json"], registry=REGISTRY)
SIZES = ["--n", "64", "--heads", "2", "--head-dim", "8"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"COLUMNS": "110"})


def test_side_by_side() -> None:
    result = run("compare", "sliding(w=8)", "strided(l=8)", "dense", *SIZES)
    assert result.exit_code == 0, result.output
    lines = {line[:24].strip(): line[24:].split() for line in result.output.splitlines() if line.strip()}
    reports = [attnc.report(name, n=64, heads=2, head_dim=8, **given) for name, given in (
        ("sliding", {"w": 8}), ("strided", {"l": 8}), ("dense", {}),
    )]  # fmt: skip
    assert lines["pairs, as a bag"] == [f"{report.bag:,}" for report in reports]
    assert lines["complexity"] == ["O(N)", "O(N^2)", "O(N^2)"]
    assert lines["layers to connect"] == ["9", "2", "1"]
    assert lines["pairs that never meet"] == ["0", "0", "0"]
    assert lines["backend"] == ["sdpa", "sdpa", "sdpa"]


def test_narrow_terminals_take_several_tables() -> None:
    result = CliRunner().invoke(main, ["compare", "causal", "dense", "sliding", *SIZES], env={"COLUMNS": "60"})
    assert result.output.count("pairs, as a bag") == 3
    assert max(map(len, result.output.splitlines())) <= 60


def test_one_json_document() -> None:
    result = run("compare", "longnet(segments=[8, 16], dilations=[1, 2])", "sliding", "-p", "w=4", "--json", *SIZES)
    document = json.loads(result.stdout)
    assert (document["n"], document["heads"], document["head_dim"]) == (64, 2, 8)
    first, second = document["patterns"]
    assert (first["label"], first["report"]["parameters"]["segments"]) == ("longnet", [8, 16])
    alone = attnc.report("sliding", n=64, heads=2, head_dim=8, w=4).to_dict()
    assert second == json.loads(json.dumps({"label": "sliding", "report": alone}))
    VALIDATOR.validate(document)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate({**document, "patterns": [{"label": "x", "report": {}}]})


def test_labels_differ() -> None:
    document = json.loads(run("compare", "sliding(w=4)", "sliding(w=8)", "causal", "--json", *SIZES).stdout)
    assert [each["label"] for each in document["patterns"]] == ["sliding(w=4)", "sliding(w=8)", "causal"]
    assert [each["report"]["parameters"].get("w") for each in document["patterns"]] == [4, 8, None]


def test_pages(tmp_path: Path) -> None:
    one, several = tmp_path / "one.html", tmp_path / "several.html"
    result = run("report", "longnet", "-p", "segments=[8,16]", "-p", "dilations=[1,2]", "--html", str(one), *SIZES)
    assert result.output == f"wrote {one}\n"
    assert "<title>longnet · attnlang report</title>" in one.read_text(encoding="utf-8")
    result = run("compare", "causal", "sliding(w=8)", "--html", str(several), "--json", *SIZES)
    assert json.loads(result.stdout)["n"] == 64
    assert result.stderr == f"wrote {several}\n"
    assert "<title>causal, sliding · attnlang comparison</title>" in several.read_text(encoding="utf-8")


def test_tables_go_to_the_patterns_that_take_them() -> None:
    given = ["-t", "doc=[i // 16 for i in range(64)]"]
    document = json.loads(run("compare", "packed", "causal", "--json", *given, *SIZES).stdout)
    assert [each["report"]["pairs"]["bag"] for each in document["patterns"]] == [2 * 4 * 136, 2 * 2080]


def test_tables_that_are_not_given_make_bounds(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run("compare", "packed", "dense", "--html", str(page), "--json", *SIZES)
    found = [each["report"]["pairs"]["basis"] for each in json.loads(result.stdout)["patterns"]]
    assert found == ["upper bound", "exact"]
    assert "≤ 4,160" in page.read_text(encoding="utf-8")
    assert "≤ 4,160" in run("compare", "packed", "dense", *SIZES).output
    assert run("report", "packed", "--html", str(page), *SIZES).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "No mask is shown: it depends on the content of doc, which is not given (-t doc=...)" in text
    assert '<span class="basis bound">upper bound</span>' in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["causal", "causal"], "given twice: causal, causal"),
        (["causal", "dense", "-p", "w=3"], "none of these patterns has a parameter w"),
        (["sliding", "-p", "w"], "write -p NAME=VALUE"),
        (["sliding(w)", "causal"], "write -p NAME=VALUE"),
        (["slidin", "causal"], "did you mean `sliding`?"),
        (["causal", "-t", "doc=[1]"], "none of these patterns has a table doc"),
        (["causal", "dense", "--gpu", "abacus"], "no figures for GPU"),
        ([], "Missing argument"),
        (["causal", "dense", "--html", "no/such/folder/x.html"], "make the folder no/such/folder first"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str) -> None:
    result = run("compare", *arguments, *SIZES)
    assert result.exit_code == 2
    assert message in result.output
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
