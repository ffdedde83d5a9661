"""Random patterns: what the compiler says and does equals the oracle, or it says that it cannot."""

from __future__ import annotations

from itertools import product

import numpy as np
import sympy
import torch
from attnc.analysis.formula import N
from attnc.analysis.report import report
from attnc.lower import lower
from hypothesis import assume, given
from hypothesis import strategies as st

import attnlang
from attnlang.nn import PatternAttention
from attnlang.pattern.algebra import relation_text
from attnlang.plan import Plan, Tiles
from attnlang.runtime.blocks import block_lists
from attnlang.runtime.calls import Call, resolve
from attnlang.runtime.tiles import tiles
from tests.property.test_tiles import dense
from tests.strategies import examples, heads, lattices, lengths, relations

thorough = examples(200)


def pattern_of(text: str) -> attnlang.Pattern:
    return attnlang.loads(f"pattern p = {text}")


def plan_of(text: str, heads: int) -> Plan:
    return lower(pattern_of(text), heads)


def tiled(plan: Plan, n: int) -> np.ndarray:
    """The multiplicity that the tiles of a plan hold."""
    found = np.zeros((plan.heads, n, n), int)
    for branch in plan.branches:
        if isinstance(branch, Tiles):
            found += dense(block_lists(branch, plan.heads, n, 16, 16), plan.heads, n)
    return found


def pairs(calls: list[Call], n: int, heads: int) -> np.ndarray:
    """The multiplicity that calls compute, pair by pair."""
    m = np.zeros((heads, n, n), int)
    for call in calls:
        i, j = np.arange(call.q_len)[:, None], np.arange(call.k_len)[None, :]
        inside = np.vectorize(lambda d, band=call.band: d in band, otypes=[bool])(j - i)
        assert inside.any(axis=1).all(), f"a row without keys in {call}"
        for index in product(*(range(axis.size) for axis in call.axes)):
            moved = list(zip(index, call.axes, strict=True))
            head = call.head + sum(step * axis.head for step, axis in moved)
            q = call.q + sum(step * axis.token for step, axis in moved) + i * call.step
            k = call.k + sum(step * axis.key_token for step, axis in moved) + j * call.step
            np.add.at(m[head], (np.broadcast_to(q, inside.shape), np.broadcast_to(k, inside.shape)), inside)
    return m


@given(relations)
@thorough
def test_a_printed_relation_means_the_same(text: str) -> None:
    relation = pattern_of(text).relation
    assert pattern_of(relation_text(relation)).relation == relation


@given(relations, lengths, heads)
@thorough
def test_calls_cover_every_pair_as_often_as_it_counts(text: str, n: int, heads: int) -> None:
    plan = plan_of(text, heads)
    m = pattern_of(text).multiplicity(n, heads)
    calls, rest = list(resolve(plan, n)), tiled(plan, n)
    assert (pairs(calls, n, heads) + rest == m).all()
    assert (pairs([part for call in calls for part in tiles(call)], n, heads) + rest == m).all()


@given(lattices, st.integers(0, 400))
@examples(40)
def test_tiles_of_long_sequences_cover_every_pair(text: str, n: int) -> None:
    plan = plan_of(text, 1)
    parts = [part for call in resolve(plan, n) for part in tiles(call)]
    assert (pairs(parts, n, 1) + tiled(plan, n) == pattern_of(text).multiplicity(n, 1)).all()


@given(relations, lengths, heads)
@thorough
def test_counts_are_exact(text: str, n: int, heads: int) -> None:
    pattern = pattern_of(text)
    m = pattern.multiplicity(n, heads)
    found = report(pattern, n, heads, 8)
    assert (found.bag, found.distinct) == (m.sum(), (m > 0).sum())
    assert [head.bag for head in found.per_head] == m.sum((1, 2)).tolist()


@given(lattices, heads)
@examples(60)
def test_formulas_are_exact_where_they_say_so(text: str, heads: int) -> None:
    pattern = pattern_of(text)
    found = report(pattern, 1, heads, 8)
    assume(found.formula is not None and found.distinct_formula is not None)
    for formula, count in ((found.formula, np.sum), (found.distinct_formula, np.count_nonzero)):
        for n in (formula.least, formula.least + formula.multiple):
            if n <= 220:
                assert formula.pairs.subs(N, n) == sympy.Integer(int(count(pattern.multiplicity(n, heads))))


@given(relations, lengths, heads)
@thorough
def test_plans_survive_json(text: str, n: int, heads: int) -> None:
    plan = plan_of(text, heads)
    assert Plan.from_json(plan.to_json()) == plan


@given(relations, st.integers(0, 150), st.integers(1, 4), st.integers(1, 2), st.booleans())
@examples(100)
def test_sdpa_equals_the_formula(text: str, n: int, heads: int, batch: int, transposed: bool) -> None:
    plan = plan_of(text, heads)
    fast = PatternAttention(pattern_of(text), plan, heads, "sdpa")
    slow = PatternAttention(pattern_of(text), None, heads, "reference")
    torch.manual_seed(0)
    shape = (batch, n, heads, 4) if transposed else (batch, heads, n, 4)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    views = [x.transpose(1, 2) if transposed else x for x in inputs]
    results = []
    for module in (fast, slow):
        out, lse = module(*views, return_lse=True)
        grads = torch.autograd.grad(out, inputs, torch.cos(torch.arange(out.numel()).double()).view(out.shape))
        results.append((out, lse, *grads))
    for mine, true in zip(*results, strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=1e-12)
