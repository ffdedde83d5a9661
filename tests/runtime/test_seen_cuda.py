"""Batches like the one before on a GPU: with and without an lse, gradients of any layout, data that is not aligned."""

from __future__ import annotations

from typing import Any

import attnc
import pytest
import torch
from torch import Tensor

from attnlang.runtime import cudnn
from attnlang.runtime.direct import Direct
from attnlang.runtime.expected import NAMES, expected

PATTERNS: dict[str, dict[str, Any]] = {"causal": {}, "sliding": {"w": 8}}
CUDA = torch.device("cuda")
ON_CUDNN = pytest.mark.skipif(
    cudnn.refusal_here(CUDA, torch.bfloat16, 64) is not None, reason="needs a GPU that cuDNN is for"
)


def _inside(x: Tensor) -> Tensor:
    """(B, H, N, D) that lies as (B, N, H, D)."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def _on_gpu(kv_heads: int, inside: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Q, k and v, and d_out in three layouts."""
    generator = torch.Generator().manual_seed(kv_heads)
    shapes = [(2, heads, 300, 64) for heads in (4, kv_heads, kv_heads, 4)]
    made = [torch.randn(shape, generator=generator).to(CUDA, torch.bfloat16) for shape in shapes]
    dout = made.pop()
    inputs = [(_inside(x) if inside else x).requires_grad_() for x in made]
    return inputs, [dout, _inside(dout), dout[:, :, :1].expand(dout.shape)]


@ON_CUDNN
@pytest.mark.parametrize("name", ["causal", "dense"])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("inside", [False, True])
def test_cudnn_again_and_again(name: str, kv_heads: int, inside: bool) -> None:
    """With and without an lse, with gradients of every layout in turn, all through one module."""
    module = attnc.compile(name, heads=4)
    inputs, douts = _on_gpu(kv_heads, inside)
    plain = [x.detach() for x in inputs]
    for dout in douts * 2:
        true = expected(module.pattern, [*plain, dout], 64**-0.5)
        out = module(*inputs)
        assert "Cudnn" in out.grad_fn.name()
        grads = torch.autograd.grad(out, inputs, dout)
        _, lse = module(*inputs, return_lse=True)
        with torch.no_grad():
            without = module(*inputs)
        assert not without.requires_grad
        for mine in (out, without, module(*plain)):
            results = [x.detach() for x in (mine, lse, *grads)]
            for result, error, most in zip(NAMES, true.errors(results), true.allowed, strict=True):
                assert error <= most, f"{result} is off by {error:.1e}, allowed are {most:.1e}"
    last = module._last
    assert last is not None
    assert last.route == Direct(causal=name == "causal", on_gpu=True)


@ON_CUDNN
def test_data_that_no_kernel_takes_as_it_is_on_a_gpu() -> None:
    module = attnc.compile("causal", heads=4)
    inputs, (dout, *_) = _on_gpu(4, False)
    true = expected(module.pattern, [*(x.detach() for x in inputs), dout], 64**-0.5)
    for place in (None, 0, 1, None, 2, None):
        given = [x.detach() for x in inputs]
        if place is not None:
            odd = torch.empty(given[place].numel() + 1, dtype=torch.bfloat16, device=CUDA)[1:]
            given[place] = odd.view(given[place].shape).copy_(given[place])
        given = [x.requires_grad_() for x in given]
        out = module(*given)
        assert ("Cudnn" in out.grad_fn.name()) is (place is None)
        _, lse = module(*given, return_lse=True)
        results = [x.detach() for x in (out, lse, *torch.autograd.grad(out, given, dout))]
        for result, error, most in zip(NAMES, true.errors(results), true.allowed, strict=True):
            assert error <= most, f"{result} is off by {error:.1e}, allowed are {most:.1e}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["auto", "triton", "sdpa"])
@pytest.mark.parametrize("name", PATTERNS)
def test_again_on_a_gpu(name: str, backend: str) -> None:
    module = attnc.compile(name, heads=4, backend=backend, **PATTERNS[name])
    inputs, douts = _on_gpu(4, True)
    for dout in douts:
        first = torch.autograd.grad(
            attnc.compile(name, heads=4, backend=backend, **PATTERNS[name])(*inputs), inputs, dout
        )
        for mine, true in zip(torch.autograd.grad(module(*inputs), inputs, dout), first, strict=True):
            torch.testing.assert_close(mine, true)
    for device in ("cpu", "meta"):
        moved = [x.to(device) for x in inputs]
        if (backend, device) == ("triton", "cpu"):
            continue
        assert module(*moved).device.type == device
        assert module(*inputs).device.type == "cuda"
    with pytest.raises(ValueError, match="must have one device"):
        module(inputs[0], inputs[1].cpu(), inputs[2])
