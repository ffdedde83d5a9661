"""What schedules move, against numbers found otherwise: the least cover of single rows, and formulas."""

from __future__ import annotations

import time
from random import Random

import attnc
import networkx as nx
import numpy as np
import pytest
from attnc.schedule.classes import least_covers
from attnc.schedule.covers import least_cover
from attnc.schedule.lines import Meeting

from attnlang import loads
from attnlang.parallel.dense import positions
from attnlang.runtime.pairs import branch_pairs
from attnlang.schedule import Schedule
from tests.parallel.test_pairs import some_branch, tokens

CAUSAL_LONGNET = "causal & mix(segment(w) { dilate(r, shift=h) } for w, r in zip([8,16,32], [1,2,4]))"


def least_weight(held: np.ndarray, query_weight: int, key_weight: int) -> int:
    """The least cover of a matrix (heads, rows, rows) of one head of k, row by row: a maximum flow."""
    flow = nx.DiGraph()
    flow.add_nodes_from(("source", "sink"))
    for head, q, k in zip(*np.nonzero(held), strict=True):
        flow.add_edge("source", ("q", head, q), capacity=query_weight)
        flow.add_edge(("q", head, q), ("k", k))
        flow.add_edge(("k", k), "sink", capacity=key_weight)
    return nx.maximum_flow_value(flow, "source", "sink")


@pytest.mark.parametrize("seed", range(3))
def test_covers_are_the_least_there_are(seed: int) -> None:
    from attnlang.rows import Rows

    random = Random(seed)
    exact = 0
    for _ in range(25):
        branches = [some_branch(random) for _ in range(random.randint(1, 3))]
        n = random.randint(4, 36)
        cut = random.randint(1, n - 1)
        sides = [Rows(0, cut), Rows(cut, n - cut)]
        random.shuffle(sides)
        q_rows, k_rows = sides
        pairs = [pairs for branch in branches for pairs in branch_pairs(branch, q_rows, k_rows)]
        held = np.zeros((3, n, n), bool)
        for part in pairs:
            for q in tokens(part.q):
                for k in tokens(part.k):
                    held[list(part.heads), q, k] |= k - q in part.band
        group, weights = random.choice([1, 3]), (random.randint(1, 9), random.randint(1, 9))
        cover = least_cover(pairs, group, *weights)
        truth = sum(least_weight(held[h * group : (h + 1) * group], *weights) for h in range(3 // group))
        assert cover.bound <= truth <= cover.weight
        exact += cover.bound == cover.weight
        left = held.copy()
        for head, rows in cover.queries:
            left[head, sorted(tokens(rows))] = False
        for head, rows in cover.keys:
            for h in range(head * group, (head + 1) * group):
                left[h][:, sorted(tokens(rows))] = False
        assert not left.any(), "a pair is covered by neither of its rows"
        paid = sum(r.count for _, r in cover.queries) * weights[0] + sum(r.count for _, r in cover.keys) * weights[1]
        assert paid == cover.weight
        places = [np.argwhere(held[head])[:, [0, 0, 1, 1]] for head in range(3)]
        jobs = [
            tuple(Meeting((i,), places[first + i]) for i in range(group) if len(places[first + i]))
            for first in range(0, 3, group)
        ]
        rowwise = least_covers([job for job in jobs if job], *weights)
        assert sum(c.weight for c in rowwise) == sum(c.bound for c in rowwise) == truth
    assert exact >= 20, "bands and rectangles have exact certificates"


def rows_moved(schedule: Schedule) -> tuple[int, int]:
    """Rows of k and of q that move, over all heads."""
    found = [transfer for a in range(schedule.ranks) for _, transfer in schedule.peers(a)]
    return sum(t.key_rows for t in found), sum(t.query_rows for t in found)


@pytest.mark.parametrize(
    ("text", "keys", "queries"),
    [
        ("window(128)", 7 * 127, 0),  # a halo
        ("all", 7 * 1024, 0),  # a ring's worth
        ("causal", 3584, 0),  # keys before the query
        ("segment(128)", 0, 0),
        ("segment(256)", 1024, 0),
        ("segment(256) { dilate(4) }", 1024, 0),
        ("segment(256) { dilate(4, shift=0) }", 256, 0),
        ("key(pos % 16 == 0)", 7 * 64, 0),
    ],
)
def test_known_volumes(text: str, keys: int, queries: int) -> None:
    pattern = loads(f"pattern p = {text}")
    schedule = attnc.plan(pattern, n=1024, ranks=8, heads=1, placement="contiguous", dtype="float32")
    if not schedule.gathered:
        assert rows_moved(schedule) == (keys, queries)
        assert schedule.certificate.exact


def test_globals_ship_queries_instead_of_all_keys() -> None:
    pattern = loads("pattern p = key(pos < 16) | query(pos < 16)")
    schedule = attnc.plan(pattern, n=1024, ranks=8, heads=1, placement="contiguous", dtype="float32")
    assert rows_moved(schedule) == (7 * 16, 7 * 16)  # keys alone: 1008
    assert schedule.certificate.exact


def test_dense_causal_zigzag_moves_half_the_rows_of_a_ring() -> None:
    schedule = attnc.plan("causal", n=1024, ranks=8, heads=1, placement="zigzag")
    assert sum(rows_moved(schedule)) == 3584
    assert 2 * 3584 == 7 * 1024
    assert schedule.certificate.exact


def test_grouped_heads_weigh_in_what_moves() -> None:
    """Eight heads of q a head of k: queries are dear, and a mixed pattern sends keys."""
    pattern = loads("pattern p = all")
    shared = attnc.plan(pattern, n=64, ranks=4, heads=8, kv_heads=1, placement="contiguous")
    assert rows_moved(shared) == (3 * 64, 0)


def test_a_billion_tokens_on_4096_ranks_take_seconds() -> None:
    started = time.perf_counter()
    window = attnc.plan("sliding", n=10**9, ranks=4096, heads=12, placement="contiguous")
    assert rows_moved(window)[0] == 4095 * 4095 * 12
    assert window.certificate.exact
    longnet = attnc.plan("longnet", n=2**30, ranks=4096, heads=12, placement="contiguous")
    assert rows_moved(longnet) == (0, 0)
    assert time.perf_counter() - started < 30


def test_owners_take_dilated_branches_where_a_segment_spans_many_ranks() -> None:
    text = "pattern p = mix(segment(w) { dilate(r, shift=h) } for w, r in zip([64, 4096], [1, 8]))"
    schedule = attnc.plan(loads(text), n=4096, ranks=8, heads=8, placement="contiguous", dtype="float32")
    assert schedule.gathered == (1,)
    assert schedule.choices[1].startswith("all-to-all by head")
    assert any("homes" in a.name for a in schedule.rejected)


def test_schedules_survive_json() -> None:
    import json

    for kind in ("contiguous", "zigzag", "striped"):
        schedule = attnc.plan(loads(f"pattern p = {CAUSAL_LONGNET}"), n=67, ranks=4, heads=4, placement=kind)
        again = Schedule.from_json(json.loads(json.dumps(schedule.to_json())))
        assert again == schedule
        assert again.digest == schedule.digest


def test_every_token_has_one_home() -> None:
    for kind in ("contiguous", "zigzag", "striped"):
        placement = attnc.plan("causal", n=67, ranks=5, heads=1, placement=kind).placement
        held = np.concatenate([positions(placement, rank) for rank in range(5)])
        assert sorted(held.tolist()) == list(range(67))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": 9}, "use at most 8 ranks"),
        ({"placement": "diagonal"}, "'contiguous', 'zigzag', 'striped'"),
        ({"gpu": "abacus"}, "h100"),
        ({"link": "string"}, "nvlink"),
        ({"kv_heads": 3}, "must divide"),
        ({"dtype": "int8"}, "bfloat16"),
        ({"ranks": 5, "placement": "zigzag"}, "10 stretches"),
    ],
)
def test_unsuitable_arguments_are_refused_in_words(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attnc.plan("causal", **{"n": 8, "ranks": 2, "heads": 4, **changes})
