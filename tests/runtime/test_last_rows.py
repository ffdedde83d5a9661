"""Fewer queries than keys: the last rows of a pattern alone, on calls and on tiles, and what they cost."""

from __future__ import annotations

from typing import Any

import attnc
import numpy as np
import pytest
import torch
from attnc.lower import lower
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attnlang
from attnlang.nn import PatternAttention
from attnlang.runtime import sdpa
from attnlang.runtime.blocks import block_lists
from attnlang.runtime.calls import Call, resolve
from attnlang.runtime.last_rows import last_rows
from attnlang.runtime.tiles import tiles
from attnlang.runtime.work import pairs_computed
from tests.strategies import examples, heads, relations

PATTERNS: dict[str, dict[str, Any]] = {
    "causal": {},
    "sliding": {"w": 20},
    "longnet": {"segments": [16, 48], "dilations": [2, 3]},
    "longnet_bidirectional": {"segments": [16, 48], "dilations": [2, 3]},
    "fixed": {"l": 16, "c": 3},
    "longformer": {"w": 24, "g": 3},
    "streaming": {"w": 40, "sinks": 3},
}


def pairs(call: Call, heads: int, n: int, queries: int) -> np.ndarray:
    """How often a call computes each pair: (heads, queries, n)."""
    found = np.zeros((heads, queries, n), int)
    places = [(call.head, call.q, call.k)]
    for axis in call.axes:
        places = [
            (h + i * axis.head, q + i * axis.token, k + i * axis.key_token)
            for h, q, k in places
            for i in range(axis.size)
        ]
    for h, q, k in places:
        for i in range(call.q_len):
            for j in range(call.k_len):
                if j - i in call.band:
                    found[h, q + i * call.step, k + j * call.step] += 1
    return found


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("n", [50, 97])
def test_calls_of_the_last_rows_are_the_last_rows_of_the_calls(name: str, n: int) -> None:
    plan = lower(attnlang.load(name, **PATTERNS[name]), 3)
    whole = sum((pairs(call, 3, n, n) for call in resolve(plan, n)), np.zeros((3, n, n), int))
    for first in (0, 1, n // 3, n - 1):
        parts = [part for call in resolve(plan, n) for cut in last_rows(call, first) for part in (cut, *tiles(cut))]
        kept = [part for call in resolve(plan, n) for part in last_rows(call, first)]
        found = sum((pairs(part, 3, n, n - first) for part in kept), np.zeros((3, n - first, n), int))
        assert (found == whole[:, first:]).all()
        assert all(part.q_len > 0 and part.k_len > 0 for part in parts)


def results(module: PatternAttention, inputs: list[Tensor], **tables: Tensor) -> list[Tensor]:
    x = [each.detach().requires_grad_() for each in inputs[:3]]
    out, lse = module(*x, return_lse=True, **tables)
    return [out, lse, *torch.autograd.grad(out, x, inputs[3])]


@given(relations, st.integers(1, 150), st.integers(1, 150), heads, st.booleans())
@examples(60)
def test_fewer_queries_equal_the_formula(text: str, n: int, queries: int, heads: int, grouped: bool) -> None:
    pattern = attnlang.loads(f"pattern p = {text}")
    queries, kv_heads = min(n, queries), 1 if grouped else heads
    shapes = [(2, heads, queries, 8), (2, kv_heads, n, 8), (2, kv_heads, n, 8), (2, heads, queries, 8)]
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    plan = lower(pattern, heads)
    mine, true = (PatternAttention(pattern, plan, heads, name) for name in ("sdpa", "reference"))
    for a, b in zip(results(mine, inputs), results(true, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_tables_with_fewer_queries() -> None:
    doc = torch.arange(130) // 17
    shapes = [(2, 4, 70, 8), (2, 4, 130, 8), (2, 4, 130, 8), (2, 4, 70, 8)]
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    for tables in ({"doc": doc}, {"doc": torch.stack([doc, doc // 2])}):
        mine, true = (attnc.compile("packed", heads=4, backend=name) for name in ("sdpa", "reference"))
        for a, b in zip(results(mine, inputs, **tables), results(true, inputs, **tables), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", PATTERNS)
def test_one_query_costs_its_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 32,768 keys nothing of all queries is computed: two blocks of rows at most, for each branch."""
    n = 32768
    plan = lower(attnlang.load(name, **PATTERNS[name]), 2)
    one, all_ = pairs_computed(plan, n, first=n - 1), pairs_computed(plan, n)
    assert 0 < one <= all_ // 256
    seen: list[tuple[int, ...]] = []
    forward = sdpa.forward
    monkeypatch.setattr(sdpa, "forward", lambda q, *rest: (seen.append(tuple(q.shape)), forward(q, *rest))[1])
    attnc.compile(name, heads=2, **PATTERNS[name])(*(torch.randn(1, 2, size, 8) for size in (1, n, n)))
    assert seen == [(1, 2, 1, 8)]


def test_lists_from_a_query_on_are_those_blocks_of_all_lists() -> None:
    pattern = attnlang.load("longformer", w=24, g=3)
    (branch,) = [each for each in lower(pattern, 1).branches if type(each).__name__ == "Tiles"]
    (whole,), (part,) = (block_lists(branch, 1, 500, 64, 64, {}, first) for first in (0, 200))
    mine = [whole.rows >= 200 // 64]
    assert (part.rows == whole.rows[mine[0]]).all()
    assert (part.blocks == whole.blocks[mine[0]]).all()
    assert all((part.mask(i) == whole.mask(j)).all() for i, j in enumerate(np.flatnonzero(mine[0])))
