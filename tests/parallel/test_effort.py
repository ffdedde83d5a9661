"""What planning does once and not again, or not at all: counted in operations, not in seconds."""

from __future__ import annotations

from typing import Any

import attnc
import pytest
from attnc.analysis import boxes
from attnc.schedule import counts, residues
from attnc.schedule.folds import Folder

from attnlang import load, loads


def test_rows_of_a_long_stretch_are_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of 10^10 / 8 tokens has 10 GB of row numbers."""
    monkeypatch.setattr(Folder, "pairs", lambda *_: pytest.fail("every row was looked at"))
    n, window, first = 10**10, 256, 1
    schedule = attnc.plan("longformer", n=n, ranks=8, heads=2, placement="contiguous")
    moved = sum(t.key_rows + t.query_rows for a in range(8) for _, t in schedule.peers(a))
    assert moved == 2 * (2 * 7 * window + 2 * 7 * first)  # a halo on either side, and a global token both ways


@pytest.mark.parametrize("name", ["longformer", "etc", "prefix_lm", "svg_spatial"])
def test_pairs_of_a_long_stretch_are_as_many_by_structure_as_by_rows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: dict[str, Any] = {"n": 3001, "ranks": 4, "heads": 2, "placement": "contiguous"}
    by_rows = attnc.plan(load(name), **where)
    monkeypatch.setattr(counts, "LONG", 1)
    assert attnc.plan(load(name), **where).to_json() == by_rows.to_json()


def test_classes_with_as_many_rows_are_covered_once_whichever_ranks_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stretches a rank under a stride that divides none: every meeting is elsewhere, of few kinds of classes."""
    covered = 0

    def counted(*args: Any) -> Any:
        nonlocal covered
        covered += 1
        return cover(*args)

    cover = residues.least_cover
    monkeypatch.setattr(residues, "least_cover", counted)
    schedule = attnc.plan(load("strided", l=32), n=10_007, ranks=16, heads=2, placement="zigzag")
    assert sum(1 for rank in range(16) for _ in schedule.peers(rank)) == 16 * 15
    assert 0 < covered <= 40


def test_products_that_are_alike_but_for_a_period_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    n, asked = 20_000, 0

    def counted(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        return points(*args)

    points = boxes._Boxes._points_of
    monkeypatch.setattr(boxes._Boxes, "_points_of", counted)
    found = boxes.count(loads("pattern p = pairs((q * k) % 5 == 0)").relation, n, 0, 1, {})
    assert found.bag == n**2 - (n - n // 5) ** 2
    assert asked <= 30
