"""Thousands of ranks without tensors: sends match receives, no row is sent in vain, every pair is computed once."""

from __future__ import annotations

from typing import Any

import attnc
import pytest
from attnc.api import found_schedule
from attnc.emit.schedule import summary

from attnlang import loads
from attnlang.parallel import simulate
from attnlang.parallel.recipe import recipe

LONGNET = "causal & mix(segment(w) { dilate(r, shift=h) } for w, r in zip([64, 256, 1024], [1, 2, 4]))"


@pytest.mark.parametrize(
    ("text", "n", "ranks", "placement"),
    [
        ("window(33)", 4096, 256, "contiguous"),
        ("offset(-40..25)", 5003, 301, "contiguous"),
        (LONGNET, 8192, 128, "contiguous"),
        (LONGNET, 7001, 37, "contiguous"),
        ("causal", 1024, 24, "zigzag"),
        ("causal & (offset(-8..0) | offset(..0 step 8))", 2048, 32, "contiguous"),
        ("causal & (segment(16) | key(pos % 16 >= 14))", 2048, 32, "contiguous"),
        ("causal & window(5)", 300, 20, "striped"),
    ],
)
def test_all_ranks_fit_together(text: str, n: int, ranks: int, placement: str) -> None:
    pattern = loads(f"pattern p = {text}")
    schedule = attnc.plan(pattern, n=n, ranks=ranks, heads=2, placement=placement)
    found = simulate(schedule)
    assert found.pairs == attnc.report(pattern, n=n, heads=2).bag
    assert sum(f.keys_sent for f in found.ranks) == sum(f.keys_received for f in found.ranks)
    assert sum(f.queries_sent for f in found.ranks) == sum(f.queries_received for f in found.ranks)
    keys = sum(f.keys_received for f in found.ranks)
    queries = sum(f.queries_received for f in found.ranks)
    row = schedule.row_bytes
    assert keys * row.key(backward=True) + queries * row.query(backward=True) == schedule.certificate.minimum or (
        schedule.gathered
    )


@pytest.mark.parametrize(("text", "n"), [("window(40)", 4096 * 160 + 7), (LONGNET, 4096 * 256)])
def test_4096_ranks_around_a_few(text: str, n: int) -> None:
    """Of 4096 ranks, some neighbours at the beginning, in the middle and at the end."""
    pattern = loads(f"pattern p = {text}")
    schedule = attnc.plan(pattern, n=n, ranks=4096, heads=2, placement="contiguous")
    for first in (0, 2047, 4088):
        simulate(schedule, range(first, first + 5))


def test_rows_that_none_needs_are_found() -> None:
    """The check itself: a schedule that sends one row too many is refused."""
    from dataclasses import replace

    from attnlang.rows import Rows
    from attnlang.schedule import HeadRows

    schedule = attnc.plan(loads("pattern p = window(8)"), n=64, ranks=4, heads=1, placement="contiguous")
    transfer = schedule.transfers[0]
    more = replace(transfer, keys=(HeadRows((0,), Rows(0, 1)), *transfer.keys))
    with pytest.raises(RuntimeError, match="none of its pairs"):
        simulate(replace(schedule, transfers=(more, *schedule.transfers[1:])))


RANKS = (*range(1, 10), 13, 16, 33, 64)


@pytest.mark.parametrize(
    "text",
    [
        LONGNET,
        "causal & window(9)",
        "offset(-5..5) | key(pos < 2) | query(pos < 2)",
        "blocks(8) { offset(-1..1) | key(pos == 0) | random(1, seed=0) }",
        "neighborhood(7)",
    ],
)
def test_any_number_of_ranks_fits_together(text: str) -> None:
    """All small numbers of ranks and some large ones, at an odd length: every rank derived and compared."""
    pattern, n = loads(f"pattern p = {text}"), 257
    pairs = int(pattern.multiplicity(n, 2).sum())
    for ranks in RANKS:
        found = simulate(attnc.plan(pattern, n=n, ranks=ranks, heads=2, placement="contiguous", objective="bytes"))
        assert found.pairs == pairs, ranks


@pytest.mark.parametrize("text", ["offset(-9..9) | key(pos < 2) | query(pos < 2)", "neighborhood(31)"])
@pytest.mark.parametrize("ranks", [1000, 4095])
def test_thousands_of_ranks_around_a_few(text: str, ranks: int) -> None:
    pattern = loads(f"pattern p = {text}")
    schedule = attnc.plan(pattern, n=ranks * 24 + 5, ranks=ranks, heads=2, placement="contiguous")
    assert schedule.certificate.exact
    for first in (0, ranks // 2, ranks - 3):
        simulate(schedule, range(first, first + 3))


@pytest.mark.parametrize(
    ("text", "ranks", "options"),
    [
        ("causal & window(9)", 5, {"placement": "contiguous"}),
        ("offset(-9..9) | key(pos < 2) | query(pos < 2)", 6, {"placement": "contiguous"}),
        ("causal & window(9)", 4, {"placement": "zigzag"}),
        ("mix(segment(w) { dilate(r, shift=h) } for w, r in zip([8, 64], [1, 4]))", 8, {"objective": "time"}),
        ("dilate(5, shift=h) + window(3)", 7, {"placement": "contiguous", "objective": "time"}),
    ],
)
def test_peers_in_json_are_the_ranks_with_which_rows_are_exchanged(text: str, ranks: int, options: Any) -> None:
    """A neighbour to whom rows go and from whom others come is one."""
    found = found_schedule(
        loads(f"pattern p = {text}"), n=97, ranks=ranks, heads=4, kv_heads=None, head_dim=16, dtype="float64",
        gpu="h100", link=None, backward=True, tables=None, **{"placement": "auto", "objective": "", **options},
    )  # fmt: skip
    listed = summary(found)["by_rank"]
    for rank in range(ranks):
        mine = recipe(found.schedule, rank)
        moved = zip(mine.key_sends, mine.query_sends, mine.keys_from, mine.queries_from, strict=True)
        peers = [other for other, (k, q, *of) in enumerate(moved) if other != rank and (len(k) or len(q) or any(of))]
        assert listed[rank]["peers"] == len(peers)
    assert any(each["peers"] for each in listed)
