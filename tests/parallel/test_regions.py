"""Regions of patterns that are no lattices, and plans from them: against matrices, and against formulas at length."""

from __future__ import annotations

import time
from random import Random

import attnc
import numpy as np
import pytest
from attnc.lower import lower
from attnc.schedule import regions as room
from attnc.schedule.classes import least_covers
from attnc.schedule.lines import Meeting, Strided
from attnc.schedule.placements import at_length, placement
from attnc.schedule.regions import regions

from attnlang import Pattern, load, loads
from attnlang.parallel.dense import alike_heads, positions, scope_of
from attnlang.pattern import listed
from attnlang.plan import Band, Tiles
from attnlang.rows import Rows
from attnlang.schedule import Schedule
from tests.parallel.test_covers import least_weight, rows_moved

TILED = [
    "longformer", "bigbird", "etc", "deepspeed_fixed_causal", "global_tokens", "random_blocks", "natten1d", "streaming",
    "bslongformer", "deepspeed_sliding", "star_transformer", "prefix_lm",
]  # fmt: skip
KINDS = ("contiguous", "zigzag", "striped")


def grids() -> list[Pattern]:
    sta = load("sta", frames=4, rows=6, cols=16, tile=[2, 3, 4], w=[3, 3, 3])
    return [load("natten2d", rows=16, cols=24), sta, load("axial", rows=16, cols=24), load("swin", rows=16, cols=24)]


@pytest.mark.parametrize("number", range(len(TILED)))
def test_regions_are_the_pattern(number: int) -> None:
    random = Random(number)
    check_regions(load(TILED[number]), random.randint(150, 450), random.randint(2, 7), KINDS[number % 3])


@pytest.mark.parametrize("number", range(4))
def test_regions_of_grids(number: int) -> None:
    check_regions(grids()[number], 384, 5, KINDS[number % 3])


def check_regions(pattern: Pattern, n: int, ranks: int, kind: str) -> None:
    heads = 2
    plan = at_length(lower(pattern, heads), n)
    where = placement(kind, plan, n, ranks)
    tokens = [positions(where, rank) for rank in range(ranks)]
    m = pattern.multiplicity(n, heads)
    for branch in plan.branches:
        if not isinstance(branch, Tiles):
            continue
        alone = loads_relation(branch, n, heads)
        for alike in alike_heads(branch):
            found = regions(branch.relation, n, scope_of(plan, n, alike[0], {}), where, alike)
            true = alone[alike[0]]
            assert (m[alike[0]] >= true).all()
            for a in range(ranks):
                for b in range(ranks):
                    held = true[np.ix_(tokens[a], tokens[b])]
                    if a == b:
                        assert found.local[a] == held.sum()
                        continue
                    mine, name = np.zeros_like(held), found.name(a * ranks + b)
                    boxes, counts = found.between(name) if name is not None else ([], [])
                    for (q0, q1, k0, k1), times in zip(boxes, counts, strict=True):
                        mine[q0 : q1 + 1, k0 : k1 + 1] += times
                    assert (mine == held).all()


def loads_relation(branch: Tiles, n: int, heads: int) -> np.ndarray:
    """The matrix of a branch by the oracle."""
    from dataclasses import replace

    return replace(load("dense"), relation=branch.relation).multiplicity(n, heads)


@pytest.mark.parametrize("number", range(len(TILED)))
def test_bytes_planned_are_the_bytes_needed(number: int) -> None:
    """The least cover of single rows, pair of ranks by pair of ranks, is what the plan moves."""
    random = Random(number)
    n, ranks, heads, kind = random.randint(70, 130), random.randint(2, 4), 4, KINDS[number % 3]
    small = {"bigbird": {"b": 8}, "random_blocks": {"b": 8}, "longformer": {"w": 9}, "etc": {"g": 5, "r": 7}}
    pattern, kv_heads = load(TILED[number], **small.get(TILED[number], {})), random.choice([1, 2, 4])
    schedule = attnc.plan(pattern, n=n, ranks=ranks, heads=heads, kv_heads=kv_heads, placement=kind)
    m, row, group = pattern.multiplicity(n, heads), schedule.row_bytes, heads // kv_heads
    weights = row.query(backward=True), row.key(backward=True)
    tokens = [positions(schedule.placement, rank) for rank in range(ranks)]
    needed = 0
    for a in range(ranks):
        for b in range(ranks):
            held = m[:, tokens[a]][:, :, tokens[b]] > 0
            if a != b:
                needed += sum(least_weight(held[i * group : (i + 1) * group], *weights) for i in range(kv_heads))
    assert schedule.certificate.minimum == needed
    assert schedule.certificate.bound == needed
    if not schedule.gathered:
        moved = rows_moved(schedule)
        assert moved[1] * weights[0] + moved[0] * weights[1] == needed


def test_covers_of_rectangles_and_bands_together() -> None:
    random = Random(7)
    jobs, truths = [], []
    for _ in range(40):
        held = np.zeros((2, 24, 24), bool)
        meetings = []
        for head in range(random.randint(1, 2)):
            boxes = []
            for _ in range(random.randint(0, 4)):
                q0, k0 = random.randint(0, 20), random.randint(0, 20)
                boxes.append((q0, min(23, q0 + random.randint(0, 6)), k0, min(23, k0 + random.randint(0, 6))))
            strided = []
            for _ in range(random.randint(0 if boxes else 1, 2)):
                step = random.randint(1, 3)
                q, k = (Rows(random.randint(0, 2), random.randint(1, 7), step) for _ in range(2))
                lo = random.choice([None, -3, 0])
                strided.append(Strided(q, k, Band(lo, random.choice([None, 1, 4]))))
            for q0, q1, k0, k1 in boxes:
                held[head, q0 : q1 + 1, k0 : k1 + 1] = True
            for part in strided:
                low, high = part.keys_of()
                for i in range(part.q.count):
                    for j in range(low[i], high[i]):
                        held[head, part.q.first + i * part.q.step, part.k.first + j * part.k.step] = True
            meetings.append(Meeting((head,), np.array(boxes, np.int64).reshape(-1, 4), tuple(strided)))
        jobs.append(tuple(meetings))
        truths.append(held)
    for chosen, held in zip(least_covers(jobs, 7, 5), truths, strict=True):
        assert chosen.weight == chosen.bound == least_weight(held, 7, 5)
        left = held.copy()
        for rows in chosen.keys:
            left[:, :, rows.first : rows.last + 1 : rows.step] = False
        for heads, parts in chosen.queries:
            for rows in parts:
                left[list(heads), rows.first : rows.last + 1 : rows.step] = False
        assert not left.any()


def test_too_many_edges_move_one_side_with_an_honest_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnc.schedule import classes

    monkeypatch.setattr(classes, "MAX_EDGES", 10)
    triangle = Strided(Rows(0, 12), Rows(0, 12), Band(0, None))
    job = (Meeting((0,), np.array([[0, 3, 0, 3]], np.int64), (triangle,)),)
    (chosen,) = least_covers([job], 7, 5)
    assert chosen.bound <= 12 * 5 == chosen.weight


@pytest.mark.parametrize(
    ("pattern", "n", "ranks", "moved"),
    [
        # two halos of 256 rows; the global key to every other rank, the global query to every other rank
        (load("longformer"), 10**6, 64, (63 * 2 * 256 + 63, 63)),
        (load("longformer"), 10**9, 4096, (4095 * 2 * 256 + 4095, 4095)),
        (load("natten2d", rows=1000, cols=1000), 10**6, 8, (14 * 3000, 0)),
    ],
)
def test_long_sequences_are_planned_in_seconds(pattern: Pattern, n: int, ranks: int, moved: tuple[int, int]) -> None:
    start = time.perf_counter()
    schedule = attnc.plan(pattern, n=n, ranks=ranks, heads=2, placement="contiguous")
    assert time.perf_counter() - start < 60
    assert rows_moved(schedule) == (2 * moved[0], 2 * moved[1])
    assert schedule.certificate.exact


def test_blocks_drawn_at_random_over_a_hundred_thousand_tokens() -> None:
    schedule = attnc.plan(load("bigbird"), n=2**17, ranks=16, heads=2, placement="contiguous")
    assert schedule.certificate.exact


def test_keys_drawn_in_long_frames_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are more positions than cells in which drawn keys are counted."""
    monkeypatch.setattr(listed, "MOST_CELLS", 32)
    monkeypatch.setattr(listed, "CELLS", 16)
    check_regions(loads("pattern p = random(3, seed=0) { ~offset(-1..1) } | key(pos == n - 1)"), 211, 5, "contiguous")
    check_regions(load("bigbird", b=3), 300, 4, "zigzag")


def test_what_is_too_fine_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_POINTS", 2**16)
    with pytest.raises(ValueError, match=r"no lattice.*n = 4,096 on 4 ranks.*65,536 of its pairs one by one"):
        attnc.plan(loads("pattern p = pairs((q * k) % 7 == 3)"), n=4096, ranks=4, heads=2, placement="contiguous")


def test_schedules_of_tiles_survive_json() -> None:
    import json

    schedule = attnc.plan(load("bigbird", b=8), n=200, ranks=3, heads=2, placement="contiguous")
    again = Schedule.from_json(json.loads(json.dumps(schedule.to_json())))
    assert (again, again.digest) == (schedule, schedule.digest)
