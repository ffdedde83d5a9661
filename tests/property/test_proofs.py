"""What is proved, and what is shown to fail, against the oracle."""

from __future__ import annotations

from itertools import pairwise

import pytest
from attnc.analysis.isl_types import effort
from attnc.analysis.members import members
from attnc.analysis.proofs import covered, exact_sets, outside, query_without_key
from attnc.analysis.properties import findings
from hypothesis import assume, given
from hypothesis import strategies as st

import attnlang
from attnlang import Pattern
from attnlang.pattern.library import default_patterns, library_names
from tests.strategies import examples, lengths, relations

PLACES = [(1, 0), (2, 0), (2, 1)]


def pattern_of(text: str) -> Pattern:
    assume("grid" not in text)
    return attnlang.loads(f"pattern p = {text}")


@given(relations, relations, lengths)
@examples(150)
def test_a_bound_holds_or_the_example_leaves_it(text: str, bound_text: str, n: int) -> None:
    pattern, bound = pattern_of(text), pattern_of(bound_text)
    found = outside(pattern.relation, bound.relation, PLACES)
    if found.example is not None:
        at = found.example
        assert at.k is not None
        assert pattern.multiplicity(at.n, at.heads)[at.head, at.q, at.k] > 0
        assert bound.multiplicity(at.n, at.heads)[at.head, at.q, at.k] == 0
    elif not found.unproved:
        for heads in (1, 2):
            assert not ((pattern.multiplicity(n, heads) > 0) & (bound.multiplicity(n, heads) == 0)).any()


@given(relations, st.integers(1, 40))
@examples(150)
def test_queries_without_keys(text: str, n: int) -> None:
    pattern = pattern_of(text)
    at = query_without_key(pattern.relation, PLACES)
    exact = exact_sets(pattern.relation, PLACES)
    if at is not None:
        assert not pattern.multiplicity(at.n, at.heads)[at.head, at.q].any()
    elif exact is not None and not all(each.is_empty() for each in exact):
        for (heads, head), each in zip(PLACES, exact, strict=True):
            if not each.is_empty():
                assert pattern.multiplicity(n, heads)[head].any(1).all()


@given(relations, lengths)
@examples(150)
def test_members_are_parts_and_hold_every_pair(text: str, n: int) -> None:
    pattern = pattern_of(text)
    whole = pattern.multiplicity(n, 2) > 0
    parts = [Pattern("part", part.relation).multiplicity(n, 2) > 0 for part in members(pattern.relation)]
    assert (sum(parts) > 0).tolist() == whole.tolist()
    sets = [exact_sets(part.relation, PLACES) for part in members(pattern.relation)]
    for (one, first), (other, second) in pairwise(zip(sets, parts, strict=True)):
        if one is not None and other is not None and covered(one, [other]):
            assert not (first & ~second).any()


KNOWN = {"sda": ["A0401"]}
"""What follows from a pattern's source: on a shifted head the first queries of a segment have no key before them."""


@pytest.mark.parametrize("name", library_names())
def test_the_library_has_no_findings(name: str) -> None:
    patterns = default_patterns(attnlang.load(name).source)
    assert patterns
    assert [finding.code for pattern in patterns for finding in findings(pattern)] == KNOWN.get(name, [])


def test_hard_questions_end() -> None:
    """Segments and dilations with hardly a common factor: more cases than anyone waits for."""
    pattern = attnlang.load("longnet", segments=[2048, 3071, 8191, 17001, 32767], dilations=[3, 5, 7, 11, 13])
    assert [found.code for found in findings(pattern)] == ["A0401"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("blocks(1000) { segment(2048) { causal } }", "q=0, k=1 (N=2)"),
        ("segment(48) { dilate(7, shift=3) { offset(-5..5) } }", "q=3, k=10 (N=11)"),
        ("segment(2048) { causal } | offset(5000..5003)", "q=0, k=5000 (N=5001)"),
        ("key(pos >= 100000) & query(pos == n - 12345)", "q=87656, k=100000 (N=100001)"),
        ("blocks(2**30) { segment(2**29 + 1, shift=2**28) { dilate(2**20 + 7) { window(2**22) } } }", "q=0, k=1 (N=2)"),
    ],
)
def test_the_smallest_example_is_found_and_soon(text: str, where: str) -> None:
    (found, *_) = findings(attnlang.loads(f"pattern causal_p = {text}"))
    assert found.code == "A0203"
    assert where in found.label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("p within heads(H // 2..) { all } = self", "q=0, k=0 (N=1, h=0, H=2)"),
        ("p within offset(..-h) = self", "q=0, k=0 (N=1, h=1, H=2)"),
        ("p within random(1, seed=3) = all", "(N=2, h=0, H=1)"),
    ],
)
def test_a_bound_may_differ_by_head_where_the_pattern_does_not(text: str, label: str) -> None:
    (found,) = findings(attnlang.loads(f"pattern {text}"))
    assert found.code == "A0211"
    assert label in found.label


def test_a_bound_may_differ_by_layer_where_the_pattern_does_not() -> None:
    with pytest.raises(attnlang.AttnError, match="give the layer"):
        findings(attnlang.loads("pattern p within offset(..layer) = causal"))


def test_what_was_too_hard_once_is_asked_again_with_more_effort() -> None:
    pattern = attnlang.loads("pattern causal_q = segment(29) { window(13) }")
    with effort(0):
        assert [found.code for found in findings(pattern)] == ["A0212"]
    assert findings(pattern) == []
