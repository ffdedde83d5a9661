"""The rule by which results are judged: what rounding does passes, also where the plain formula has no error at all."""

from __future__ import annotations

from functools import partial

import attnc
import pytest
import torch
from torch import Tensor

from attnlang.runtime.expected import EXACT, NAMES, expected, results, rounding

LOW = (torch.float32, torch.bfloat16, torch.float16)


def tensors(n: int, kv_heads: int, dim: int, dtype: torch.dtype, queries: int | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    shapes = ((2, 4, queries or n, dim), (2, kv_heads, n, dim), (2, kv_heads, n, dim), (2, 4, queries or n, dim))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def flash(inputs: list[Tensor], scale: float) -> list[Tensor]:
    """What flash-attention computes of full attention: sums in float32, delta of the out that is stored."""
    dtype = inputs[0].dtype
    q, k, v, dout = (x.float() for x in inputs)
    s = scale * (q @ k.mT)
    lse = s.logsumexp(-1, keepdim=True)
    p = (s - lse).exp()
    out = (p.to(dtype).float() @ v).to(dtype)
    delta = (dout * out.float()).flip(-1).cumsum(-1)[..., -1:]  # (in an order of its own, as a kernel has one)
    ds = (p * (dout @ v.mT - delta)).to(dtype).float()
    grads = scale * ds @ k, scale * ds.mT @ q, p.to(dtype).float().mT @ dout
    return [out, lse.squeeze(-1), *(x.to(dtype) for x in grads)]


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("dim", [16, 64, 128])
def test_with_one_key_the_gradients_of_its_weight_are_rounding(dtype: torch.dtype, dim: int) -> None:
    """And is allowed even if the plain formula has none of it, which depends on the order of its sums."""
    inputs, scale = tensors(1, 4, dim, dtype), dim**-0.5
    true = expected(attnc.compile("dense", heads=4).pattern, inputs, scale)
    slack = rounding(inputs, true.exact, torch.ones(1, 4, 1, 1), dtype, scale)
    errors = true.errors(flash(inputs, scale))
    largest = dim * scale * float(torch.stack([x.double().abs().max() for x in inputs[1:]]).prod())
    for place in (NAMES.index("dq"), NAMES.index("dk")):
        assert float(true.exact[place].abs().max()) < EXACT < errors[place] <= slack[place]
        assert slack[place] < 20 * torch.finfo(torch.float32).eps * largest
    assert all(error <= most for error, most in zip(errors, true.allowed, strict=True))


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("n", [2, 129])
def test_flash_attention_passes(dtype: torch.dtype, n: int) -> None:
    inputs = tensors(n, 4, 64, dtype)
    true = expected(attnc.compile("dense", heads=4).pattern, inputs, 0.125)
    assert all(error <= most for error, most in zip(true.errors(flash(inputs, 0.125)), true.allowed, strict=True))


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("name", NAMES)
def test_an_error_of_a_twentieth_fails(dtype: torch.dtype, name: str) -> None:
    inputs = tensors(129, 4, 64, dtype)
    true = expected(attnc.compile("dense", heads=4).pattern, inputs, 0.125)
    wrong = [x * 1.05 if name == own else x for x, own in zip(flash(inputs, 0.125), NAMES, strict=True)]
    failed = [own for own, e, most in zip(NAMES, true.errors(wrong), true.allowed, strict=True) if e > most]
    assert failed == [name]


@pytest.mark.parametrize("dtype", LOW)
def test_one_key_too_many_fails(dtype: torch.dtype) -> None:
    inputs = tensors(129, 4, 16, dtype)
    true = expected(attnc.compile("sliding", heads=4, w=8).pattern, inputs, 0.25)
    wider = partial(attnc.compile("sliding", heads=4, w=9, backend="sdpa"), return_lse=True)
    assert all(error > most for error, most in zip(true.errors(results(wider, inputs)), true.allowed, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, *LOW])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("queries", [129, 30])
def test_fewer_heads_of_k_and_v_and_fewer_queries(dtype: torch.dtype, kv_heads: int, queries: int) -> None:
    inputs = tensors(129, kv_heads, 16, dtype, queries)
    module = attnc.compile("sliding", heads=4, w=20, backend="sdpa")
    true = expected(module.pattern, inputs, 0.25)
    errors = true.errors(results(partial(module, return_lse=True), inputs))
    assert all(error <= most for error, most in zip(errors, true.allowed, strict=True))
    assert [x.shape for x in true.exact] == [x.shape for x in (*inputs[:1], inputs[0][..., 0], *inputs[:3])]
    assert dtype != torch.float64 or true.allowed == (EXACT,) * len(NAMES)


def test_rows_without_keys_must_be_the_same() -> None:
    inputs = tensors(9, 4, 16, torch.float32)
    true = expected(attnc.compile("sliding", heads=4, w=3).pattern, inputs, 0.25)
    lse = true.exact[1].clone()
    lse[0, 0, 0] = float("-inf")
    assert true.errors([true.exact[0], lse])[1] == float("inf")
    assert true.errors([true.exact[0] * float("nan")])[0] != 0
