"""The command line as a user meets it: processes, exit statuses, what goes to which stream."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from attnc.cli import main
from click.testing import CliRunner

import attnlang


def process(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "attnc", *arguments], capture_output=True, text=True, cwd=cwd)


def attnc(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same within this process, which needs no second to start: what escapes the program is raised."""
    with chdir(cwd or Path()):
        done = CliRunner().invoke(main, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(list(arguments), done.exit_code, done.stdout, done.stderr)


def test_check_clean_and_faulty(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.attn", tmp_path / "bad.attn"
    good.write_text("pattern a(w = 4) = causal & window(w)\n")
    bad.write_text("pattern a = causl\npattern b = window(0)\npattern c = window(,)\n")
    clean = process("check", str(good))
    assert (clean.returncode, clean.stdout, clean.stderr) == (0, "1 file: clean\n", "")
    faulty = process("check", str(good), str(bad))
    assert faulty.returncode == 1
    assert faulty.stdout == ""
    assert "did you mean `causal`?" in faulty.stderr
    assert f"{bad}:3:20" in faulty.stderr
    assert "window width must be at least 1" in faulty.stderr
    assert faulty.stderr.endswith("2 files: 3 errors\n")


def test_check_as_json(tmp_path: Path) -> None:
    (tmp_path / "bad.attn").write_text("pattern a = causl\n")
    result = attnc("check", "--format", "json", "bad.attn", cwd=tmp_path)
    (found,) = json.loads(result.stdout)
    assert (result.returncode, found["code"], found["location"]["line"], found["location"]["column"]) == (
        1,
        "A0101",
        1,
        13,
    )


def test_check_as_sarif_and_github(tmp_path: Path) -> None:
    (tmp_path / "bad.attn").write_text("pattern a = causl\npattern a = self\n")
    log = json.loads(attnc("check", "--format", "sarif", "bad.attn", cwd=tmp_path).stdout)
    assert log["version"] == "2.1.0"
    first, second = log["runs"][0]["results"]
    assert (first["ruleId"], first["level"]) == ("A0101", "error")
    region = {"startLine": 1, "startColumn": 13, "endLine": 1, "endColumn": 18}
    place = {"artifactLocation": {"uri": "bad.attn"}, "region": region}
    assert first["locations"] == [{"physicalLocation": place}]
    assert second["relatedLocations"][0]["message"]["text"] == "first defined here"
    assert [rule["id"] for rule in log["runs"][0]["tool"]["driver"]["rules"]] == ["A0101", "A0102"]
    lines = attnc("check", "--format", "github", "bad.attn", cwd=tmp_path).stdout.splitlines()
    assert lines[0].startswith("::error file=bad.attn,line=1,endLine=1,col=13,endColumn=18,title=A0101::unknown name")


def test_places_in_sarif_are_uris(tmp_path: Path) -> None:
    (tmp_path / "a b.attn").write_text("pattern a = causl\n")

    def uri(name: str) -> str:
        log = json.loads(attnc("check", "--format", "sarif", name, cwd=tmp_path).stdout)
        return log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]

    assert uri("a b.attn") == "a%20b.attn"
    assert uri(str(tmp_path / "a b.attn")) == f"file://{tmp_path}/a%20b.attn"


def test_fmt(tmp_path: Path) -> None:
    path = tmp_path / "a.attn"
    path.write_text("pattern a=causal&all\n")
    checked = attnc("fmt", "--check", "a.attn", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (1, "a.attn would be formatted\n")
    shown = attnc("fmt", "--diff", "a.attn", cwd=tmp_path)
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (0, "+pattern a = causal & all")
    assert path.read_text() == "pattern a=causal&all\n"
    assert attnc("fmt", "a.attn", cwd=tmp_path).stdout == "formatted a.attn\n"
    assert path.read_text() == "pattern a = causal & all\n"
    assert attnc("fmt", "--check", "a.attn", cwd=tmp_path).returncode == 0
    command = [sys.executable, "-m", "attnc", "fmt", "-"]
    piped = subprocess.run(command, input="pattern  b=self", capture_output=True, text=True)
    assert piped.stdout == "pattern b = self\n"
    path.write_text("pattern a = (\n")
    faulty = attnc("fmt", "a.attn", cwd=tmp_path)
    assert (faulty.returncode, "A0002" in faulty.stderr, path.read_text()) == (1, True, "pattern a = (\n")


def test_fmt_makes_line_ends_and_marks_those_of_unix_and_goes_on_after_a_faulty_file(tmp_path: Path) -> None:
    windows, faulty = tmp_path / "w.attn", tmp_path / "f.attn"
    windows.write_bytes(b"\xef\xbb\xbfpattern a = self\r\npattern b = all")
    faulty.write_text("pattern a = (\n")
    assert attnc("fmt", "--check", "w.attn", cwd=tmp_path).returncode == 1
    assert "\\ No newline at end of file\n" in attnc("fmt", "--diff", "w.attn", cwd=tmp_path).stdout
    done = attnc("fmt", "f.attn", "no.attn", "w.attn", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "formatted w.attn\n")
    assert "A0002" in done.stderr
    assert "cannot read no.attn" in done.stderr
    assert windows.read_bytes() == b"pattern a = self\npattern b = all\n"


def test_an_unreadable_file_hides_nothing_and_machines_are_told(tmp_path: Path) -> None:
    (tmp_path / "bad.attn").write_text("pattern a = causl\n")
    done = attnc("check", "no.attn", "bad.attn", "--format", "json", cwd=tmp_path)
    assert done.returncode == 2
    assert [found["code"] for found in json.loads(done.stdout)] == ["A0005", "A0101"]
    log = json.loads(attnc("check", "no.attn", "--format", "sarif", cwd=tmp_path).stdout)
    assert [found["ruleId"] for found in log["runs"][0]["results"]] == ["A0005"]


def test_one_run_reports_the_faults_of_all_definitions(tmp_path: Path) -> None:
    (tmp_path / "bad.attn").write_text(
        "pattern a = = 3\npattern b = a | causal\npattern c = windw(3)\npattern d = window(0)\npattern e = d & self\n"
        "pattern f = key(pos // (2 - 2) == 1)\npattern causal_g = window(left=1, right=1)\npattern h2 = none & self\n"
    )
    found = json.loads(attnc("check", "--format", "json", "bad.attn", cwd=tmp_path).stdout)
    assert [(each["code"], each["location"]["line"]) for each in found] == [
        ("A0002", 1), ("A0101", 3), ("A0202", 4), ("A0201", 6), ("A0203", 7), ("A0403", 8),
    ]  # fmt: skip


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
    ("content", "message"), [(None, "cannot read"), (b"\xff\xfe\x00", "not UTF-8"), (b"x" * 1_000_001, "larger than")]
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.attn"
    if content is not None:
        path.write_bytes(content)
    result = attnc("check", str(path))
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


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
        (["report", "mine"], 2, "did you mean `mine.attn`?"),
        (["report", "min.attn"], 2, "did you mean `mine.attn`?"),
        (["check", "mine"], 2, "did you mean `mine.attn`?"),
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


def test_show_in_the_terminal_and_as_files(tmp_path: Path) -> None:
    drawn = attnc("show", "causal", "--n", "4").stdout
    assert drawn == "causal, N = 4, every head\n█▄\n███▄\n\n"
    for ending, magic in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        result = attnc(
            "show", "longnet", "-p", "segments=[8,16]", "-p", "dilations=[1,2]", "-o", f"a.{ending}", cwd=tmp_path
        )
        assert result.stdout == f"wrote a.{ending}\n"
        assert (tmp_path / f"a.{ending}").read_bytes().startswith(magic)


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


def test_compile_other_stages() -> None:
    assert "= offset(-3..0)" in attnc("compile", "sliding", "-p", "w=4", "--emit", "pattern").stdout
    assert "plan for 12 heads: 1 branch" in attnc("compile", "sliding", "--emit", "plan").stdout
    assert json.loads(attnc("compile", "sliding", "--emit", "plan-json").stdout)["heads"] == 12


def test_verify_and_list() -> None:
    verified = attnc("verify", "fixed", "-p", "l=8", "-p", "c=2", "--n", "40", "--heads", "2")
    assert (verified.returncode, verified.stdout.splitlines()[-1]) == (0, "all agree")
    listed = attnc("list").stdout
    assert "longnet_torchscale" in listed
    assert "[segments, dilations]" in listed


def test_standard_input_is_checked_and_must_be_text() -> None:
    found = CliRunner().invoke(main, ["check", "-"], input="pattern p = windw(3)\n")
    assert found.exit_code == 1
    assert "<stdin>:1:13" in found.output
    found = CliRunner().invoke(main, ["check", "-"], input=b"\xff\xfe")
    assert found.exit_code == 2
    assert "not UTF-8" in found.output


def test_a_report_counts_what_runtime_tables_choose() -> None:
    found = CliRunner().invoke(main, ["report", "packed", "--n", "8", "-t", "doc=[0,0,0,1,1,1,1,1]", "--json"])
    assert json.loads(found.stdout)["pairs"]["bag"] == 12 * (6 + 15)
    without = CliRunner().invoke(main, ["report", "packed", "--n", "8"])
    assert without.exit_code == 0
    assert "Counts are upper bounds: it depends on the content of doc: give -t NAME=LIST." in without.output
    partly = CliRunner().invoke(main, ["report", "vertical_slash", "--n", "8", "-t", "slash=[[1]]"])
    assert partly.exit_code == 2
    assert "give -t vertical=LIST" in partly.output


@pytest.mark.parametrize("command", ["report", "compile", "verify"])
def test_a_pattern_that_differs_by_layer_asks_for_the_layer(command: str) -> None:
    found = CliRunner().invoke(main, [command, "gemma2"])
    assert found.exit_code == 1
    assert "-p layer=0 -p L=12" in found.output
