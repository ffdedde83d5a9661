"""Schedules on one GPU, rank after rank, on the kernels that ranks run there: against the formula."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attnc
import pytest
import torch
from torch import Tensor

from attnlang import loads
from attnlang.parallel.streaming import attention_by_ranks
from attnlang.runtime import reference
from attnlang.schedule import Schedule
from tests.parallel.nccl_check import CASES, HEAD_DIM, HEADS, N

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("text", "kind"), [case for case in CASES if "doc" not in case[0]])
@pytest.mark.parametrize("ranks", [2, 3])
def test_all_ranks_on_one_gpu(text: str, kind: str, ranks: int, dtype: torch.dtype) -> None:
    pattern = loads(f"pattern p = {text}")
    schedule = attnc.plan(pattern, n=N, ranks=ranks, heads=HEADS, head_dim=HEAD_DIM, placement=kind)
    torch.manual_seed(0)
    whole = [torch.randn(2, HEADS, N, HEAD_DIM, device="cuda").to(dtype) for _ in range(4)]

    def formula(q: Tensor, k: Tensor, v: Tensor, low: torch.dtype | None = None) -> Tensor:
        return reference.attention(q, k, v, pattern, HEAD_DIM**-0.5, low)[0]

    exact = grads(formula, [x.double() for x in whole])
    plain = grads(partial(formula, low=dtype), whole)
    found = grads(partial(by_ranks, schedule), whole)
    for name, f, p, e in zip(("out", "dq", "dk", "dv"), found, plain, exact, strict=True):
        error, allowed = float((f.double() - e).abs().max()), 2 * float((p.double() - e).abs().max()) + 2e-5
        assert error <= allowed, f"{name} is off by {error:.1e}, allowed are {allowed:.1e}"


def by_ranks(schedule: Schedule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention_by_ranks(q, k, v, schedule)[0]


def grads(attention: Callable[..., Tensor], whole: list[Tensor]) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in whole[:3]]
    out = attention(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, whole[3])]
