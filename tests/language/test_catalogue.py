"""The pages about diagnostics: all there, and their examples do what they say."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import attnc
import pytest
from attnc.analysis.properties import check
from click.testing import CliRunner

import attnlang
from attnlang.catalogue import pages
from attnlang.codes import CODES
from attnlang.source import Source

BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROOT = Path(__file__).parents[2]


def halves(code: str) -> list[list[tuple[str, str, str]]]:
    """The blocks after `Wrong:` and those after `Right:`."""
    _, wrong, right = re.split(r"^(?:Wrong|Right).*:$", pages()[code].text, flags=re.MULTILINE)
    return [BLOCK.findall(half) for half in (wrong, right)]


def codes_of(text: str) -> set[str]:
    return {found.code for found in check(Source("<example>", text))}


SIZES = re.compile(r"^Wrong, at N = (\d+) with (\d+) heads:$", re.MULTILINE)
OF_REPORTS = [code for code in pages() if SIZES.search(pages()[code].text)]
OF_TEXTS = [
    code for code in pages() if code not in OF_REPORTS and halves(code)[0][0][0] == "attn" and not halves(code)[0][0][1]
]
OF_COMMANDS = [code for code in pages() if code not in OF_TEXTS and code not in OF_REPORTS]


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert set(pages()) == set(CODES)
    assert OF_COMMANDS == ["A0005", "A0109", "A0110", "A0301"]
    assert [f"A04{number:02}" for number in range(5, 11)] == OF_REPORTS


@pytest.mark.parametrize("code", OF_TEXTS)
def test_the_wrong_example_gives_the_code_and_the_right_one_none(code: str) -> None:
    ((_, _, wrong),), ((_, _, right),) = halves(code)
    assert codes_of(wrong) == {code}
    assert codes_of(right) == set()
    assert wrong != right


@pytest.mark.parametrize("code", OF_REPORTS)
def test_the_report_of_the_wrong_example_gives_the_code_and_that_of_the_right_one_does_not(code: str) -> None:
    ((_, _, wrong),), ((_, _, right),) = halves(code)
    n, heads = map(int, SIZES.findall(pages()[code].text)[0])
    for text, is_wrong in ((wrong, True), (right, False)):
        assert codes_of(text) <= {"A0401"}  # a first query without keys is not what these pages are about
        found = attnc.report(attnlang.loads(text), n=n, heads=heads, head_dim=8)
        given = [each for each in found.diagnostics if each.code == code]
        assert bool(given) == is_wrong
        for each in given:
            assert each.span is not None
            assert each.label
            assert each.help


@pytest.mark.parametrize("code", OF_COMMANDS)
def test_the_wrong_command_gives_the_code_and_the_right_one_runs(code: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "compiler")))}
    for half, is_wrong in zip(halves(code), (True, False), strict=True):
        for kind, name, text in half:
            if kind == "attn":
                (tmp_path / name).write_text(text)
                continue
            command = [sys.executable, "-m", *text.removeprefix("$ ").split()]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert (done.returncode != 0) == is_wrong, done.stderr
            assert (code in done.stderr) == is_wrong


@pytest.mark.parametrize("code", CODES)
def test_pages_are_short_and_say_what_they_are(code: str) -> None:
    page = pages()[code]
    assert page.text.startswith(f"# {code}: {page.title}\n")
    assert len(page.title) < 40
    assert len(page.text.splitlines()) < 32


@pytest.mark.parametrize("given", ["A0104", "a0104", "104"])
def test_explain_prints_the_page(given: str) -> None:
    from attnc.cli import main

    assert CliRunner().invoke(main, ["explain", given]).output.rstrip() == pages()["A0104"].text.rstrip()


def test_explain_lists_all_and_refuses_what_is_none() -> None:
    from attnc.cli import main

    listed = CliRunner().invoke(main, ["explain"]).output
    assert [line.split()[0] for line in listed.splitlines()] == list(CODES)
    refused = CliRunner().invoke(main, ["explain", "A0140"])
    assert refused.exit_code == 2
    assert "there is no diagnostic A0140: did you mean A0111?" in refused.output


def test_checking_the_whole_library_takes_less_than_three_seconds() -> None:
    """Of processor time, start of Python included: that is what a machine at work on other things says honestly."""
    files = sorted(map(str, (ROOT / "patterns").glob("*.attn")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "compiler")))}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "attnc", "check", *files], env=environment, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
