"""Windows, sinks, strides and segments on a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.language.zoo.frame import Definition, Frame, powers

SEGMENTS, DILATIONS = [8, 24, 64], [1, 3, 4]


def longnet(f: Frame, shift: Any) -> Any:
    """LongNet's equations 3-15: pairs of one segment whose places in it are both congruent to the shift."""
    branches = zip(SEGMENTS, DILATIONS, strict=True)
    return sum((f.q // w == f.k // w) & (f.q % w % r == shift(r)) & (f.k % w % r == shift(r)) for w, r in branches)


def by_paper(f: Frame) -> Any:
    return longnet(f, lambda r: f.h % r)


def by_torchscale(f: Frame) -> Any:
    return longnet(f, lambda r: f.h // -(-f.H // r))


def s2attn(f: Frame, g: int) -> Any:
    return f.past & np.where(f.h < f.H // 2, f.q // g == f.k // g, (f.q + g // 2) // g == (f.k + g // 2) // g)


def rolled(f: Frame, g: int) -> Any:
    """LongLoRA's plain path: shifted heads are rolled by g / 2, attend causally in groups, and are rolled back."""
    q, k = (f.q - g // 2) % f.N, (f.k - g // 2) % f.N
    return np.where(f.h < f.H // 2, f.past & (f.q // g == f.k // g), (k <= q) & (q // g == k // g))


def scca_fixed(f: Frame, g: int) -> Any:
    """Queries stay in chunks of g; half the heads roll keys by g / 2 to later places. A decoder masks the future."""
    expected, padded = f.empty(), -(-f.N // g) * g
    for head in range(f.H):
        keys = np.roll(np.arange(padded), g // 2 if head >= f.H // 2 else 0)
        for place, key in enumerate(keys):
            if key < f.N:
                expected[head, place // g * g : (place // g + 1) * g, key] = 1
    return f.past * expected


def scca_flow(f: Frame, g: int) -> Any:
    """Chunk c sees chunk c - h, the shift beginning anew after the last chunk."""
    expected, chunks = f.empty(), -(-f.N // g)
    for head in range(f.H):
        for chunk in range(head % chunks, chunks):
            seen = chunk - head % chunks
            expected[head, chunk * g : (chunk + 1) * g, seen * g : (seen + 1) * g] = 1
    return f.past * expected


def sda(f: Frame, w: int, r: int) -> Any:
    """In segments of w: the keys h mod r before the query, and every r-th before those."""
    expected = f.empty()
    for head in range(f.H):
        for query in range(f.N):
            keys = range(query - head % r, query // w * w - 1, -r)
            expected[head, query, list(keys)] = 1
    return expected


def neighborhood(a: Any, b: Any, length: int, w: int, d: int = 1) -> Any:
    """NATTEN on one axis: the same class mod d, and b / d among the w places around a / d that fit the class."""
    places = -(-(length - a % d) // d)
    start = np.clip(a // d - w // 2, 0, np.maximum(places - w, 0))
    return (a % d == b % d) & (start <= b // d) & (b // d < start + w)


def causal_neighborhood(f: Frame, w: int, d: int, stride: int) -> Any:
    """mask.hpp: the leader of a causal stride group is its last; keys from leader - w + 1 up to the query."""
    expected = np.zeros((f.N, f.N), bool)
    for query in range(f.N):
        residue, place = query % d, query // d
        last = (f.N - residue - 1) // d
        leader = min(place // stride * stride + stride - 1, last)
        for key in range(max(leader - w + 1, 0), place + 1):
            expected[query, residue + d * key] = True
    return expected


def sparse_transformer_fixed(f: Frame) -> Any:
    """The layout of openai/sparse_attention, blocks of 4, stride 3: of 3 vertices, head h takes h mod 3."""
    block, stride, verts = 4, 3, 3
    n = -(-f.N // block)
    layout = np.zeros((f.H, n, n), bool)
    for head in range(f.H):
        for row in range(n):
            layout[head, row, row - row % stride : row + 1] = True
            for column in range(row + 1):
                layout[head, row, column] |= column % stride == stride - 1 - head % verts
    return np.kron(layout, np.ones((block, block), bool))[:, : f.N, : f.N] & f.past


def logsparse_local(f: Frame, w: int) -> Any:
    expected = np.zeros((f.N, f.N), bool)
    for query in range(f.N):
        expected[query, max(0, query - w + 1) : query + 1] = True
        step = 1
        while query - (w - 1) - step >= 0:
            expected[query, query - (w - 1) - step] = True
            step *= 2
    return expected


def ring(f: Frame) -> Any:
    """Star-Transformer: satellites 1..n-1 in a ring, relay 0."""
    n = f.N - 1
    expected = np.zeros((f.N, f.N), bool)
    expected[0, :] = expected[:, 0] = True
    for satellite in range(n):
        for step in (-1, 0, 1):
            expected[1 + satellite, 1 + (satellite + step) % n] = True
    return expected


def star_attention(f: Frame, b: int, last: int) -> Any:
    expected = np.zeros((f.N, f.N), bool)
    for query in range(f.N):
        keys = range(f.N) if query >= f.N - last else [*range(b), *range(query // b * b, f.N)]
        expected[query, [key for key in keys if key <= query]] = True
    return expected


DEFINITIONS: dict[str, Definition] = {
    "dense": ({}, lambda f: f.q >= 0),
    "causal": ({}, lambda f: f.past),
    "sliding": ({"w": 7}, lambda f: (f.d < 7) & f.past),
    "sliding_bidirectional": ({"w": 7}, lambda f: abs(f.d) <= 7),
    "sliding_flash": ({"left": 6, "right": 2}, lambda f: (f.q - 6 <= f.k) & (f.k <= f.q + 2)),
    "sliding_gym": ({"w": 7}, lambda f: (f.d <= 7) & f.past),
    "streaming_gym": ({"w": 7, "sinks": 3}, lambda f: ((f.d <= 7) | (f.k < 3)) & f.past),
    "dilated_sliding": ({"w": 5, "d": 3}, lambda f: np.isin(f.d, [0, 3, 6, 9, 12, 15])),
    "dilated_gym": ({"w": 13, "d": 3}, lambda f: np.isin(f.d, [0, 3, 6, 9, 12])),
    "longformer_heads": (
        {"w": 5, "d": 3, "dilated": 2},
        lambda f: np.where(f.h < f.H - 2, (f.d >= 0) & (f.d <= 5), np.isin(f.d, [0, 3, 6, 9, 12, 15])),
    ),
    "strided": ({"l": 9}, lambda f: f.past & ((f.d <= 9) | (f.d % 9 == 0))),
    "strided_heads": (
        {"l": 9}, lambda f: f.past & np.where(f.h % 2 == 0, f.d < 9, f.d % 9 == 0)
    ),
    "fixed": ({"l": 9, "c": 2}, lambda f: f.past & ((f.q // 9 == f.k // 9) | (f.k % 9 >= 9 - 2))),
    "fixed_heads": ({"block": 4, "stride": 3, "num_verts": 3}, sparse_transformer_fixed),
    "longformer_local": ({"w": 5, "d": 3}, lambda f: (abs(f.d) <= 15) & (f.d % 3 == 0)),
    "global_tokens": (
        {"tokens": [0, 7, 50]}, lambda f: np.isin(f.q, [0, 7, 50]) | np.isin(f.k, [0, 7, 50])
    ),
    "longformer": ({"w": 5, "g": 2}, lambda f: (abs(f.d) <= 5) | (f.k < 2) | (f.q < 2)),
    "etc": ({"g": 9, "r": 4}, lambda f: (abs(f.d) <= 4) | (f.k < 9) | (f.q < 9)),
    "longnet": ({"segments": SEGMENTS, "dilations": DILATIONS}, lambda f: f.past * by_paper(f)),
    "longnet_bidirectional": ({"segments": SEGMENTS, "dilations": DILATIONS}, by_paper),
    "longnet_torchscale": (
        {"segments": SEGMENTS, "dilations": DILATIONS}, lambda f: f.past * by_torchscale(f)
    ),
    "streaming": ({"sinks": 3, "w": 7}, lambda f: f.past & ((f.k < 3) | (f.d < 7))),
    "tri_shape": (
        {"sinks": 3, "w": 7, "last": 5}, lambda f: f.past & ((f.k < 3) | (f.d < 7) | (f.q >= f.N - 5))
    ),
    "stride_slash": (
        {"w": 4, "l": 9, "sinks": 2}, lambda f: f.past & ((f.d < 4) | (f.d % 9 == 0) | (f.k < 2))
    ),
    "logsparse": ({}, lambda f: (f.d == 0) | powers(f)),
    "logsparse_local": ({"w": 5}, lambda f: logsparse_local(f, 5)),
    "logsparse_restart": (
        {"l": 20}, lambda f: (f.q // 20 == f.k // 20) & ((f.d == 0) | powers(f))
    ),
    "power_attention": (
        {"w": 4, "sinks": 2}, lambda f: f.past & ((f.d < 4) | (f.k < 2) | powers(f))
    ),
    "star_transformer": ({}, ring),
    "star_attention": ({"b": 10, "last": 7}, lambda f: star_attention(f, 10, 7)),
    "chunked": ({"b": 10}, lambda f: (f.q // 10 == f.k // 10) & f.past),
    "s2attn": ({"g": 16}, lambda f: s2attn(f, 16)),
    "s2attn_roll": ({"g": 16}, lambda f: rolled(f, 16)),
    "scca_fixed": ({"g": 16}, lambda f: scca_fixed(f, 16)),
    "scca_flow": ({"g": 40}, lambda f: scca_flow(f, 40)),
    "sda": ({"w": 20, "r": 3}, lambda f: sda(f, 20, 3)),
    "prefix_lm": ({"p": 9}, lambda f: f.past | (f.k < 9)),
    "natten1d": ({"w": 5, "d": 3}, lambda f: neighborhood(f.q, f.k, f.N, 5, 3)),
    "natten1d_causal": ({"w": 5, "d": 2, "stride": 3}, lambda f: causal_neighborhood(f, 5, 2, 3)),
    "mixed_heads": (
        {"w": 6, "stride": 5}, lambda f: f.past & np.where(f.h < f.H // 2, f.d < 6, f.d % 5 == 0)
    ),
    "gemma2": ({"w": 6, "layer": 2, "L": 26}, lambda f: f.past & (f.d < 6)),
    "gemma3": ({"w": 6, "layer": 5, "L": 34}, lambda f: f.past),
    "llama4": ({"b": 10, "layer": 4, "L": 48}, lambda f: f.past & (f.q // 10 == f.k // 10)),
}  # fmt: skip
