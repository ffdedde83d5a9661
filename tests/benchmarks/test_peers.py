"""LongNet as its authors run it, and with fewer copies, against each other and against the oracle."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import attnlang
from attnlang.runtime import reference

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import peers
import tables

CASES = [  # heads, N, segments, dilations; heads that r does not divide, and segments that are longer than N
    (4, 64, [16, 32, 64], [1, 2, 4]),
    (6, 64, [16, 32, 64], [1, 2, 4]),
    (3, 96, [32, 96], [1, 8]),
    (5, 64, [16, 256], [1, 2]),
]


@pytest.fixture(autouse=True)
def _flash_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def flash(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)

    monkeypatch.setattr(peers, "flash", flash)


def tensors(heads: int, n: int) -> list[Tensor]:
    """q, k, v and d_out, (B, N, H, D) in memory."""
    generator = torch.Generator().manual_seed(n)
    made = [torch.randn(2, n, heads, 8, generator=generator, dtype=torch.float64) for _ in range(4)]
    return [x.transpose(1, 2) for x in made]


def results(attention: Any, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs[:3]]
    out = attention(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, inputs[3])]


def branch(w: int, r: int, causal: bool) -> attnlang.Pattern:
    where = "causal & " if causal else ""
    return attnlang.loads(f"pattern one = {where}segment({w}) {{ dilate({r}, shift=h // ((H + {r - 1}) // {r})) }}")


def formula(segments: list[int], dilations: list[int], causal: bool) -> Any:
    """Every branch by the oracle, weighed by its part of the denominator, of which no gradient is taken."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        patterns = [branch(w, r, causal) for w, r in zip(segments, dilations, strict=True)]
        outs, lses = zip(*(reference.attention(q, k, v, each, 8**-0.5) for each in patterns), strict=True)
        weights = torch.stack(lses).detach().softmax(0)
        return (torch.stack(outs) * weights.unsqueeze(-1)).sum(0)

    return run


def close(mine: list[Tensor], true: list[Tensor]) -> None:
    for a, b in zip(mine, true, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("heads", "n", "segments", "dilations"), CASES)
def test_both_are_the_authors_algorithm(
    heads: int, n: int, segments: list[int], dilations: list[int], causal: bool
) -> None:
    inputs = tensors(heads, n)
    mine = results(peers.longnet_reference(segments, dilations, causal), inputs)
    close(mine, results(peers.longnet_fewer_copies(segments, dilations, causal), inputs))
    close(mine, results(formula(segments, dilations, causal), inputs))


@pytest.mark.parametrize(("heads", "n", "segments", "dilations"), CASES)
def test_they_are_the_pattern_of_the_library(heads: int, n: int, segments: list[int], dilations: list[int]) -> None:
    """Out and dv; weights without a gradient make dq and dk others than those of the softmax."""
    inputs = tensors(heads, n)
    pattern = attnlang.load("longnet_torchscale", segments=segments, dilations=dilations)
    out, dq, dk, dv = results(peers.longnet_reference(segments, dilations, True), inputs)
    true = results(lambda q, k, v: reference.attention(q, k, v, pattern, 8**-0.5)[0], inputs)
    close([out, dv], [true[0], true[3]])
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in zip((dq, dk), true[1:3], strict=True))


def test_a_length_that_no_segment_divides() -> None:
    """Causal only: otherwise the zeros at the end are keys, in theirs too."""
    inputs, segments, dilations = tensors(6, 75), [16, 32, 1000], [1, 2, 5]
    close(
        results(peers.longnet_reference(segments, dilations, True), inputs),
        results(formula(segments, dilations, True), inputs),
    )


class Copies(TorchDispatchMode):
    """Elements of each copy that a reshape makes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.clone, torch.ops.aten._to_copy):
            self.seen.append(found.numel())
        return found


def copies(attention: Any, inputs: list[Tensor]) -> list[int]:
    """Copies of more than an lse, in whole tensors of q's size and in their order."""
    with Copies() as mode:
        attention(*inputs[:3])
    whole, lse = inputs[0].numel(), inputs[0][..., 0].numel()
    return [whole // size for size in mode.seen if size > lse]


def test_copies_of_the_authors_code() -> None:
    """Theirs for one branch: 1 / r of k, v and q (twice where r > 1), then of out, then all of out.

    That is once where r > 1, to bring rows to their places; once where there are several segments; once at the end.
    """
    inputs = tensors(4, 64)
    assert copies(peers.longnet_reference([16], [1], True), inputs) == [1, 1, 1, 1, 1, 1]
    assert copies(peers.longnet_reference([16], [2], True), inputs) == [*[2] * 6, 2, 1, 1, 1]
    assert copies(peers.longnet_reference([64], [2], True), inputs) == [*[2] * 6, 2, 1, 1]
    fewer = copies(peers.longnet_fewer_copies([16], [2], True), inputs)
    assert sum(1 / part for part in fewer) < 4


@pytest.mark.parametrize("both", [True, False])
def test_the_table_of_results_of_now_and_before(both: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"ours": 2.0, "reference": 8.0, "cudnn_views": 3.0, "dense": 20.0}
    times |= {"reference_fewer_copies": 6.0} if both else {}
    row = {"heads": 12, "head_dim": 64, "causal": True, "milliseconds": {"forward": times}}
    machine = {"device": "GPU", "torch": "2", "date": "today"}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "longnet.json").write_text(json.dumps({"machine": machine, "rows": [row]}))
    monkeypatch.setattr(tables, "HERE", tmp_path)
    *_, head, rule, line = tables.longnet().splitlines()
    if both:
        assert head == "| | ours | authors' code | with fewer copies | cuDNN on views | dense cuDNN |"
        assert line == "| H12D64 causal, forward | 2.00 ms | 8.0 (4.0x) | 6.0 (3.0x) | 3.0 (1.5x) | 20.0 (10.0x) |"
    else:
        assert head == "| | ours | authors' algorithm | cuDNN on views | dense cuDNN |"
        assert line == "| H12D64 causal, forward | 2.00 ms | 8.0 (4.0x) | 3.0 (1.5x) | 20.0 (10.0x) |"
    assert rule.count("|") == head.count("|") == line.count("|")
