"""Library patterns with runtime tables, each against a definition of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import attnlang
from attnlang.pattern.library import library_names

N, H = 48, 3
rng = np.random.default_rng(5)
q, k = np.arange(N)[:, None], np.arange(N)[None, :]
doc = np.repeat(np.arange(5), [11, 1, 20, 9, 7])
vertical, slash = rng.integers(0, 2, (H, N)), rng.integers(0, 2, (H, N))
BLOCK = 8
chosen = rng.integers(0, 2, (H, N // BLOCK, N // BLOCK))
gate = rng.integers(0, 2, (H, N, N // BLOCK))
CONTEXT = 16
parents = [-1, *(int(rng.integers(0, node)) for node in range(1, N - CONTEXT))]


def ancestors() -> Any:
    """Medusa's construction: every node marks itself and then its parents, one after another."""
    found = np.eye(len(parents), dtype=int)
    for node in range(len(parents)):
        above = parents[node]
        while above >= 0:
            found[node, above] = 1
            above = parents[above]
    return found


def tree() -> Any:
    expected = np.zeros((N, N), bool)
    for query in range(N):
        node = query - CONTEXT
        expected[query, : min(query + 1, CONTEXT)] = True
        while node >= 0:
            expected[query, CONTEXT + node] = True
            node = parents[node]
    return expected


def vertical_slash() -> Any:
    """MInference's kernel: the union of columns and of diagonals, each cut off at the query."""
    expected = np.zeros((H, N, N), bool)
    for head in range(H):
        for column in np.flatnonzero(vertical[head]):
            expected[head, column:, column] = True
        for distance in np.flatnonzero(slash[head]):
            for query in range(distance, N):
                expected[head, query, query - distance] = True
    return expected


def documents(mask: Any) -> Any:
    expected = np.zeros((N, N), bool)
    start = 0
    for length in np.bincount(doc):
        expected[start : start + length, start : start + length] = mask(length)
        start += length
    return expected


def lower(n: int) -> Any:
    return np.tri(n, dtype=bool)


DEFINITIONS: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "packed": ({}, {"doc": doc}, documents(lower)),
    "packed_bidirectional": ({}, {"doc": doc}, documents(lambda n: np.ones((n, n), bool))),
    "packed_sliding": ({"w": 5}, {"doc": doc}, documents(lambda n: lower(n) & ~np.tri(n, k=-5, dtype=bool))),
    "prefix_lm_runtime": ({}, {"prefix": [9]}, lower(N) | (k < 9)),
    "longformer_mask": (
        {"w": 5},
        {"is_global": np.isin(np.arange(N), [0, 20, 21]).astype(int)},
        (abs(q - k) <= 5) | np.isin(q, [0, 20, 21]) | np.isin(k, [0, 20, 21]),
    ),
    "flamingo": (
        {},
        {
            "image": np.where(np.arange(N) < 12, np.arange(N) // 4, -1),
            "text": np.where(np.arange(N) < 20, -1, np.repeat([-1, 0, 1, 2], 12)),
        },
        sum((k // 4 == i) & (k < 12) & (q >= max(20, 12 + 12 * i)) & (q < 24 + 12 * i) for i in range(3)),
    ),
    "shared_prefix": ({"p": 12}, {"doc": doc}, documents(lower) | (lower(N) & (k < 12))),
    "tree": ({"p": CONTEXT}, {"ancestor": ancestors()}, tree()),
    "vertical_slash": ({}, {"vertical": vertical, "slash": slash}, vertical_slash()),
    "block_table": ({"b": BLOCK}, {"chosen": chosen}, lower(N) & np.kron(chosen, np.ones((BLOCK, BLOCK), int))),
    "moba": (
        {"b": BLOCK},
        {"chosen": gate},
        lower(N) & ((q // BLOCK == k // BLOCK) | np.repeat(gate, BLOCK, axis=2).astype(bool)),
    ),
}


def test_every_pattern_with_tables_is_here() -> None:
    assert {name for name in library_names() if attnlang.load(name).tables} == set(DEFINITIONS)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_patterns_with_tables_mean_what_their_papers_say(name: str) -> None:
    parameters, tables, definition = DEFINITIONS[name]
    expected = np.broadcast_to(np.asarray(definition).astype(int), (H, N, N))
    assert (attnlang.load(name, **parameters).multiplicity(N, H, **tables) == expected).all()
