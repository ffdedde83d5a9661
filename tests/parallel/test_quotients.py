"""Plans by classes of tokens and by alike meetings of ranks: against single rows where these are few, and at length."""

from __future__ import annotations

from random import Random

import attnc
import numpy as np
import pytest
from attnc.api import found_schedule
from attnc.lower import lower
from attnc.schedule import classes
from attnc.schedule import regions as room
from attnc.schedule.placements import at_length, placement
from attnc.schedule.quotient import quotient
from attnc.schedule.regions import Regions, regions
from attnc.schedule.tiled import namer

from attnlang import Pattern, load, loads
from attnlang.parallel import simulate
from attnlang.parallel.dense import alike_heads, positions, scope_of
from attnlang.pattern.pointwise import multiplicity_at
from attnlang.plan import Tiles
from attnlang.schedule import Schedule
from tests.parallel.test_covers import least_weight, rows_moved
from tests.parallel.test_exact import HEAD_DIM, check

GRIDS = [
    (load("sta", frames=4, rows=6, cols=8, tile=[2, 3, 4], w=[3, 1, 1]), 192),
    (load("sta", frames=5, rows=6, cols=7, tile=[2, 3, 4], w=[1, 1, 1]), 210),  # tiles that do not fill the grid
    (load("swin", rows=12, cols=16, w=4, shift=1), 192),
    (load("dilated2d", rows=9, cols=20, r=3), 180),
    (loads("pattern p = grid(6, 30) { blocks(2) { segment(2, shift=1) } * all }"), 180),
    (loads("pattern p = grid(12, 15) { blocks(2) { dilate(3) } * blocks(5) { offset(0..1) } }"), 180),
]
ALIKE = [
    (load("natten2d", rows=12, cols=16, w=5), 192),
    (load("stride_slash", w=6, l=8, sinks=3), 192),
    (load("svg_temporal", frame=12, w=2), 190),
    (load("longformer", w=7), 201),
    (loads("pattern p = pairs((q * k) % 7 == 3)"), 105),
]
KINDS = ("contiguous", "zigzag", "striped")


@pytest.mark.parametrize("number", range(len(GRIDS)))
def test_classes_have_the_pairs_of_their_tokens(number: int) -> None:
    pattern, n = GRIDS[number]
    scope = {"N": n, "H": 1, "h": 0}
    found = quotient(pattern.relation, n, {**scope, "n": n})
    assert found is not None
    assert found.n < n
    q, k = (x.reshape(-1) for x in np.indices((n, n)))
    among = multiplicity_at(found.relation, found.of(q), found.of(k), found.n, scope)
    assert (np.broadcast_to(among, n * n).reshape(n, n) == pattern.multiplicity(n, 1)[0]).all()


def test_a_grid_that_tells_every_position_apart_has_no_quotient() -> None:
    pattern, n = ALIKE[0]
    assert quotient(pattern.relation, n, {"N": n, "n": n, "H": 1, "h": 0}) is None


def needed(pattern: Pattern, schedule: Schedule) -> int:
    """The least cover of single rows, pair of ranks by pair of ranks."""
    m, row = pattern.multiplicity(schedule.n, schedule.heads), schedule.row_bytes
    weights = row.query(backward=True), row.key(backward=True)
    tokens = [positions(schedule.placement, rank) for rank in range(schedule.ranks)]
    total = 0
    for a in range(schedule.ranks):
        for b in range(schedule.ranks):
            held = m[:, tokens[a]][:, :, tokens[b]] > 0
            if a != b:
                parts = (held[i * schedule.group : (i + 1) * schedule.group] for i in range(schedule.kv_heads))
                total += sum(least_weight(part, *weights) for part in parts)
    return total


@pytest.mark.parametrize("number", range(len(GRIDS) + len(ALIKE)))
def test_bytes_and_pairs_are_those_of_single_rows(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By class, by alike meetings (which are named however few there are), and bands as blocks."""
    monkeypatch.setattr(room, "FEW", 2**40)
    monkeypatch.setattr(classes, "MANY_ROWS", 1)
    pattern, n = (GRIDS + ALIKE)[number]
    random = Random(number)
    kv_heads = random.choice([1, 2])
    found = found_schedule(
        pattern, n=n, ranks=random.randint(3, 6), heads=2, kv_heads=kv_heads, head_dim=HEAD_DIM, dtype="float64",
        placement=KINDS[number % 2], gpu="h100", link=None, backward=True, tables=None, objective="bytes",
    )  # fmt: skip
    schedule, s = found.schedule, found.solution
    least = needed(pattern, schedule)
    assert schedule.certificate.minimum == schedule.certificate.bound == least
    if not schedule.gathered:
        keys, queries = rows_moved(schedule)
        assert keys * schedule.row_bytes.key(True) + queries * schedule.row_bytes.query(True) == least
    true = pattern.multiplicity(n, 2).sum()
    assert (s.local + s.at_query + s.at_key + s.owned).sum() == true
    assert simulate(schedule).pairs == true


@pytest.mark.parametrize("number", [1, 2])
def test_plans_by_class_compute_the_pattern(number: int) -> None:
    pattern, n = GRIDS[number]
    schedule = attnc.plan(
        pattern, n=n, ranks=5, heads=2, head_dim=HEAD_DIM, dtype="float64", placement=KINDS[number - 1]
    )
    check(pattern, schedule, n, 2, {}, 2)


@pytest.mark.parametrize("number", range(len(ALIKE)))
def test_alike_meetings_have_equal_regions(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, n = ALIKE[number]
    ranks = 5
    plan = at_length(lower(pattern, 1), n)
    where = placement(KINDS[number % 3], plan, n, ranks)
    (branch,) = (branch for branch in plan.branches if isinstance(branch, Tiles))
    (heads,) = alike_heads(branch)
    scope = scope_of(plan, n, 0, {})
    every = regions(branch.relation, n, scope, where, heads)
    monkeypatch.setattr(room, "FEW", 2**40)
    named = regions(branch.relation, n, scope, where, heads, name=namer(branch.relation, n, 0, 1, scope))
    assert (every.local == named.local).all()
    for pair in range(ranks * ranks):
        assert (matrix(every, pair, n) == matrix(named, pair, n)).all()


def matrix(found: Regions, pair: int, n: int) -> np.ndarray:
    m, name = np.zeros((n, n), np.int64), found.name(pair)
    for (q0, q1, k0, k1), times in zip(*found.between(name), strict=True) if name is not None else ():
        m[q0 : q1 + 1, k0 : k1 + 1] += times
    return m


@pytest.mark.parametrize(
    ("pattern", "n", "ranks"),
    [
        (load("sta", frames=60, rows=128, cols=128), 983_040, 8),
        (load("stride_slash"), 2**20, 16),
        (load("tri_shape"), 2**20, 64),
    ],
)
def test_a_million_tokens_have_a_plan(pattern: Pattern, n: int, ranks: int) -> None:
    schedule = attnc.plan(pattern, n=n, ranks=ranks, heads=1, placement="contiguous")
    moved, each = schedule.certificate.minimum, schedule.row_bytes.key(backward=True)
    assert schedule.certificate.exact
    assert (ranks - 1) * each < moved < n * (ranks - 1) * each  # a row from every neighbour; less than an all-gather


def test_a_tile_of_frames_is_the_halo_of_sliding_tiles() -> None:
    """Ranks that hold whole tiles of frames see the next tile on either side, and two at the video's ends."""
    pattern = load("sta", frames=48, rows=16, cols=16, tile=[6, 8, 8], w=[3, 3, 3])
    schedule = attnc.plan(pattern, n=48 * 256, ranks=8, heads=1, placement="contiguous")
    assert rows_moved(schedule) == ((2 * 7 + 2) * 6 * 256, 0)
    assert schedule.certificate.exact


@pytest.mark.parametrize("text", ["grid(n // 4, 4) { causal * all }", "grid(4, n // 4) { all * causal }"])
def test_a_size_of_an_axis_may_depend_on_the_length(text: str) -> None:
    pattern = loads(f"pattern p = {text}")
    schedule = attnc.plan(pattern, n=96, ranks=6, heads=2)
    assert simulate(schedule).pairs == pattern.multiplicity(96, 2).sum()


@pytest.mark.parametrize(
    "text",
    [
        "blocks(2) { window(max(1, N // 20)) } * segment(3) { all }",
        "blocks(2) { offset(..-(N // 47)) } * segment(3) { all }",
    ],
)
def test_what_asks_for_the_length_of_the_sequence_is_not_asked_among_classes(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which there are fewer: meetings were named as those of a shorter sequence."""
    monkeypatch.setattr(room, "FEW", 2**40)
    pattern, n = loads(f"pattern p = grid(12, 8) {{ {text} }}"), 96
    for ranks in range(3, 12):
        schedule = attnc.plan(pattern, n=n, ranks=ranks, heads=2, placement="contiguous")
        assert schedule.certificate.minimum == schedule.certificate.bound == needed(pattern, schedule)
        assert simulate(schedule).pairs == pattern.multiplicity(n, 2).sum()
