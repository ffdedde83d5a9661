"""Every pattern of the library against a definition of its own, and against the counts known of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from math import log2

import numpy as np
import pytest

import attnlang
from attnlang.pattern.library import library_names
from tests.language.zoo import blocks, images, sequences
from tests.language.zoo.frame import Definition, Frame

ANY_LENGTH = {**sequences.DEFINITIONS, **blocks.DEFINITIONS}
DEFINITIONS: dict[str, Definition] = {**ANY_LENGTH, **images.DEFINITIONS}
DRAWN = {"random_blocks"}
"""Nothing but chance: what holds of it is tested by itself."""
WITHOUT_TABLES = [name for name in library_names() if not attnlang.load(name).tables and name not in DRAWN]
FIRST, SECOND = Frame(96, 4), Frame(83, 3)
EVEN_ONLY = {"block_diffusion", "s2attn_roll"}
"""Defined by their authors for lengths that a half, or a group, divides."""


def assert_equal(name: str, frame: Frame) -> None:
    parameters, definition = DEFINITIONS[name]
    expected = np.broadcast_to(np.asarray(definition(frame)).astype(int), (frame.H, frame.N, frame.N))
    assert (attnlang.load(name, **parameters).multiplicity(frame.N, frame.H) == expected).all()


@pytest.mark.parametrize("name", WITHOUT_TABLES)
def test_library_patterns_mean_what_their_papers_say(name: str) -> None:
    assert_equal(name, FIRST)


@pytest.mark.parametrize("name", [name for name in ANY_LENGTH if name not in EVEN_ONLY])
def test_library_patterns_at_a_length_that_nothing_divides(name: str) -> None:
    assert_equal(name, SECOND)


@pytest.mark.parametrize("name", library_names())
def test_library_patterns_say_where_they_come_from(name: str) -> None:
    assert "arXiv" in (doc := attnlang.load(name).doc) or "torchscale" in doc


@pytest.mark.parametrize("name", library_names())
def test_library_patterns_have_a_summary_of_a_line(name: str) -> None:
    summary = attnlang.load(name).summary
    assert 15 < len(summary) <= 88
    assert "arXiv" not in summary
    assert ".." not in summary.replace("...", "")


@pytest.mark.parametrize("name", library_names())
def test_library_patterns_have_ten_lines_at_most(name: str) -> None:
    lines = attnlang.load(name).source.text.splitlines()
    assert sum(bool(line.strip()) and not line.startswith("#") for line in lines) <= 10


def _triangle(n: int) -> int:
    return n * (n + 1) // 2


COUNTS: dict[str, tuple[dict[str, object], Callable[[int], float]]] = {
    "causal": ({}, _triangle),
    "sliding": ({"w": 7}, lambda n: 7 * n - 7 * 6 // 2),
    "longformer_local": ({"w": 5, "d": 3}, lambda n: n * 11 - 3 * 5 * 6),
    "longformer": ({"w": 5, "g": 2}, lambda n: 2 * 2 * n - 4 + (n - 2) * 11 - 30),
    "strided": ({"l": 8}, lambda n: 9 * n - 8 * 9 // 2 + n * (n // 8 + 1) // 2 - n - (n - 8)),
    "chunked": ({"b": 8}, lambda n: n * 9 // 2),
    "logsparse": ({}, lambda n: n + n * (int(log2(n - 1)) + 1) - (2 ** (int(log2(n - 1)) + 1) - 1)),
    "star_transformer": ({}, lambda n: 5 * (n - 1) + 1),
    "streaming": ({"sinks": 4, "w": 9}, lambda n: 13 * n - 13 * 12 // 2),
    "natten1d": ({"w": 7}, lambda n: 7 * n),
    "natten2d": ({"rows": 8, "cols": 12, "w": 5}, lambda n: 25 * n),
    "axial": ({"rows": 8, "cols": 12}, lambda n: n * 19),
    "prefix_lm": ({"p": 10}, lambda n: _triangle(n) + 10 * 9 // 2),
    "etc": ({"g": 9, "r": 4}, lambda n: 81 + 18 * (n - 9) + (n - 9) * 9 - 20),
    "star_attention": (
        {"b": 16, "last": 16},
        lambda n: (n // 16 - 1) * 136 + (n // 16 - 2) * 256 + 16 * (n - 16) + 136,
    ),
}
"""Closed forms that are known of the patterns, for one head."""


@pytest.mark.parametrize("name", COUNTS)
def test_pairs_are_as_many_as_is_known(name: str) -> None:
    parameters, expected = COUNTS[name]
    for n in (96,) if "rows" in parameters else (96, 192):
        assert attnlang.load(name, **parameters).multiplicity(n, 1).sum() == expected(n)  # type: ignore[arg-type]


def test_the_roll_of_s2attn_leaks_as_many_pairs_as_it_is_known_to() -> None:
    m = attnlang.load("s2attn_roll", g=16).multiplicity(96, 4)
    future = (m > 0) & ~np.tri(96, dtype=bool)
    assert future.sum(axis=(1, 2)).tolist() == [0, 0, 8 * 8, 8 * 8]


def test_random_keys_are_the_same_everywhere() -> None:
    drawn = attnlang.loads("pattern p = random(5, seed=11)").multiplicity(100, 3)
    assert (drawn.sum(2) == 5).all()
    assert not (drawn[0] == drawn[1]).all()
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == "6575e912233083c5"
    few = attnlang.loads("pattern p = random(5, seed=11)").multiplicity(3, 1)
    assert (few == 1).all()


@pytest.mark.parametrize("local", [4, 6])
@pytest.mark.parametrize("horizontal", [False, True])
def test_deepspeed_fixed_in_all_its_settings(local: int, horizontal: bool) -> None:
    """Also where the last window has fewer blocks than are global: 83 positions are 11 blocks of 8."""
    for frame in (FIRST, SECOND, Frame(200, 4)):
        for verticals in (1, 2, local):
            for different in range(1, local // verticals + 1):
                m = attnlang.load(
                    "deepspeed_fixed", block=8, local=local, verticals=verticals, patterns=different,
                    horizontal=horizontal,
                ).multiplicity(frame.N, frame.H)  # fmt: skip
                expected = blocks.deepspeed_fixed(frame, local, verticals, different, horizontal)
                assert (m == expected).all()


def test_deepspeed_variable_may_be_horizontal_and_draw() -> None:
    given = {"block": 8, "windows": [2, 1, 3], "globals": [0, 4]}
    rows = attnlang.load("deepspeed_variable", **given, horizontal=True).multiplicity(96, 2)
    bare = attnlang.load("deepspeed_variable", **given).multiplicity(96, 2)
    assert (rows == np.maximum(bare, np.isin(np.arange(96) // 8, [0, 4])[None, :, None])).all()
    drawn = attnlang.load("deepspeed_variable", **given, r=2).multiplicity(96, 2)
    assert (drawn > bare).any((2,)).sum() > 0
    assert (drawn >= bare).all()


def test_random_keys_of_a_relation_are_drawn_from_it_alone() -> None:
    n, heads = 40, 3
    among = attnlang.loads("pattern p = causal & key(pos % 3 > 0)").multiplicity(n, heads)
    drawn = attnlang.loads("pattern p = random(4, seed=2) { causal & key(pos % 3 > 0) }").multiplicity(n, heads)
    assert (drawn <= among).all()
    assert (drawn.sum(2) == np.minimum(among.sum(2), 4)).all()
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == "45b70b0f921955b4"
    everything = attnlang.loads("pattern p = random(5, seed=11) { all + all }").multiplicity(100, 3)
    assert (everything == attnlang.loads("pattern p = random(5, seed=11)").multiplicity(100, 3)).all()


def test_random_blocks_are_some_of_all() -> None:
    m = attnlang.load("random_blocks", b=8, r=3).multiplicity(96, 2)
    tiles = m.reshape(2, 12, 8, 12, 8)
    assert (tiles.all((2, 4)) == tiles.any((2, 4))).all()
    assert (tiles.any((2, 4)).sum(2) == 3).all()


def test_bigbird_draws_blocks_that_it_does_not_see_anyway() -> None:
    """The count of the paper's blocks: 2 n + 2 (4 + r) + (n - 4) (5 + r)."""
    b, n, r = 4, 24, 3
    m = attnlang.load("bigbird", b=b, r=r).multiplicity(b * n, 3)
    assert (m.sum((1, 2)) == b * b * (2 * n + 2 * (4 + r) + (n - 4) * (5 + r))).all()


@pytest.mark.parametrize("name", ["bigbird", "deepspeed_bigbird"])
def test_random_blocks_join_what_is_there_without_them(name: str) -> None:
    block = "b" if name == "bigbird" else "block"
    bare = attnlang.load(name, **{block: 8, "r": 0}).multiplicity(96, 3)
    drawn = attnlang.load(name, **{block: 8, "r": 3}).multiplicity(96, 3)
    assert (drawn >= bare).all()
    added = (drawn > bare).reshape(3, 12, 8, 12, 8)
    assert (added.all((2, 4)) == added.any((2, 4))).all()
    assert 0 < added.any((2, 4)).sum(2).max() <= 3


def test_random_keys_are_spread_evenly() -> None:
    """Chi-squared over keys: 4000 draws on 40 keys; the 99.99th percentile at 39 degrees of freedom is 82."""
    counts = attnlang.loads("pattern p = random(4)").multiplicity(40, 25).sum((0, 1))
    assert ((counts - 100) ** 2 / 100).sum() < 82
