"""The contract of the module on a GPU, on every backend that is there; skipped where there is none."""

from __future__ import annotations

from typing import Any

import attnc
import pytest
import torch
from torch import Tensor, nn

from attnlang.runtime.backends import REFERENCE, names

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
BACKENDS = [name for name in names() if name != REFERENCE]
PATTERNS: dict[str, dict[str, Any]] = {
    "longnet": {"segments": [64, 128], "dilations": [1, 2]},
    "sliding": {"w": 40},
    "causal": {},
    "longformer": {"w": 24},
}
CASES = ("grouped heads", "lengths", "fewer queries", "heads inside", "rows at odd places")


def tensors(case: str) -> tuple[list[Tensor], dict[str, Tensor]]:
    generator = torch.Generator("cuda").manual_seed(0)

    def random(heads: int, n: int = 200, dim: int = 32) -> Tensor:
        return torch.randn(3, heads, n, dim, device="cuda", dtype=torch.float16, generator=generator)

    q, k, v = random(8), random(2), random(2)
    match case:
        case "lengths":
            return [q, k, v], {"lengths": torch.tensor([200, 0, 77], device="cuda")}
        case "fewer queries":
            return [random(8, 13), k, v], {}
        case "heads inside":
            return [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)], {}
        case "rows at odd places":
            return [random(heads, dim=33)[..., 1:] for heads in (8, 2, 2)], {}
        case _:
            return [q, k, v], {}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_formula(backend: str, name: str, case: str) -> None:
    module = attnc.compile(name, heads=8, backend=backend, **PATTERNS[name])
    try:
        module.choice("cuda", torch.float16, 32)
    except ValueError as reason:
        pytest.skip(str(reason))
    inputs, rest = tensors(case)
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = module(*inputs, **rest)
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    true = attnc.compile(name, heads=8, backend=REFERENCE, **PATTERNS[name])(*doubles, **rest)
    weight = torch.randn_like(out)
    results = out, *torch.autograd.grad(out, inputs, weight)
    expected = true, *torch.autograd.grad(true, doubles, weight.double())
    for mine, exact in zip(results, expected, strict=True):
        assert float((mine.double() - exact).abs().max()) <= 6e-3 * float(exact.abs().max())


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_packed_documents_train_without_recompiling(backend: str) -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(256, 768)
            self.attention = attnc.compile("packed", heads=4, backend=backend)

        def forward(self, x: Tensor, doc: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, 4, 64)).permute(2, 0, 3, 1, 4)
            return x + self.attention(q, k, v, doc=doc).transpose(1, 2).flatten(2)

    x, wanted = torch.randn(2, 512, 256, device="cuda"), torch.randn(2, 512, 256, device="cuda")
    losses: list[list[float]] = []
    for compiled in (False, True):
        torch.manual_seed(0)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        layer = Layer().cuda()
        model = torch.compile(layer, fullgraph=True) if compiled else layer
        optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
        losses.append([])
        for step in range(6):
            generator = torch.Generator().manual_seed(step)
            doc = (torch.rand(2, 512, generator=generator) < 0.01 * (1 + step)).cumsum(-1).cuda()
            with torch.autocast("cuda", torch.bfloat16):
                loss = nn.functional.mse_loss(model(x, doc).float(), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
            if step == 1:
                seen = dict(torch._dynamo.utils.counters["stats"])
        assert not compiled or torch._dynamo.utils.counters["stats"]["unique_graphs"] == seen["unique_graphs"]
    assert losses[0][-1] < losses[0][0]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=0, atol=2e-2)
