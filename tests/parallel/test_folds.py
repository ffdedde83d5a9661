"""Plans by classes of rows, of listed draws and without a graph: against single rows, and at a million tokens."""

from __future__ import annotations

from random import Random
from typing import Any

import attnc
import numpy as np
import pytest
from attnc.analysis.boxes import Counter
from attnc.api import found_schedule
from attnc.schedule import drawn, folds, joint, shares
from attnc.schedule import regions as room
from attnc.schedule.classes import least_covers
from attnc.schedule.folds import Folder, rectangles_of
from attnc.schedule.joint import joined, put_back
from attnc.schedule.lines import Meeting
from attnc.schedule.regions import TooFineError

from attnlang import Pattern, load, loads
from attnlang.parallel import simulate
from attnlang.parallel.dense import positions
from attnlang.pattern import bounds, listed
from attnlang.pattern.tables import Content, key
from attnlang.rows import Rows
from tests.parallel.test_covers import least_weight, rows_moved
from tests.parallel.test_exact import HEAD_DIM, check

RANDOM = np.random.default_rng(0)
TABLES: dict[str, Any] = {
    "is_global": RANDOM.random(192) < 0.04,
    "image": np.where(RANDOM.random(192) < 0.5, np.arange(192) // 30, -1),
    "text": np.where(RANDOM.random(192) < 0.5, np.arange(192) // 30, -1),
    "chosen": RANDOM.random((4, 24, 24)) < 0.2,
}
PATTERNS: list[Pattern] = [
    load("axial", rows=12, cols=16),
    load("svg_temporal", frame=20, w=3),
    load("svg_temporal_gym", prompt=11, frames=9, frame=20, width=2),
    load("deepspeed_variable", block=4, windows=[3, 2], globals=[0, 7], horizontal=True),
    load("deepspeed_fixed", block=4, patterns=2, horizontal=True),
    load("deepspeed_fixed_causal", block=4),
    load("fixed_heads", block=4),
    load("phi3_small", block=4, local=3, stride=4),
    load("longformer_mask", w=6),
    load("flamingo"),
    load("block_table", b=8),
    loads("pattern p = pairs((q - k) % 7 == 3 or q % 5 == k % 3)"),
    loads("pattern p = causal & (key(pos % 8 == 3) | query(pos % 6 == h)) + pairs(q // 9 == k % 4)"),
    load("bigbird", b=4),
    load("deepspeed_bigbird", block=4),
    loads("pattern p = blocks(5) { random(2, seed=h) + offset(-1..0) }"),
    loads("pattern p = causal & blocks(4) { random(3, seed=1) }"),  # drawn inside of a frame: searched for
]


def cut_finely(monkeypatch: pytest.MonkeyPatch, gain: int) -> None:
    """Stretches are cut until classes stand for so many pairs of rows, however many parts that takes."""
    monkeypatch.setattr(folds, "GAIN", gain)
    monkeypatch.setattr(folds, "FEW_CELLS", 4)
    monkeypatch.setattr(folds, "MAX_PATCHES", 10**6)


def tables_of(pattern: Pattern) -> dict[str, Any]:
    return {name: np.asarray(TABLES[name], np.int64) for name, _ in pattern.tables}


@pytest.mark.parametrize("number", range(len(PATTERNS)))
def test_bytes_and_pairs_are_those_of_single_rows(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is made for long sequences, at a length where single rows can be covered."""
    cut_finely(monkeypatch, 8 * (number % 3) + 1)
    monkeypatch.setattr(room, "FEW", 2**40)
    monkeypatch.setattr(shares, "MANY_EDGES", 1)
    random, pattern, n = Random(number), PATTERNS[number], 192
    kv_heads, ranks, kind = random.choice([1, 2, 4]), random.randint(3, 5), ("contiguous", "zigzag")[number % 2]
    tables = tables_of(pattern)
    found = found_schedule(
        pattern, n=n, ranks=ranks, heads=4, kv_heads=kv_heads, head_dim=HEAD_DIM, dtype="float64", placement=kind,
        gpu="h100", link=None, backward=True, tables=tables, objective="bytes",
    )  # fmt: skip
    schedule, s = found.schedule, found.solution
    m, row, group = pattern.multiplicity(n, 4, **tables), schedule.row_bytes, 4 // kv_heads
    weights = row.query(backward=True), row.key(backward=True)
    tokens = [positions(schedule.placement, rank) for rank in range(ranks)]
    least = sum(
        least_weight(m[i * group : (i + 1) * group, tokens[a]][:, :, tokens[b]] > 0, *weights)
        for a in range(ranks)
        for b in range(ranks)
        for i in range(kv_heads)
        if a != b
    )
    assert schedule.certificate.minimum == schedule.certificate.bound == least
    if not schedule.gathered:
        keys, queries = rows_moved(schedule)
        assert keys * weights[1] + queries * weights[0] == least
    assert (s.local + s.at_query + s.at_key + s.owned).sum() == m.sum()
    assert simulate(schedule).pairs == m.sum()
    own = [m[:, tokens[rank]][:, :, tokens[rank]].sum() for rank in range(ranks)]
    assert s.local.tolist() == own


@pytest.mark.parametrize("number", [0, 1, 7, 8, 13])
def test_plans_by_class_compute_the_pattern(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FEW", 2**40)
    cut_finely(monkeypatch, 8 * (number % 3) + 1)
    pattern, tables = PATTERNS[number], tables_of(PATTERNS[number])
    schedule = attnc.plan(
        pattern, n=192, ranks=5, heads=2, head_dim=HEAD_DIM, dtype="float64", placement="contiguous", tables=tables
    )
    check(pattern, schedule, 192, 2, tables, 2)


@pytest.mark.parametrize("gain", [1, 6, 60])
@pytest.mark.parametrize("number", [0, 1, 3, 6, 9, 11])
def test_patches_hold_each_pair_once(number: int, gain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stretches anywhere, in rows as they are and in rows by class."""
    cut_finely(monkeypatch, gain)
    pattern, n, random = PATTERNS[number], 192, Random(number)
    tables = {key(name): Content(name, content) for name, content in tables_of(pattern).items()}
    m = pattern.multiplicity(n, 2, **tables_of(pattern))[1]
    folder = Folder(pattern.relation, n, 1, 2, tables, (16, 4))
    for _ in range(12):
        q, k = (Rows(random.randint(0, 120), random.randint(1, 70)) for _ in range(2))
        patches = folder.patches(q, k, folder.meeting(q, k))
        assert patches is not None
        true = m[q.first : q.last + 1, k.first : k.last + 1]
        assert sum(patch.pairs for patch in patches) == true.sum()
        placed = ((joint.Placed(patches, 2, 3),),)
        for as_they_are in (True, False):
            whole = joined(placed, q.count + 2, k.count + 3, as_they_are=as_they_are)
            mine = np.zeros((q.count + 2, k.count + 3), np.int64)
            ((boxes, times),) = whole.parts
            for (q0, q1, k0, k1), count in zip(boxes, times, strict=True):
                mine[np.ix_(_places(whole.q, q0, q1), _places(whole.k, k0, k1))] += count
            assert (mine[2:, 3:] == true).all()
            assert not mine[:2].any()
            assert not mine[:, :3].any()


def _places(order: joint.Order | None, first: int, last: int) -> np.ndarray:
    if order is None:
        return np.arange(first, last + 1)
    parts = put_back(order, (Rows(int(first), int(last - first + 1)),))
    return np.concatenate([part.first + part.step * np.arange(part.count) for part in parts])


def test_rectangles_of_a_matrix() -> None:
    values = RANDOM.integers(0, 3, (9, 14))
    mine = np.zeros_like(values)
    for (q0, q1, k0, k1), times in zip(*rectangles_of(values), strict=True):
        mine[q0 : q1 + 1, k0 : k1 + 1] += times
    assert (mine == values).all()
    assert len(rectangles_of(np.zeros((3, 4), np.int64))[0]) == 0


def test_one_side_is_chosen_only_where_it_is_a_least_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of jobs drawn at random, some with a mixed cover: a side that is not least is never called one."""
    monkeypatch.setattr(shares, "MANY_EDGES", 1)
    random, jobs, truths = Random(3), [], []
    for _ in range(60):
        held, boxes = np.zeros((1, 30, 30), bool), []
        for q in range(0, 30, random.choice([1, 2, 5])):
            k0 = random.randint(0, 29)
            boxes.append((q, q, k0, min(29, k0 + random.randint(0, 12))))
            held[0, q, k0 : boxes[-1][3] + 1] = True
        jobs.append((Meeting((0,), np.array(boxes, np.int64)),))
        truths.append(held)
    sides = shares.one_sided(jobs, 7, 5)
    for side, held in zip(sides, truths, strict=True):
        rows = {"queries": held[0].any(1).sum() * 7, "keys": held[0].any(0).sum() * 5}
        assert not side or rows[side] == least_weight(held, 7, 5)
    assert {"queries", "keys"} & set(sides)
    for chosen, held in zip(least_covers(jobs, 7, 5), truths, strict=True):
        assert chosen.weight == chosen.bound == least_weight(held, 7, 5)


def test_boxes_of_many_origins_are_counted_right_and_shared() -> None:
    """Pairs of a rank with itself at any origin; ranks one period apart ask for nothing new."""
    pattern, n, counter = load("phi3_small", block=4, local=3, stride=4), 1024, Counter({})
    m = pattern.multiplicity(n, 2)[1]
    for first in (0, 3, 17, 130, 131):
        stretch = Rows(first, 333)
        expected = m[first : first + 333, first : first + 333].sum()
        assert counter.rectangle(pattern.relation, n, 1, 2, stretch, stretch) == expected
    boxes = counter._boxes  # pyright: ignore[reportPrivateUsage] - what was counted
    known = len(boxes._known)  # pyright: ignore[reportPrivateUsage] - likewise
    moved = Rows(130 + 16 * 5, 333)
    counter.rectangle(pattern.relation, n, 1, 2, moved, moved)
    assert len(boxes._known) == known  # pyright: ignore[reportPrivateUsage] - likewise


def test_tables_of_pairs_are_counted_in_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds are never narrower than the truth, in frames of at most and of more than the cells."""
    pattern, n = load("block_table", b=8), 192
    tables = tables_of(pattern)
    m = pattern.multiplicity(n, 2, **tables)[0]
    scope = {"N": n, "H": 2, "h": 0, key("chosen"): Content("chosen", tables["chosen"])}
    ends = np.sort(RANDOM.integers(0, n, (200, 2, 2)), axis=2)
    where = bounds.Rectangles(ends[:, 0, 0], ends[:, 0, 1], ends[:, 1, 0], ends[:, 1, 1])
    for most, cells in ((4096, 1024), (8, 5)):
        monkeypatch.setattr(listed, "MOST_CELLS", most)
        monkeypatch.setattr(listed, "CELLS", cells)
        lo, hi = bounds.Bounds(pattern.relation, n, scope)(where)
        for i, (q0, q1, k0, k1) in enumerate(zip(where.q0, where.q1, where.k0, where.k1, strict=True)):
            held = m[q0 : q1 + 1, k0 : k1 + 1]
            assert lo[i] <= held.min()
            assert held.max() <= hi[i]


def test_too_many_draws_are_refused_before_any_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "drawn", None)
    with pytest.raises(TooFineError, match=r"draws 562,500,000 blocks of 64 tokens .*Use larger blocks"):
        attnc.plan(load("bigbird"), n=10**9, ranks=64, heads=12, placement="contiguous")


@pytest.mark.parametrize(
    ("pattern", "n", "ranks", "moved"),
    [
        (load("axial", rows=1000, cols=1000), 10**6, 64, 63 * 10**6),  # every column is on every rank
        (load("deepspeed_variable"), 10**6, 64, None),
        (load("svg_temporal"), 250_000, 16, 15 * 250_000),  # every place of a frame, too
        (load("deepspeed_fixed"), 250_000, 16, None),
    ],
)
def test_a_million_tokens_by_few_classes(
    pattern: Pattern, n: int, ranks: int, moved: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meetings of ranks are looked at in some thousands of rectangles, and hardly a pair by itself."""
    monkeypatch.setattr(room, "MAX_POINTS", 2**22)
    monkeypatch.setattr(room, "MAX_RECTANGLES", 2**20)
    schedule = attnc.plan(pattern, n=n, ranks=ranks, heads=1, placement="contiguous", objective="bytes")
    (keys, queries), row = rows_moved(schedule), schedule.row_bytes
    assert schedule.certificate.exact
    assert keys * row.key(backward=True) + queries * row.query(backward=True) == schedule.certificate.minimum
    if moved is not None:
        assert (keys, queries) == (moved, 0)


def test_more_meetings_than_can_have_transfers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_MEETINGS", 100)
    with pytest.raises(TooFineError, match=r"pairs between more than 100 pairs of ranks. Use fewer ranks"):
        attnc.plan(load("deepspeed_fixed"), n=4096, ranks=16, heads=1, placement="contiguous")


def test_what_is_too_fine_is_refused_after_some_meetings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after as many pairs as may be looked at, where one meeting in some tells."""
    monkeypatch.setattr(folds, "MAX_PATCHES", 0)
    monkeypatch.setattr(room, "MAX_POINTS", 2**22)
    asked: list[int] = []
    ask = room.multiplicity_at

    def counted(relation: Any, q: np.ndarray, *rest: Any) -> np.ndarray:
        asked.append(len(q))
        return ask(relation, q, *rest)

    monkeypatch.setattr(room, "multiplicity_at", counted)
    with pytest.raises(TooFineError, match=r"more than 4,194,304 of its pairs one by one"):
        attnc.plan(loads("pattern p = pairs((q * k) % 509 == 3)"), n=2**14, ranks=64, heads=1, placement="contiguous")
    assert sum(asked) < 2**22 // 8
