from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attnc
import numpy as np
import pytest
from attnc.analysis.properties import check
from attnc.emit.python import emit
from attnc.lower import lower

import attnlang
from attnlang.diagnostics import render
from attnlang.pattern.library import default_patterns, library_names
from attnlang.source import Source

HERE = Path(__file__).parent
FAULTY = sorted((HERE / "diagnostics").glob("*.attn"))
Golden = Callable[[Path, str], None]


@pytest.mark.parametrize("path", FAULTY, ids=lambda path: path.stem)
def test_faulty_files_print_their_diagnostics(path: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    found = check(Source(path.name, path.read_text(encoding="utf-8")))
    assert found, "a faulty file must have a fault"
    golden(path.with_suffix(".txt"), "\n\n".join(render(diagnostic) for diagnostic in found) + "\n")


def test_there_are_enough_faulty_files_and_they_cover_the_codes() -> None:
    assert len(FAULTY) >= 25
    text = "".join(path.with_suffix(".txt").read_text(encoding="utf-8") for path in FAULTY)
    # the others are about files, arguments and sizes, not about texts: tests/cli and tests/language have them
    elsewhere = {"A0005", "A0109", "A0110", "A0301", *(f"A04{number:02}" for number in range(5, 11))}
    missing = [code for code in attnlang.codes.CODES if code not in text and code not in elsewhere]
    assert missing == []


@pytest.mark.parametrize("name", library_names())
def test_plans_of_the_library(name: str, golden: Golden) -> None:
    patterns = default_patterns(attnlang.load(name).source)  # one, or the first of each kind of layer
    texts = [str(lower(pattern, 12)) for pattern in patterns]
    golden(HERE / "plans" / f"{name}.txt", "\n\n".join(dict.fromkeys(texts)) + "\n")


@pytest.mark.parametrize("name", ["longnet", "fixed", "sliding", "longformer", "packed"])
def test_emitted_modules(name: str, golden: Golden) -> None:
    tables = {"doc": np.arange(32768) // 3000} if name == "packed" else {}
    report = attnc.report(name, n=32768, heads=12, tables=tables, dependency=False)
    golden(HERE / "python" / f"{name}.py.txt", emit(report, report.plan))
