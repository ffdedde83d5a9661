"""The command line as a user meets it: wrong arguments, the library, and a look at each command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attnc.cli import main
from click.testing import CliRunner

from tests.cli.command import attnc


def test_list_finds_by_words_and_says_each_pattern_in_a_line() -> None:
    (line,) = CliRunner().invoke(main, ["list", "medusa"]).stdout.splitlines()
    assert line.startswith("tree  ")
    assert line.endswith("[p, ancestor: table]")
    (found,) = json.loads(CliRunner().invoke(main, ["list", "--json", "LongNet", "torchscale"]).stdout)
    assert found["name"] == "longnet_torchscale"
    assert found["parameters"]["dilations"] == "[1, 2, 4, 6, 12]"


def test_explain() -> None:
    assert attnc("explain", "a0104").stdout.startswith("# A0104: wrong kind")
    wrong = attnc("explain", "A9999")
    assert (wrong.returncode, "there is no diagnostic A9999" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["report", "longnett"], 2, "did you mean `longnet`?"),
        (["report", "sliding", "-p", "w"], 2, "write -p NAME=VALUE"),
        (["report", "sliding", "-p", "w=["], 2, "the text ends too early"),
        (["report", "sliding", "-p", "w=x"], 2, "unknown name `x`"),
        (["report", "sliding", "-p", "v=3"], 2, "no parameter `v`"),
        (["report", "sliding", "-p", "w=-3"], 2, "must be at least 1"),
        (["report", "sliding", "--n", "-1"], 2, "Invalid value for '--n'"),
        (["report", "sliding", "--n", "abc"], 2, "'abc' is no integer; allowed is x>=0"),
        (["show", "causal", "--head", "12"], 2, "heads are 0 to 11"),
        (["show", "causal", "--n", "100000"], 2, "at most 4096"),
        (["show", "causal", "-o", "x.docx"], 2, "its ending must be one of"),
        (["show", "causal", "-o", "no/such/folder/x.png"], 2, "make the folder no/such/folder first"),
        (["report", "causal", "--html", "no/x.html"], 2, "cannot write no/x.html: make the folder no first"),
        (["report", "causal", "--html", "mine.attn"], 2, "will not write over mine.attn: names in .attn are those of"),
        (["compile", "mine.attn", "-o", "mine.attn"], 2, "will not write over mine.attn: names in .attn are those of"),
        (["bench", "causal", "--backend", "flash"], 2, "unknown backend 'flash': there are 'auto', "),
        (["report", "mine"], 2, "did you mean `mine.attn`?"),
        (["report", "min.attn"], 2, "did you mean `mine.attn`?"),
        (["check", "mine"], 2, "did you mean `mine.attn`?"),
        (["report", "packed", "--n", "4", "-t", "doc=range(N)"], 2, "is numbers, and cannot depend on `N`"),
        (["report", "packed", "--n", "4", "-t", "doc=[0,0,1]"], 1, "index 3, but axis 0 of `doc` has 3 entries"),
        (["report", "empty.attn"], 1, "a definition reads `pattern name = causal`"),
        (["report", "natten2d"], 1, "a sequence of 3136 positions (--n 3136)"),
        (["compile", "causal", "--ranks", "0"], 2, "Invalid value for '--ranks'"),
        (["compile", "causal", "--backend", "cuda"], 2, "is not one of 'auto', 'triton'"),
        (["verify", "causal", "--n", "0"], 2, "Invalid value"),
        (["nonsense"], 2, "No such command"),
        (["lits"], 2, "did you mean `list`?"),
        (["show", "sliding", "-p", "w="], 2, "write -p NAME=VALUE"),
        (["show", "sliding", "-p", "w=3", "-p", "w=4"], 2, "w is given twice"),
        (["show", "x.attn:"], 2, "write x.attn:NAME, or x.attn alone"),
        (["show", ""], 2, "no library pattern is called ``"),
        (["show", "packed", "-t", "dcc=[1]"], 2, "has no table 'dcc': it takes doc"),
        (["show", "packed", "-t", "doc=no.npy"], 2, "cannot read no.npy: No such file"),
        (["show", "packed", "-t", "doc=[1]", "-t", "doc=[2]"], 2, "doc is given twice"),
        (["show", "natten2d"], 1, "a sequence of 3136 positions"),
        (["check", "longnet"], 2, "`longnet` is in the library"),
        (["check", "."], 2, "cannot read .: it is a folder"),
        (["check", ""], 2, "a file has no name"),
        (["check", "/dev/null"], 2, "cannot read /dev/null: it is no regular file"),
        (["list", "nonsense"], 2, "no pattern of the library speaks of 'nonsense'"),
    ],
)
def test_wrong_arguments(arguments: list[str], status: int, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.attn").write_text("pattern mine = causal\n")
    (tmp_path / "empty.attn").write_text("")
    result = attnc(*arguments, cwd=tmp_path)
    assert message in result.stderr
    assert result.returncode == status
    assert "Traceback" not in result.stderr


def test_show_in_the_terminal_and_as_files(tmp_path: Path) -> None:
    drawn = attnc("show", "causal", "--n", "4").stdout
    assert drawn == "causal, N = 4, every head\n█▄\n███▄\n\n"
    for ending, magic in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        result = attnc(
            "show", "longnet", "-p", "segments=[8,16]", "-p", "dilations=[1,2]", "-o", f"a.{ending}", cwd=tmp_path
        )
        assert result.stdout == f"wrote a.{ending}\n"
        assert (tmp_path / f"a.{ending}").read_bytes().startswith(magic)


def test_verify_and_list() -> None:
    verified = attnc("verify", "fixed", "-p", "l=8", "-p", "c=2", "--n", "40", "--heads", "2")
    assert (verified.returncode, verified.stdout.splitlines()[-1]) == (0, "all agree")
    listed = attnc("list").stdout
    assert "longnet_torchscale" in listed
    assert "[segments, dilations]" in listed


@pytest.mark.parametrize("command", ["report", "compile", "verify"])
def test_a_pattern_that_differs_by_layer_asks_for_the_layer(command: str) -> None:
    found = CliRunner().invoke(main, [command, "gemma2"])
    assert found.exit_code == 1
    assert "-p layer=0 -p L=12" in found.output
