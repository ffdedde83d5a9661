"""Distributed attention on triton's kernels, under its interpreter on gloo ranks: one line of JSON a case.

    TRITON_INTERPRET=1 python tests/parallel/triton_ranks.py

The error against float64 may be at most twice that of the plain formula computed in the same dtype, plus rounding.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

import attnc
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from triton_cases import interpret

from attnlang import loads
from attnlang.parallel import distribute, shard
from attnlang.parallel import rank as rank_module
from attnlang.runtime import reference
from tests.parallel.ranks import outcomes

HEADS, HEAD_DIM, N = 2, 16, 50
LONGNET = "p = causal & mix(segment(w) { dilate(r, shift=h) } for w, r in zip([16, 32, 64], [1, 2, 4]))"
CASES: dict[str, str] = {
    "longnet": LONGNET,
    "window": "p = causal & window(12)",
    "window, as if kernels filled the GPU": "p = causal & window(12)",
    "longformer": "p = offset(-9..9) | key(pos < 2) | query(pos < 2)",
    "bigbird": "p = blocks(8) { offset(-1..1) | key(pos == 0) | query(pos == 0) | random(1, seed=0) }",
    "packed": "p(doc: table) = causal & same(doc[pos])",
}
RESULTS = ("out", "dq", "dk", "dv")


def grads(attention: Any, inputs: list[Tensor], dout: Tensor) -> list[Tensor]:
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = attention(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, dout)]


def errors(text: str, dtype: torch.dtype) -> list[tuple[float, float]]:
    """(error, what is allowed) of out, dq, dk and dv on this rank."""
    pattern = loads(f"pattern {text}")
    module = distribute(
        attnc.compile(pattern, heads=HEADS, backend="triton"), dist.group.WORLD, n=N, placement="contiguous",
        head_dim=HEAD_DIM,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(1, HEADS, N, HEAD_DIM, generator=generator).to(dtype) for _ in range(4)]
    tables = {"doc": torch.arange(N) // 19} if pattern.tables else {}

    def formula(q: Tensor, k: Tensor, v: Tensor, low: torch.dtype | None = None) -> Tensor:
        return reference.attention(q, k, v, pattern, HEAD_DIM**-0.5, low, tables=list(tables.values()))[0]

    exact = grads(formula, [x.double() for x in whole[:3]], whole[3].double())
    plain = grads(lambda *x: formula(*x, dtype), whole[:3], whole[3])
    mine = [shard(x, module, 2) for x in whole]
    found = grads(lambda *x: module(*x, **tables), mine[:3], mine[3])
    eps = 8 * torch.finfo(torch.float32).eps + (0 if dtype == torch.float32 else torch.finfo(dtype).eps)
    return [
        (_apart(f, shard(e, module, 2)), 2 * _apart(p, e) + eps * float(e.abs().max()))
        for f, p, e in zip(found, plain, exact, strict=True)
    ]


def errors_filling(text: str, dtype: torch.dtype) -> list[tuple[float, float]]:
    """The same where messages arrive before a rank's own rows run, as with kernels that stay on a GPU to the end."""
    asked: list[str] = []

    def fills_the_gpu(backend: str, _: Tensor) -> bool:
        asked.append(backend)
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_module, "fills_the_gpu", fills_the_gpu)
        found = errors(text, dtype)
    assert asked == ["triton", "triton"]  # (once forward and once backward)
    return found


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).abs().max())


def main() -> None:
    assert os.environ.get("TRITON_INTERPRET") == "1"
    interpret()
    for name in sys.argv[1:] or CASES:
        for ranks, dtype in ((2, torch.float32), (3, torch.float16)):
            check = errors_filling if "filled" in name else errors
            found = outcomes(ranks, lambda rank: check(CASES[name], dtype), timeout=120)  # noqa: B023 - used at once
            for rank, (good, result) in enumerate(found):
                line: dict[str, Any] = {"name": name, "ranks": ranks, "rank": rank, "dtype": str(dtype)}
                line["errors" if good else "failure"] = result
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
