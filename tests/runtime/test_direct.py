"""Plans that are one call of torch's own: where that is so, and what is called in eager mode."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import attnc
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from direct_inputs import ROUNDING, same, tensors, with_grads
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

from attnlang.plan import Band, Lattice, Plan
from attnlang.runtime import backends, cudnn, direct, ops, routes
from attnlang.runtime.direct import Direct
from attnlang.runtime.expected import NAMES, expected

EVERY = (0, 1, 2, 3)
CAUSAL, FULL, WINDOW = (Plan(4, (Lattice(EVERY, band=band),)) for band in (Band(None, 0), Band(), Band(-8, 0)))
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ON_CUDNN = "_scaled_dot_product_cudnn_attention"
NODE = "ScaledDotProductFlashAttentionForCpuBackward0"


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a GPU that cuDNN is for."""
    caches = backends.choose, direct.direct_program
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(cudnn, "refusal_here", lambda device, dtype, head_dim: None if head_dim == 64 else "no")
    yield
    for cache in caches:
        cache.cache_clear()


# the decision -------------------------------------------------------------------------------------------------------


def test_what_is_one_call_on_the_cpu() -> None:
    assert direct.direct(CAUSAL, "auto", CPU, torch.float32, 8) == Direct(causal=True, on_gpu=False)
    assert direct.direct(FULL, "sdpa", CPU, torch.float64, 7) == Direct(causal=False, on_gpu=False)
    assert direct.direct(WINDOW, "auto", CPU, torch.float32, 8) is None
    assert direct.direct(Plan(4, (Lattice(EVERY[:2], band=Band(None, 0)),)), "auto", CPU, torch.float32, 8) is None


def test_only_where_sdpa_would_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = backends.Choice("triton", "")
    monkeypatch.setattr(direct, "choose", lambda *_: choice)
    assert direct.direct(CAUSAL, "triton", CPU, torch.float32, 8) is None


@pytest.mark.usefixtures("hopper")
def test_what_is_one_call_on_a_gpu_that_cudnn_is_for() -> None:
    assert direct.direct(CAUSAL, "auto", CUDA, torch.bfloat16, 64) == Direct(causal=True, on_gpu=True)
    assert direct.direct(FULL, "sdpa", CUDA, torch.float16, 64) == Direct(causal=False, on_gpu=True)
    assert direct.direct(WINDOW, "auto", CUDA, torch.bfloat16, 64) is None
    assert direct.direct(CAUSAL, "sdpa", CUDA, torch.bfloat16, 72) is None


def test_there_is_none_where_flash_attention_runs_instead_of_cudnn() -> None:
    assert direct.direct(CAUSAL, "sdpa", CUDA, torch.bfloat16, 256) is None


def halves(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


def test_tensors_that_go_to_the_kernel_as_they_are() -> None:
    gpu, cpu = Direct(True, True), Direct(True, False)
    whole, wide = halves(2, 4, 64, 16), halves(2, 4, 64, 24)
    inside = halves(2, 64, 4, 16).transpose(1, 2)
    packed = halves(2, 64, 3, 4, 16).permute(2, 0, 3, 1, 4)[1]
    for x in (whole, inside, packed, wide[..., :16]):
        assert gpu.takes(x, x, x)
        assert cpu.takes(x, x, x)
    odd, turned, repeated = halves(2, 4, 64, 17)[..., :16], whole.mT.contiguous().mT, whole[:, :1].expand(2, 4, 64, 16)
    for x in (odd, wide[..., 1:17], turned, repeated):
        assert not gpu.takes(x, whole, whole)
        assert not gpu.takes(whole, whole, x)
    assert not cpu.takes(whole, turned, whole)
    assert not cpu.takes(whole, whole, repeated)


@pytest.mark.parametrize("warn_only", [False, True])
def test_where_results_must_repeat_cudnn_is_left_aside(warn_only: bool) -> None:
    """As by torch's own choice, which asks each time."""
    x = halves(2, 4, 64, 16)
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        assert Direct(True, on_gpu=True).takes(x, x, x) == warn_only
        assert Direct(True, on_gpu=False).takes(x, x, x)
    finally:
        torch.use_deterministic_algorithms(False)
    assert Direct(True, on_gpu=True).takes(x, x, x)


def test_shapes_that_go_to_the_kernel_as_they_are() -> None:
    x, one, few = halves(2, 4, 64, 16), halves(2, 4, 1, 16), halves(2, 4, 9, 16)
    shared, none = halves(2, 2, 64, 16), halves(0, 4, 64, 16)
    for on_gpu in (False, True):
        causal, full = Direct(True, on_gpu), Direct(False, on_gpu)
        assert full.takes(few, x, x)
        assert not causal.takes(few, x, x)
        assert not full.takes(one, x, x)
        assert not full.takes(one, one, one)
        assert not full.takes(none, none, none)
        assert full.takes(x, shared, shared) == on_gpu
    many = halves(70000, 1, 2, 8)
    assert Direct(True, False).takes(many, many, many)
    assert not Direct(True, True).takes(many, many, many)


# eager ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["causal", "dense"])
@pytest.mark.parametrize("inside", [False, True])
def test_the_module_is_torchs_call(name: str, inside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = attnc.compile(name, heads=4), tensors()
    if inside:
        inputs = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in inputs]
    out, lse = module(*inputs, return_lse=True)
    assert out.grad_fn is not None
    assert out.grad_fn.name() == NODE
    assert not lse.requires_grad
    torch.testing.assert_close(out, F.scaled_dot_product_attention(*inputs, is_causal=name == "causal"), **ROUNDING)
    mine = [with_grads(module, inputs), with_grads(module, inputs, scale=0.3)]
    monkeypatch.setattr(routes, "call_for", lambda *_: None)
    module = attnc.compile(name, heads=4)
    assert "_Eager" in module(*inputs).grad_fn.name()
    same(mine[0], with_grads(module, inputs))
    same(mine[1], with_grads(module, inputs, scale=0.3))


@pytest.mark.parametrize("case", ["lengths", "grouped heads", "fewer queries", "window"])
def test_what_needs_more_is_the_operators(case: str) -> None:
    module = attnc.compile("sliding", heads=4, w=8) if case == "window" else attnc.compile("causal", heads=4)
    q, k, v = tensors(heads=2 if case == "grouped heads" else 4)
    rest: dict[str, Any] = {"lengths": torch.tensor([40, 3])} if case == "lengths" else {}
    out = module(q[:, :, -5:] if case == "fewer queries" else q, k, v, **rest)
    assert "_Eager" in out.grad_fn.name()


def test_under_autocast() -> None:
    module, inputs = attnc.compile("causal", heads=4), [x.detach().float().requires_grad_() for x in tensors()]
    with torch.autocast("cpu", torch.bfloat16):
        out = module(*inputs)
        true = F.scaled_dot_product_attention(*inputs, is_causal=True)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, true)
    mine, theirs = (torch.autograd.grad(x.sum(), inputs) for x in (out, true))
    assert all(map(torch.equal, mine, theirs))


def test_second_derivatives_are_refused() -> None:
    q, k, v = tensors()
    (grad,) = torch.autograd.grad(attnc.compile("causal", heads=4)(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):
        grad.sum().backward()


def test_observers_see_the_operator() -> None:
    module, inputs = attnc.compile("causal", heads=4), tensors(200, batch=1)
    report = attnc.report("causal", n=200, heads=4, head_dim=8)
    with FlopCounterMode(display=False) as counter:
        module(*inputs).sum().backward()
    assert counter.get_flop_counts()["Global"] == {
        torch.ops.attnlang.forward: report.executed_forward_flops,
        torch.ops.attnlang.backward: report.executed_forward_flops * 10 // 4,
    }
    with pytest.raises(ValueError, match="cannot be mapped by vmap"):
        torch.vmap(lambda x: module(x, *inputs[1:]))(torch.stack([inputs[0], inputs[0]]))


def test_checkpointing_eager() -> None:
    module, inputs = attnc.compile("causal", heads=4), tensors()
    again = partial(checkpoint, module, use_reentrant=False)
    selective = partial(create_selective_checkpoint_contexts, [torch.ops.attnlang.forward.default])
    same(with_grads(again, inputs), with_grads(module, inputs))
    same(with_grads(partial(again, context_fn=selective), inputs), with_grads(module, inputs))


def test_every_d_out_comes_to_cudnn_in_the_layout_of_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook that torch's autograd of cuDNN gets, on the autograd of the cpu's kernel."""
    cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def forward(q: Tensor, k: Tensor, v: Tensor, _: None, lse: bool, dropout: float, causal: bool, scale: Any) -> Any:
        return cpu(q, k, v, dropout, causal, scale=scale)

    monkeypatch.setattr(cudnn, "_forward", forward)
    inputs = tensors()
    expected = torch.ones(2, 4, 40, 8, dtype=torch.float64).cumsum(-1)
    grads = torch.autograd.grad(F.scaled_dot_product_attention(*inputs, is_causal=True), inputs, expected)
    layouts = expected, expected.transpose(1, 2).contiguous().transpose(1, 2), expected.mT.contiguous().mT
    for dout in (*layouts, expected[:, :, :1].expand(2, 4, 40, 8)):
        out, _ = Direct(causal=True, on_gpu=True).forward(*inputs, None)
        seen: list[tuple[int, ...]] = []
        assert out.grad_fn is not None
        out.grad_fn.register_prehook(lambda given, seen=seen: seen.append(given[0].stride()))
        found = torch.autograd.grad(out, inputs, dout)
        assert seen == [out.stride()]
        same(list(found), list(grads))


# traced ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_compiler_on_a_gpu_is_given_cudnns_forward(kv_heads: int) -> None:
    """The backward pass stays ours there: it hands d_out over in the layout that cuDNN's graphs are kept for."""
    program = attnc.compile("causal", heads=4)._program

    def run(q: Tensor, k: Tensor, v: Tensor, dout: Tensor) -> Any:
        out, lse = ops.forward_op(q, k, v, [], None, "auto", program, None)
        return out, lse, *ops.backward_op(dout, q, k, v, out, lse, [], None, "auto", program, None)

    with FakeTensorMode():
        made = [torch.empty(2, h, 64, 64, device="cuda", dtype=torch.bfloat16) for h in (4, kv_heads, kv_heads, 4)]
        graph = make_fx(run)(*made)
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    (forward,) = [node for node in calls if ON_CUDNN in str(node.target)]
    assert forward.target is torch.ops.aten._scaled_dot_product_cudnn_attention.default
    assert forward.args[3:7] == (None, True, 0.0, True)
    assert [str(node.target) for node in calls if "attnlang" in str(node.target)] == ["attnlang.backward.default"]
    out, lse, dq, dk, dv = (node.meta["val"] for node in list(graph.graph.nodes)[-1].args[0])
    assert (out.shape, lse.shape, lse.dtype) == (made[0].shape, made[0].shape[:3], torch.float32)
    assert [x.shape for x in (dq, dk, dv)] == [x.shape for x in made[:3]]


# on a GPU -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(cudnn.refusal_here(CUDA, torch.bfloat16, 64) is not None, reason="needs a GPU that cuDNN is for")
@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("name", ["causal", "dense"])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("inside", [False, True])
def test_cudnns_own_autograd_on_a_gpu(name: str, mode: str, kv_heads: int, inside: bool) -> None:
    module = attnc.compile(name, heads=4)
    run = torch.compile(module, fullgraph=True) if mode == "compiled" else module
    shapes = [(2, heads, 300, 64) for heads in (4, kv_heads, kv_heads, 4)]
    generator = torch.Generator().manual_seed(kv_heads)
    made = [torch.randn(shape, generator=generator).to("cuda", torch.bfloat16) for shape in shapes]
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in made]
    inputs = [x.requires_grad_() for x in (turned if inside else made)[:3]]
    out, lse = run(*inputs, return_lse=True)
    if mode == "eager":
        assert "Cudnn" in out.grad_fn.name()
    for dout in (made[3], turned[3], made[3][:, :, :1].expand(2, 4, 300, 64)):
        true = expected(module.pattern, [*(x.detach() for x in inputs), dout], 64**-0.5)
        mine = out, lse, *torch.autograd.grad(out, inputs, dout, retain_graph=True)
        for result, error, most in zip(NAMES, true.errors([x.detach() for x in mine]), true.allowed, strict=True):
            assert error <= most, f"{result} is off by {error:.1e}, allowed are {most:.1e}"


@pytest.mark.skipif(cudnn.refusal_here(CUDA, torch.bfloat16, 64) is not None, reason="needs a GPU that cuDNN is for")
def test_flops_on_a_gpu_are_those_of_the_report() -> None:
    module, report = attnc.compile("causal", heads=4), attnc.report("causal", n=256, heads=4, head_dim=64)
    inputs = [torch.randn(1, 4, 256, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    with FlopCounterMode(display=False) as counter:
        module(*inputs).sum().backward()
    assert counter.get_total_flops() == report.executed_forward_flops * 14 // 4
