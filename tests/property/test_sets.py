"""Integer sets of patterns against the oracle."""

from __future__ import annotations

from typing import Any

import islpy as isl
import numpy as np
import pytest
from attnc.analysis.sets import support
from hypothesis import assume, given
from hypothesis import strategies as st

import attnlang
from attnlang.pattern.library import default_patterns, library_names
from tests.strategies import examples, lengths, relations


def points(pairs: Any, n: int) -> np.ndarray[Any, Any]:
    """The points of a set at N = n, as a matrix."""
    found = np.zeros((n, n), bool)
    fixed = pairs.fix_val(isl.dim_type.param, 0, isl.Val(n))
    fixed.foreach_point(
        lambda point: found.__setitem__(
            tuple(point.get_coordinate_val(isl.dim_type.set, i).to_python() for i in range(2)), True
        )
    )
    return found


def assert_agrees(pattern: attnlang.Pattern, n: int, heads: int) -> None:
    m = pattern.multiplicity(n, heads) > 0
    for head in range(heads):
        found = support(pattern.relation, head, heads)
        mine = points(found.pairs, n)
        assert (mine == m[head]).all() if found.exact else (mine >= m[head]).all()


@given(relations, lengths, st.integers(1, 3))
@examples(150)
def test_random_patterns(text: str, n: int, heads: int) -> None:
    assume("grid" not in text)
    assert_agrees(attnlang.loads(f"pattern p = {text}"), n, heads)


SMALL: dict[str, dict[str, Any]] = {
    "longnet": {"segments": [8, 16, 32], "dilations": [1, 2, 3]},
    "longnet_torchscale": {"segments": [8, 16, 32], "dilations": [1, 2, 3]},
    "longnet_bidirectional": {"segments": [8, 16, 32], "dilations": [1, 2, 3]},
    "natten2d": {"rows": 5, "cols": 8, "w": 3}, "axial": {"rows": 5, "cols": 8},
    "swin": {"rows": 5, "cols": 8, "w": 3, "shift": 1}, "bigbird": {"b": 4}, "sliding": {"w": 7},
    "strided": {"l": 7}, "fixed": {"l": 8, "c": 2}, "s2attn": {"g": 16}, "s2attn_roll": {"g": 8},
    "longformer": {"w": 3, "g": 2}, "tri_shape": {"sinks": 3, "w": 5, "last": 4},
    "phi3_small": {"block": 4, "local": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_the_library(name: str) -> None:
    assert_agrees(attnlang.load(name, **SMALL[name]), 40, 2)


def test_the_whole_library_has_sets() -> None:
    patterns = [each for name in library_names() for each in default_patterns(attnlang.load(name).source)]
    inexact = {each.name for each in patterns if not each.tables and not support(each.relation, 1, 4).exact}
    by_length, by_chance = (
        {"block_diffusion", "deepspeed_variable", "scca_flow"}, {"bigbird", "deepspeed_bigbird", "random_blocks"}
    )  # fmt: skip
    assert inexact == by_length | by_chance
