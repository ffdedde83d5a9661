"""Plans of lattices whose shards are no multiples of their periods, against single rows; and of shards cut at them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import attnc
import numpy as np
import pytest
from attnc.api import found_schedule
from attnc.lower import lower
from attnc.schedule import alike, residues, seen
from attnc.schedule.counts import stretch_pairs
from attnc.schedule.placements import ROOM, at_length, longer_units, placement
from attnc.schedule.search import Found
from attnc.schedule.seen import Seen
from attnc.schedule.solution import Problem
from attnc.schedule.solver import solve

from attnlang import loads
from attnlang.parallel import simulate
from attnlang.parallel.dense import positions
from attnlang.plan import Band, Columns, Lattice, Plan, Runs
from attnlang.rows import Rows
from attnlang.schedule import Placement, RowBytes, Schedule, Transfer
from tests.parallel.test_covers import least_weight, rows_moved
from tests.parallel.test_exact import HEAD_DIM, HEADS, check
from tests.parallel.test_pairs import matrix, some_branch, tokens

TEXTS = [
    "causal & mix(segment(w) { dilate(r, shift=h) } for w, r in zip([8, 16, 32], [1, 2, 3]))",
    "mix(segment(w) { dilate(r, shift=h) } for w, r in zip([12, 36], [2, 6]))",
    "causal & (segment(12) | key(pos % 12 >= 10))",
    "causal & (offset(-9..0) | offset(..0 step 9))",
    "offset(-5..5 step 5) + segment(7)",
    "heads(0..H//2) { window(9) } | heads(H//2..H) { causal & offset(..0 step 5) }",
]


def test_pairs_of_a_stretch_are_counted_by_formula() -> None:
    random = Random(1)
    for _ in range(300):
        branches, n = tuple(some_branch(random) for _ in range(2)), random.randint(1, 60)
        plan, first = Plan(3, branches), random.randint(0, 40)
        m = matrix(plan, first + n)[:, first:, first:]
        assert stretch_pairs(plan, Rows(first, n)) == m.sum(), (plan, first, n)


def some_placement(random: Random, n: int) -> Placement:
    cuts = sorted([0, n, *random.sample(range(1, n), random.randint(2, 7))])
    if random.random() < 0.5:
        width = random.randint(3, 9)
        cuts = [*range(0, n, width), n]
    pieces = [Rows(low, high - low) for low, high in pairwise(cuts)]
    if random.random() < 0.5:
        return Placement("contiguous", n, tuple((piece,) for piece in pieces))
    pieces = pieces[: len(pieces) // 2 * 2]
    pairs = zip(pieces[: len(pieces) // 2], pieces[::-1], strict=False)
    return Placement("zigzag", pieces[-1].last + 1, tuple(pairs))


@pytest.mark.parametrize("mixing", [True, False])
def test_meetings_that_see_the_same_have_the_same_pairs(mixing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where every meeting is mixed to one number."""
    if not mixing:
        monkeypatch.setattr(seen, "_mixed", lambda columns: np.zeros(columns.shape[1], np.uint64))
    random, alike_ones = Random(7), 0
    for _ in range(120):
        branches = [some_branch(random) for _ in range(random.randint(1, 2))]
        alike_ones += check_seen(branches, some_placement(random, random.randint(20, 70)))
    assert alike_ones > 500


@pytest.mark.parametrize("band", [Band(-9, 0), Band(None, -9), Band(-9, None), Band(3, 9), Band(-21, -3)])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_distances_count_where_a_band_ends(band: Band, dilation: int) -> None:
    """Ranks two and three apart are cut by it at other rows, though they hold the same residues."""
    where = Placement("contiguous", 48, tuple((Rows(first, 4),) for first in range(0, 48, 4)))
    heads, runs = (0, 1, 2), Runs(28, 28, 2)
    for branch in (
        Lattice(heads, None, dilation, None, band),
        Lattice(heads, runs, dilation, (0,) * 3, band),
        Columns(heads, 2, 0, 1, band),
    ):
        assert check_seen([branch], where) > 0


def check_seen(branches: list[Lattice | Columns], where: Placement) -> int:
    """That meetings in a group have the same pairs, and others none; how many need not be solved."""
    ranks, alike_ones = where.ranks, 0
    m = np.stack([matrix(Plan(3, (branch,)), where.n) for branch in branches])
    rows = [positions(where, rank) for rank in range(ranks)]
    a, b = (x.reshape(-1) for x in np.indices((ranks, ranks)))
    a, b = a[a != b], b[a != b]
    left = set(range(len(a)))
    for _, places in Seen(branches, where).groups(a, b):
        pairs = [np.argwhere(m[:, :, rows[a[i]]][..., rows[b[i]]]).tolist() for i in places]
        assert all(part == pairs[0] for part in pairs)  # (branch, head, row of a, row of b)
        left -= set(places.tolist())
        alike_ones += len(places) - 1
    assert not any(m[:, :, rows[a[i]]][..., rows[b[i]]].any() for i in left)
    return alike_ones


def needed(schedule: Schedule, m: np.ndarray) -> int:
    row, group = schedule.row_bytes, schedule.group
    weights = row.query(backward=True), row.key(backward=True)
    rows = [positions(schedule.placement, rank) for rank in range(schedule.ranks)]
    return sum(
        least_weight(m[i : i + group, rows[a]][:, :, rows[b]] > 0, *weights)
        for a in range(schedule.ranks)
        for b in range(schedule.ranks)
        for i in range(0, schedule.heads, group)
        if a != b
    )


@pytest.mark.parametrize("kind", ["contiguous", "zigzag"])
@pytest.mark.parametrize("text", TEXTS)
def test_plans_by_what_ranks_see_are_those_of_every_meeting(
    text: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern, n, ranks = loads(f"pattern p = {text}"), 103, 6
    made: list[Schedule] = []
    for few in (0, 2**30):
        monkeypatch.setattr(alike, "FEW_KINDS", few)
        made.append(attnc.plan(pattern, n=n, ranks=ranks, heads=HEADS, kv_heads=2, placement=kind))
    by_sight, by_kind = made
    for a in range(ranks):
        assert list(by_sight.peers(a)) == list(by_kind.peers(a))
    assert (by_sight.certificate, by_sight.rejected) == (by_kind.certificate, by_kind.rejected)
    m = pattern.multiplicity(n, HEADS)
    assert by_sight.certificate.minimum == by_sight.certificate.bound == needed(by_sight, m)
    assert simulate(by_sight).pairs == m.sum()


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("kind", ["contiguous", "zigzag"])
@pytest.mark.parametrize("text", ["offset(..0 step 9)", "offset(-90.. step 9)", "dilate(7)", TEXTS[3], TEXTS[5]])
def test_a_kind_of_classes_stands_for_all(text: str, kind: str, kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of shards with fewer rows than there are classes, too; queries may be the cheaper side, or stay."""
    pattern = loads(f"pattern p = {text}")
    for n, ranks in ((103, 6), (41, 4), (212, 5)):
        made: list[Found] = []
        for few in (1, 2**30):
            monkeypatch.setattr(residues, "FEW_CLASSES", few)
            made.append(
                found_schedule(
                    pattern, n=n, ranks=ranks, heads=HEADS, kv_heads=kv_heads, head_dim=HEAD_DIM, dtype="float64",
                    placement=kind, gpu="h100", link=None, backward=True, tables=None, objective="time",
                )
            )  # fmt: skip
        by_kind, by_class = (found.schedule for found in made)
        for a in range(ranks):
            assert [(b, moved(t)) for b, t in by_kind.peers(a)] == [(b, moved(t)) for b, t in by_class.peers(a)]
        assert (by_kind.certificate, by_kind.choices) == (by_class.certificate, by_class.choices)
        assert by_kind.rejected == by_class.rejected
        for name in ("at_query", "at_key"):
            assert (getattr(made[0].solution, name) == getattr(made[1].solution, name)).all()
        assert by_kind.certificate.minimum == needed(by_kind, pattern.multiplicity(n, HEADS))


def moved(transfer: Transfer) -> tuple[Any, ...]:
    """Every row that moves, of keys and of queries."""
    return tuple(
        sorted((head, row) for part in side for head in part.heads for row in tokens(part.rows))
        for side in (transfer.keys, transfer.queries)
    )


def cut_at(text: str, n: int, ranks: int, kind: str = "contiguous") -> tuple[Plan, list[Placement]]:
    plan = at_length(lower(loads(f"pattern p = {text}"), HEADS), n)
    return plan, [placement(kind, plan, n, ranks, unit) for unit in longer_units(kind, plan, n, ranks)]


@pytest.mark.parametrize("kind", ["contiguous", "zigzag"])
def test_longer_units_cut_between_periods_and_leave_every_rank_tokens(kind: str) -> None:
    random, tried = Random(2), 0
    for _ in range(200):
        n, ranks = random.randint(200, 2000), random.randint(2, 9)
        plan, found = cut_at(random.choice(TEXTS), n, ranks, kind)
        for unit, where in zip(longer_units(kind, plan, n, ranks), found, strict=True):
            tried += 1
            pieces = sorted((piece for chunks in where.chunks for piece in chunks), key=lambda piece: piece.first)
            assert [piece.first for piece in pieces] == [0, *(piece.last + 1 for piece in pieces[:-1])]
            assert pieces[-1].last == n - 1
            assert all(piece.first % unit == 0 for piece in pieces)
            assert len(pieces) == ranks * len(where.chunks[0])
            assert ROOM * max(where.sizes) * ranks <= (ROOM + 1) * n
    assert tried > 50
    assert longer_units("contiguous", *cut_at("segment(64)", 64 * 19, 20)[:1], 64 * 19, 20) == ()  # one would have none


def test_shards_at_multiples_of_a_period_are_chosen_by_time() -> None:
    """Segments that lie within one rank need no other; where shards were too unequal they are not tried."""
    text = "causal & mix(segment(w) { dilate(r, shift=h) } for w, r in zip([8, 16], [1, 2]))"
    schedule = attnc.plan(loads(f"pattern p = {text}"), n=1000, ranks=6, heads=HEADS)
    assert schedule.placement.sizes == (160, 176, 160, 176, 160, 168)
    assert not schedule.transfers
    assert schedule.choices == ("local: nothing moves",) * 2
    moved = {a.name.partition(",")[0]: a.bytes_total for a in schedule.rejected}
    assert moved["contiguous"] > moved["contiguous at multiples of 8"] > 0
    given = attnc.plan(loads(f"pattern p = {text}"), n=1000, ranks=6, heads=HEADS, placement="contiguous")
    assert max(given.placement.sizes) - min(given.placement.sizes) == 1
    none = attnc.plan(loads("pattern p = segment(300)"), n=1000, ranks=6, heads=HEADS)
    assert max(none.placement.sizes) - min(none.placement.sizes) <= 1
    assert not any("multiples" in a.name for a in none.rejected)


def test_two_stretches_a_rank_are_cut_at_multiples_alone_where_these_are_far_from_the_best() -> None:
    for name, is_tried in (("fixed", True), ("longnet", False)):
        schedule = attnc.plan(name, n=10**6, ranks=64, heads=2)
        named = {a.name.partition(",")[0] for a in schedule.rejected}
        assert ("zigzag" in named or set(schedule.placement.sizes) == {15625}) == is_tried
        assert any("zigzag at multiples of" in each for each in named)
    small = attnc.plan(loads("pattern p = causal & (segment(16) | key(pos % 16 >= 14))"), n=610, ranks=4, heads=1)
    named = {a.name.partition(",")[0] for a in small.rejected}
    assert {"contiguous", "contiguous at multiples of 16", "zigzag"} <= named
    assert "zigzag at multiples of 16" in named or small.placement.kind == "zigzag"


@pytest.mark.parametrize("text", TEXTS[:4])
@pytest.mark.parametrize("kind", ["contiguous", "zigzag"])
def test_unequal_shards_compute_the_pattern(text: str, kind: str) -> None:
    """On the placements that are tried, with owners and without."""
    n, ranks = 211, 3
    pattern, (plan, found) = loads(f"pattern p = {text}"), cut_at(text, n, ranks, kind)
    assert found
    where = found[-1]
    assert len(set(where.sizes)) > 1
    problem = Problem(plan, where, 2, RowBytes(HEAD_DIM, 8))
    owned = [number for number, branch in enumerate(plan.branches) if isinstance(branch, Lattice)]
    m = pattern.multiplicity(n, HEADS)
    for gathered in ([], owned) if kind == "contiguous" else ([],):
        schedule = solve(problem, gathered).schedule(dtype="float64")
        check(pattern, schedule, n, 2, {})
        assert simulate(schedule).pairs == m.sum()
        if not gathered:
            assert schedule.certificate.minimum == schedule.certificate.bound == needed(schedule, m)


def test_a_plan_lies_where_another_does() -> None:
    where = attnc.plan("longnet", n=10**6, ranks=48, heads=2).placement
    schedule = attnc.plan("sliding", n=10**6, ranks=48, heads=2, placement=where)
    assert schedule.placement == where
    assert rows_moved(schedule)[0] == 47 * 4095 * 2
    mixed = replace(where, chunks=(where.chunks[1], where.chunks[0], *where.chunks[2:]))
    for wrong, message in (
        (where, "48 ranks, and not of 1,000,000 tokens on 47 ranks"),
        (mixed, "none of kind 'contiguous'"),
        (replace(where, kind="striped"), "none of kind 'striped'"),
        (replace(where, kind="diagonal"), "none of kind 'diagonal'"),
    ):
        with pytest.raises(ValueError, match=message):
            attnc.plan("sliding", n=10**6, ranks=47 if wrong is where else 48, heads=2, placement=wrong)


@pytest.mark.parametrize(("name", "most"), [("longnet", 0), ("fixed", 200), ("strided", 200), ("scca_fixed", 500)])
def test_few_meetings_of_a_million_tokens_are_solved(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 64 ranks of 15,625 tokens each, of which no two begin at the same place of the pattern's period.

    LongNet's are weighed side by side, and none by itself.
    """
    from attnc.schedule import solver

    solved = 0

    def counted(*args: Any) -> Any:
        nonlocal solved
        solved += 1
        return cover(*args)

    cover = solver.least_cover
    monkeypatch.setattr(solver, "least_cover", counted)
    schedule = attnc.plan(name, n=10**6, ranks=64, heads=2, placement="contiguous")
    assert set(schedule.placement.sizes) == {15625}
    assert schedule.certificate.exact
    assert min(most, 1) <= solved <= most
