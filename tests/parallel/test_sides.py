"""Meetings weighed side by side by unions of few sets: against single rows, and against plans of every meeting."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import attnc
import numpy as np
import pytest
from attnc.api import found_schedule
from attnc.schedule import counts, sides, solver
from attnc.schedule.bicliques import least_of_rectangles
from attnc.schedule.counts import inner_pairs, lattice_pairs, local_pairs, stretch_pairs
from attnc.schedule.owners import peers
from attnc.schedule.search import Found
from attnc.schedule.sides import Meetings
from attnc.schedule.unions import Sets, least

from attnlang import loads
from attnlang.parallel import simulate
from attnlang.plan import Band, Lattice, Plan, Runs
from attnlang.rows import Rows
from attnlang.schedule import Placement
from tests.parallel.test_exact import HEAD_DIM, check
from tests.parallel.test_lattices import moved, needed
from tests.parallel.test_pairs import matrix, tokens

TEXTS = [
    "causal & mix(segment(w) { dilate(r, shift=h) } for w, r in zip([8, 16, 32], [1, 2, 3]))",
    "mix(segment(w) { dilate(r, shift=h) } for w, r in zip([12, 20, 36, 60], [1, 2, 4, 6]))",
    "segment(24, shift=7) { dilate(3, shift=h // 2) } + segment(40, shift=31) { dilate(2, shift=1) }",
    "mix(segment(w) { dilate(r, shift=h) } for w, r in zip([16, 48], [2, 6])) + window(9)",
    "heads(0..H // 2) { segment(30) { dilate(5, shift=h) } } | heads(H // 2..H) { segment(50) }",
    "dilate(4, shift=h) + segment(21)",
    "segment(64, shift=59) { dilate(1, shift=h // 2) }",
]
"""Of lattices with one class a head; a band cuts some meetings of the fourth."""


def some_sets(random: Random, places: int, step: tuple[int, ...], line: tuple[int, ...]) -> Sets:
    shape = places, len(step)
    first = np.array([random.randrange(12) for _ in range(places * len(step))], np.int64).reshape(shape)
    count = np.array([max(0, random.randint(-1, 8)) for _ in range(places * len(step))], np.int64).reshape(shape)
    return Sets(first, count, step, line)


@pytest.mark.parametrize("seed", range(4))
def test_unions_have_as_many_rows_as_their_sets(seed: int) -> None:
    random = Random(seed)
    step = tuple(random.choice([1, 2, 3, 4, 6]) for _ in range(random.randint(1, 5)))
    line = tuple(random.randrange(2) for _ in step)
    sets = some_sets(random, 60, step, line)
    sizes = sets.unions()
    for place in range(60):
        for chosen in range(1 << len(step)):
            rows = {(line[i], row) for i, part in sets.rows((place,), chosen) for row in tokens(part)}
            assert sizes[place, chosen] == len(rows)


@pytest.mark.parametrize("seed", range(4))
def test_covers_are_those_of_rectangles_one_by_one(seed: int) -> None:
    random = Random(seed)
    step = tuple(random.choice([1, 2, 3, 4, 6]) for _ in range(random.randint(1, 5)))
    line = tuple(sorted(random.randrange(1 + seed % 2) for _ in step))
    q, k = some_sets(random, 80, step, line), some_sets(random, 80, step, (0,) * len(step))
    weights = random.randint(1, 4), random.randint(1, 4)
    found = least(q, k, weights, queries_stay=False)
    every = least(q, k, weights, queries_stay=True)
    assert (every.weight == found.weight).all()
    assert (every.at_query == every.pairs).all()
    assert not every.q_rows.any()
    for place in range(80):
        q_rows, k_rows = (dict(side.rows((place,), -1)) for side in (q, k))
        both = [i for i in q_rows if i in k_rows]
        rectangles = [((line[i], q_rows[i]), (0, k_rows[i])) for i in both]
        alone = least_of_rectangles(rectangles, *weights) if rectangles else ((), (), 0)
        assert alone is not None
        sent = {row for _, rows in k.rows((place,), int(found.keys[place])) for row in tokens(rows)}
        shipped = {(line[i], row) for i, rows in q.rows((place,), int(found.queries[place])) for row in tokens(rows)}
        assert sent == {row for _, rows in alone[0] for row in tokens(rows)}
        assert shipped == {(head, row) for head, rows in alone[1] for row in tokens(rows)}
        assert found.weight[place] == alone[2]
        assert (found.k_rows[place], found.q_rows[place]) == (len(sent), len(shipped))
        for i in range(len(step)):
            held = len(sent & set(tokens(k_rows[i]))) if i in both else 0
            assert found.at_query[place, i] == (q_rows[i].count * held if i in both else 0)


def never(*args: object) -> bool:
    return False


def fails(*args: object) -> None:
    pytest.fail("a meeting was solved by itself")


def found(text: str, n: int, ranks: int, kv_heads: int, objective: str = "bytes") -> Found:
    return found_schedule(
        loads(f"pattern p = {text}"), n=n, ranks=ranks, heads=4, kv_heads=kv_heads, head_dim=HEAD_DIM, dtype="float64",
        placement="contiguous", gpu="h100", link=None, backward=True, tables=None, objective=objective,
    )  # fmt: skip


@pytest.mark.parametrize("objective", ["bytes", "time"])
@pytest.mark.parametrize("text", TEXTS)
def test_plans_side_by_side_are_those_of_every_meeting(
    text: str, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = 0

    def counted(*args: object) -> Meetings:
        nonlocal told
        some = sides.meetings(*args)  # pyright: ignore[reportArgumentType] - as they come
        told += int(some.known.sum())
        return some

    monkeypatch.setattr(sides, "MAX_CHOICES", 64)
    for n, ranks, kv_heads in ((203, 9, 4), (250, 7, 2), (89, 18, 4)):
        told = 0
        monkeypatch.setattr(solver, "meetings", counted)
        mine = found(text, n, ranks, kv_heads, objective)
        assert told or kv_heads == 2
        with monkeypatch.context() as changed:
            changed.setattr(solver, "can_tell", never)
            every = found(text, n, ranks, kv_heads, objective)
        s, o = mine.schedule, every.schedule
        for a in range(ranks):
            assert [(b, moved(t)) for b, t in s.peers(a)] == [(b, moved(t)) for b, t in o.peers(a)]
        assert (s.certificate, s.choices, s.rejected) == (o.certificate, o.choices, o.rejected)
        for name in (
            "local",
            "at_query",
            "at_key",
            "owned",
            "keys_in",
            "keys_out",
            "queries_in",
            "queries_out",
        ):
            assert (getattr(mine.solution, name) == getattr(every.solution, name)).all(), name
        assert (peers(mine.solution) == peers(every.solution)).all()
        m = loads(f"pattern p = {text}").multiplicity(n, 4)
        assert simulate(s).pairs == m.sum()
        assert s.certificate.exact
        if n == 89 and objective == "bytes":
            assert s.certificate.minimum == needed(s, m)


@pytest.mark.parametrize("text", TEXTS[1:4])
def test_plans_side_by_side_compute_the_pattern(text: str) -> None:
    n, kv_heads = 131, 4
    schedule = found(text, n, 5, kv_heads).schedule
    assert schedule.transfers
    check(loads(f"pattern p = {text}"), schedule, n, kv_heads, {}, 4)


def test_rows_are_listed_of_the_chosen_plan_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of meetings, each elsewhere in a segment, none where owners compute all that moves."""
    listed = 0

    def counted(of: Meetings, number: int) -> object:
        nonlocal listed
        listed += 1
        return transfer(of, number)

    transfer = Meetings.transfer
    monkeypatch.setattr(Meetings, "transfer", counted)
    monkeypatch.setattr(solver, "least_cover", fails)
    owned = attnc.plan("longnet_bidirectional", n=400_000, ranks=400, heads=4)
    assert not owned.transfers
    assert listed == 0
    home = attnc.plan("longnet_bidirectional", n=400_000, ranks=400, heads=4, placement="contiguous", objective="bytes")
    assert home.certificate == owned.certificate
    assert home.certificate.exact
    assert 200 < len(home.transfers) <= listed < 5000
    assert home.certificate.minimum == sum(
        t.key_rows * home.row_bytes.key(backward=True) + t.query_rows * home.row_bytes.query(backward=True)
        for a in range(home.ranks)
        for _, t in home.peers(a)
    )


def some_lattice(random: Random) -> Lattice:
    r = random.choice([1, 2, 3, 5])
    width = random.randint(1, 30)
    period = width + random.choice([0, 0, 4])
    runs = random.choice([None, Runs(width, period, random.randrange(period))])
    phases = random.choice([None, tuple(random.randrange(r) for _ in range(3))])
    lo, hi = random.choice([None, -r * random.randint(-2, 5)]), random.choice([None, r * random.randint(-2, 5)])
    if lo is not None and hi is not None and lo > hi:
        lo, hi = hi, lo
    return Lattice((0, 1, 2), runs, r, phases, Band(lo, hi))


def test_pairs_of_many_stretches_are_counted_by_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(4)
    for _ in range(150):
        branch, n = some_lattice(random), random.randint(8, 90)
        cuts = sorted([0, n, *random.sample(range(1, n), random.randint(1, 6))])
        where = Placement("contiguous", n, tuple((Rows(low, high - low),) for low, high in pairwise(cuts)))
        plan, first, count = Plan(3, (branch,)), np.array(cuts[:-1]), np.diff(cuts)
        m = matrix(plan, n)
        truth = [int(m[:, low:high, low:high].sum()) for low, high in pairwise(cuts)]
        assert lattice_pairs(branch, first, count).tolist() == truth, (branch, cuts)
        assert [stretch_pairs(plan, chunk) for (chunk,) in where.chunks] == truth
        kinds = np.arange(where.ranks)
        inner = inner_pairs(branch, where)
        assert local_pairs(plan, [0], where, kinds).tolist() == truth
        with monkeypatch.context() as changed:  # too many to be counted so
            changed.setattr(counts, "MOST", 0)
            assert local_pairs(plan, [0], where, kinds).tolist() == truth
            assert inner_pairs(branch, where).tolist() == inner.tolist()
    dense, whole = (
        Lattice((0, 1, 2), None, 1, None, Band(None, 0)),
        Placement("contiguous", 2**40, ((Rows(0, 2**40),),)),
    )
    assert local_pairs(Plan(3, (dense,)), [0], whole, np.zeros(1, np.int64))[0] == 3 * (2**40 * (2**40 + 1) // 2)
