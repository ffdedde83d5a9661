"""Pairs asked for one by one, bounds of rectangles, and tiles: each against the oracle, on random patterns."""

from __future__ import annotations

import numpy as np
import pytest
from attnc.lower import lower
from hypothesis import given
from hypothesis import strategies as st

import attnlang
from attnlang.pattern.bounds import Bounds, Rectangles
from attnlang.pattern.pointwise import multiplicity_at
from attnlang.pattern.random_keys import drawn_keys, keys
from attnlang.pattern.tables import Content, key
from attnlang.plan import Lattice, Tiles
from attnlang.runtime import blocks
from attnlang.runtime.bitrows import bit_rows
from attnlang.runtime.blocks import BlockLists, block_lists
from tests.strategies import examples, heads, lengths, relations


def pattern_of(text: str) -> attnlang.Pattern:
    return attnlang.loads(f"pattern p = {text}")


def dense(lists: tuple[BlockLists, ...], heads: int, n: int) -> np.ndarray:
    """The multiplicity that tiles hold."""
    found = np.zeros((heads, n, n), int)
    for group in lists:
        padded = np.zeros((n + group.block_q, n + group.block_k), int)
        for entry, (i, j) in enumerate(zip(group.rows, group.blocks, strict=True)):
            q, k = i * group.block_q, j * group.block_k
            padded[q : q + group.block_q, k : k + group.block_k] += group.mask(entry)
        assert not padded[n:].any()
        assert not padded[:, n:].any()
        found[list(group.heads)] += padded[:n, :n]
    return found


@given(relations, lengths, heads)
@examples(200)
def test_pairs_asked_for_are_those_of_the_oracle(text: str, n: int, heads: int) -> None:
    pattern = pattern_of(text)
    m = pattern.multiplicity(n, heads)
    q, k = np.arange(n)[:, None], np.arange(n)[None, :]
    for head in range(heads):
        scope = {"N": n, "H": heads, "h": head}
        assert (multiplicity_at(pattern.relation, q, k, n, scope) == m[head]).all()


@given(relations, st.integers(1, 48), heads, st.integers(1, 12), st.integers(1, 12))
@examples(200)
def test_bounds_hold_every_multiplicity(text: str, n: int, heads: int, tall: int, wide: int) -> None:
    pattern = pattern_of(text)
    m = pattern.multiplicity(n, heads)[-1]
    q, k = (x.reshape(-1) for x in np.meshgrid(np.arange(0, n, tall), np.arange(0, n, wide), indexing="ij"))
    where = Rectangles(q, np.minimum(q + tall, n) - 1, k, np.minimum(k + wide, n) - 1)
    lo, hi = Bounds(pattern.relation, n, {"N": n, "H": heads, "h": heads - 1})(where)
    for place in range(len(where)):
        inside = m[q[place] : q[place] + tall, k[place] : k[place] + wide]
        assert lo[place] <= inside.min()
        assert inside.max() <= hi[place]


@given(relations, st.integers(0, 70), heads, st.sampled_from([(16, 16), (16, 32), (32, 16)]))
@examples(150)
def test_tiles_hold_the_pairs_of_the_pattern(text: str, n: int, heads: int, sides: tuple[int, int]) -> None:
    pattern = pattern_of(text)
    lists = block_lists(Tiles(tuple(range(heads)), pattern.relation), heads, n, *sides)
    assert (dense(lists, heads, n) == pattern.multiplicity(n, heads)).all()
    for group in lists:
        turned, rows = group.by_key(), group.rows
        mine = sorted(zip(rows, group.blocks, group.masks, strict=True))
        assert sorted(zip(turned.blocks, turned.rows, turned.masks, strict=True)) == mine
        full = group.masks == -1
        assert len({group.bits[i].tobytes() for i in range(len(group.bits))}) == len(group.bits)
        assert not any(group.mask(entry).all() for entry in np.flatnonzero(~full))


@pytest.mark.parametrize("name", ["longformer", "streaming", "tri_shape", "bigbird", "natten1d", "phi3_small"])
def test_tiles_of_the_library_at_a_length_of_many_tiles(name: str) -> None:
    pattern = attnlang.load(name)
    n = 1000
    lists = block_lists(Tiles((0, 1), pattern.relation), 2, n, 64, 64)
    assert (dense(lists, 2, n) == pattern.multiplicity(n, 2)).all()


@pytest.mark.parametrize(
    "text", ["natten2d(rows=9, cols=64)", "swin(rows=24, cols=24, w=6)", "axial(rows=18, cols=32)"]
)
def test_tiles_of_grids_with_rows_longer_than_a_tile_is_wide(text: str) -> None:
    pattern = pattern_of(text)
    lists = block_lists(Tiles((0,), pattern.relation), 1, 576, 64, 32)
    assert (dense(lists, 1, 576) == pattern.multiplicity(576, 1)).all()


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("natten3d(frames=3, rows=5, cols=7, w=[2, 3, 3])", 105),
        ("sta(frames=4, rows=4, cols=6, tile=[2, 2, 3], w=[1, 3, 1])", 96),
        ("axial(rows=9, cols=11)", 99),
        ("swin(rows=12, cols=10, w=4, shift=1)", 120),
        ("natten2d(rows=9, cols=11, w=3) - key(pos % 3 == 0) | query(pos < 2)", 99),
        ("~grid(9, 11) { all * self } & all", 99),
    ],
)
@pytest.mark.parametrize("sides", [(64, 64), (16, 32), (32, 16), (16, 48)])
def test_grids_are_asked_by_rows_of_bits(text: str, n: int, sides: tuple[int, int]) -> None:
    pattern = pattern_of(text)
    assert bit_rows(pattern.relation, n, sides[1], {"N": n, "H": 1, "h": 0}) is not None
    lists = block_lists(Tiles((0,), pattern.relation), 1, n, *sides)
    assert (dense(lists, 1, n) == pattern.multiplicity(n, 1)).all()


@pytest.mark.parametrize(
    "text",
    [
        "causal & same(doc[pos])",
        "window(30) & same(doc[pos])",
        "same(doc[pos] + h) & ~offset(-3..5) | query(pos < 2)",
        "same(doc[pos]) - offset(.. step 2)",  # asked pair by pair, as all that has a step
    ],
)
@pytest.mark.parametrize("sides", [(64, 64), (16, 32), (32, 16)])
def test_equal_values_are_compared_by_rows_of_bits(text: str, sides: tuple[int, int]) -> None:
    n = 99
    pattern = attnlang.loads(f"pattern p(doc: table) = {text}")
    tables = {"doc": np.repeat([3, 1, 3, 2], [30, 34, 20, 15])}
    lists = block_lists(Tiles((0, 1), pattern.relation), 2, n, *sides, tables)
    assert (dense(lists, 2, n) == pattern.multiplicity(n, 2, **tables)).all()
    scope = {"N": n, "H": 2, "h": 0, key("doc"): Content("doc", tables["doc"])}
    assert (bit_rows(pattern.relation, n, sides[1], scope) is None) == ("step" in text)


@pytest.mark.parametrize("text", ["causal", "grid(3, 5) { all * self } + grid(3, 5) { all * self }", "sliding(w=3)"])
def test_what_is_no_grid_or_counts_twice_has_no_rows_of_bits(text: str) -> None:
    assert bit_rows(pattern_of(text).relation, 15, 16, {"N": 15, "H": 1, "h": 0}) is None


def test_masks_that_happen_to_have_one_sum_are_not_mistaken_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = pattern_of("natten2d(rows=9, cols=11, w=3)")
    monkeypatch.setattr(blocks, "_weights", lambda count: np.zeros(count, np.uint64))
    blocks._fixed.cache_clear()
    lists = block_lists(Tiles((0,), pattern.relation), 1, 99, 16, 16)
    blocks._fixed.cache_clear()
    assert (dense(lists, 1, 99) == pattern.multiplicity(99, 1)).all()


def test_keys_drawn_together_are_those_drawn_alone() -> None:
    for count, length in ((0, 5), (3, 1), (3, 2), (7, 64), (5, 1000)):
        together = drawn_keys(count, length, 7, 3, np.arange(40))
        assert together.tolist() == [keys(count, length, 7, 3, query) for query in range(40)]


@pytest.mark.parametrize(("w", "d"), [(7, 1), (6, 1), (9, 3)])
def test_a_neighborhood_is_a_window_and_what_it_has_more_at_the_borders(w: int, d: int) -> None:
    plan = lower(attnlang.load("natten1d", w=w, d=d), 2)
    window, borders = plan.branches
    assert isinstance(window, Lattice)
    assert isinstance(borders, Tiles)
    (lists,) = block_lists(borders, 2, 4096, 64, 64)
    assert set(lists.rows.tolist()) == {0, 63}
    assert [type(branch) for branch in lower(attnlang.load("natten1d_causal", w=w), 2).branches] == [Lattice]
