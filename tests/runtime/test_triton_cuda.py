"""The triton backend on a GPU: every dtype and head dimension that the table of tile shapes knows, large offsets."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import attnc
import pytest
import torch

from attnlang.runtime.expected import NAMES

sys.path.insert(0, str(Path(__file__).parent))
from triton_cases import CASES, Case, differences

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
LONGNET = {"segments": [1024, 2048, 4096], "dilations": [1, 2, 4]}
LARGER = {
    "longnet": Case("longnet", 4096, LONGNET, heads=3, kv_heads=3, repeat=True),
    "longnet, full": Case("longnet_bidirectional", 3072, LONGNET, heads=2),
    "longnet, uneven": Case("longnet", 3001, LONGNET, heads=2, kv_heads=1),
    "causal": Case("causal", 1000),
    "window": Case("sliding", 1500, {"w": 300}, repeat=True),
    "longformer": Case("longformer", 5000, {"w": 100}, repeat=True),
    "bigbird": Case("bigbird", 1024, repeat=True),
    "strided": Case("strided", 1024, {"l": 32}),
    "fixed": Case("fixed", 1024, {"l": 64, "c": 8}),
    "natten2d": Case("natten2d", 1024, {"rows": 32, "cols": 32, "w": 5}),
    "packed": Case("packed", 700),
}


def run(case: Case) -> None:
    from attnlang.runtime.triton.run import DEFAULT

    errors, allowed = differences(case, "cuda", DEFAULT)
    for result, error, most in zip(NAMES, errors, allowed, strict=True):
        assert error <= most, f"{result} is off by {error:.1e}, allowed are {most:.1e}"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_small(name: str, dtype: str) -> None:
    run(replace(CASES[name], dtype=dtype))


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("name", CASES)
def test_small_at_head_dimensions_of_the_hopper_kernel(name: str, dim: int) -> None:
    run(replace(CASES[name], dim=dim, dtype="float16" if dim == 64 else "bfloat16"))


@pytest.mark.parametrize("dim", [32, 64, 80, 128, 256])
@pytest.mark.parametrize("name", LARGER)
def test_every_head_dimension_in_bfloat16(name: str, dim: int) -> None:
    run(replace(LARGER[name], dim=dim, dtype="bfloat16"))


@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("name", ["longnet, uneven", "bigbird", "fixed"])
def test_float32(name: str, dim: int) -> None:
    run(replace(LARGER[name], dim=dim, dtype="float32"))


def test_offsets_beyond_two_to_the_31() -> None:
    """The last segment of a sequence with more than 2^31 elements equals the segment by itself."""
    n, heads, dim, w = 2**21 + 2**15, 9, 128, 2**15
    q = torch.randn(1, n, heads, dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
    assert q.numel() > 2**31
    module = attnc.compile("longnet", heads=heads, backend="triton", segments=[2048, 8192, w], dilations=[1, 4, 16])
    last = q[:, :, -w:]
    whole, alone = module(q, q, q), module(last, last, last)
    assert torch.equal(whole[:, :, -w:], alone)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("name", ["longnet", "bigbird"])
def test_tensors_of_another_device_than_the_current_one(name: str) -> None:
    case = replace(LARGER[name], dim=64, dtype="bfloat16")
    from attnlang.runtime import triton

    module = attnc.compile(case.pattern, heads=case.heads, backend="triton", **case.parameters)
    plan = module.plan
    assert plan is not None
    assert torch.cuda.current_device() == 0
    inputs = [torch.randn(1, case.heads, case.n, 64, dtype=torch.bfloat16) for _ in range(4)]
    results: list[list[torch.Tensor]] = []
    for device in ("cuda:0", "cuda:1"):
        q, k, v, dout = (x.to(device) for x in inputs)
        out, lse = triton.forward(q, k, v, plan, 0.125, {})
        results.append([out, *triton.backward(dout, q, k, v, out, lse, plan, 0.125, {})])
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(*results, strict=True))


def steps(case: Case, inputs: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Results of forward and backward for each of several inputs: q, k, v and d_out side by side in the last axis."""
    from attnlang.runtime import triton

    plan = attnc.compile(case.pattern, heads=case.heads, backend="triton", **case.parameters).plan
    assert plan is not None
    found: list[list[torch.Tensor]] = []
    for each in inputs:
        q, k, v, dout = each.unbind(-1)
        q, k, v, dout = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v, dout))
        out, lse = triton.forward(q, k, v, plan, 0.125, {})
        found.append([out, lse, *triton.backward(dout, q, k, v, out, lse, plan, 0.125, {})])
    return found


@pytest.mark.parametrize("dim", [32, 64, 128])
@pytest.mark.parametrize("name", [name for name in LARGER if name != "packed"])
def test_kept_launches_compute_the_same_bits(name: str, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches that go past triton, on tensors at other addresses and on another stream, against triton's own."""
    from attnlang.runtime.triton import kept

    case = replace(LARGER[name], dim=dim, dtype="bfloat16")
    shape = (2, case.heads, case.n, dim, 4)
    inputs = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    counted: list[int] = []
    run_kept = kept.Kept.__call__
    monkeypatch.setattr(kept.Kept, "__call__", lambda *given: (counted.append(1), run_kept(*given))[1])
    first = steps(case, inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        second = steps(case, inputs)
    stream.synchronize()
    assert counted or not kept._known()
    monkeypatch.setattr(kept, "_known", lambda: False)
    plain = steps(case, inputs)
    for results in (first, second):
        for a, b in zip(results, plain, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_kept_launches_in_a_cuda_graph() -> None:
    """A graph that holds a kept forward pass computes what the call does, on new contents."""
    module = attnc.compile("longnet", heads=4, backend="triton", **LONGNET)
    q, k, v = (torch.randn(1, 4, 4096, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    for _ in range(2):
        module(q, k, v)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = module(q, k, v)
    for x in (q, k, v):
        x.normal_()
    graph.replay()
    assert torch.equal(out, module(q, k, v))
