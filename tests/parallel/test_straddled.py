"""Segments across the edges of ranks, by residues: against plans of every meeting, and against the largest flow."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from attnc.lower import lower
from attnc.schedule import coarse, families, grids, straddled
from attnc.schedule.owners import peers
from attnc.schedule.solution import Problem
from attnc.schedule.straddled import Straddled

from attnlang import load, loads
from attnlang.parallel import simulate
from attnlang.parallel.dense import numbers
from attnlang.rows import Rows
from attnlang.schedule import Placement, RowBytes
from tests.parallel.test_covers import least_weight
from tests.parallel.test_exact import check
from tests.parallel.test_families import found

SEGMENTS = [
    "segment(32) { causal & pairs((q - k) % 4 == h % 4) }",
    "segment(32, shift=7) { pairs((q + k) % 3 == h % 3) }",
    "segment(28) { pairs((q + k) % 3 == h % 3) + causal }",
    "segment(24, shift=5) { causal & key(pos % 4 == h) | query(pos % 4 == 1) & pairs((k - q) % 2 == 0) }",
    "segment(30) { pairs(q % 3 == 0) & pairs(k % 3 == 1) + causal & pairs((q - k) % 2 == h % 2) }",
    "segment(31) { causal & pairs((q - k) % 11 <= h) }",
    "segment(32) { pairs(q * k % 5 == 1) }",
]


def made_of_plans(monkeypatch: pytest.MonkeyPatch) -> list[Straddled]:
    """The segments that are made of plans."""
    made: list[Straddled] = []
    make = straddled.straddled

    def kept(problem: Problem, number: int) -> Straddled | None:
        one = make(problem, number)
        made.extend([one] if one is not None else [])
        return one

    monkeypatch.setattr(grids, "straddled", kept)
    return made


def by_residues(monkeypatch: pytest.MonkeyPatch) -> list[Straddled]:
    """Few ranks are planned as thousands are; the segments that are made of plans."""
    for module in (families, coarse, grids, straddled):
        monkeypatch.setattr(module, "MANY_RANKS", 1)
    return made_of_plans(monkeypatch)


@pytest.mark.parametrize("text", SEGMENTS)
@pytest.mark.parametrize(("n", "ranks", "kv_heads"), [(500, 11, 4), (491, 7, 2), (300, 5, 1)])
def test_plans_by_residues_are_those_of_every_meeting(
    text: str, n: int, ranks: int, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = loads(f"pattern p = {text}")
    every = found(pattern, n, ranks, kv_heads=kv_heads)
    made = by_residues(monkeypatch)
    mine = found(pattern, n, ranks, kv_heads=kv_heads)
    assert made
    assert mine.schedule.certificate == every.schedule.certificate
    s, o = mine.solution, every.solution
    assert s.bytes_total == o.bytes_total
    assert s.local.tolist() == o.local.tolist()
    assert peers(s).tolist() == peers(o).tolist()
    assert (s.local + s.at_query + s.at_key).sum() == pattern.multiplicity(n, 4).sum()
    assert simulate(mine.schedule).pairs == pattern.multiplicity(n, 4).sum()


@pytest.mark.parametrize("number", [0, 1, 3])
def test_plans_by_residues_compute_the_pattern(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = loads(f"pattern p = {SEGMENTS[number]}")
    made = by_residues(monkeypatch)
    check(pattern, found(pattern, 203, 5, heads=2, kv_heads=2).schedule, 203, 2, {}, 2)
    assert made


@pytest.mark.parametrize("text", SEGMENTS)
@pytest.mark.parametrize("group", [1, 2, 4])
def test_covers_by_residues_are_the_least(text: str, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of edges anywhere in segments: against the largest flow, and pair by pair."""
    by_residues(monkeypatch)
    random, done, mixed = Random(f"{text} {group}"), 0, 0
    pattern = loads(f"pattern p = {text}")
    for _ in range(6):
        n = random.randint(150, 200)
        m = pattern.multiplicity(n, 4)
        cuts = [0]
        while cuts[-1] < n - 100:
            cuts.append(cuts[-1] + random.randint(32, 50))
        where = Placement("contiguous", n, tuple((Rows(low, high - low),) for low, high in pairwise([*cuts, n])))
        row = RowBytes(head_dim=random.choice((1, 8, 64)), item=random.choice((2, 8)))
        problem = Problem(lower(pattern, 4), where, 4 // group, row, random.random() < 0.5)
        segments = grids.grid_of(problem, (0,))
        assert isinstance(segments, Straddled)
        local = segments.local(segments.kinds)
        every = [(a, b) for a, b in np.argwhere(segments.kinds).tolist() if a != b]
        chunks = [chunk for (chunk,) in where.chunks]
        for a, q in enumerate(chunks):
            assert local[a] == m[:, q.first : q.last + 1, q.first : q.last + 1].sum()
            for b, k in enumerate(chunks):
                assert a == b or (a, b) in every or not m[:, q.first : q.last + 1, k.first : k.last + 1].any()
        stay = segments.meetings(every, queries_stay=True)
        for label, met in segments.meetings(every, queries_stay=False).items():
            a, b = every[label - 1]
            held = m[:, chunks[a].first : chunks[a].last + 1, chunks[b].first : chunks[b].last + 1]
            query, key = problem.weights
            least = sum(least_weight(held[h : h + group] > 0, query, key) for h in range(0, 4, group))
            assert met.weight == met.bound == least
            done, mixed = done + 1, mixed + bool(met.keys and met.queries)
            shipped, sent = np.zeros(held.shape[:2], bool), np.zeros((4 // group, held.shape[2]), bool)
            for flags, moved in ((shipped, met.queries), (sent, met.keys)):
                for heads, parts in moved:
                    for rows in parts:
                        assert not flags[np.ix_(heads, numbers(rows).tolist())].any()
                        flags[np.ix_(heads, numbers(rows).tolist())] = True
            assert shipped.sum() * query + sent.sum() * key == least
            of_k = np.repeat(sent, group, 0)
            assert (held[~shipped[:, :, None] & ~of_k[:, None, :]] == 0).all()
            at_query = (held * of_k[:, None, :]).sum()
            assert (sum(met.at_query), sum(met.at_key)) == (at_query, held.sum() - at_query)
            asked = np.zeros_like(sent)
            for heads, parts in stay[label].keys:
                for rows in parts:
                    asked[np.ix_(heads, numbers(rows).tolist())] = True
            assert (asked == held.any(1).reshape(4 // group, group, -1).any(1)).all()
            assert not stay[label].queries
    assert done > 20


@pytest.mark.parametrize(("modulus", "limit"), [(4, 2**21), (64, 2**21), (64, 1)])
def test_short_segments_across_many_edges(modulus: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose residues are many, too, edge by edge or all at once; on 40 ranks, as they were on thousands."""
    pattern = loads(f"pattern p = segment(250) {{ causal & pairs((q - k) % {modulus} == 3 * h % {modulus}) }}")
    n, ranks = 40 * 256 + 5, 40
    made = made_of_plans(monkeypatch)
    monkeypatch.setattr(straddled, "MAX_TABLE", limit)
    mine = found(pattern, n, ranks, kv_heads=2)
    assert made
    monkeypatch.setattr(straddled, "LONG", 2**40)
    every = found(pattern, n, ranks, kv_heads=2)
    assert len(made) == 1
    assert mine.schedule.certificate == every.schedule.certificate
    assert mine.schedule.certificate.exact
    for name in ("local", "keys_in", "queries_in"):
        assert (getattr(mine.solution, name) == getattr(every.solution, name)).all(), name
    assert (peers(mine.solution) == peers(every.solution)).all()


@pytest.mark.parametrize(
    ("text", "n", "ranks"),
    [
        ("segment(64) { causal & pairs((q - k) % 4 == h % 4) }", 500, 11),  # of three ranks
        ("segment(32) { pairs(q % 4 == 0 and q > k + 3) }", 500, 11),  # distances across an edge are looked at
        ("segment(32) { pairs((q - k) % 4 == 0) } + offset(-3..0)", 500, 11),
        ("segment(32) { random(3, seed=1) }", 500, 11),
        ("segment(16 + 16 * (h % 2)) { pairs((q - k) % 4 == 0) & causal }", 500, 11),
        ("segment(32) { pairs(q * k % 37 == 1) }", 500, 11),  # more residues than rows
    ],
)
def test_other_segments_are_planned_by_meeting(text: str, n: int, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = loads(f"pattern p = {text}")
    every = found(pattern, n, ranks)
    made = by_residues(monkeypatch)
    mine = found(pattern, n, ranks)
    assert mine.schedule.certificate == every.schedule.certificate
    assert not made


def test_sda_on_2048_ranks() -> None:
    """A billion tokens, each rank's segments elsewhere: of each residue of four the side that costs less."""
    solution = found(load("sda"), 10**9, 2048, heads=4, kv_heads=4).solution
    first = np.array([chunk.first for (chunk,) in solution.problem.placement.chunks])[1:]
    start = first // 8192 * 8192
    end = np.minimum(start + 8192, 10**9)

    def below(token: np.ndarray, residue: int) -> np.ndarray:
        return (token - residue + 3) // 4

    (query, key), least = solution.problem.weights, 0
    for head in range(4):
        for residue in range(4):
            queries = below(end, residue) - below(first, residue)
            keys = below(first, (residue - head) % 4) - below(start, (residue - head) % 4)
            least += int(np.minimum(queries * query, keys * key).sum())
    assert solution.certificate.minimum == solution.certificate.bound == least
    assert ((solution.which >= 0).sum(1) <= 1).all()


def test_long_segments_on_few_ranks() -> None:
    """Followed token by token they would be too many."""
    solution = found(load("sda"), 10**6, 64).solution
    assert solution.certificate.exact
    assert (solution.which >= 0).sum() == 63  # no edge of 15,625 r tokens is one of a segment
    assert found(load("sda"), 2**20, 64).schedule.certificate.minimum == 0
