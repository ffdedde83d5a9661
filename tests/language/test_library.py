"""Every pattern of the library against a definition of its own, written from the paper."""

from __future__ import annotations

import hashlib
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


def near(a: Any, b: Any, length: int, w: int, d: int = 1) -> Any:
    """NATTEN on one axis: the same class mod d, and b / d among the w places around a / d that fit the class."""
    places = -(-(length - a % d) // d)
    start = np.clip(a // d - w // 2, 0, places - w)
    return (a % d == b % d) & (start <= b // d) & (b // d < start + w)


ROWS, COLS = 8, 12  # of an image of N positions
BLOCK = N // 12
qb, kb, blocks = q // BLOCK, k // BLOCK, 12

DEFINITIONS: dict[str, tuple[dict[str, Any], Any]] = {
    "dense": ({}, np.ones((N, N))),
    "causal": ({}, k <= q),
    "sliding": ({"w": 7}, (q - 7 < k) & (k <= q)),
    "strided": ({"l": 9}, (k <= q) & ((q - k <= 9) | ((q - k) % 9 == 0))),
    "fixed": ({"l": 9, "c": 2}, (k <= q) & ((q // 9 == k // 9) | (k % 9 >= 9 - 2))),
    "longformer_local": ({"w": 5, "d": 3}, (abs(q - k) <= 15) & ((q - k) % 3 == 0)),
    "longnet": ({"segments": SEGMENTS, "dilations": DILATIONS}, (k <= q) * longnet(by_paper)),
    "longnet_bidirectional": ({"segments": SEGMENTS, "dilations": DILATIONS}, longnet(by_paper)),
    "longformer": ({"w": 5, "g": 2}, (abs(q - k) <= 5) | (k < 2) | (q < 2)),
    "streaming": ({"sinks": 3, "w": 7}, (k <= q) & ((k < 3) | (q - k < 7))),
    "tri_shape": ({"sinks": 3, "w": 7, "last": 5}, (k <= q) & ((k < 3) | (q - k < 7) | (q >= N - 5))),
    "bigbird": (
        {"b": BLOCK, "r": 0},
        (abs(qb - kb) <= 1) | (qb == 0) | (kb == 0) | (qb == blocks - 1) | (kb == blocks - 1),
    ),
    "logsparse": ({}, np.isin(q - k, [0, *(2**t for t in range(31))])),
    "chunked": ({"b": 10}, (q // 10 == k // 10) & (k <= q)),
    "s2attn": ({"g": 16}, (k <= q) & np.where(head < H // 2, q // 16 == k // 16, (q + 8) // 16 == (k + 8) // 16)),
    "s2attn_roll": (
        {"g": 16},
        np.where(
            head < H // 2,
            (k <= q) & (q // 16 == k // 16),
            ((k - 8) % N <= (q - 8) % N) & ((k - 8) % N // 16 == (q - 8) % N // 16),
        ),
    ),
    "prefix_lm": ({"p": 9}, (k <= q) | (k < 9)),
    "natten1d": ({"w": 5, "d": 3}, near(q, k, N, 5, 3)),
    "natten2d": (
        {"rows": ROWS, "cols": COLS, "w": 3, "d": 2},
        near(q // COLS, k // COLS, ROWS, 3, 2) & near(q % COLS, k % COLS, COLS, 3, 2),
    ),
    "axial": ({"rows": ROWS, "cols": COLS}, (q // COLS == k // COLS) | (q % COLS == k % COLS)),
    "swin": (
        {"rows": ROWS, "cols": COLS, "w": 4, "shift": 2},
        ((q // COLS + 2) // 4 == (k // COLS + 2) // 4) & ((q % COLS + 2) // 4 == (k % COLS + 2) // 4),
    ),
    "phi3_small": (
        {"block": 8, "local": 2, "stride": 4},
        (k <= q) & ((q // 8 - k // 8 < 2) | ((k // 8 + head * max(1, 4 // H) + 1) % 4 == 0)),
    ),
    "longnet_torchscale": ({"segments": SEGMENTS, "dilations": DILATIONS}, (k <= q) * longnet(by_torchscale)),
}


@pytest.mark.parametrize("name", [name for name in library_names() if not attnlang.load(name).tables])
def test_library_patterns_mean_what_their_papers_say(name: str) -> None:
    parameters, definition = DEFINITIONS[name]
    expected = np.broadcast_to(np.asarray(definition).astype(int), (H, N, N))
    assert (attnlang.load(name, **parameters).multiplicity(N, H) == expected).all()


@pytest.mark.parametrize("name", library_names())
def test_library_patterns_say_where_they_come_from(name: str) -> None:
    assert "arXiv" in (doc := attnlang.load(name).doc) or "torchscale" in doc


def test_the_roll_of_s2attn_leaks_as_many_pairs_as_it_is_known_to() -> None:
    m = attnlang.load("s2attn_roll", g=16).multiplicity(N, H)
    future = (m > 0) & (k > q)
    assert future.sum(axis=(1, 2)).tolist() == [0, 0, 8 * 8, 8 * 8]


def test_random_keys_are_the_same_everywhere() -> None:
    drawn = attnlang.loads("pattern p = random(5, seed=11)").multiplicity(100, 3)
    assert (drawn.sum(2) == 5).all()
    assert not (drawn[0] == drawn[1]).all()
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == "6575e912233083c5"
    few = attnlang.loads("pattern p = random(5, seed=11)").multiplicity(3, 1)
    assert (few == 1).all()


def test_random_keys_are_spread_evenly() -> None:
    """Chi-squared over keys: 4000 draws on 40 keys; the 99.99th percentile at 39 degrees of freedom is 82."""
    counts = attnlang.loads("pattern p = random(4)").multiplicity(40, 25).sum((0, 1))
    assert ((counts - 100) ** 2 / 100).sum() < 82
