"""Counts: equal to the oracle at small N, to islpy at larger ones, to each other at any; honest about what they are."""

from __future__ import annotations

import time
from typing import Any

import attnc
import islpy as isl
import numpy as np
import pytest
from attnc.analysis import boxes
from attnc.analysis.boxes import Counter
from attnc.analysis.evaluation import random_keys
from attnc.analysis.pairs import count_pairs, pieces_by_head
from attnc.analysis.sets import support
from hypothesis import given
from hypothesis import strategies as st

import attnlang
from attnlang import AttnError
from attnlang.pattern.library import library_names
from attnlang.pattern.random_keys import keys
from tests.analysis.small import GRIDS, small_library
from tests.strategies import FUZZ, examples, heads, lattices, relations

LIBRARY = small_library()
SLOW = {"svg_temporal", "star_transformer"}
"""The oracle looks at these pair by pair."""
LENGTHS = range(1, 201) if FUZZ else [*range(1, 20, 2), *range(20, 201, 12)]
"""With FUZZ every N up to 200, as `make fuzz` does; else a sample of them."""


def counted(counter: Counter, pattern: attnlang.Pattern, n: int, heads: int) -> list[tuple[int, int]]:
    found = [counter.count(pattern.relation, n, head, heads) for head in range(heads)]
    assert all(each.exact for each in found)
    return [(each.bag, each.distinct) for each in found]


def true(pattern: attnlang.Pattern, n: int, heads: int) -> list[tuple[int, int]]:
    m = pattern.multiplicity(n, heads)
    return [(int(head.sum()), int((head > 0).sum())) for head in m]


@pytest.mark.parametrize("pattern", LIBRARY, ids=lambda each: each.name)
def test_boxes_and_closed_forms_equal_the_oracle_on_the_library(pattern: attnlang.Pattern) -> None:
    counter = Counter({})
    for place, n in enumerate([GRIDS[pattern.name]] if pattern.name in GRIDS else LENGTHS):
        for heads_ in (1, 2, 5) if FUZZ else ((1, 2, 5)[place % 3],):
            if pattern.name == "block_diffusion" and n % 2:
                continue  # it is defined for even lengths
            if pattern.name in SLOW and n > 80 and not FUZZ:
                continue
            expected = true(pattern, n, heads_)
            if pattern.name != "bigbird":  # keys drawn from a body are counted by tiles
                assert counted(counter, pattern, n, heads_) == expected, (n, heads_)
            found = count_pairs(pattern, n, heads_, None, pieces_by_head(pattern, heads_))
            assert [(head.bag, head.distinct) for head in found.per_head] == expected, (n, heads_)
            assert found.exact


@given(relations, st.integers(1, 160), heads, st.sampled_from([1, 16, 4096]))
@examples(150)
def test_boxes_equal_the_oracle_on_random_patterns(text: str, n: int, heads: int, points: int) -> None:
    pattern = attnlang.loads(f"pattern p = {text}")
    try:
        expected = true(pattern, n, heads)
    except AttnError:
        return
    before, boxes.POINTS = boxes.POINTS, points  # small boxes too are cut, down to single pairs
    try:
        assert counted(Counter({}), pattern, n, heads) == expected
    finally:
        boxes.POINTS = before


def by_islpy(pattern: attnlang.Pattern, n: int, head: int, heads: int) -> int | None:
    found = support(pattern.relation, head, heads)
    return found.pairs.fix_val(isl.dim_type.param, 0, isl.Val(n)).count_val().to_python() if found.exact else None


@given(st.one_of(relations, lattices), st.integers(200, 500), st.integers(1, 3))
@examples(25)
def test_distinct_pairs_equal_islpys_on_random_patterns(text: str, n: int, heads: int) -> None:
    if "grid" in text:
        return
    pattern = attnlang.loads(f"pattern p = {text}")
    expected = by_islpy(pattern, n, heads - 1, heads)
    if expected is not None:
        assert count_pairs(pattern, n, heads, None, pieces_by_head(pattern, heads)).per_head[-1].distinct == expected
        assert Counter({}).count(pattern.relation, n, heads - 1, heads).distinct == expected


OF_ISLPY = ["longnet", "longnet_bidirectional", "fixed", "strided", "longformer", "tri_shape", "s2attn_roll", "swin"]


@pytest.mark.parametrize("pattern", [each for each in LIBRARY if each.name in OF_ISLPY], ids=lambda each: each.name)
def test_distinct_pairs_equal_islpys_on_the_library(pattern: attnlang.Pattern) -> None:
    n = GRIDS.get(pattern.name, 701)
    assert Counter({}).count(pattern.relation, n, 1, 3).distinct == by_islpy(pattern, n, 1, 3)


@given(lattices, st.integers(10**6, 10**9), st.integers(1, 2))
@examples(30)
def test_two_engines_agree_where_no_oracle_goes(text: str, n: int, heads: int) -> None:
    pattern = attnlang.loads(f"pattern p = {text}")
    if (by_head := pieces_by_head(pattern, heads)) is None:
        return
    closed = count_pairs(pattern, n, heads, None, by_head)
    if closed.method == "closed forms of lattices":
        assert [(head.bag, head.distinct) for head in closed.per_head] == counted(Counter({}), pattern, n, heads)


def test_a_thousand_million_tokens_take_a_moment_for_every_pattern_of_structure() -> None:
    layers = ("gemma2", "gemma3", "llama4", "phi3_small_layers")
    patterns = [attnlang.load(name) for name in library_names() if name not in (*layers, *GRIDS)]
    by_chance = set[str]()
    started = time.process_time()
    for pattern in patterns:
        if not pattern.tables:
            found = count_pairs(pattern, 10**9, 2, None, pieces_by_head(pattern, 2))
            by_chance |= {pattern.name} - ({pattern.name} if found.exact else set())
    assert by_chance == {"bigbird", "deepspeed_bigbird", "random_blocks"}
    assert time.process_time() - started < 30


@given(st.integers(0, 9), st.integers(1, 300), st.integers(-5, 2**40), st.integers(0, 7))
@examples(40)
def test_random_keys_are_those_of_the_language(count: int, length: int, seed: int, head: int) -> None:
    queries = np.arange(0, length, 3)
    mine = random_keys((count, length, seed), head, queries)
    assert mine.tolist() == [keys(count, length, seed, head, int(query)) for query in queries]


# tables -------------------------------------------------------------------------------------------------------------

DOC = np.repeat(np.arange(9), [5, 30, 1, 64, 17, 3, 40, 8, 12])
TABLES: dict[str, dict[str, Any]] = {
    "packed": {"doc": DOC}, "packed_bidirectional": {"doc": DOC}, "packed_sliding": {"doc": DOC},
    "shared_prefix": {"doc": DOC}, "prefix_lm_runtime": {"prefix": [70]},
    "vertical_slash": {"vertical": np.arange(2 * 180).reshape(2, 180) % 7 == 0,
                       "slash": np.arange(360).reshape(2, 180) % 5 < 2},
    "block_table": {"chosen": np.arange(8).reshape(2, 2, 2) % 3 != 1},
    "moba": {"chosen": np.arange(2 * 180).reshape(2, 180, 1) % 2},
    "flamingo": {"image": DOC * (np.arange(180) % 2 == 0) - 1, "text": DOC * (np.arange(180) % 2) - 1},
    "longformer_mask": {"is_global": np.arange(180) % 50 == 3},
    "tree": {"ancestor": np.tri(200, dtype=int) * (np.arange(200) % 3 == 0)},
}  # fmt: skip
WITH_TABLES = {"tree": {"p": 20}, "shared_prefix": {"p": 9}, "packed_sliding": {"w": 9}}


def of_tables(name: str) -> attnlang.Pattern:
    return attnlang.load(name, **WITH_TABLES.get(name, {}))


def test_every_pattern_with_tables_is_counted_here() -> None:
    assert {name for name in library_names() if attnlang.load(name, **layered(name)).tables} == set(TABLES)


def layered(name: str) -> dict[str, int]:
    return {"layer": 0, "L": 12} if name in ("gemma2", "gemma3", "llama4", "phi3_small_layers") else {}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_counted_from_their_content_and_bounded_without(name: str) -> None:
    pattern, n = of_tables(name), len(DOC)
    m = pattern.multiplicity(n, 2, **TABLES[name])
    found = count_pairs(pattern, n, 2, TABLES[name])
    assert found.exact
    assert [(head.bag, head.distinct) for head in found.per_head] == [(h.sum(), (h > 0).sum()) for h in m]
    bound = count_pairs(pattern, n, 2)
    assert bound.basis == "upper bound"
    assert "depends on the content of" in bound.reason
    assert all(b.bag >= f.bag for b, f in zip(bound.per_head, found.per_head, strict=True))


def test_documents_of_a_long_row_are_counted_in_a_moment() -> None:
    doc = np.repeat(np.arange(100), 1000)
    found = count_pairs(attnlang.load("packed"), 10**5, 1, {"doc": doc})
    assert (found.bag, found.basis) == (100 * 1000 * 1001 // 2, "exact")


# nothing is called exact that is not ----------------------------------------------------------------------------------


def test_random_keys_beyond_reach_are_an_upper_bound() -> None:
    found = attnc.report("bigbird", n=10**9, heads=2, dependency=False)
    assert found.pairs.basis == "upper bound"
    assert found.to_dict()["pairs"]["basis"] == "upper bound"
    assert found.formula is None
    assert "chance" in found.no_formula
    small = attnc.report("bigbird", n=4096, heads=2, dependency=False)
    assert small.pairs.exact


@pytest.mark.parametrize(
    "text",
    [
        "key(isqrt(pos) % 2 == 0) | window(9)",
        "causal & key(log2(pos + 1) % 2 == 0)",
        "all - key(isqrt(pos) % 2 == 0)",
        "mix(key(isqrt(pos) % 2 == 0) for i in [1, 2])",
        "dilate(3) { random(5) } | self",
    ],
)
def test_beyond_the_method_a_bound_is_given_and_called_one(text: str) -> None:
    pattern = attnlang.loads(f"pattern p = {text}")
    large = count_pairs(pattern, 70_000, 1)
    assert large.basis == "upper bound"
    assert large.reason
    exact = count_pairs(pattern, 1500, 1)
    assert exact.exact
    assert (exact.bag, exact.distinct) == (true(pattern, 1500, 1)[0])


def test_bounds_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnc.analysis.pairs.MAX_TILED", 0)
    for text in (
        "key(isqrt(pos) % 2 == 0) | window(9)",
        "all - key(isqrt(pos) % 3 == 0)",
        "~query(isqrt(pos) == 2) + self",
    ):
        pattern = attnlang.loads(f"pattern p = {text}")
        found = count_pairs(pattern, 100, 1)
        assert not found.exact
        assert found.bag >= true(pattern, 100, 1)[0][0]
        assert found.distinct >= true(pattern, 100, 1)[0][1]
