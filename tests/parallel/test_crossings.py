"""Meetings of heads of q that share a head of k, weighed by one flow: against choices of sets, and every meeting."""

from __future__ import annotations

from random import Random

import attnc
import numpy as np
import pytest
from attnc.schedule import crossings, sides, solver
from attnc.schedule.bicliques import least_of_rectangles
from attnc.schedule.crossings import can_flow, least_by_flow
from attnc.schedule.unions import Sets, least

from tests.parallel.test_pairs import tokens
from tests.parallel.test_sides import found, never

TEXTS = [
    "causal & mix(segment(w) { dilate(r, shift=h) } for w, r in zip([8, 16, 32], [1, 2, 3]))",
    "mix(segment(w) { dilate(r, shift=h) } for w, r in zip([12, 20, 36, 60], [1, 2, 4, 6]))",
    "segment(24, shift=7) { dilate(3, shift=h // 2) } + segment(40, shift=31) { dilate(2, shift=1) }"
    " + dilate(4, shift=h)",
    "mix(segment(w) { dilate(r, shift=h) } for w, r in zip([16, 48, 96], [2, 6, 12])) + window(9)",
]
"""Several branches, of which heads of q that share a head of k have a set each; a band cuts some of the last."""


def of_branches(random: Random, places: int, steps: tuple[int, ...], group: int, lines: int) -> Sets:
    """Sets of `group` heads a branch: residues of its step within a range, which the heads of a branch share."""
    shape = places, len(steps) * group
    first, count = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for place in range(places):
        for branch, step in enumerate(steps):
            low = random.randrange(14)
            high = low + random.randint(-2, 20)
            for head in range(group):
                begin = low + random.randrange(step)
                first[place, branch * group + head] = begin
                count[place, branch * group + head] = max(0, (high - begin) // step + 1)
    each = tuple(step for step in steps for _ in range(group))
    return Sets(first, count, each, tuple(head % lines for _ in steps for head in range(group)))


def sides_of(random: Random, places: int, branches: int, group: int) -> tuple[Sets, Sets]:
    steps = tuple(random.choice([1, 2, 3, 4, 6]) for _ in range(branches))
    return of_branches(random, places, steps, group, group), of_branches(random, places, steps, group, 1)


@pytest.mark.parametrize("queries_stay", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_flow_finds_what_choices_of_few_sets_do(
    seed: int, queries_stay: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where places are flowed through some at a time."""
    random = Random(seed)
    branches, group = random.choice([(1, 4), (2, 3), (3, 2), (1, 6), (6, 1)])
    q, k = sides_of(random, 60, branches, group)
    weights = random.randint(1, 5), random.randint(1, 5)
    if seed % 2:
        monkeypatch.setattr(crossings, "LARGEST", 1000)
    by_choice = least(q, k, weights, queries_stay)
    by_flow = least_by_flow(q, k, weights, queries_stay, branches, range(branches * group))
    assert by_flow is not None
    for name in ("weight", "q_rows", "k_rows", "pairs", "at_query"):
        assert (getattr(by_flow, name) == getattr(by_choice, name)).all(), name


@pytest.mark.parametrize("seed", range(3))
def test_a_flow_of_many_sets_finds_what_each_place_has_alone(seed: int) -> None:
    random = Random(seed)
    branches, group = random.choice([(3, 4), (4, 3), (2, 6)])
    q, k = sides_of(random, 40, branches, group)
    weights = random.randint(1, 4), random.randint(1, 4)
    by_flow = least_by_flow(q, k, weights, queries_stay=False, branches=branches, same=range(branches * group))
    assert by_flow is not None
    for place in range(40):
        q_rows, k_rows = (dict(side.rows((place,), -1)) for side in (q, k))
        both = [i for i in q_rows if i in k_rows]
        alone = least_of_rectangles([((q.line[i], q_rows[i]), (0, k_rows[i])) for i in both], *weights)
        assert alone is not None
        sent = {row for _, rows in alone[0] for row in tokens(rows)}
        assert by_flow.weight[place] == alone[2]
        assert by_flow.k_rows[place] == len(sent)
        assert by_flow.q_rows[place] == sum(rows.count for _, rows in alone[1])
        for i in both:
            assert by_flow.at_query[place, i] == q_rows[i].count * len(sent & set(tokens(k_rows[i])))


def test_what_is_too_heavy_or_has_too_many_classes_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = sides_of(Random(0), 5, 2, 4)
    assert least_by_flow(q, k, (2**40, 1), queries_stay=False, branches=2, same=range(8)) is None
    assert can_flow(20, (1, 2, 4, 6, 12))
    assert not can_flow(20, (1, 7, 11, 13))
    assert not can_flow(48, (1, 2))
    heavy = found(TEXTS[0], 203, 9, 1).schedule
    monkeypatch.setattr(crossings, "LARGEST", 5)
    assert found(TEXTS[0], 203, 9, 1).schedule.to_json() == heavy.to_json()


@pytest.mark.parametrize("objective", ["bytes", "time"])
@pytest.mark.parametrize("text", TEXTS)
def test_plans_are_those_of_every_meeting_to_the_letter(
    text: str, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, ranks, kv_heads in ((203, 9, 1), (250, 7, 2), (131, 18, 1)):
        with monkeypatch.context() as changed:
            changed.setattr(sides, "FEW_SETS", 1)  # (also of those whose choices would be weighed)
            mine = found(text, n, ranks, kv_heads, objective)
            assert solver.can_tell(mine.solution.problem, range(len(mine.schedule.plan.branches)))
        with monkeypatch.context() as changed:
            changed.setattr(solver, "can_tell", never)
            every = found(text, n, ranks, kv_heads, objective)
        assert mine.schedule.to_json() == every.schedule.to_json()
        for name in ("local", "at_query", "at_key", "owned", "keys_in", "keys_out", "queries_in", "queries_out"):
            assert (getattr(mine.solution, name) == getattr(every.solution, name)).all(), name


def test_meetings_are_covered_one_by_one_where_their_rows_are_listed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands, each elsewhere in a segment, those of the chosen plan; and flows are few."""
    covered = flowed = 0

    def counted(*args: object) -> object:
        nonlocal covered
        covered += 1
        return cover(*args)  # pyright: ignore[reportArgumentType] - as they come

    def counted_flow(*args: object) -> object:
        nonlocal flowed
        flowed += 1
        return flow(*args)  # pyright: ignore[reportArgumentType] - as they come

    cover, flow = solver.least_cover, crossings.least_cover_of_sets
    monkeypatch.setattr(solver, "least_cover", counted)
    monkeypatch.setattr(crossings, "least_cover_of_sets", counted_flow)
    schedule = attnc.plan("longnet_bidirectional", n=400_000, ranks=400, heads=4, kv_heads=1)
    assert len(schedule.placement.sizes) == 400
    assert covered <= 800
    assert 0 < flowed <= 20
