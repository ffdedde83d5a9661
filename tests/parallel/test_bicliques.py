"""Rectangles without bands, and unions of sets of rows, against single rows."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from attnc.schedule import bicliques
from attnc.schedule.bicliques import least_of_rectangles, united, without_bands

from attnlang.rows import Rows
from attnlang.runtime.pairs import branch_pairs
from tests.parallel.test_covers import least_weight
from tests.parallel.test_pairs import some_branch, tokens


def rows_of(nodes: Any) -> list[tuple[int, int]]:
    """Every row as often as it is there."""
    return sorted((head, row) for head, rows in nodes for row in tokens(rows))


def some_sets(random: Random, count: int, heads: int) -> list[tuple[int, Rows]]:
    steps = random.choice([[1], [1, 2], [1, 4], [2, 3, 6], [1, 5, 7]])
    return [
        (random.randrange(heads), Rows(random.randint(0, 30), random.randint(1, 14), random.choice(steps)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("few", [bicliques.FEW_SETS, 0])
def test_rectangles_have_the_least_cover_of_their_rows(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of the least ones that with the most keys, whichever way it is found."""
    random = Random(few)
    for _ in range(60):
        q_sets = some_sets(random, random.randint(1, 5), 2)
        k_sets = [(0, rows) for _, rows in some_sets(random, random.randint(1, 5), 1)]
        rectangles = [(random.choice(q_sets), random.choice(k_sets)) for _ in range(random.randint(1, 7))]
        weights = random.randint(1, 5), random.randint(1, 5)
        held = np.zeros((2, 200, 200), bool)
        for (head, q), (_, k) in rectangles:
            held[head][np.ix_(sorted(tokens(q)), sorted(tokens(k)))] = True
        monkeypatch.setattr(bicliques, "FEW_SETS", few)
        found = least_of_rectangles(rectangles, *weights)
        assert found is not None
        keys, queries, weight = found
        k_rows, q_rows = rows_of(keys), rows_of(queries)
        assert len(set(k_rows)) == len(k_rows)
        assert len(set(q_rows)) == len(q_rows)
        assert weight == len(q_rows) * weights[0] + len(k_rows) * weights[1] == least_weight(held, *weights)
        for head, row in q_rows:
            held[head, row] = False
        held[:, :, [row for _, row in k_rows]] = False
        assert not held.any()
        monkeypatch.setattr(bicliques, "FEW_SETS", 0 if few else 7)
        again = least_of_rectangles(rectangles, *weights)
        assert again is not None
        assert (rows_of(again[0]), rows_of(again[1]), again[2]) == (k_rows, q_rows, weight)


def test_many_kinds_of_steps_are_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [(0, Rows(0, 3, step)) for step in (2, 3, 5, 7, 11, 13, 17, 19)]
    monkeypatch.setattr(bicliques, "MAX_CELLS", 64)
    monkeypatch.setattr(bicliques, "FEW_PARTS", 0)
    assert least_of_rectangles([(each, (0, Rows(0, 2))) for each in sets], 1, 1) is None
    assert rows_of(united(sets)) == sorted({(0, row) for _, rows in sets for row in tokens(rows)})


@pytest.mark.parametrize("few", [bicliques.FEW_PARTS, 0])
def test_a_union_has_every_row_once(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bicliques, "FEW_PARTS", few)
    random = Random(5)
    for _ in range(200):
        sets = some_sets(random, random.randint(1, 9), 2)
        assert rows_of(united(sets)) == sorted({(head, row) for head, rows in sets for row in tokens(rows)})


def test_a_union_is_few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bicliques, "FEW_PARTS", 0)
    assert len(united([(0, Rows(120 + i, 6, 128)) for i in range(8)])) == 8
    assert united([(0, Rows(5 + i, 6 + (i < 50), 128)) for i in range(128)]) == [(0, Rows(5, 6 * 128 + 50))]
    assert united([(0, Rows(0, 9, 2)), (0, Rows(18, 4, 2)), (0, Rows(26, 1))]) == [(0, Rows(0, 14, 2))]


def test_bands_are_few_rectangles_with_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    random, refused = Random(3), 0
    monkeypatch.setattr(bicliques, "MAX_CORNERS", 6)
    for _ in range(200):
        branch, n = some_branch(random), random.randint(4, 60)
        cut = random.randint(1, n - 1)
        sides = [Rows(0, cut), Rows(cut, n - cut)]
        random.shuffle(sides)
        pairs = list(branch_pairs(branch, *sides))
        parts = without_bands(pairs)
        if parts is None:
            refused += 1
            continue
        before, after = np.zeros((3, n, n), int), np.zeros((3, n, n), int)
        for part, m in [*((part, before) for part in pairs), *((part, after) for part in parts)]:
            for q in tokens(part.q):
                m[list(part.heads), q] += [k in part.k and k - q in part.band for k in range(n)]
        assert all(part.band == bicliques.FULL for part in parts)
        assert (before == after).all()
    assert 0 < refused < 100
