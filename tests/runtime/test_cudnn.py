"""cuDNN as a kernel of the sdpa backend: where it is chosen, what it is given, and on a GPU what it computes."""

from __future__ import annotations

from functools import partial
from typing import Any

import attnc
import pytest
import torch
from torch import Tensor

from attnlang.plan import Band, Lattice, Plan
from attnlang.runtime import backends, cudnn, kernels, sdpa
from attnlang.runtime.calls import Call
from attnlang.runtime.expected import NAMES, expected, results

HOPPER, NEW = (9, 0), 91501


@pytest.mark.parametrize(
    ("capability", "version", "dtype", "head_dim", "reason"),
    [
        (HOPPER, NEW, torch.bfloat16, 64, None),
        (HOPPER, NEW, torch.float16, 8, None),
        (HOPPER, NEW, torch.float16, 128, None),
        ((8, 0), NEW, torch.bfloat16, 64, "this GPU has 8.0"),
        ((10, 0), NEW, torch.bfloat16, 64, "this GPU has 10.0"),
        (HOPPER, None, torch.bfloat16, 64, "no cuDNN"),
        (HOPPER, 91002, torch.bfloat16, 64, "cuDNN 9.10.2 is older than 9.15.1"),
        (HOPPER, NEW, torch.float32, 64, "not float32"),
        (HOPPER, NEW, torch.bfloat16, 20, "not 20"),
        (HOPPER, NEW, torch.bfloat16, 136, "not 136"),
    ],
)
def test_where_cudnn_runs(
    capability: tuple[int, int], version: int | None, dtype: torch.dtype, head_dim: int, reason: str | None
) -> None:
    found = cudnn.refusal(capability, version, dtype, head_dim)
    assert (found is None) == (reason is None)
    assert reason is None or (found is not None and reason in found)


def test_cudnn_can_be_left_aside_and_is_not_here() -> None:
    assert cudnn.refusal(HOPPER, NEW, torch.bfloat16, 64, unwanted=True) == "TORCH_CUDNN_SDPA_DEPRIORITIZED is set"
    assert cudnn.refusal_here(torch.device("cpu"), torch.bfloat16, 64) == "there is no GPU here"


def call(q_len: int, k_len: int, band: Band) -> Call:
    return Call(0, 0, 0, q_len, k_len, 1, (), band)


@pytest.mark.parametrize(
    ("what", "there"),
    [
        (call(64, 64, Band(None, 0)), True),
        (call(64, 32, Band()), True),
        (call(64, 64, Band(-8, 0)), False),
        (call(64, 32, Band(None, 0)), False),
        (call(1, 64, Band()), False),
        (call(64, 1, Band()), False),
    ],
)
def test_calls_that_cudnn_has_a_graph_for(what: Call, there: bool) -> None:
    q, k = torch.empty(2, 3, what.q_len, 8), torch.empty(2, 3, what.k_len, 8)
    assert cudnn.has_graph(what, q, k) == there
    assert not cudnn.has_graph(what, q, k[:1].expand(2, -1, -1, -1))
    assert not cudnn.has_graph(what, torch.empty(1, 1, 1, 8).expand(70000, 1, what.q_len, 8), k)


def test_cudnn_has_no_graph_where_results_must_repeat() -> None:
    what, q = call(64, 64, Band(None, 0)), torch.empty(2, 3, 64, 8)
    assert cudnn.has_graph(what, q, q)
    torch.use_deterministic_algorithms(True)
    try:
        assert not cudnn.has_graph(what, q, q)
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_kernel_is_chosen_by_the_same_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    dense = Plan(2, (Lattice((0, 1), band=Band(None, 0)),))
    window = Plan(2, (Lattice((0, 1), band=Band(-8, 0)),))
    for refusal, kernel, auto in (
        (None, cudnn.CudaCudnn(kernels.CudaFlash()), "sdpa"),
        ("no", kernels.CudaFlash(), "triton"),
    ):
        kernels.kernel_for.cache_clear()
        backends.choose.cache_clear()
        monkeypatch.setattr(cudnn, "refusal_here", lambda *_, refusal=refusal: refusal)
        assert kernels.kernel_for(device, torch.bfloat16, 64) == kernel
        assert backends.choose("auto", dense, device, torch.bfloat16, 64).name == auto
        assert backends.choose("auto", window, device, torch.bfloat16, 64).name == "triton"
    kernels.kernel_for.cache_clear()
    backends.choose.cache_clear()


def test_only_plain_attention_on_all_heads_is_dense() -> None:
    every = (0, 1, 2)
    assert Plan(3, (Lattice(every),)).is_dense
    assert Plan(3, (Lattice(every, band=Band(None, 0)),)).is_dense
    assert not Plan(3, (Lattice(every, band=Band(0, 0)),)).is_dense
    assert not Plan(3, (Lattice((0, 1)),)).is_dense
    assert not Plan(3, (Lattice(every), Lattice(every))).is_dense
    assert not Plan(3, (Lattice(every, dilation=2),)).is_dense


@pytest.mark.parametrize("scale", [0.3, -0.3, 0.0])
def test_every_layout_is_a_function_of_those_of_q_k_and_v(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cuDNN is handed, on the operators of the cpu: torch keeps its graphs by the strides of q, k and v.

    It is never handed a scale that is not above 0.
    """
    seen: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    cpu = kernels.CpuFlash()

    def forward(q: Tensor, k: Tensor, v: Tensor, *_: Any, scale: float) -> tuple[Tensor, Tensor]:
        assert scale > 0
        out, lse = cpu.forward(q, k, v, call(q.size(2), k.size(2), Band(None, 0)), scale)
        return out, lse.unsqueeze(-1)

    def backward(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *_: Any, scale: float) -> Any:
        key = tuple((tuple(x.shape), x.stride()) for x in (q, k, v))
        seen.setdefault(key, set()).add(tuple(x.stride() for x in (dout, out, lse)))
        assert lse.shape == (*q.shape[:3], 1)
        assert scale > 0
        return cpu.backward(dout, q, k, v, out, lse.squeeze(-1), call(q.size(2), k.size(2), Band(None, 0)), scale)

    monkeypatch.setattr(cudnn, "_forward", forward)
    monkeypatch.setattr(cudnn, "_backward", backward)
    kernel = cudnn.CudaCudnn(cpu)
    plan = attnc.compile("longnet", heads=4, segments=[16, 32], dilations=[1, 2]).plan
    assert plan is not None
    q, k, v, dout = (torch.randn(2, 4, 64, 8, dtype=torch.float64) for _ in range(4))
    expected = sdpa.backward(dout, q, k, v, *sdpa.forward(q, k, v, plan, scale, {}), plan, scale, {})
    for layout in (dout, dout.transpose(1, 2).contiguous().transpose(1, 2), dout.mT.contiguous().mT.contiguous()):
        out, lse = sdpa.forward(q, k, v, plan, scale, {}, kernel)
        for mine, true in zip(sdpa.backward(layout, q, k, v, out, lse, plan, scale, {}, kernel), expected, strict=True):
            torch.testing.assert_close(mine, true, rtol=0, atol=1e-12)
    assert seen
    assert all(len(strides) == 1 for strides in seen.values())


@pytest.mark.skipif(
    cudnn.refusal_here(torch.device("cuda"), torch.bfloat16, 64) is not None, reason="needs a GPU that cuDNN is for"
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", ["causal", "dense", "longnet", "chunked", "sliding"])
def test_cudnn_against_float64(name: str, inside: bool, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    parameters: dict[str, Any] = {
        "longnet": {"segments": [64, 128], "dilations": [1, 2]}, "chunked": {"b": 100}, "sliding": {"w": 50},
    }.get(name, {})  # fmt: skip
    module = attnc.compile(name, heads=4, backend="sdpa", **parameters)
    for n in (2, 129, 300, 512):
        shapes = [(2, heads, n, head_dim) for heads in (4, kv_heads, kv_heads, 4)]
        generator = torch.Generator().manual_seed(n)
        made = [torch.randn(shape, generator=generator).to("cuda", dtype) for shape in shapes]
        true = expected(module.pattern, made, head_dim**-0.5)
        turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in made]
        for dout in (made[3], turned[3]):
            given = [*(turned if inside else made)[:3], dout]
            errors = true.errors(results(partial(module, return_lse=True), given))
            for result, error, most in zip(NAMES, errors, true.allowed, strict=True):
                assert error <= most, f"N = {n}: {result} is off by {error:.1e}, allowed are {most:.1e}"


@pytest.mark.skipif(
    cudnn.refusal_here(torch.device("cuda"), torch.bfloat16, 64) is not None, reason="needs a GPU that cuDNN is for"
)
@pytest.mark.parametrize("backend", ["auto", "sdpa"])
def test_where_results_must_repeat_they_do(backend: str) -> None:
    """With the kernels that torch's own choice would leave: no cuDNN among them."""
    module = attnc.compile("causal", heads=4, backend=backend)
    made = [torch.randn(2, 4, 700, 64, device="cuda", dtype=torch.bfloat16) for _ in range(4)]
    usual = results(partial(module, return_lse=True), made)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            first = results(partial(module, return_lse=True), made)
        second = results(partial(module, return_lse=True), made)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not [event.key for event in seen.key_averages() if "cudnn" in event.key]
    true = expected(module.pattern, made, 64**-0.5)
    for name, a, b, c, most in zip(NAMES, first, second, usual, true.allowed, strict=True):
        assert torch.equal(a, b), name
        assert float((a.double() - c.double()).abs().max()) <= 2 * most, name
