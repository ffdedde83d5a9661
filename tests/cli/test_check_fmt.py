"""`attnc check` and `attnc fmt` on files as they come: exit statuses, and what goes to which stream."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from attnc.cli import main
from click.testing import CliRunner

from tests.cli.command import attnc, process


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


def test_standard_input_is_checked_and_must_be_text() -> None:
    found = CliRunner().invoke(main, ["check", "-"], input="pattern p = windw(3)\n")
    assert found.exit_code == 1
    assert "<stdin>:1:13" in found.output
    found = CliRunner().invoke(main, ["check", "-"], input=b"\xff\xfe")
    assert found.exit_code == 2
    assert "not UTF-8" in found.output
