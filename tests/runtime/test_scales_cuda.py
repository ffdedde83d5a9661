"""Scales that are not above 0, on every backend of a GPU: kernels that scale what they have masked answer nan there."""

from __future__ import annotations

import attnc
import pytest
import torch

from attnlang.runtime.backends import REFERENCE, names
from attnlang.runtime.expected import NAMES, expected

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.mark.parametrize("scale", [-0.4, 0.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["causal", "sliding"])
@pytest.mark.parametrize("backend", [name for name in names() if name != REFERENCE])
def test_scales_that_are_not_above_0(backend: str, name: str, dtype: torch.dtype, scale: float) -> None:
    module = attnc.compile(name, heads=4, backend=backend, **({"w": 50} if name == "sliding" else {}))
    try:
        module.choice("cuda", dtype, 64)
    except ValueError as reason:
        pytest.skip(str(reason))
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(2, 4, 300, 64, generator=generator).to("cuda", dtype) for _ in range(4)]
    leaves = [x.detach().requires_grad_() for x in made[:3]]
    out, lse = module(*leaves, scale=scale, return_lse=True)
    mine = [out.detach(), lse.detach(), *torch.autograd.grad(out, leaves, made[3])]
    true = expected(module.pattern, made, scale)
    for result, error, most in zip(NAMES, true.errors(mine), true.allowed, strict=True):
        assert error <= most, f"{result} is off by {error:.1e}, allowed are {most:.1e}"
