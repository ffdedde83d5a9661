"""Pairs of library patterns against closed forms that were derived by hand, and what is known of LongNet's reach."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pytest

import attnlang

N = 96
rng = np.random.default_rng(0)


def pairs(name: str, n: int = N, heads: int = 1, head: int = -1, **given: Any) -> int:
    pattern = attnlang.load(name, **{key: value for key, value in given.items() if not isinstance(value, np.ndarray)})
    tables = {key: value for key, value in given.items() if isinstance(value, np.ndarray)}
    return int(pattern.multiplicity(n, heads, **tables)[head].sum())


def triangle(n: int) -> int:
    return n * (n + 1) // 2


def fixed(l: int, c: int) -> int:  # noqa: E741 - the paper's name
    """The two heads of Sparse Transformer's fixed pattern, less the pairs that both hold."""
    m = N // l
    summaries = c * (m * N - l * m * (m - 1) // 2) - m * c * (2 * l - c - 1) // 2
    return N * (l + 1) // 2 + summaries - m * c * (c + 1) // 2


def vertical_slash(columns: list[int], distances: list[int]) -> tuple[int, int]:
    vertical, slash = np.zeros((1, N), int), np.zeros((1, N), int)
    vertical[0, columns], slash[0, distances] = 1, 1
    both = sum(a + b < N for a in columns for b in distances)
    expected = sum(N - a for a in columns) + sum(N - b for b in distances) - both
    return pairs("vertical_slash", vertical=vertical, slash=slash), expected


def tree(parents: list[int], p: int) -> tuple[int, int]:
    found = np.eye(len(parents), dtype=int)
    for node in range(len(parents)):
        above = parents[node]
        while above >= 0:
            found[node, above] = 1
            above = parents[above]
    expected = triangle(p) + len(parents) * p + int(found.sum())
    return pairs("tree", p + len(parents), p=p, ancestor=found), expected


DOC = np.repeat(np.arange(4), [20, 30, 6, 40])
SINKS_AND_WINDOW = 13 * N - 13 * 12 // 2
CASES: dict[str, tuple[int, int]] = {
    "dilated sliding": (pairs("dilated_sliding", w=5, d=3), sum(N - 3 * t for t in range(6))),
    "dilated to both sides": (pairs("longformer_local", w=5, d=3), N * 11 - 3 * 5 * 6),
    "global tokens": (pairs("global_tokens", tokens=[0, 1, 2]), 2 * 3 * N - 9),
    "random blocks": (pairs("random_blocks", b=8, r=3), 3 * 8 * N),
    "strided, second head": (pairs("strided_heads", heads=2, l=8), N * (N // 8 + 1) // 2),
    "fixed": (pairs("fixed", l=8, c=3), fixed(8, 3)),
    "tri-shape": (
        pairs("tri_shape", sinks=4, w=9, last=6), SINKS_AND_WINDOW + sum(q + 1 - 13 for q in range(N - 6, N))
    ),
    "vertical-slash": vertical_slash([0, 3, 40, 41, 90], [0, 1, 7, 30, 50, 95]),
    "natten, odd lengths": (pairs("natten1d", 101, w=5, d=4), 5 * 101),
    "natten, video": (pairs("natten3d", frames=4, rows=4, cols=6, w=[3, 3, 5]), 45 * N),
    "sliding tiles": (
        pairs("sta", 1728, frames=18, rows=12, cols=8, tile=[6, 4, 2], w=[3, 3, 3]), 1728 * 27 * 48
    ),
    "swin": (pairs("swin", 64, rows=8, cols=8, w=4), 64 * 16),
    "dilated on an image": (pairs("dilated2d", 144, rows=12, cols=12, r=3), 144 * 16),
    "packed": (pairs("packed", doc=DOC), sum(map(triangle, [20, 30, 6, 40]))),
    "packed, to both sides": (pairs("packed_bidirectional", doc=DOC), 400 + 900 + 36 + 1600),
    "s2attn, plain head": (pairs("s2attn", heads=4, head=0, g=16), N * 17 // 2),
    "s2attn, shifted head": (pairs("s2attn", heads=4, g=16), (N // 16 - 1) * triangle(16) + 2 * triangle(8)),
    "scca fixed, plain head": (pairs("scca_fixed", heads=4, head=0, g=16), N * 17 // 2),
    "scca fixed, shifted head": (
        pairs("scca_fixed", heads=4, g=16), (N // 16) * (triangle(8) + 8 * 8 + 8 * 16) - 16 * 8
    ),
    "scca flow, third head": (pairs("scca_flow", heads=4, head=2, g=16), (N // 16 - 2) * 16 * 16),
    "sda, third head": (
        pairs("sda", heads=4, head=2, w=24, r=4), (N // 24) * sum((a - 2) // 4 + 1 for a in range(2, 24))
    ),
    "deepspeed fixed": (
        pairs("deepspeed_fixed", 24 * 8, block=8, local=4, verticals=2), 64 * 24 * (4 + 2 * (24 // 4 - 1))
    ),
    "tree": tree([-1, 0, 0, 1, 2, 2, 4], 10),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_as_many_pairs_as_the_closed_form_says(case: str) -> None:
    found, expected = CASES[case]
    assert found == expected


SEGMENTS, DILATIONS = [16, 32, 64], [1, 2, 4]


@pytest.mark.parametrize("head", range(4))
def test_longnet_has_the_pairs_of_its_equations(head: int) -> None:
    """As a bag, causal and not, and distinct: N sum (w_i - w_(i-1)) / r_i^2 where segments and dilations divide."""
    n = 128
    rows = [(n // w, ceil((w - head % r) / r)) for w, r in zip(SEGMENTS, DILATIONS, strict=True)]
    given = {"segments": SEGMENTS, "dilations": DILATIONS}
    bag = attnlang.load("longnet_bidirectional", **given).multiplicity(n, 4)[head]
    assert bag.sum() == sum(runs * members**2 for runs, members in rows)
    assert pairs("longnet", n, 4, head, **given) == sum(runs * triangle(members) for runs, members in rows)
    steps = zip(SEGMENTS, [0, *SEGMENTS], DILATIONS, strict=False)
    assert (bag > 0).sum() == n * sum((w - before) / r**2 for w, before, r in steps)


def test_longnet_of_the_papers_shape_leaves_128_pairs_unreachable() -> None:
    pattern = attnlang.load("longnet", segments=[32, 64, 128, 256, 512], dilations=[1, 2, 4, 6, 12])
    step = (pattern.multiplicity(512, 12) > 0).any(0).astype(np.float32)
    reached = step
    for _ in range(6):
        reached = ((reached @ step + reached) > 0).astype(np.float32)
    q, k = np.nonzero(np.tri(512, dtype=bool) & (reached == 0))
    assert (len(q), int((q - k).max()), len(set(q.tolist()))) == (128, 11, 41)


def test_phi3s_heads_cover_every_column_together() -> None:
    m = attnlang.load("phi3_small", block=1, local=2, stride=4).multiplicity(32, 4)
    assert (m.any(0) == np.tri(32, dtype=bool)).all()


@pytest.mark.parametrize(
    ("name", "given", "heads", "together"),
    [
        ("scca_flow", {"g": 16}, 6, np.tri(N, dtype=bool)),
        ("sda", {"w": 24, "r": 4}, 4, np.kron(np.eye(4, dtype=bool), np.tri(24, dtype=bool))),
    ],
)
def test_shifted_heads_have_the_field_of_full_attention_together(
    name: str, given: dict[str, Any], heads: int, together: np.ndarray
) -> None:
    """arXiv:2312.07305: results of heads add up to the receptive field of full attention; a key is seen by one head."""
    m = attnlang.load(name, **given).multiplicity(N, heads)
    assert (m.sum(0) == together).all()
