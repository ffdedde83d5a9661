"""Formulas: equal to exact counts wherever they say that they hold, and proved or measured as they say."""

from __future__ import annotations

from math import lcm
from typing import Any

import attnc
import pytest
from attnc.analysis.formula import Formula, text
from attnc.analysis.general import general
from attnc.analysis.pairs import count_pairs, pieces_by_head
from attnc.analysis.report import Report
from attnc.lower import lower
from hypothesis import given
from hypothesis import strategies as st

import attnlang
from tests.analysis.small import GRIDS, small_library
from tests.strategies import examples

LIBRARY = [pattern for pattern in small_library() if pattern.name not in GRIDS]
BY_CHANCE = {"bigbird", "deepspeed_bigbird", "random_blocks"}
HEADS = 3


def report_of(pattern: attnlang.Pattern, n: int) -> Report:
    return attnc.report(pattern, n=n, heads=HEADS, head_dim=8, dependency=False)


def held_at(formula: Formula) -> list[int]:
    """Some lengths at which a formula says that it holds, among them those at the borders of where it does."""
    last = formula.most or 10**6
    steps = range(1, 2000)
    match formula.kind:
        case "multiples":
            lengths = [formula.multiple * step for step in (*range(1, 40), 77, 1234)]
        case "squares":
            lengths = [formula.multiple * step * step for step in steps]
        case "powers":
            lengths = [formula.multiple * 2**step for step in range(40)]
    found = [n for n in lengths if formula.holds_at(n) and n <= last]
    return [*found[:6], *found[-2:]]


@pytest.mark.parametrize("pattern", LIBRARY, ids=lambda each: each.name)
def test_formulas_of_the_library_equal_exact_counts(pattern: attnlang.Pattern) -> None:
    found = report_of(pattern, 96)
    if pattern.name in BY_CHANCE:
        assert found.formula is None
        return
    assert found.formula is not None
    assert found.distinct_formula is not None
    for formula, kind in ((found.formula, "bag"), (found.distinct_formula, "distinct")):
        lengths = held_at(formula)
        assert len(lengths) > 3
        for n in lengths:
            exact = getattr(count_pairs(pattern, n, HEADS), kind)
            assert formula.at(n) == exact, (kind, n)
            if n <= 150:
                m = pattern.multiplicity(n, HEADS)
                assert exact == (m.sum() if kind == "bag" else (m > 0).sum())


@pytest.mark.parametrize(
    ("name", "given", "complexity", "leading"),
    [
        ("sliding", {"w": 64}, "O(N)", "64*N"),
        ("sliding", {"w": "isqrt(N)"}, "O(N sqrt N)", "N^(3/2)"),
        ("strided", {"l": "isqrt(N)"}, "O(N sqrt N)", "3*N^(3/2)/2"),
        ("sliding", {"w": "log2(N)"}, "O(N log N)", "N*log2(N)"),
        ("logsparse", {}, "O(N log N)", "N*log2(N)"),
        ("power_attention", {}, "O(N log N)", "N*log2(N)"),
        ("s2attn", {"g": "N // 4"}, "O(N^2)", "7*N^2/64"),
        ("causal", {}, "O(N^2)", "N^2/2"),
        ("strided", {"l": 32}, "O(N^2)", "N^2/64"),
        ("longformer", {"w": 8, "g": 2}, "O(N)", "21*N"),
        ("star_transformer", {}, "O(N)", "5*N"),
    ],
)
def test_classes_and_leading_coefficients(name: str, given: dict[str, Any], complexity: str, leading: str) -> None:
    found = attnc.report(name, n=4096, heads=1, head_dim=8, dependency=False, **given)
    assert found.formula is not None
    assert found.formula.complexity == complexity
    assert text(found.formula.leading_term) == leading


def test_a_form_that_is_fitted_says_where_it_was_compared() -> None:
    fitted = report_of(attnlang.load("streaming", sinks=2, w=6), 64)
    assert fitted.formula is not None
    assert fitted.formula.basis.startswith("measured at N = ")
    assert len(fitted.formula.checked) >= 5
    proved = report_of(attnlang.load("strided", l=8), 64)
    assert proved.formula is not None
    assert (proved.formula.basis, proved.formula.checked) == ("exact", ())


@pytest.mark.parametrize("name", ["packed", "natten2d", "bigbird"])
def test_where_there_is_no_formula_it_is_said_why(name: str) -> None:
    found = attnc.report(name, n=3136, heads=1, dependency=False)
    assert found.formula is None
    assert found.no_formula
    assert found.to_dict()["formula"] is None


# LongNet, arXiv:2307.02486 -------------------------------------------------------------------------------------------


def test_equations_16_to_18_come_out() -> None:
    segments, dilations = [64, 128, 256, 512], [1, 2, 4, 8]
    found = attnc.report(
        "longnet_bidirectional", n=1024, heads=8, head_dim=16, dependency=False, segments=segments, dilations=dilations
    )
    assert found.general is not None
    assert found.general.flops == "sum over i of 2*N*d*w_i/r_i^2"  # equation 17
    assert found.general.flops_latex == r"\sum_{i=1}^{4} \left(\frac{2 N d w_{i}}{r_{i}^{2}}\right)"
    assert found.general.bound == "2*a/(a - 1) * w_1/r_1^2 * N*d = 256*N*d, a = 2, for any number of branches"  # 18
    assert (
        found.bag
        == 8 * found.general.at(1024)
        == 8 * 1024 * sum(w // r**2 for w, r in zip(segments, dilations, strict=True))
    )
    assert 2 * 16 * found.general.at(1024) < 256 * 1024 * 16
    assert found.forward_flops == 2 * 8 * 2 * 16 * found.general.at(1024)  # both products of all heads


def test_the_count_at_borders_is_exact_where_the_general_form_is_only_near() -> None:
    found = attnc.report("longnet", n=32768 + 5000, heads=12, dependency=False)
    assert found.general is not None
    assert found.general.unmet == "16384 by 6, 32768 by 12 leaves a rest"
    assert found.bag != 12 * found.general.at(found.n)
    assert abs(found.bag / (12 * found.general.at(found.n)) - 1) < 0.05


SHAPES = st.one_of(
    st.builds(lambda w, r: f"segment({w * r}) {{ dilate({r}, shift=h) }}", st.integers(1, 9), st.integers(1, 4)),
    st.builds(
        lambda w, r: f"causal & segment({w * r}) {{ dilate({r}, shift=h) }}", st.integers(1, 9), st.integers(1, 4)
    ),
    st.builds(lambda w, r: f"segment({w * r}) {{ dilate({r}) }}", st.integers(1, 9), st.integers(1, 4)),
    st.builds(lambda w, r: f"offset(-{w - 1} * {r}..0 step {r})", st.integers(1, 9), st.integers(1, 4)),
    st.builds(lambda w, r: f"offset(-{w} * {r}..{w} * {r} step {r})", st.integers(1, 9), st.integers(1, 4)),
    st.sampled_from(["all", "causal", "segment(6) | segment(3)", "mix(segment(w) for w in [2, 6])"]),
)


@given(SHAPES, st.integers(1, 4))
@examples(80)
def test_general_forms_are_exact_where_they_say_so(shape: str, heads: int) -> None:
    pattern = attnlang.loads(f"pattern p = {shape}")
    found = general(lower(pattern, heads))
    if found is None or found.unmet:
        return
    n = lcm(*found.widths) * 4 * max(found.dilations)
    assert found.at(n) * heads == count_pairs(pattern, n, heads, None, pieces_by_head(pattern, heads)).bag
    assert found.pairs_text
    assert found.to_dict()["latex"]


@pytest.mark.parametrize(
    ("text", "heads"),
    [
        ("all - (causal & neighborhood(4, causal=h == 0))", 2),  # what holds from 8 on holds at 2 by chance
        ("none if 2 >= min(n, N) else window(3)", 1),
        ("mix(offset(..-9) for x in range(n % 3))", 1),  # a remainder is a period, too
        ("blocks(7) { query(n == 6) }", 1),  # 0 nearly everywhere, but not at the length that is asked for
    ],
)
def test_a_fitted_form_holds_from_where_it_says(text: str, heads: int) -> None:
    pattern = attnlang.loads(f"pattern p = {text}")
    for asked in (1, 40):
        found = attnc.report(pattern, n=asked, heads=heads, head_dim=8, dependency=False)
        lengths = [asked] if "blocks" in text else range(1, 41)
        for n in lengths:
            m = pattern.multiplicity(n, heads)
            for formula, true in ((found.formula, m.sum()), (found.distinct_formula, (m > 0).sum())):
                assert formula is None or not formula.holds_at(n) or formula.at(n) == true, n
