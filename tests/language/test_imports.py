"""Imports: names from other files, their order, their faults; and what does not depend on files at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attnc
import numpy as np
import pytest
from attnc.emit.python import emit

import attnlang
from attnlang import AttnError
from attnlang.pattern.library import check, read

WINDOWS = "pattern narrow(w = 4) = window(w)\npattern wide = narrow(16)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "windows.attn").write_text(WINDOWS)
    (tmp_path / "lib" / "both.attn").write_text('import "windows.attn"\npattern both = narrow(2) | sliding(9)\n')
    return tmp_path


def write(folder: Path, text: str, name: str = "main.attn") -> Path:
    (folder / name).write_text(text)
    return folder / name


def faults(path: Path) -> list[str]:
    return [f"{found.code} {found.message}" for found in check(read(path))]


def test_all_names_or_some(folder: Path) -> None:
    everything = attnlang.load(write(folder, 'import "lib/windows.attn"\npattern main = narrow(3) | wide\n'))
    assert everything.multiplicity(20, 1).sum() == attnlang.load("sliding", w=16).multiplicity(20, 1).sum()
    some = attnlang.load(write(folder, 'from "lib/windows.attn" import narrow\npattern main = narrow(3)\n'))
    assert (some.multiplicity(20, 1) == attnlang.load("sliding", w=3).multiplicity(20, 1)).all()
    assert faults(write(folder, 'from "lib/windows.attn" import narrow\npattern main = wide\n')) == [
        "A0101 unknown name `wide`"
    ]


def test_an_imported_file_sees_its_own_imports_and_does_not_pass_them_on(folder: Path) -> None:
    found = attnlang.load(write(folder, 'import "lib/both.attn"\npattern main = both\n'))
    assert (found.multiplicity(20, 1) == attnlang.load("sliding", w=9).multiplicity(20, 1)).all()
    assert [path for path, _ in found.imports] == ["lib/both.attn", "lib/windows.attn"]
    assert faults(write(folder, 'import "lib/both.attn"\npattern main = narrow(2)\n')) == [
        "A0101 unknown name `narrow`"
    ]


def test_own_names_come_before_the_library(folder: Path) -> None:
    write(folder, "pattern sliding(w = 2) = offset(0..w)\n", "own.attn")
    found = attnlang.load(write(folder, 'import "own.attn"\npattern main = sliding(1)\n'))
    assert found.multiplicity(3, 1)[0].tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_circles_are_reported_on_paths_and_on_links(folder: Path) -> None:
    write(folder, 'import "b.attn"\npattern a = self\n', "a.attn")
    write(folder, 'import "a.attn"\npattern b = self\n', "b.attn")
    (first, *_) = check(read(folder / "a.attn"))
    assert first.code == "A0111"
    assert "`b.attn` has errors" in first.message
    assert "A0111 `a.attn` is imported in a circle" in faults(folder / "a.attn")
    os.symlink(folder, folder / "again")
    path = write(folder, 'import "again/main.attn"\npattern main = self\n')
    assert faults(path) == ["A0111 `again/main.attn` imports itself"]


def test_one_file_by_two_ways_is_one_file(folder: Path) -> None:
    os.symlink(folder / "lib", folder / "link")
    path = write(folder, 'import "lib/windows.attn"\nimport "link/windows.attn"\npattern main = narrow\n')
    assert faults(path) == []


def test_faults_of_an_imported_file_follow_the_import(folder: Path) -> None:
    write(folder, "pattern broken = windw(3)\n", "lib/broken.attn")
    path = write(folder, 'import "lib/broken.attn"\npattern main = self\n')
    assert faults(path) == ["A0101 unknown name `windw`"]
    write(folder, "pattern broken = = 3\n", "lib/broken.attn")
    assert faults(path) == ["A0111 `lib/broken.attn` has errors", "A0002 unexpected `=`"]


@pytest.mark.parametrize("target", ["lib", "pipe", "binary.attn", "link.attn", "nul\0.attn"])
def test_what_is_no_text_file_cannot_be_imported(folder: Path, target: str) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "binary.attn").write_bytes(bytes(range(256)))
    os.symlink("link.attn", folder / "link.attn")
    path = write(folder, f'import "{target}"\npattern main = self\n')
    assert [found.code for found in check(read(path))] == ["A0111"]


def test_ever_deeper_imports_end(folder: Path) -> None:
    for number in range(400):
        write(folder, f'import "c{number + 1}.attn"\npattern p{number} = self\n', f"c{number}.attn")
    assert any("too many imports" in fault for fault in faults(folder / "c0.attn"))


def test_an_emitted_module_carries_what_is_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, 'import "lib/both.attn"\npattern main(w = 3) = both | window(w)\n')
    report = attnc.report(path, n=64, heads=2)
    text = emit(report, report.plan)
    monkeypatch.chdir("/")
    (folder / "lib" / "both.attn").unlink()
    scope: dict[str, object] = {"__name__": "emitted"}
    exec(compile(text, "emitted", "exec"), scope)
    assert (scope["Main"]().pattern.multiplicity(30, 2) == report.pattern.multiplicity(30, 2)).all()  # type: ignore[operator]


def test_layers_are_given_like_parameters() -> None:
    text = "pattern p = window(4) if layer % 2 == 0 else window(2 ** layer) & key(pos >= L)"
    for layer in range(4):
        m = attnlang.loads(text, layer=layer, L=4).multiplicity(20, 1)
        expected = "window(4)" if layer % 2 == 0 else f"window({2**layer}) & key(pos >= 4)"
        assert (m == attnlang.loads(f"pattern p = {expected}").multiplicity(20, 1)).all()
    with pytest.raises(AttnError, match="give the layer with the parameters"):
        attnlang.loads(text).multiplicity(4, 1)
    for wrong in ({"layer": 4, "L": 4}, {"layer": -1}, {"L": 0}, {"layer": True}, {"layer": [1]}):
        with pytest.raises(AttnError, match=r"layer|`L`"):
            attnlang.loads(text, **wrong)


def test_parameters_may_depend_on_the_length_and_the_heads() -> None:
    quarter = attnlang.loads("pattern p(g = N // 4) = segment(g) { causal }")
    for n in (16, 40):
        assert (quarter.multiplicity(n, 1) == attnlang.load("chunked", b=n // 4).multiplicity(n, 1)).all()
    given = attnlang.load("sliding", w="h + 1")
    assert given.call == "sliding(w=h + 1)"
    assert given.multiplicity(9, 3).sum((1, 2)).tolist() == [9, 17, 24]
    with pytest.raises(AttnError, match="not the same thing inside"):
        attnlang.load("sliding", w="n")


def test_parameters_may_be_numpys_and_no_fractions() -> None:
    given = attnlang.load("longnet", segments=np.array([16, 32]), dilations=np.array([1, 2], np.int32))
    assert given == attnlang.load("longnet", segments=[16, 32], dilations=[1, 2])
    assert attnlang.load("sliding", w=np.int64(3)).call == "sliding(w=3)"
    with pytest.raises(AttnError, match="must be an integer, a boolean, a list of them"):
        attnlang.load("sliding", w=np.array([1.5]))


@pytest.mark.parametrize(("n", "heads"), [(4.5, 1), (4, 1.0), ("4", 1)])
def test_a_multiplicity_has_whole_sizes(n: Any, heads: Any) -> None:
    with pytest.raises(ValueError, match="n and heads must be integers, not n = "):
        attnlang.load("causal").multiplicity(n, heads)
