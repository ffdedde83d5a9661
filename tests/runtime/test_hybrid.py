"""Our forward pass with cuDNN's gradients: the rule, and what `auto` makes of it, on any machine and on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import attnc
import pytest
import torch
from direct_inputs import same, with_grads
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from attnlang.plan import Plan
from attnlang.runtime import backends, cudnn, direct, hybrid, ops, routes, sdpa, triton
from attnlang.runtime.direct import Direct
from attnlang.runtime.expected import NAMES, expected
from attnlang.runtime.hybrid import HOPPER, MEASURED, Least, is_faster

CUDA = torch.device("cuda")
bf16 = torch.bfloat16
LONG = (1, 12, 8192, 64)


# the rule -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("capability", "dtype", "q_shape", "k_shape", "faster"),
    [
        (HOPPER, bf16, LONG, LONG, True),
        (HOPPER, torch.float16, (2, 6, 8192, 64), (2, 6, 8192, 64), True),
        (HOPPER, bf16, (1, 3, 32768, 64), (1, 3, 32768, 64), True),
        (HOPPER, torch.float32, LONG, LONG, False),
        ((8, 0), bf16, LONG, LONG, False),
        ((10, 0), bf16, LONG, LONG, False),
        (HOPPER, bf16, (1, 7, 8192, 64), (1, 7, 8192, 64), False),  # too few rows
        (HOPPER, bf16, (64, 12, 2048, 64), (64, 12, 2048, 64), False),  # too short, however many
        (HOPPER, bf16, (1, 12, 8192, 128), (1, 12, 8192, 128), False),  # no measurement that is clear
        (HOPPER, bf16, (1, 12, 8192, 32), (1, 12, 8192, 32), False),
        (HOPPER, bf16, LONG, (1, 4, 8192, 64), True),  # grouped heads
        (HOPPER, bf16, LONG, (1, 12, 16384, 64), False),  # fewer queries than keys: as before
    ],
)
def test_where_our_forward_pass_is_faster(
    capability: tuple[int, int],
    dtype: torch.dtype,
    causal: bool,
    q_shape: tuple[int, ...],
    k_shape: tuple[int, ...],
    faster: bool,
) -> None:
    assert is_faster(capability, dtype, causal, q_shape, k_shape) == faster


def test_nothing_is_ours_without_a_gpu() -> None:
    x = torch.empty(LONG, dtype=bf16)
    assert hybrid.capability_of(x.device) is None
    assert not hybrid.may_begin(x, x, True)
    assert not triton.has_hopper_kernels(x.device)


def layouts(n: int) -> dict[str, Tensor]:
    """Tensors of 12 heads: as a model has them, and whose heads begin at no multiple of a row."""
    wide = torch.zeros(1, 12, n * 72 + 8, dtype=bf16)
    return {
        "whole": torch.zeros(1, 12, n, 64, dtype=bf16),
        "inside": torch.zeros(1, n, 12, 64, dtype=bf16).transpose(1, 2),
        "packed": torch.zeros(1, n, 3, 12, 64, dtype=bf16)[:, :, 1].transpose(1, 2),
        "odd": wide[:, :, : n * 72].unflatten(2, (n, 72))[..., :64],
    }


@pytest.mark.parametrize("name", ["causal", "dense"])
def test_what_our_kernel_reads_as_it_lies(name: str) -> None:
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter launches nothing")
    from launches_seen import recorder

    plan = attnc.compile(name, heads=12).plan
    assert plan is not None
    with recorder() as seen:
        for layout, x in layouts(1024).items():
            assert Direct(name == "causal", on_gpu=True).takes(x, x, x)
            assert triton.forward_on_hopper(x, x, x, plan) == (layout != "odd"), layout
        assert not triton.forward_on_hopper(*(torch.zeros(1, 12, 1024, 32, dtype=bf16),) * 3, plan)
        assert not seen.seen


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a GPU that cuDNN and our kernels for Hopper are for."""
    caches = backends.choose, direct.direct_program
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(cudnn, "refusal_here", lambda *_: None)
    monkeypatch.setattr(hybrid, "capability_of", lambda device: HOPPER)
    monkeypatch.setattr(triton, "has_hopper_kernels", lambda device: True)
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("hopper")
def test_the_choice_says_so() -> None:
    for name in ("causal", "dense"):
        module = attnc.compile(name, heads=12)
        assert "from 8,192 tokens and" in module.choice(CUDA, bf16, 64).why
        assert "triton" not in module.choice(CUDA, bf16, 128).why
        assert "triton" not in attnc.compile(name, heads=12, backend="sdpa").choice(CUDA, bf16, 64).why


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("name", ["causal", "dense"])
def test_a_compiler_keeps_the_operator_where_a_sequence_is_long(name: str) -> None:
    program = attnc.compile(name, heads=12)._program

    def kept(n: int, backend: str = "auto", heads: int = 12) -> bool:
        with FakeTensorMode():
            q, k, v = (torch.empty(1, each, n, 64, device="cuda", dtype=bf16) for each in (12, heads, heads))
        return ops.traced_forward(q, k, v, [], None, backend, program, None) is None

    assert kept(8192)
    assert not kept(8192, "sdpa")
    assert kept(8192, heads=4)
    assert not kept(4096)


# what auto makes of it, with a kernel of the cpu in place of ours -----------------------------------------------------


class Ours:
    """The backend `triton`, played by torch's kernel for the cpu."""

    def __init__(self) -> None:
        self.calls = 0

    def forward(self, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, tables: Any) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return sdpa.forward(q, k, v, plan, scale, tables)

    def backward(self, *_: Any) -> Any:
        raise AssertionError("gradients are cuDNN's")


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ours]:
    """On the cpu: long sequences are those of 40 tokens."""
    found, load = Ours(), routes.load
    monkeypatch.setattr(routes, "load", lambda name: found if name == "triton" else load(name))
    monkeypatch.setattr(hybrid, "capability_of", lambda device: HOPPER)
    monkeypatch.setattr(triton, "has_hopper_kernels", lambda device: True)
    monkeypatch.setattr(triton, "forward_on_hopper", lambda *_: True)
    monkeypatch.setitem(MEASURED, (8, True), Least(40, 320))
    monkeypatch.setitem(MEASURED, (8, False), Least(40, 320))
    torch._dynamo.reset()
    yield found
    torch._dynamo.reset()


def tensors(n: int = 40, grad: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    shapes = (2, 4, n, 8), (2, 4, n, 8), (2, 4, n, 8)
    return [torch.randn(shape, generator=generator).to(bf16).requires_grad_(grad) for shape in shapes]


@pytest.mark.parametrize("name", ["causal", "dense"])
@pytest.mark.parametrize("scale", [None, 0.3, -0.3])
def test_long_sequences_begin_on_ours_and_end_on_theirs(name: str, scale: float | None, ours: Ours) -> None:
    module, other = attnc.compile(name, heads=4), attnc.compile(name, heads=4, backend="sdpa")
    inputs = tensors()
    for again in (1, 2, 3):
        mine = with_grads(module, inputs, scale=scale)
        assert ours.calls == again
        same(mine, with_grads(other, inputs, scale=scale))
    assert ours.calls == 3
    out = module(*inputs)
    assert "_Eager" in out.grad_fn.name()
    assert "_Eager" not in other(*inputs).grad_fn.name()
    with torch.no_grad():
        assert torch.equal(module(*inputs), out)
    assert ours.calls == 5
    with_grads(module, tensors(39), scale=scale)
    assert ours.calls == 5


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_gradients_of_some_inputs(wanted: tuple[int, ...], ours: Ours) -> None:
    module, other = attnc.compile("causal", heads=4), attnc.compile("causal", heads=4, backend="sdpa")
    inputs = [x.requires_grad_(i in wanted) for i, x in enumerate(tensors(grad=False))]
    leaves = [inputs[i] for i in wanted]
    for compiled in (False, True):
        run = torch.compile(module, fullgraph=True, backend="aot_eager") if compiled else module
        mine, true = (torch.autograd.grad(f(*inputs).float().square().sum(), leaves) for f in (run, other))
        same(list(mine), list(true))
        run(*inputs).float().sum().backward()
        assert [x.grad is not None for x in inputs] == [i in wanted for i in range(3)]
    assert ours.calls == 4


@pytest.mark.parametrize("case", ["lengths", "fewer queries", "float32", "sdpa"])
def test_the_rest_is_as_before(case: str, ours: Ours) -> None:
    module = attnc.compile("causal", heads=4, backend="sdpa" if case == "sdpa" else "auto")
    q, k, v = tensors()
    if case == "float32":
        q, k, v = (x.float() for x in (q, k, v))
    rest: dict[str, Any] = {"lengths": torch.tensor([40, 3])} if case == "lengths" else {}
    out = module(q[:, :, -5:] if case == "fewer queries" else q, k, v, **rest)
    out.float().sum().backward()
    assert ours.calls == 0


def test_where_results_must_repeat_nothing_is_cudnns(ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before: the call of torch's that would have been cuDNN's is not taken at all."""
    program = attnc.compile("causal", heads=4)._program
    monkeypatch.setattr(direct, "direct_program", lambda *_: Direct(True, on_gpu=True))
    route = partial(routes.route_for, *tensors(grad=False), (), None, "auto", program)
    usual = route()
    torch.use_deterministic_algorithms(True)
    try:
        repeating = route()
    finally:
        torch.use_deterministic_algorithms(False)
    assert isinstance(usual, routes.Plain)
    assert isinstance(repeating, routes.Plain)
    assert (usual.runner, usual.gradients) == (ours, sdpa)
    assert (repeating.runner, repeating.gradients) == (sdpa, sdpa)


class Graphs:
    """What a compiler is given."""

    def __init__(self) -> None:
        self.texts: list[str] = []

        def keep(graph: Any, _: Any) -> Any:
            self.texts.append(str(graph.graph))
            from functorch.compile import make_boxed_func

            return make_boxed_func(graph.forward)

        self.run = aot_autograd(fw_compiler=keep, bw_compiler=keep)

    def __call__(self, graph: Any, inputs: Any) -> Any:
        return self.run(graph, inputs)


def test_a_compiled_step_is_the_operator_twice_in_one_graph(ours: Ours) -> None:
    module, graphs = attnc.compile("causal", heads=4), Graphs()
    other = attnc.compile("causal", heads=4, backend="sdpa")
    compiled = torch.compile(module, fullgraph=True, backend=graphs)
    inputs = tensors()
    same(with_grads(compiled, inputs), with_grads(other, inputs))
    assert ours.calls == 1
    assert len(graphs.texts) == 2
    for text, name in zip(graphs.texts, ("attnlang.forward", "attnlang.backward"), strict=True):
        assert text.count("torch.ops.attnlang") == text.count(name) == 1
        assert "flash" not in text


def test_a_graph_for_any_length_is_torchs_call(ours: Ours) -> None:
    """One graph, in which no length is asked for; its gradients are the same kernel's."""
    module, graphs = attnc.compile("causal", heads=4), Graphs()
    other = attnc.compile("causal", heads=4, backend="sdpa")
    compiled = torch.compile(module, fullgraph=True, backend=graphs)
    for n in (39, 40, 64):
        inputs = tensors(n)
        for x in inputs:
            torch._dynamo.mark_dynamic(x, 2)
        same(with_grads(compiled, inputs), with_grads(other, inputs))
    assert ours.calls == 0
    assert len(graphs.texts) == 2
    assert "attnlang" not in graphs.texts[0]


def test_checkpoints_autocast_and_second_derivatives(ours: Ours) -> None:
    module, other = attnc.compile("causal", heads=4), attnc.compile("causal", heads=4, backend="sdpa")
    inputs = tensors()
    true = with_grads(other, inputs)
    same(with_grads(partial(checkpoint, module, use_reentrant=False), inputs), true)
    assert ours.calls == 2
    with torch.autocast("cpu", bf16):
        out = module(*(x.detach().float().requires_grad_() for x in inputs))
    assert ours.calls == 3
    assert out.dtype == bf16
    torch.testing.assert_close(out, true[0])
    (grad,) = torch.autograd.grad(module(*inputs).float().square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        grad.float().sum().backward()


def test_no_random_number_is_drawn(ours: Ours) -> None:
    module, inputs = attnc.compile("causal", heads=4), tensors()
    state = torch.get_rng_state()
    with_grads(module, inputs)
    assert ours.calls == 1
    assert torch.equal(torch.get_rng_state(), state)


# on a GPU -------------------------------------------------------------------------------------------------------------


def _on_a_gpu() -> bool:
    return cudnn.refusal_here(CUDA, bf16, 64) is None and triton.has_hopper_kernels(CUDA)


@pytest.mark.skipif(not _on_a_gpu(), reason="needs a Hopper GPU with cuDNN and triton")
@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("dtype", [bf16, torch.float16])
@pytest.mark.parametrize("name", ["causal", "dense"])
@pytest.mark.parametrize("inside", [False, True])
def test_against_float64_on_a_gpu(
    name: str, dtype: torch.dtype, mode: str, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short sequences made long ones: 300 tokens, and 1024, with d_out in three layouts."""
    monkeypatch.setitem(MEASURED, (64, name == "causal"), Least(300, 1200))
    for n in (300, 1024):
        torch._dynamo.reset()  # (else the second length is a symbol)
        module = attnc.compile(name, heads=4)
        run = torch.compile(module, fullgraph=True) if mode == "compiled" else module
        generator = torch.Generator().manual_seed(n)
        made = [torch.randn(2, 4, n, 64, generator=generator).to("cuda", dtype) for _ in range(4)]
        turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in made]
        inputs = [x.requires_grad_() for x in (turned if inside else made)[:3]]
        state = torch.cuda.get_rng_state()
        out, lse = run(*inputs, return_lse=True)
        if mode == "eager":
            assert "_Eager" in out.grad_fn.name()
        for dout in (made[3], turned[3], made[3][:, :, :1].expand(2, 4, n, 64)):
            true = expected(module.pattern, [*(x.detach() for x in inputs), dout], 64**-0.5)
            mine = out, lse, *torch.autograd.grad(out, inputs, dout, retain_graph=True)
            for result, error, most in zip(NAMES, true.errors([x.detach() for x in mine]), true.allowed, strict=True):
                assert error <= most, f"N = {n}: {result} is off by {error:.1e}, allowed are {most:.1e}"
        assert torch.equal(torch.cuda.get_rng_state(), state)


@pytest.mark.skipif(not _on_a_gpu(), reason="needs a Hopper GPU with cuDNN and triton")
def test_a_layout_that_our_kernel_cannot_read_stays_with_cudnn() -> None:
    module = attnc.compile("causal", heads=12)
    for layout, x in layouts(8192).items():
        moved = torch.empty_strided(x.shape, x.stride(), dtype=bf16, device="cuda").normal_().requires_grad_()
        assert ("Cudnn" if layout == "odd" else "_Eager") in module(moved, moved, moved).grad_fn.name(), layout
