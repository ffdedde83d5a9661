"""The module under what torch offers: compile, export, checkpointing, opcheck, FLOP counting, vmap."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import attnc
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

import attnlang
from attnlang.nn import PatternAttention
from attnlang.runtime import multiplicity, ops, sdpa

LONGNET = {"segments": [16, 32], "dilations": [1, 2]}
ROUNDING = {"rtol": 0, "atol": 1e-12}


def longnet(backend: str = "auto") -> PatternAttention:
    return attnc.compile("longnet", heads=4, backend=backend, **LONGNET)


def tensors(n: int, batch: int = 2, grad: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    shapes = (batch, 4, n, 8), (batch, 2, n, 8), (batch, 2, n, 8)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad) for shape in shapes]


class _Counter:
    """A torch.compile backend that counts graphs, and otherwise runs what it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        from torch._dynamo.backends.debugging import aot_eager

        self.graphs += 1
        return aot_eager(graph, inputs)


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


def with_grads(module: Callable[..., Any], inputs: list[Tensor], **rest: Any) -> list[Tensor]:
    out = module(*inputs, **rest)
    return [out, *torch.autograd.grad(out, inputs, torch.ones_like(out).cumsum(-1))]


def same(mine: list[Tensor], true: list[Tensor]) -> None:
    for a, b in zip(mine, true, strict=True):
        torch.testing.assert_close(a, b, **ROUNDING)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_compiled_whole_with_any_length(backend: str) -> None:
    module, counter = longnet(backend), _Counter()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    for n in (40, 33, 64, 5):
        same(with_grads(compiled, tensors(n)), with_grads(module, tensors(n)))
    assert counter.graphs == 1
    with torch.no_grad():
        torch.testing.assert_close(compiled(*tensors(12)), module(*tensors(12)), **ROUNDING)


def test_lengths_and_tables_change_without_recompiling() -> None:
    module, counter = longnet(), _Counter()
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    for lengths in ([40, 3], [0, 17], [1, 40]):
        given = torch.tensor(lengths)
        same(with_grads(compiled, tensors(40), lengths=given), with_grads(module, tensors(40), lengths=given))
    assert counter.graphs == 1


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_packed_documents_change_at_every_step_without_recompiling(backend: str) -> None:
    attention, counter = attnc.compile("packed", heads=4, backend=backend), _Counter()

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(32, 96, dtype=torch.float64)
            self.attention = attention

        def forward(self, x: Tensor, doc: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
            return self.attention(q, k, v, doc=doc).transpose(1, 2).flatten(2)

    torch.manual_seed(0)
    layer, plain = Layer(), Layer()
    plain.load_state_dict(layer.state_dict())
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    x, wanted = torch.randn(2, 30, 32, dtype=torch.float64), torch.randn(2, 30, 32, dtype=torch.float64)
    losses: dict[str, list[float]] = {}
    for name, model, parameters in (("compiled", compiled, layer), ("plain", plain, plain)):
        optimizer = torch.optim.SGD(parameters.parameters(), lr=1.0)
        for step in range(5):
            doc = (torch.arange(30) * (step + 1) // 11).expand(2, 30) + torch.tensor([[0], [step]])
            loss = nn.functional.mse_loss(model(x, doc), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.setdefault(name, []).append(loss.item())
    assert counter.graphs == 1
    torch.testing.assert_close(torch.tensor(losses["compiled"]), torch.tensor(losses["plain"]), **ROUNDING)
    assert losses["plain"][-1] < losses["plain"][0]


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_exported_saved_and_loaded(backend: str) -> None:
    if backend == "reference" and torch.__version__ < "2.12":
        pytest.skip("before torch 2.12 the exporter wants n bounded where it meets the formula's products")
    module = longnet(backend)
    n = torch.export.Dim("n", min=2, max=4096)
    inputs = tensors(24, grad=False)
    exported = torch.export.export(module, tuple(inputs), dynamic_shapes={name: {2: n} for name in "qkv"})
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    for length in (24, 57):
        given = tensors(length, grad=False)
        torch.testing.assert_close(loaded(*given), module(*given), **ROUNDING)
        same(with_grads(loaded, tensors(length)), with_grads(module, tensors(length)))
    name = "attnlang.forward.default" if backend == "auto" else "attnlang.multiplicity.default"
    assert name in str(exported.graph)


def test_an_exported_program_has_gradients_with_tables_and_refuses_second_ones() -> None:
    module, given = attnc.compile("packed", heads=4), {"doc": torch.arange(40) // 9}
    exported = torch.export.export(module, tuple(tensors(40, grad=False)), given).module()
    same(with_grads(exported, tensors(40), **given), with_grads(module, tensors(40), **given))
    q, k, v = tensors(40)
    (grad,) = torch.autograd.grad(exported(q, k, v, **given).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        grad.sum().backward()


def test_checkpointing_recomputes_and_selective_checkpointing_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    module, runs = longnet(), []
    forward = sdpa.forward
    monkeypatch.setattr(sdpa, "forward", lambda *args: (runs.append(1), forward(*args))[1])
    expected = with_grads(module, tensors(40))
    assert len(runs) == 1

    def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        save = op is torch.ops.attnlang.forward.default
        return CheckpointPolicy.MUST_SAVE if save else CheckpointPolicy.PREFER_RECOMPUTE

    selective = partial(create_selective_checkpoint_contexts, policy)
    for context, count in ((None, 2), (selective, 1)):
        runs.clear()
        options: dict[str, Any] = {} if context is None else {"context_fn": context}
        same(with_grads(partial(checkpoint, module, use_reentrant=False, **options), tensors(40)), expected)
        assert len(runs) == count


def test_selective_checkpointing_inside_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    module, runs = longnet(), []
    forward = sdpa.forward
    monkeypatch.setattr(sdpa, "forward", lambda *args: (runs.append(1), forward(*args))[1])
    selective = partial(create_selective_checkpoint_contexts, [torch.ops.attnlang.forward.default])

    @torch.compile(fullgraph=True, backend="aot_eager_decomp_partition")
    def run(*x: Tensor) -> Tensor:
        return checkpoint(module, *x, use_reentrant=False, context_fn=selective)

    found = with_grads(run, tensors(40))
    assert len(runs) == 1
    same(found, with_grads(module, tensors(40)))


@pytest.mark.parametrize("lengths", [None, [20, 7]])
def test_opcheck(lengths: list[int] | None) -> None:
    module = longnet()
    q, k, v = tensors(20)
    given = None if lengths is None else torch.tensor(lengths)
    rest = ([], given, "auto", module._program, None)
    torch.library.opcheck(torch.ops.attnlang.forward.default, (q.detach(), k.detach(), v.detach(), *rest))
    strided = [x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    torch.library.opcheck(torch.ops.attnlang.forward.default, (*strided, *rest))
    out, lse = module(q, k, v, return_lse=True)
    inputs = (torch.ones_like(out), *(x.detach() for x in (q, k, v, out, lse)))
    torch.library.opcheck(torch.ops.attnlang.backward.default, (*inputs, *rest))
    for tables in ([], [torch.arange(9)]):
        pattern = attnc.compile("packed" if tables else "causal", heads=2, backend="reference").pattern
        name = multiplicity.text(pattern)
        torch.library.opcheck(torch.ops.attnlang.multiplicity.default, (tables, None, name, 9, 2))


@pytest.mark.parametrize("name", ["longnet", "longformer", "packed"])
def test_flops_of_a_compiled_module_are_those_of_the_report(name: str) -> None:
    pattern = attnlang.load(name, **(LONGNET if name == "longnet" else {}))
    tables = {"doc": torch.arange(200) // 30} if name == "packed" else {}
    report = attnc.report(pattern, n=200, heads=4, head_dim=8, tables={k: t.numpy() for k, t in tables.items()})
    compiled = torch.compile(attnc.compile(pattern, heads=4), backend="aot_eager")
    inputs = tensors(200, batch=1)
    with FlopCounterMode(display=False) as counter:
        out = compiled(*inputs, **tables)
        assert counter.get_total_flops() == report.executed_forward_flops
        out.sum().backward()
    assert counter.get_flop_counts()["Global"] == {
        torch.ops.attnlang.forward: report.executed_forward_flops,
        torch.ops.attnlang.backward: report.executed_forward_flops * 10 // 4,
    }


def test_flops_of_a_padded_batch_are_those_of_its_sequences() -> None:
    module = attnc.compile("dense", heads=4)
    with FlopCounterMode(display=False) as counter:
        module(*tensors(20, batch=3, grad=False), lengths=torch.tensor([20, 5, 0]))
    assert counter.get_total_flops() == 4 * 8 * 4 * (20 * 20 + 5 * 5)


def test_gradcheck_with_grouped_heads_and_lengths() -> None:
    module, lengths = longnet(), torch.tensor([5, 3])
    q, k, v = (x[:, :, :5, :2].detach().requires_grad_() for x in tensors(12))
    assert torch.autograd.gradcheck(lambda *x: module(*x, lengths=lengths), (q, k, v), fast_mode=True)


def test_vmap_is_refused_and_func_grad_works() -> None:
    module = longnet()
    q, k, v = tensors(9, grad=False)
    for grad in (False, True):
        stacked = torch.stack([q, q]).requires_grad_(grad)
        with pytest.raises(ValueError, match="cannot be mapped by vmap: fold the mapped dimension into the batch"):
            torch.vmap(lambda x: module(x, k, v))(stacked)
    grad = torch.func.grad(lambda x: module(x, k, v).sum())(q)
    leaf = q.clone().requires_grad_()
    torch.testing.assert_close(grad, torch.autograd.grad(module(leaf, k, v).sum(), leaf)[0], **ROUNDING)


def test_forward_mode_derivatives_are_refused_except_by_the_formula() -> None:
    q, k, v = tensors(9, grad=False)
    learned = q.clone().requires_grad_()
    for query in (q, learned):  # an operator without a rule of its own would answer that they are 0
        with pytest.raises(ValueError, match=r"no forward-mode derivatives .* 'reference'"):
            torch.func.jvp(lambda x, query=query: longnet()(query, k, x), (v,), (v,))
        with pytest.raises(ValueError, match="no forward-mode derivatives"), forward_ad.dual_level():
            longnet()(query, forward_ad.make_dual(k, k), v)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.hessian(lambda x: longnet()(x, k, v).sum())(q)
    with forward_ad.dual_level():
        torch.testing.assert_close(longnet()(q, k, v), longnet("reference")(q, k, v), **ROUNDING)
    out, along_v = torch.func.jvp(lambda x: longnet("reference")(q, k, x), (v,), (v,))
    torch.testing.assert_close(along_v, out, **ROUNDING)  # it is linear in v


def test_second_derivatives_are_refused_except_by_the_formula() -> None:
    q, k, v = tensors(9)
    (grad,) = torch.autograd.grad(longnet()(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        grad.sum().backward()
    (grad,) = torch.autograd.grad(longnet("reference")(q, k, v).square().sum(), q, create_graph=True)
    assert torch.autograd.grad(grad.sum(), q)[0].isfinite().all()


def test_the_operator_names_its_tags() -> None:
    assert torch.Tag.pt2_compliant_tag in ops.forward_op.tags
