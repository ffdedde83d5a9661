"""Plans by kinds of meetings, among rows of a grid's last axis, and covers without edges: against those of single rows.

What is made for thousands of ranks is tried on few, where every meeting of ranks can be looked at; and at 10^9 tokens
on 4,096 ranks the work is counted.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import attnc
import numpy as np
import pytest
from attnc.analysis import boxes
from attnc.analysis.boxes import Counter
from attnc.api import found_schedule
from attnc.lower import lower
from attnc.schedule import classes, coarse, families, folds, shares, tiled
from attnc.schedule.classes import least_covers
from attnc.schedule.families import Families, TooUnlikeError, together
from attnc.schedule.folds import Folder
from attnc.schedule.lines import Meeting
from attnc.schedule.owners import peers
from attnc.schedule.placements import placement
from attnc.schedule.search import (
    DEVICES,
    Found,
    _of_placement,  # pyright: ignore[reportPrivateUsage] - what the search weighs against one another
)
from attnc.schedule.solution import Problem

from attnlang import Pattern, load, loads
from attnlang.parallel import simulate
from attnlang.parallel.machines import LINKS
from attnlang.rows import Rows
from attnlang.schedule import RowBytes
from tests.parallel.test_covers import least_weight
from tests.parallel.test_exact import HEAD_DIM, check

PATTERNS: list[Pattern] = [
    load("axial", rows=24, cols=32),
    load("block_diffusion"),
    load("phi3_small", block=8, local=3, stride=4),
    load("deepspeed_fixed", block=4, patterns=2),
    load("deepspeed_fixed_causal", block=4),
    load("deepspeed_variable", block=4, windows=[3, 2], globals=[0, 7], horizontal=True),
    load("fixed_heads", block=4),
    load("svg_temporal", frame=48, w=5),
    load("svg_temporal_gym", prompt=11, frames=9, frame=48, width=2),
    load("svg_spatial", frame=48),
    load("dilated2d", rows=24, cols=32, r=3),
    load("swin", rows=24, cols=32, w=5),
    load("natten2d", rows=24, cols=32, w=5),
    load("natten3d", frames=6, rows=8, cols=16, w=[3, 5, 5]),
    load("natten_video", frames=6, rows=8, cols=16, w=[3, 5, 5]),
    load("sta", frames=6, rows=8, cols=16, tile=[2, 4, 4], w=[3, 1, 3]),
    load("scca_flow", g=64),
    load("sda", w=96),
    load("s2attn_roll", g=64),
    load("tri_shape", sinks=10, w=50, last=20),
    loads("pattern p = causal & (key(pos % 16 == h) | window(30)) + offset(-9..-3)"),
    loads("pattern p = grid(48, 16) { neighborhood(5) * segment(5) { all } }"),
]
N = 768


def found(pattern: Pattern, n: int, ranks: int, heads: int = 4, kv_heads: int = 4) -> Found:
    return found_schedule(
        pattern, n=n, ranks=ranks, heads=heads, kv_heads=kv_heads, head_dim=HEAD_DIM, dtype="float64", gpu="h100",
        link=None, backward=True, tables={}, placement="contiguous", objective="bytes",
    )  # fmt: skip


def for_few_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "MANY_RANKS", 2)
    monkeypatch.setattr(coarse, "MANY_RANKS", 2)


@pytest.mark.parametrize("number", range(len(PATTERNS)))
def test_plans_by_kind_are_those_of_every_meeting(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, kv_heads = PATTERNS[number], (4, 2, 1)[number % 3]
    m = pattern.multiplicity(N, 4)
    ranks = 6 if number in (0, 5, 8) else 12 + number % 7
    every = found(pattern, N, ranks, kv_heads=kv_heads)
    for_few_ranks(monkeypatch)
    by_kind = found(pattern, N, ranks, kv_heads=kv_heads)
    assert by_kind.schedule.certificate == every.schedule.certificate
    assert by_kind.schedule.choices == every.schedule.choices
    assert by_kind.schedule.placement == every.schedule.placement
    assert by_kind.solution.bytes_total == every.solution.bytes_total
    s, o = by_kind.solution, every.solution
    assert s.local.tolist() == o.local.tolist()
    assert peers(s).tolist() == peers(o).tolist()
    assert (s.local + s.at_query + s.at_key + s.owned).sum() == m.sum()
    assert simulate(by_kind.schedule).pairs == m.sum()


@pytest.mark.parametrize("number", [0, 2, 4, 12, 13, 15, 18])
def test_plans_by_kind_compute_the_pattern(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for_few_ranks(monkeypatch)
    pattern = PATTERNS[number]
    check(pattern, found(pattern, N, 6, heads=2, kv_heads=2).schedule, N, 2, {}, 2)


def test_alike_meetings_have_the_same_pairs() -> None:
    """Of uneven stretches anywhere; and meetings without pairs have no kind."""
    random, kinds = Random(1), 0
    for pattern in PATTERNS:
        m, counter = pattern.multiplicity(N, 2)[1], Counter({})
        cuts = [0, *sorted(random.sample(range(1, 24), 9)), 24]
        chunks = [Rows(32 * a, 32 * (b - a)) for a, b in pairwise(cuts)]
        of = Families(counter, chunks).kinds(counter.term(pattern.relation, N, 1, 2)[0])
        known: dict[int, np.ndarray] = {}
        for a, q in enumerate(chunks):
            for b, k in enumerate(chunks):
                held = m[q.first : q.last + 1, k.first : k.last + 1]
                if of[a, b] == 0:
                    assert not held.any()
                assert np.array_equal(known.setdefault(int(of[a, b]), held), held) or of[a, b] == 0
        kinds += len(known)
    assert kinds < len(PATTERNS) * 50


def test_kinds_of_two_relations_together() -> None:
    one, other = np.array([[0, 1], [2, 1]], np.int32), np.array([[0, 3], [0, 3]], np.int32)
    assert together(one, other).tolist() == [[0, 1], [2, 1]]
    assert together(np.ones((2, 2), np.int32), other).tolist() == [[1, 2], [1, 2]]


def test_hardly_any_two_alike_are_looked_at_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "MAX_LOOKED", 20)
    counter = Counter({})
    chunks = [Rows(31 * rank, 31) for rank in range(20)]
    with pytest.raises(TooUnlikeError):
        Families(counter, chunks).kinds(counter.term(load("sda", w=96).relation, 620, 1, 2)[0])
    for_few_ranks(monkeypatch)
    assert found(load("sda", w=96), 600, 20).schedule.certificate.exact


def test_shards_of_tiles_are_cut_at_their_periods() -> None:
    sizes = {
        "phi3_small": 512, "deepspeed_fixed": 64, "svg_temporal": 1350, "block_diffusion": 16, "scca_flow": 2048,
    }  # fmt: skip
    for name, period in sizes.items():
        where = placement("contiguous", lower(load(name), 12), 10**9, 4096)
        assert all(chunk.first % period == 0 for (chunk,) in where.chunks)
        assert max(where.sizes) - min(where.sizes[:-1]) <= period
    # rows of 7 do not divide a row of the grid: there is nothing to be had by cutting at them
    uneven = lower(load("swin", rows=32000, cols=31250), 12)
    assert set(placement("contiguous", uneven, 10**9, 4096).sizes) == {244_140, 244_141}


@pytest.mark.parametrize(
    ("pattern", "n", "meetings", "kinds", "moved"),
    [
        # the noised copy needs what is clean before it, and clean shards those before them
        (load("block_diffusion"), 10**9, 2048**2, 6, None),
        # every rank needs all keys of the others: a row of any frame is in the window of one of each shard
        (load("svg_temporal"), 10**8, 1024 * 1023, 12, 1023 * 10**8),
        (load("sta", frames=960, rows=1024, cols=1024), 960 * 2**20, 148_548, 2200, None),
        (load("scca_flow"), 10**9, 4095, 4, None),
    ],
)
def test_a_billion_tokens_on_4096_ranks_by_few_meetings(
    pattern: Pattern, n: int, meetings: int, kinds: int, moved: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of millions of meetings has its transfer; the pairs of few are looked at, and those as rectangles."""
    covered: list[int] = []
    cover = tiled.least_covers

    def counted(jobs: Any, *weights: int) -> Any:
        covered.extend(sum(len(m.boxes) for m in job) for job in jobs)
        return cover(jobs, *weights)

    looked: list[int] = []
    rectangle = Counter.rectangle

    def asked(self: Counter, *given: Any) -> int:
        looked.append(1)
        return rectangle(self, *given)

    monkeypatch.setattr(tiled, "least_covers", counted)
    monkeypatch.setattr(Counter, "rectangle", asked)
    monkeypatch.setattr(families, "MAX_LOOKED", 2**14)
    heads = 2 if pattern.name == "scca_flow" else 1  # whose first head has nothing to do with other blocks
    ranks = 1024 if n == 10**8 else 4096
    solution = found(pattern, n, ranks, heads=heads, kv_heads=heads).solution
    assert solution.certificate.exact
    assert (solution.which >= 0).sum() == meetings
    assert len(covered) <= kinds
    assert sum(covered) < 2**19
    assert len(looked) < 512
    if moved is not None:
        assert (solution.keys_in.sum(), solution.queries_in.sum()) == (moved, 0)


# covers -------------------------------------------------------------------------------------------------------------


def some_jobs(random: Random, kind: str) -> list[tuple[tuple[Meeting, ...], np.ndarray]]:
    found: list[tuple[tuple[Meeting, ...], np.ndarray]] = []
    for _ in range(40):
        size = 12
        boxes: list[tuple[int, int, int, int]] = []
        if kind == "apart":
            places = list(range(size))
            random.shuffle(places)
            widths = [(random.randint(1, 3), random.randint(1, 3)) for _ in places]
            boxes = [
                (4 * i, 4 * i + a - 1, 4 * j, 4 * j + b - 1)
                for i, j, (a, b) in zip(range(size), places, widths, strict=True)
            ]
        for i in range(size) if kind != "apart" else ():
            low = 0 if kind == "nested" else 2 * i + random.randint(0, 3)
            boxes.append((2 * i, 2 * i + random.randint(0, 1), low, low + random.randint(0, 12)))
        if kind == "nested":
            random.shuffle(boxes)
        held = np.zeros((1, 50, 50), bool)
        for q0, q1, k0, k1 in boxes:
            held[0, q0 : q1 + 1, k0 : k1 + 1] = True
        found.append(((Meeting((0,), np.array(boxes, np.int64)),), held))
    return found


@pytest.mark.parametrize("kind", ["in order", "nested", "apart"])
@pytest.mark.parametrize("weights", [(7, 5), (5, 7), (9, 2)])
def test_covers_without_edges_are_the_least(
    kind: str, weights: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By passing on in turn, by rectangles apart, and by a flow through rectangles, for as few edges as none."""
    random = Random(f"{kind} {weights}")
    cases = some_jobs(random, kind)
    least = [least_weight(held, *weights) for _, held in cases]
    in_turn = 0
    for (job, held), weight in zip(cases, least, strict=True):
        side = shares._in_turn(job, *weights)  # pyright: ignore[reportPrivateUsage] - the proof alone
        rows = {"queries": held[0].any(1).sum() * weights[0], "keys": held[0].any(0).sum() * weights[1]}
        assert not side or rows[side] == weight
        in_turn += bool(side)
    assert in_turn > 3 or kind == "apart" or weights == (9, 2)  # where most least covers have rows of both sides
    monkeypatch.setattr(classes, "MANY_BOXES", 1)
    for most in (classes.MAX_EDGES, 4):
        monkeypatch.setattr(classes, "MAX_EDGES", most)
        for chosen, weight in zip(least_covers([job for job, _ in cases], *weights), least, strict=True):
            assert chosen.weight == chosen.bound == weight


def test_sums_within_a_band_are_folded_among_many_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds, "MANY_CELLS", 256)
    texts = [
        "grid(24, 32) { all * self }",
        "pairs(abs(q % 40 - k % 40) <= 3)",
        "pairs(q % 48 + k % 48 >= 40)",
        "pairs(q % 31 == k % 31)",
    ]
    for text in texts:
        pattern, random = loads(f"pattern p = {text}"), Random(text)
        m = pattern.multiplicity(N, 1)[0]
        folder = Folder(pattern.relation, N, 0, 1, {}, (32,))
        done = 0
        for _ in range(8):
            q, k = Rows(random.randint(0, 60), random.randint(100, 300)), Rows(400, random.randint(100, 300))
            patches = folder.patches(q, k, folder.meeting(q, k))
            if patches is not None:
                done += 1
                assert sum(patch.pairs for patch in patches) == m[q.first : q.last + 1, k.first : k.last + 1].sum()
        assert done > 0


def test_rows_of_an_axis_without_itself_are_no_rows() -> None:
    """A last axis on which a position does not see itself has another least cover than its rows."""
    pattern = loads("pattern p = grid(24, 32) { neighborhood(5) * offset(1..3) }")
    every = found(pattern, N, 6).solution.problem
    assert coarse.coarse(every) is None
    assert attnc.plan(pattern, n=N, ranks=6, heads=2, placement="contiguous").certificate.exact


@pytest.mark.parametrize(
    "text",
    [
        "grid(2 if h == 0 else 4, 12 if h == 0 else 6, 4) { all * neighborhood(3) * self }",
        "grid(24, 4) { (causal if h == 0 else self) * all }",
        "heads(0..1) { grid(24, 4) { window(2) * self } } + heads(1..2) { grid(24, 4) { window(4) * self } }",
    ],
)
def test_heads_with_grids_of_their_own_are_planned_by_their_own(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = loads(f"pattern p = {text}")
    every = found(pattern, 96, 6, heads=2, kv_heads=2).solution
    for_few_ranks(monkeypatch)
    mine = found(pattern, 96, 6, heads=2, kv_heads=2)
    assert mine.schedule.certificate == every.certificate
    assert simulate(mine.schedule).pairs == pattern.multiplicity(96, 2).sum()


def test_many_ranks_of_a_pattern_without_pairs() -> None:
    schedule = attnc.plan(loads("pattern p = none"), n=1024, ranks=512, heads=2)
    assert schedule.certificate.minimum == 0
    assert simulate(schedule, range(2)).pairs == 0


def test_rows_of_an_axis_whose_pairs_are_not_known_are_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn at random is counted up to a limit only, and a bound beyond."""
    pattern = loads("pattern p = grid(24, 4) { causal * (self | random(2, seed=0)) }")
    for_few_ranks(monkeypatch)
    for most in (boxes.MAX_DRAWN, 4):
        monkeypatch.setattr(boxes, "MAX_DRAWN", most)
        s = found(pattern, 96, 6, heads=1, kv_heads=1).solution
        assert (s.local + s.at_query + s.at_key).sum() == pattern.multiplicity(96, 1).sum()


def test_shares_of_one_job_take_no_digits_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first job's queries hardly any find room; the second's cannot either, by 2 of 52 units."""
    monkeypatch.setattr(shares, "MANY_EDGES", 0)

    def job(*parts: tuple[tuple[int, ...], list[list[int]]]) -> tuple[Meeting, ...]:
        return tuple(Meeting(heads, np.array(boxes, np.int64)) for heads, boxes in parts)

    crowded = job(
        ((0, 3), [[5, 7, 4, 7], [0, 4, 7, 7]]),
        ((1,), [[2, 4, 2, 3], [2, 4, 7, 7], [0, 1, 7, 7], [5, 7, 7, 7]]),
        ((2,), [[0, 1, 0, 1], [2, 7, 7, 7], [0, 1, 7, 7]]),
    )
    apart = job(((0, 3), [[7, 7, 5, 7]]), ((1,), [[4, 4, 2, 4]]), ((2,), [[3, 3, 0, 1]]))
    assert shares.one_sided([crowded, apart], 52, 32) == ["keys", ""]
    assert [chosen.weight for chosen in least_covers([crowded, apart], 52, 32)] == [256, 200]


def test_where_queries_stay_the_least_is_that_of_all_plans() -> None:
    """Keys of a lattice may cover tiles beside it whose least cover with them weighs more than the lattice's."""
    pattern = loads("pattern p = offset(12.. step 7) + segment(35) { pairs((q - k) % 4 == h % 4) }")
    plan = lower(pattern, 2)
    problem = Problem(plan, placement("contiguous", plan, 808, 56), 2, RowBytes(HEAD_DIM, 8))
    least, stay = (s for _, s in _of_placement("contiguous", problem, DEVICES["h100"], LINKS["nvlink"], "bytes")[:2])
    assert least.queries_in.any()
    assert not stay.queries_in.any()
    assert stay.certificate == least.certificate
    assert stay.bytes_total >= least.bytes_total == least.certificate.minimum
