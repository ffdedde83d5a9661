"""`attnc show`: who holds each pair, on paper and in the terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from attnc.analysis.members import members
from attnc.cli import main
from attnc.emit.picture import COLOURS, Panel, picture, terminal
from click.testing import CliRunner, Result

import attnlang

LONGNET = ["show", "longnet", "-p", "segments=[8,16]", "-p", "dilations=[1,2]", "--n", "16", "--heads", "2"]


def attnc(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


LABELS = {
    "longnet": ["segment(2048) { dilate(1, shift=h) }", "segment(4096) { dilate(2, shift=h) }"],
    "longformer": ["offset(-256..256)", "key(pos < 1)", "query(pos < 1)"],
    "fixed": ["segment(128)", "key(pos % 128 >= 120)"],
    "streaming": ["key(pos < 4)", "offset(-511..0)"],
    "sliding": ["offset(-4095..0)"],
    "mixed_heads": ["heads(0..H // 2) { offset(-511..0) }", "heads(H // 2..H) { offset(..0 step 64) }"],
    "bigbird": ["blocks(64) { offset(-1..1) }", "blocks(64) { key(pos == 0 or pos == n - 1) }"],
    "axial": ["grid(32, 32) { self * all }", "grid(32, 32) { all * self }"],
}


@pytest.mark.parametrize("name", LABELS)
def test_branches_are_called_what_they_are(name: str) -> None:
    labels = [part.label for part in members(attnlang.load(name).relation)]
    assert labels[: len(LABELS[name])] == LABELS[name]


def test_the_first_branch_that_holds_a_pair_owns_it() -> None:
    shown = picture(attnlang.loads("pattern p = causal & (window(2) + offset(..0 step 2) + key(pos == 1))"), 5, 1)
    assert shown.labels == ("offset(-1..0)", "offset(..0 step 2)", "key(pos == 1)")
    assert shown.panels[0].owner.tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [2, 1, 1, 0, 0], [0, 2, 1, 1, 0], [2, 3, 2, 1, 1],
    ]  # fmt: skip
    assert shown.panels[0].m[4].tolist() == [1, 1, 1, 1, 2]
    assert shown.panels[0].title == "every head"


def test_heads_that_differ_are_shown_and_one_if_asked_for() -> None:
    pattern = attnlang.load("s2attn", g=8)
    assert [panel.title for panel in picture(pattern, 16, 6).panels] == ["head 0", "head 3"]
    assert [panel.title for panel in picture(pattern, 16, 6, head=5).panels] == ["head 5"]
    assert len(picture(attnlang.load("longnet", segments=[64], dilations=[8]), 16, 12).panels) == 4


def test_many_branches_share_the_last_colour() -> None:
    shown = picture(attnlang.load("logsparse"), 64, 1)
    assert len(shown.labels) == len(COLOURS)
    assert shown.labels[-1] == "24 more"
    assert shown.panels[0].owner.max() == 7  # at N = 64 only the distances 0, 1, 2, 4, .. 32 occur


def test_plain_text_has_no_colours_and_coloured_text_a_legend() -> None:
    plain, coloured = attnc(*LONGNET), attnc(*LONGNET, "--colour")
    assert "\x1b" not in plain.output
    assert "longnet, N = 16, head 1" in plain.output
    assert "\x1b[38;2;" in coloured.output
    assert "segment(16) { dilate(2, shift=h) }" in coloured.output
    assert attnc(*LONGNET, "--no-color").output == plain.output


def test_shrunk_cells_have_the_colour_of_most_of_their_pairs() -> None:
    owner = np.array([[1, 1, 0, 0], [2, 0, 0, 0], [0, 0, 2, 2], [0, 0, 0, 1]], np.int32)
    assert terminal(Panel("", owner, owner), False, width=2) == "▀▄"
    blue, orange = (f"\x1b[38;2;{';'.join(str(part) for part in bytes.fromhex(colour[1:]))}" for colour in COLOURS[:2])
    assert terminal(Panel("", owner, owner), True, width=2) == f"{blue}m▀\x1b[0m{orange}m▄\x1b[0m"


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_files(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"picture.{ending}"
    assert attnc(*LONGNET, "-o", str(file)).output == f"wrote {file}\n"
    assert file.stat().st_size > 1000
    if ending == "svg":
        text = file.read_text()
        assert "segment(16) { dilate(2, shift=h) }" in text
        assert "darker: counts up to 2 times" in text


def test_tables_are_given_by_name(tmp_path: Path) -> None:
    by_list = attnc("show", "packed", "--n", "8", "-t", "doc=[i // 3 for i in range(8)]")
    np.save(tmp_path / "doc.npy", np.arange(8) // 3)
    assert attnc("show", "packed", "--n", "8", "-t", f"doc={tmp_path / 'doc.npy'}").output == by_list.output
    assert by_list.output.splitlines()[1] == "█▄"
    missing = attnc("show", "packed", "--n", "8")
    assert missing.exit_code == 2
    assert "needs the content of doc: give -t doc=LIST" in missing.output


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    assert "its ending must be one of" in attnc(*LONGNET, "-o", str(tmp_path / "a.xyz")).output
    assert "heads are 0 to 1" in attnc(*LONGNET, "--head", "2").output
    assert "at most 4096 positions" in attnc("show", "causal", "--n", "5000").output
