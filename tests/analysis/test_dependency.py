"""How information travels: equal to brute force on random patterns, by search and by structure; LongNet's gaps."""

from __future__ import annotations

from itertools import cycle
from math import gcd
from typing import Any

import attnc
import numpy as np
import pytest
from attnc.analysis import dependency as entry
from attnc.analysis.boxes import Counter
from attnc.analysis.dependency import Dependency, dependency
from attnc.analysis.reach import MAX_LAYERS
from hypothesis import given
from hypothesis import strategies as st

import attnlang
from attnlang import AttnError
from tests.strategies import examples, heads, relations


def brute(patterns: list[attnlang.Pattern], n: int, heads: int, **tables: Any) -> list[np.ndarray[Any, Any]]:
    """What is connected after 1, 2, .. layers, until a whole turn adds nothing: by products of matrices."""
    layers = [(p.multiplicity(n, heads, **tables) > 0).any(axis=0) | np.eye(n, dtype=bool) for p in patterns]
    reached, found, still = np.eye(n, dtype=bool), list[Any](), 0
    for layer in cycle(layers):
        grown = (layer.astype(np.int64) @ reached) > 0
        still = still + 1 if (grown == reached).all() else 0
        if still == len(layers):
            return found
        reached = grown
        found.append(reached)
    return found


def assert_agrees(found: Dependency, true: list[np.ndarray[Any, Any]], n: int) -> None:
    last = true[-1] if true else np.eye(n, dtype=bool)
    while len(true) > 1 and (true[-2] == last).all():
        true.pop()
    possible = n * (n + 1) // 2 if found.causal else n * n
    shares = [reached.sum() / possible for reached in true]
    assert list(found.reach_by_layer) == pytest.approx(shares or [last.sum() / possible])
    assert found.layers_to_connect == max(1, len(true))
    allowed = np.tri(n, dtype=bool) if found.causal else np.ones((n, n), bool)
    never = allowed & ~last
    assert found.unreachable_pairs == never.sum()
    if never.any():
        q, k = never.nonzero()
        assert found.unreachable_distances == (abs(q - k).min(), abs(q - k).max())
        assert all(never[pair] for pair in found.examples)
        assert found.examples
    assert found.hops_by_distance == hops(true, n)


def hops(true: list[np.ndarray[Any, Any]], n: int) -> tuple[tuple[int, int, int], ...]:
    needed = np.zeros((n, n), int)
    for number, reached in reversed(list(enumerate(true, 1))):
        needed[reached] = number
    apart = abs(np.subtract.outer(np.arange(n), np.arange(n)))
    found: list[tuple[int, int, int]] = []
    first = 1
    while first < n:
        last = min(2 * first - 1, n - 1)
        if most := int(needed[(apart >= first) & (apart <= last)].max()):
            found.append((first, last, most))
        first *= 2
    return tuple(found)


@given(relations, st.integers(1, MAX_LAYERS), heads)  # layers are counted up to there: `window(2)` needs n - 1
@examples(120)
def test_the_search_equals_brute_force(text: str, n: int, heads: int) -> None:
    pattern = attnlang.loads(f"pattern p = {text}")
    try:
        true = brute([pattern], n, heads)
    except AttnError:
        return
    assert_agrees(dependency(pattern, n, heads), true, n)


sides = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 7)), min_size=1, max_size=4)


@given(sides, st.booleans(), st.integers(1, 8), st.integers(2, 100), st.sampled_from(["h", "h // 2", "0"]))
@examples(220)
def test_unreachable_pairs_of_patterns_like_longnet(
    branches: list[tuple[int, int]], causal: bool, heads: int, n: int, shift: str
) -> None:
    parts = " + ".join(f"segment({w}) {{ dilate({r}, shift={shift}) }}" for w, r in branches)
    pattern = attnlang.loads(f"pattern p = {'causal & ' if causal else ''}({parts})")
    found = dependency(pattern, n, heads)
    assert_agrees(found, brute([pattern], n, heads), n)
    if found.unreachable_pairs:
        assert found.repair is not None
        text = f"pattern p = {'causal & ' if causal else ''}({parts}) | {found.repair.text}"
        true = brute([attnlang.loads(text)], n, heads)
        if found.repair.verified:
            assert true[-1].sum() == (n * (n + 1) // 2 if found.causal else n * n)
            assert found.repair.layers == len(true)
        assert found.repair.verified or found.repair.layers is None


@given(st.lists(relations, min_size=2, max_size=3), st.integers(1, 60), st.integers(1, 3))
@examples(50)
def test_different_patterns_by_layer(texts: list[str], n: int, heads: int) -> None:
    patterns = [attnlang.loads(f"pattern p = {text}") for text in texts]
    try:
        true = brute(patterns, n, heads)
    except AttnError:
        return
    found = dependency(patterns, n, heads)
    allowed = np.tri(n, dtype=bool) if found.causal else np.ones((n, n), bool)
    last = true[-1] if true else np.eye(n, dtype=bool)
    assert found.unreachable_pairs == (allowed & ~last).sum()
    assert found.reach_by_layer[-1] == pytest.approx(last.sum() / allowed.sum())


def test_layers_of_gemma_in_turn() -> None:
    layers = [attnlang.load("gemma3", layer=layer, L=6, w=8) for layer in range(6)]
    found = attnc.dependency(layers, n=200, heads=2)
    assert found.layers_to_connect == 6  # the sixth is full
    assert found.unreachable_pairs == 0
    assert found.reach_by_layer[0] == pytest.approx((8 * 200 - 28) / (200 * 201 / 2))


# at any N, by structure -----------------------------------------------------------------------------------------------

STRUCTURED = {
    "one band": ["window(5)", "offset(-3..2)", "offset(0..4)", "all", "causal"],
    "distances": ["window(3) | offset(-20..-20)", "offset(..0 step 3)",
                  "self | any(offset(-2**t..-2**t) for t in range(9))",
                  "offset(-9..-4)", "offset(..-7)", "offset(-12..0 step 4) | offset(-6..-6)", "offset(-9..-9)", "none"],
    "hub": ["window(3) | key(pos < 2) | query(pos < 2)", "key(pos == n - 1) | query(pos == n - 1)"],
    "segments": ["segment(12) { causal }",
                 "causal & mix(segment(w) { dilate(r, shift=h) } for w, r in [[6, 1], [18, 3]])",
                 "segment(9)", "segment(20) { segment(5) { window(2) } | segment(10) { dilate(2) } }"],
}  # fmt: skip


@pytest.mark.parametrize(("method", "text"), [(method, text) for method, texts in STRUCTURED.items() for text in texts])
@pytest.mark.parametrize("n", [50, 67])
def test_structure_says_what_the_search_says(method: str, text: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = attnlang.loads(f"pattern p = {text}")
    true = dependency(pattern, n, 3)
    monkeypatch.setattr(entry, "MAX_LATTICE_N", 20)
    monkeypatch.setattr(entry, "MAX_ANY_N", 20)
    found = dependency(pattern, n, 3)
    assert found.method.startswith(method)
    assert found.exact
    assert found.reach_by_layer == pytest.approx(true.reach_by_layer)
    assert found.layers_to_connect == true.layers_to_connect
    assert found.unreachable_pairs == true.unreachable_pairs
    assert found.hops_by_distance == true.hops_by_distance
    assert found.causal == true.causal or not true.unreachable_pairs


@pytest.mark.parametrize("text", [
    "grid(6, 9) { neighborhood(3) * neighborhood(5) }", "grid(6, 9) { segment(3) * neighborhood(3) }",
    "grid(3, 2, 9) { neighborhood(1, causal=True) * all * neighborhood(3) }",
])  # fmt: skip
def test_axes_say_what_the_search_says(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = attnlang.loads(f"pattern p = {text}")
    true = dependency(pattern, 54, 2)
    monkeypatch.setattr(entry, "MAX_ANY_N", 20)
    found = dependency(pattern, 54, 2)
    assert found.method.startswith("axes")
    assert found.reach_by_layer == pytest.approx(true.reach_by_layer)
    assert found.unreachable_pairs == true.unreachable_pairs
    assert found.layers_to_connect == true.layers_to_connect


@pytest.mark.parametrize(
    ("name", "basis"),
    [("sliding", "exact"), ("causal", "exact"), ("longformer", "exact"), ("etc", "exact"),
     ("star_transformer", "exact"),
     ("streaming", "measured at N = 4096"), ("logsparse", "measured at N = 131072")],
)  # fmt: skip
def test_a_thousand_million_tokens_are_not_searched(name: str, basis: str) -> None:
    found = dependency(attnlang.load(name), 10**9, 2)
    assert found.basis == basis
    assert (found.n == 10**9) == (basis == "exact")


def test_windows_grow_by_their_width() -> None:
    found = dependency(attnlang.load("sliding", w=4096), 10**9, 1)
    assert found.growth == "1 + 4095 l"
    assert found.layers_to_connect == -(-(10**9 - 1) // 4095)


# LongNet --------------------------------------------------------------------------------------------------------------


def test_the_paper_s_causal_longnet_has_pairs_that_never_meet() -> None:
    """Segments of an eighth of the paper's: the gaps beside a border do not depend on their lengths."""
    found = dependency(attnlang.load("longnet", segments=[256, 512, 1024, 2048, 4096]), 4096, 12)
    assert found.unreachable_pairs
    assert found.examples[0] == (256, 255)
    assert found.unreachable_distances is not None
    assert found.unreachable_distances[1] < 12
    assert "two sides of a border between segments of 256" in found.cause
    assert found.repair is not None
    assert found.repair.text.startswith("window(")
    assert found.repair.verified


def test_without_causality_longnet_meets_everywhere() -> None:
    found = dependency(attnlang.load("longnet_bidirectional", segments=[256, 512, 1024, 2048, 4096]), 4096, 12)
    assert found.unreachable_pairs == 0


def test_too_few_heads_leave_classes_apart() -> None:
    found = dependency(attnlang.loads("pattern p = causal & segment(64) { dilate(8, shift=h) }"), 64, 3)
    true = sum(1 for q in range(64) for k in range(q) if not (q % 8 == k % 8 < 3))
    assert found.unreachable_pairs == true


def test_what_only_positions_of_one_class_can_do() -> None:
    found = dependency(attnlang.loads("pattern p = offset(..0 step 6) | offset(-4..-4)"), 60, 1)
    assert found.cause == f"only positions that are equal mod {gcd(6, 4)} ever meet"
    assert found.repair is not None
    assert found.repair.verified


def test_tables_are_followed_and_asked_for() -> None:
    doc = [0] * 10 + [1] * 20
    found = attnc.dependency("packed", n=30, heads=1, tables={"doc": doc})
    assert found.unreachable_pairs == 10 * 20
    with pytest.raises(ValueError, match="needs the content of doc"):
        attnc.dependency("packed", n=30, heads=1)
    with pytest.raises(ValueError, match="no shorter form"):
        attnc.dependency("packed", n=10**6, heads=1, tables={"doc": [0] * 10**6})
    with pytest.raises(ValueError, match="at least one pattern"):
        attnc.dependency([], n=10)


def test_progress_is_told() -> None:
    told: list[str] = []
    dependency(attnlang.load("longnet", segments=[8, 16], dilations=[1, 2]), 64, 1, progress=told.append)
    assert told[0].startswith("layer 1")
    assert any(each.startswith("trying the repair") for each in told)


def test_unions_are_searched_along_the_lattices_of_their_parts() -> None:
    pattern = attnlang.loads("pattern p = causal & (segment(8) | segment(64) { dilate(3) }) | window(2)")
    found = dependency(pattern, 100, 2)
    assert found.method == "unions along lattices, all pairs"
    assert_agrees(found, brute([pattern], 100, 2), 100)


def test_a_search_that_gives_up_claims_no_hops_for_what_it_left_open() -> None:
    found = attnc.dependency(attnlang.loads("pattern steps = window(2)"), n=300, heads=1)
    assert found.layers_to_connect is None
    assert found.hops_by_distance == ((1, 1, 1), (2, 3, 3), (4, 7, 7), (8, 15, 15), (16, 31, 31), (32, 63, 63))


def test_thousands_of_heads_are_no_deeper_than_terms_may_nest() -> None:
    pattern, counter = attnlang.load("sda"), Counter({})
    terms, any_head = counter.any_head(pattern.relation, 100_000, 4096)
    assert terms.shifted(any_head, 0, 0) is not None
