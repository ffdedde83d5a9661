"""The library against the packages that hold the originals: transformers' mask functions, xformers' biases, torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import attnlang

N, H = 61, 3
masking = pytest.importorskip("transformers.masking_utils", reason="transformers holds the originals")


def of_transformers(function: Callable[..., Any]) -> Any:
    """A mask function of transformers at every (query, key)."""
    q, k = torch.arange(N)[:, None], torch.arange(N)[None, :]
    return torch.as_tensor(function(0, 0, q, k)).broadcast_to(N, N).numpy()


TRANSFORMERS: dict[str, tuple[str, dict[str, Any], Callable[[], Any]]] = {
    "causal": ("causal", {}, lambda: masking.causal_mask_function),
    "bidirectional": ("dense", {}, lambda: masking.bidirectional_mask_function),
    "sliding": ("sliding", {"w": 7}, lambda: masking.sliding_window_causal_mask_function(7)),
    "sliding_bidirectional": (
        "sliding_bidirectional", {"w": 7}, lambda: masking.sliding_window_bidirectional_mask_function(7)
    ),
    "chunked": (
        "chunked", {"b": 8}, lambda: masking.chunked_causal_mask_function(8, torch.zeros(1, dtype=torch.long))
    ),
    "gemma3": ("gemma3", {"w": 9, "layer": 1, "L": 6}, lambda: masking.sliding_window_causal_mask_function(9)),
}  # fmt: skip


@pytest.mark.parametrize("case", TRANSFORMERS)
def test_mask_functions_of_transformers(case: str) -> None:
    name, parameters, function = TRANSFORMERS[case]
    m = attnlang.load(name, **parameters).multiplicity(N, H)
    assert (m == of_transformers(function()).astype(int)).all()


def test_packed_sequences_of_transformers() -> None:
    doc = np.repeat(np.arange(4), [20, 1, 30, 10])
    both = masking.and_masks(
        masking.causal_mask_function, masking.packed_sequence_mask_function(torch.from_numpy(doc)[None])
    )
    m = attnlang.load("packed").multiplicity(N, H, doc=doc)
    assert (m == of_transformers(both).astype(int)).all()


LENGTHS = [20, 1, 30, 10]
DOC = np.repeat(np.arange(4), LENGTHS)
XFORMERS: dict[str, tuple[str, dict[str, Any], dict[str, Any], Callable[[Any], Any]]] = {
    "LowerTriangularMask": ("causal", {}, {}, lambda b: b.LowerTriangularMask()),
    "LocalAttentionFromBottomRightMask": (
        "sliding_flash", {"left": 5, "right": 2}, {},
        lambda b: b.LocalAttentionFromBottomRightMask(window_left=5, window_right=2),
    ),
    "LowerTriangularFromBottomRightLocalAttentionMask": (
        "sliding", {"w": 6}, {}, lambda b: b.LowerTriangularFromBottomRightLocalAttentionMask(_window_size=6)
    ),
    "BlockDiagonalMask": (
        "packed_bidirectional", {}, {"doc": DOC}, lambda b: b.BlockDiagonalMask.from_seqlens(LENGTHS)
    ),
    "BlockDiagonalCausalMask": (
        "packed", {}, {"doc": DOC}, lambda b: b.BlockDiagonalMask.from_seqlens(LENGTHS).make_causal()
    ),
    "BlockDiagonalCausalLocalAttentionMask": (
        "packed_sliding", {"w": 6}, {"doc": DOC},
        lambda b: b.BlockDiagonalMask.from_seqlens(LENGTHS).make_local_attention(6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", XFORMERS)
def test_biases_of_xformers(case: str) -> None:
    biases = pytest.importorskip("xformers.ops.fmha.attn_bias", reason="xformers holds the originals")
    name, parameters, tables, bias = XFORMERS[case]
    made = bias(biases)
    assert type(made).__name__ == case
    allowed = made.materialize((1, N, N) if "Block" in case else (N, N)).reshape(N, N).numpy() == 0
    assert (attnlang.load(name, **parameters).multiplicity(N, 1, **tables)[0] == allowed.astype(int)).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_biases_and_masks_of_torch() -> None:
    from torch.nn.attention.bias import causal_upper_left
    from torch.nn.attention.flex_attention import create_mask

    upper_left = torch.nn.functional.scaled_dot_product_attention(
        torch.zeros(1, N, 4), torch.zeros(1, N, 4), torch.eye(N)[None], is_causal=True
    )[0]
    m = attnlang.load("causal").multiplicity(N, 1)[0]
    assert ((upper_left > 0).numpy() == m).all()
    from_bias = torch.nn.functional.scaled_dot_product_attention(
        torch.zeros(1, 1, N, 4), torch.zeros(1, 1, N, 4), torch.eye(N)[None, None], attn_mask=causal_upper_left(N, N)
    )
    assert ((from_bias[0, 0] > 0).numpy() == m).all()
    prefix = create_mask(lambda b, h, q, k: (q >= k) | (k < 9), 1, 1, N, N, device="cpu")
    assert (attnlang.load("prefix_lm", p=9).multiplicity(N, 1)[0] == prefix[0, 0].numpy()).all()
