"""Every pattern of the library against a definition of its own, written from the paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import attnlang
from attnlang.pattern.library import library_names

N, H = 96, 4
q, k = np.arange(N)[:, None], np.arange(N)[None, :]
head = np.arange(H)[:, None, None]
SEGMENTS, DILATIONS = [8, 24, 64], [1, 3, 4]


def longnet(shift: Any) -> Any:
    """LongNet's equations 3-15: pairs of one segment whose places in it are both congruent to the shift."""
    branches = zip(SEGMENTS, DILATIONS, strict=True)
    return sum((q // w == k // w) & (q % w % r == shift(r)) & (k % w % r == shift(r)) for w, r in branches)


def by_paper(r: int) -> Any:
    return head % r


def by_torchscale(r: int) -> Any:
    return head // -(-H // r)


DEFINITIONS: dict[str, tuple[dict[str, Any], Any]] = {
    "dense": ({}, np.ones((N, N))),
    "causal": ({}, k <= q),
    "sliding": ({"w": 7}, (q - 7 < k) & (k <= q)),
    "strided": ({"l": 9}, (k <= q) & ((q - k <= 9) | ((q - k) % 9 == 0))),
    "fixed": ({"l": 9, "c": 2}, (k <= q) & ((q // 9 == k // 9) | (k % 9 >= 9 - 2))),
    "longformer_local": ({"w": 5, "d": 3}, (abs(q - k) <= 15) & ((q - k) % 3 == 0)),
    "longnet": ({"segments": SEGMENTS, "dilations": DILATIONS}, (k <= q) * longnet(by_paper)),
    "longnet_bidirectional": ({"segments": SEGMENTS, "dilations": DILATIONS}, longnet(by_paper)),
    "longnet_torchscale": ({"segments": SEGMENTS, "dilations": DILATIONS}, (k <= q) * longnet(by_torchscale)),
}


@pytest.mark.parametrize("name", library_names())
def test_library_patterns_mean_what_their_papers_say(name: str) -> None:
    parameters, definition = DEFINITIONS[name]
    expected = np.broadcast_to(np.asarray(definition).astype(int), (H, N, N))
    assert (attnlang.load(name, **parameters).multiplicity(N, H) == expected).all()


@pytest.mark.parametrize("name", library_names())
def test_library_patterns_say_where_they_come_from(name: str) -> None:
    assert "arXiv" in (doc := attnlang.load(name).doc) or "torchscale" in doc
