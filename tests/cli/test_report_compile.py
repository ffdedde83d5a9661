"""`attnc report` and `attnc compile`: what they print, and what they write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from attnc.cli import main
from click.testing import CliRunner

import attnlang
from tests.cli.command import attnc


def test_report_json_has_the_promised_fields() -> None:
    document = json.loads(attnc("report", "longnet", "--n", "1000000000", "--json").stdout)
    assert document["pairs"]["bag"] == 25611967288536
    assert document["pairs"]["distinct"] < document["pairs"]["bag"] < document["pairs"]["dense"]
    promised = (
        "pattern parameters n heads head_dim pairs flops density formula dependency diagnostics plan memory_bytes"
    )
    assert set(promised.split()) <= set(document)
    assert document["flops"]["forward"] == 4 * 64 * document["pairs"]["bag"]
    assert document["flops"]["backward"] == 10 * 64 * document["pairs"]["bag"]
    assert document["formula"]["complexity"] == "O(N)"


def test_report_of_longnet_is_equation_17() -> None:
    arguments = ("-p", "segments=[64, 128, 256]", "-p", "dilations=[1, 2, 4]", "--n", "256", "--heads", "4", "--json")
    document = json.loads(attnc("report", "longnet_bidirectional", *arguments).stdout)
    assert document["formula"]["pairs"] == f"{4 * (64 + 128 // 4 + 256 // 16)}*N"
    assert document["pairs"]["bag"] == 4 * (64 + 32 + 16) * 256


def test_report_with_ranks_adds_the_schedule() -> None:
    sizes = ("sliding", "-p", "w=64", "--n", "1024", "--heads", "2", "--ranks", "4")
    schedule = json.loads(attnc("report", *sizes, "--no-dependency", "--json").stdout)["schedule"]
    assert schedule == json.loads(attnc("plan", *sizes, "--json").stdout)
    assert "Certificate: the least" in attnc("report", *sizes, "--no-dependency").stdout
    refused = attnc("report", *sizes, "--html", "page.html")
    assert refused.returncode == 2
    assert "attnc plan PATTERN --ranks R --html OUT" in refused.stderr


def test_report_as_text() -> None:
    text = attnc("report", "strided", "--n", "4096").stdout
    assert "N = 4,096, 12 heads" in text
    assert "exact where N is a multiple of 128" in text
    assert "▓" in text


def test_a_report_counts_what_runtime_tables_choose() -> None:
    found = CliRunner().invoke(main, ["report", "packed", "--n", "8", "-t", "doc=[0,0,0,1,1,1,1,1]", "--json"])
    assert json.loads(found.stdout)["pairs"]["bag"] == 12 * (6 + 15)
    without = CliRunner().invoke(main, ["report", "packed", "--n", "8"])
    assert without.exit_code == 0
    assert "Counts are upper bounds: it depends on the content of doc: give -t NAME=LIST." in without.output
    partly = CliRunner().invoke(main, ["report", "vertical_slash", "--n", "8", "-t", "slash=[[1]]"])
    assert partly.exit_code == 2
    assert "give -t vertical=LIST" in partly.output


def test_a_pattern_that_no_lattice_holds_runs_as_tiles(tmp_path: Path) -> None:
    (tmp_path / "g.attn").write_text("pattern g = causal & (key(pos < 4) | window(8))\n")
    plan = attnc("compile", "g.attn", "--emit", "plan", cwd=tmp_path)
    assert "tiles" in plan.stdout
    small = attnc("report", "g.attn", "--n", "64", "--json", cwd=tmp_path)
    document = json.loads(small.stdout)
    assert document["plan"]["backend"] == "sdpa"
    assert document["pairs"]["bag"] == 12 * sum(min(q + 1, 12) for q in range(64))
    large = json.loads(attnc("report", "g.attn", "--n", "1000000", "--json", cwd=tmp_path).stdout)
    assert large["pairs"]["bag"] == 12 * sum(min(q + 1, 12) for q in range(1000000))
    assert large["pairs"]["basis"] == "exact"


def test_explain_says_which_backend_and_what_each_would_cost() -> None:
    shown = attnc("compile", "longnet", "--explain", "--n", "65536").stdout
    assert "auto on cpu: sdpa is the first choice on cpu" in shown
    assert "auto on cuda: triton is the first choice on cuda" in shown
    costs = {line.split()[0]: float(line.split()[1]) for line in shown.splitlines() if " ms: " in line}
    assert costs["triton"] < costs["reference"] / 20
    assert "content of the tables" in attnc("compile", "packed", "--explain").stdout


def test_explain_says_who_folds_pairs_that_count_several_times() -> None:
    options = ("-p", "segments=[256,512]", "-p", "dilations=[1,2]", "--heads", "2", "--n", "1024", "--explain")
    shown = attnc("compile", "longnet", *options).stdout
    m = attnlang.load("longnet", segments=[256, 512], dilations=[1, 2]).multiplicity(1024, 2)
    assert f"that nested lattices share: {(m > 0).sum():,} computed" in shown
    assert f"{m.sum():,} pairs computed" in shown
    assert "sdpa       does not: torch's kernels know no weights. On masked tiles it would save" in shown
    assert "there is nothing to fold into weights" in attnc("compile", "causal", "--n", "256", "--explain").stdout


def test_stages_of_a_pattern() -> None:
    tree = attnc("compile", "sliding", "--emit", "tree").stdout
    assert tree.startswith("PatternDef name='sliding'")
    assert "arguments: Name name='w'" in tree
    assert attnc("compile", "sliding", "--emit", "pattern").stdout.startswith("sliding(w=4096)")


def test_compile_other_stages() -> None:
    assert "= offset(-3..0)" in attnc("compile", "sliding", "-p", "w=4", "--emit", "pattern").stdout
    assert "plan for 12 heads: 1 branch" in attnc("compile", "sliding", "--emit", "plan").stdout
    assert json.loads(attnc("compile", "sliding", "--emit", "plan-json").stdout)["heads"] == 12


def test_compile_writes_a_module_that_checks_itself(tmp_path: Path) -> None:
    (tmp_path / "my.attn").write_text(
        'pattern other = self\n## A \\ strange """ comment.\n'
        "pattern mine(ws = [8, 16]) = mix(segment(w) { causal } for w in ws)\n"
    )
    done = attnc("compile", "my.attn:mine", "--heads", "3", "-o", "mine.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "wrote mine.py\n")
    checked = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True)
    assert "all agree" in checked.stdout
    code = (
        "import sys, mine; m = mine.Mine(); print(m); assert 'attnc' not in sys.modules and 'sympy' not in sys.modules"
    )
    imported = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (imported.returncode, imported.stderr) == (0, "")
    assert "mine(ws=[8, 16]), heads=3" in imported.stdout
