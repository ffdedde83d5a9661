"""Grids whose last axis ranks cut anywhere: plans among rows and windows of columns, against those of single tokens."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from attnc.lower import lower
from attnc.schedule import coarse, families, grids, ragged
from attnc.schedule.columns import Columns
from attnc.schedule.flows import least_cover_of_graph
from attnc.schedule.grids import Grid
from attnc.schedule.owners import peers
from attnc.schedule.solution import Problem
from attnc.schedule.solver import solve

from attnlang import load, loads
from attnlang.parallel import simulate
from attnlang.parallel.dense import numbers
from attnlang.rows import Rows
from attnlang.schedule import Placement, RowBytes
from tests.parallel.test_covers import least_weight
from tests.parallel.test_exact import check
from tests.parallel.test_families import found

GRIDS = [
    "grid(12, 64) { neighborhood(5) * neighborhood(3) }",
    "grid(10, 70) { neighborhood(3, causal=True) * neighborhood(3) }",
    "grid(10, 60) { (self | offset(2..2)) * window(3) }",
    "grid(9, 64) { causal * (offset(-1..0) + offset(0..1)) }",
    "grid(3, 4, 64) { neighborhood(3) * neighborhood(3) * neighborhood(3) }",
    "grid(8, 66) { causal * dilate(2) { neighborhood(3) } }",
    "grid(14, 48) { offset(-1..1) * segment(3, shift=1) { causal } }",
    "grid(10, 50) { self * all } | grid(10, 50) { all * self }",
    "grid(10, 50) { causal * window(2) } | grid(10, 50) { offset(0..1) * causal }",
]
"""Of which every column sees itself and few others."""


def by_columns(monkeypatch: pytest.MonkeyPatch) -> list[Grid]:
    """Few ranks are planned as thousands are; the grids that are made of plans."""
    made: list[Grid] = []
    make = grids._grid  # pyright: ignore[reportPrivateUsage] - whether there is one is what is asked

    def kept(problem: Problem, number: int) -> Grid | None:
        grid = make(problem, number)
        made.extend([grid] if grid is not None else [])
        return grid

    monkeypatch.setattr(grids, "_grid", kept)
    for module in (families, coarse, grids):
        monkeypatch.setattr(module, "MANY_RANKS", 1)
    return made


@pytest.mark.parametrize("text", GRIDS)
@pytest.mark.parametrize(("ranks", "kv_heads"), [(11, 4), (13, 2), (31, 1)])
def test_plans_by_columns_are_those_of_every_token(
    text: str, ranks: int, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = loads(f"pattern p = {text}")
    n = int(np.prod([int(size) for size in text[text.index("(") + 1 : text.index(")")].split(",")]))
    every = found(pattern, n, ranks, kv_heads=kv_heads)
    made = by_columns(monkeypatch)
    mine = found(pattern, n, ranks, kv_heads=kv_heads)
    assert made
    assert mine.schedule.certificate == every.schedule.certificate
    assert mine.schedule.certificate.exact
    s, o = mine.solution, every.solution
    assert s.bytes_total == o.bytes_total
    assert (s.at_query + s.at_key).sum() == (o.at_query + o.at_key).sum()
    assert peers(s).tolist() == peers(o).tolist()
    assert (mine.solution.local == every.solution.local).all()
    assert simulate(mine.schedule).pairs == pattern.multiplicity(n, 4).sum()


@pytest.mark.parametrize("number", [0, 3, 5])
def test_plans_by_columns_compute_the_pattern(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = loads(f"pattern p = {GRIDS[number]}")
    n = {0: 768, 3: 576, 5: 528}[number]
    made = by_columns(monkeypatch)
    check(pattern, found(pattern, n, 7, heads=2, kv_heads=2).schedule, n, 2, {}, 2)
    assert made


SMALL = [
    "grid(6, 32) { neighborhood(3) * neighborhood(3) }",
    "grid(6, 32) { neighborhood(5, causal=True) * window(2) }",
    "grid(6, 32) { (self | offset(2..2) | offset(-1..-1)) * (offset(0..1) + offset(0..2)) }",
    "grid(2, 3, 32) { causal * neighborhood(3) * neighborhood(3) }",
    "grid(6, 32) { causal * (self | key(pos < 2) & offset(-1..1)) }",
    "grid(6, 32) { self * all } | grid(6, 32) { all * self }",
    "grid(6, 32) { offset(-1..1) * causal } | grid(6, 32) { causal * window(2) } | grid(6, 32) { self * all }",
]


def meetings(text: str, random: Random, group: int) -> tuple[np.ndarray, Problem]:
    """A pattern's multiplicities, and the problem of stretches that begin anywhere."""
    pattern = loads(f"pattern p = {text}")
    n = 192
    cuts = [0, *sorted(random.sample(range(1, n), random.randint(2, 7))), n]
    chunks = tuple((Rows(low, high - low),) for low, high in pairwise(cuts))
    where = Placement("contiguous", n, chunks)
    row = RowBytes(head_dim=random.choice((1, 8, 64)), item=random.choice((2, 8)))
    return pattern.multiplicity(n, 2)[0], Problem(lower(pattern, 2), where, 2 // group, row, random.random() < 0.5)


@pytest.mark.parametrize("text", SMALL)
@pytest.mark.parametrize("group", [1, 2])
def test_covers_by_columns_are_the_least(text: str, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stretches that begin anywhere: against the largest flow, and pair by pair."""
    by_columns(monkeypatch)
    random, done = Random(f"{text} {group}"), 0
    for _ in range(6):
        m, problem = meetings(text, random, group)
        grid = grids.grid_of(problem, (0,))
        assert isinstance(grid, Grid)
        for a, (q,) in enumerate(problem.placement.chunks):
            assert grid.ragged.pairs(a) == 2 * m[q.first : q.last + 1, q.first : q.last + 1].sum()
            for b, (k,) in enumerate(problem.placement.chunks):
                met = None if a == b else grid.ragged.met(a, b, False)
                if met is None:
                    continue
                done += 1
                held = m[q.first : q.last + 1, k.first : k.last + 1]
                query, key = problem.weights
                least = least_weight(np.stack([held] * group), query, key) * (2 // group)
                assert met.weight == met.bound == least
                shipped, sent = (np.zeros(size, bool) for size in held.shape)
                for flags, moved in ((shipped, met.queries), (sent, met.keys)):
                    for heads, parts in moved:
                        assert len(heads) == (2 if moved is met.queries else 2 // group)
                        for rows in parts:
                            assert not flags[numbers(rows)].any()
                            flags[numbers(rows)] = True
                assert (held[~shipped][:, ~sent] == 0).all()
                assert shipped.sum() * 2 * query + sent.sum() * (2 // group) * key == least
                assert sum(met.at_query) == 2 * held[:, sent].sum()
                assert sum(met.at_query) + sum(met.at_key) == 2 * held.sum()
                every = grid.ragged.met(a, b, True)
                if every is None:  # of unions more keys may be asked than its own
                    assert "} |" in text
                    continue
                assert not every.queries
                asked = np.concatenate([numbers(rows) for _, parts in every.keys for rows in parts] or [np.zeros(0)])
                assert sorted(asked.tolist()) == np.flatnonzero(held.any(0)).tolist()
    assert done > 40


@pytest.mark.parametrize("text", SMALL[:3])
def test_kinds_that_are_read_off_have_the_same_pairs(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_columns(monkeypatch)
    random = Random(text)
    for _ in range(12):
        m, problem = meetings(text, random, 1)
        grid = grids.grid_of(problem, (0,))
        assert isinstance(grid, Grid)
        assert grid.kinds is not None
        known: dict[int, np.ndarray] = {}
        for (a, b), kind in np.ndenumerate(grid.kinds):
            (q,), (k,) = problem.placement.chunks[a], problem.placement.chunks[b]
            held = m[q.first : q.last + 1, k.first : k.last + 1]
            assert kind or not held.any()
            assert not kind or np.array_equal(known.setdefault(int(kind), held), held)


@pytest.mark.parametrize("first", [False, True])
def test_where_queries_stay_other_meetings_are_left(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of unions, columns cover other meetings there: what one solution of a problem left out the other looks at."""
    text = "grid(13, 48) { causal * (offset(-1..0) + offset(0..1)) } | grid(13, 48) { self * all }"
    by_columns(monkeypatch)
    pattern, random, mixed = loads(f"pattern p = {text}"), Random(7), 0
    for _ in range(12):
        cuts = [0, *sorted(random.sample(range(1, 624), 2)), 624]
        where = Placement("contiguous", 624, tuple((Rows(low, high - low),) for low, high in pairwise(cuts)))
        problem = Problem(lower(pattern, 1), where, 1, RowBytes(8, 8), queries_stay=first)
        other = replace(problem, queries_stay=not first)
        _, mine = solve(problem), solve(other)
        every = solve(replace(other, known={}, stand_ins={}, covers={}, grids={}))
        assert mine.schedule() == every.schedule()
        assert simulate(mine.schedule()).pairs == pattern.multiplicity(624, 1).sum()
        mixed += bool(problem.stand_ins)
    assert mixed


def test_what_does_not_fit_is_planned_by_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = loads(f"pattern p = {GRIDS[0]}")
    every = found(pattern, 768, 7)
    made = by_columns(monkeypatch)
    monkeypatch.setattr(ragged.Ragged, "_fit", lambda *_: False)  # pyright: ignore[reportUnknownLambdaType]
    mine = found(pattern, 768, 7)
    assert made
    assert mine.schedule == every.schedule


@pytest.mark.parametrize(
    "text",
    [
        "grid(8, 64) { all * offset(1..2) }",  # a column does not see itself
        "grid(8, 64) { all * all }",
        "grid(8, 64) { all * dilate(8) }",
        "grid(8, 64) { all * window(9) } + offset(0..0)",
        "heads(0..1) { grid(8, 64) { all * window(2) } } + heads(1..4) { grid(8, 64) { self * window(2) } }",
    ],
)
def test_other_grids_are_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = loads(f"pattern p = {text}")
    every = found(pattern, 512, 7)
    made = by_columns(monkeypatch)
    assert found(pattern, 512, 7).schedule.certificate == every.schedule.certificate
    assert not made


def test_columns_count_what_they_see() -> None:
    random = Random(3)
    for text in ("neighborhood(7)", "window(3) + offset(2..2)", "dilate(2) { window(2) }"):
        relation = loads(f"pattern p = {text}").relation
        m = loads(f"pattern p = {text}").multiplicity(80, 1)[0]
        columns = Columns.of(relation, 80, int(m.sum()), {"N": 80, "H": 1, "h": 0, "n": 80})
        assert columns is not None
        assert Columns.of(relation, 80, int(m.sum()) + 1, {"N": 80, "H": 1, "h": 0, "n": 80}) is None
        c, d = np.indices(m.shape)
        assert (columns.between(c, d) == m).all()
        for _ in range(200):
            (c0, c1), (d0, d1) = (sorted(random.sample(range(81), 2)) for _ in range(2))
            assert columns.count((c0, c1), (d0, d1)) == m[c0:c1, d0:d1].sum()
            inner = np.zeros_like(m)
            inner[tuple(x + c0 for x in columns.within(c0, c1))] = 1
            assert (inner[c0:c1, c0:c1] == (m[c0:c1, c0:c1] > 0)).all()


def test_natten_on_4096_ranks_asks_for_no_token_between_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """10^9 tokens, ranks that begin elsewhere in a row of 31,250 each: covers are of windows, and of rows."""
    asked: list[int] = []

    def counted(q_weights: np.ndarray, k_weights: np.ndarray, *given: object, **more: object) -> object:
        asked.append(len(q_weights) + len(k_weights))
        return least_cover_of_graph(q_weights, k_weights, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ragged, "least_cover_of_graph", counted)
    solution = found(load("natten2d", rows=32000, cols=31250), 10**9, 4096, heads=1, kv_heads=1).solution
    assert solution.certificate.exact
    assert len(asked) < 100
    assert max(asked) < 2048
    assert ((solution.which >= 0).sum(1) <= 2).all()
    # three rows of keys go either way, and as many more columns as a window looks beyond where a row is cut
    assert 4095 * 2 * 3 * 31250 <= solution.keys_in.sum() <= 4095 * 2 * (3 * 31250 + 6 * 3) + 2 * 6 * 6 * 31250
