"""The documentation's blocks: files are clean (or faulty, if named so), commands print what is shown, Python runs."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from attnc.analysis.properties import check

from attnlang.pattern.files import library_names
from attnlang.source import Source

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/language.md", "docs/architecture.md", "docs/longnet-dependency.md", "docs/parallel.md"]
SAID = {("gallery.attn", "A0401")}
"""Warnings that the text beside an example speaks of."""
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def files(page: str) -> dict[str, str]:
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return {info.split("file=")[1].strip(): text for kind, info, text in found if kind == "attn"}


def console(command: str, folder: Path) -> str:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n")


@pytest.mark.parametrize("page", PAGES)
def test_files_are_what_they_are_said_to_be(page: str) -> None:
    for name, text in files(page).items():
        found = [each for each in check(Source(name, text)) if (name, each.code) not in SAID]
        assert bool(found) == name.startswith("wrong"), name


@pytest.mark.parametrize("page", PAGES)
def test_commands_print_what_is_shown(page: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for name, text in files(page).items():
        (tmp_path / name).write_text(text)

    def run(block: re.Match[str]) -> str:
        kind, info, text = block.groups()
        if kind != "console":
            return block.group(0)
        commands = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
        printed = [f"$ {command}\n{console(command, tmp_path)}".rstrip("\n") for command in commands]
        return f"```{kind}{info}\n" + "\n".join(printed) + "\n```"

    shown = (ROOT / page).read_text(encoding="utf-8")
    real = BLOCK.sub(run, shown)
    if request.config.getoption("--update-golden"):
        (ROOT / page).write_text(real, encoding="utf-8")
    assert real == (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run_and_print_what_follows(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    following = [*blocks[1:], ("", "", "")][: len(blocks)]
    for (kind, _, text), (next_kind, _, expected) in zip(blocks, following, strict=True):
        if kind == "python":
            exec(compile(text, page, "exec"), {})
            printed = capsys.readouterr().out
            assert printed == (expected if next_kind == "output" else "")


def test_the_tables_are_made_from_the_results() -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        assert tables.with_tables(text) == text, "run `make tables`"


def test_docstrings_of_the_package_run() -> None:
    import doctest

    import attnlang

    assert doctest.testmod(attnlang).attempted > 0
    assert doctest.testmod(attnlang).failed == 0


def test_the_library_is_as_large_as_is_said() -> None:
    for page in ("README.md", "CHANGELOG.md"):
        (said,) = re.findall(r"(\d+) patterns", (ROOT / page).read_text(encoding="utf-8"))
        assert int(said) == len(library_names())
