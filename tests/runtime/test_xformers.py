"""The xformers backend without a GPU: the biases it chooses, and its work around operators that are computed densely.

On a GPU `attnc verify --all` runs the real ones over the whole library.
"""

from __future__ import annotations

import importlib.machinery
from types import SimpleNamespace
from typing import Any

import attnc
import numpy as np
import pytest
import torch
from attnc.lower import lower
from torch import Tensor

import attnlang
from attnlang.plan import Plan, Tiles
from attnlang.runtime import reference, strided, xformers
from attnlang.runtime.specimens import Specimen, library_specimens
from attnlang.runtime.xformers import documents, kernels, loading

fmha = pytest.importorskip("xformers.ops.fmha")
ROUNDING = {"rtol": 0, "atol": 1e-12}
CUDA = torch.device("cuda")


def runs(plan: Plan) -> bool:
    """Whether xformers would run a plan in float16, if it were there."""
    return xformers.refusal(plan, CUDA, torch.float16, 64) is None


@pytest.fixture
def _there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Xformers as if it were there, its operators computed from the bias written out."""
    monkeypatch.setattr(xformers, "missing", lambda: None)
    fake = SimpleNamespace(
        attn_bias=fmha.attn_bias,
        flash=SimpleNamespace(FwOp="flash", BwOp="flash"),
        cutlass=SimpleNamespace(FwOp="cutlass", BwOp="cutlass"),
        memory_efficient_attention_forward_requires_grad=_dense_forward,
        memory_efficient_attention_backward=_dense_backward,
    )
    for place in (kernels, documents):
        monkeypatch.setattr(place, "ops", lambda: fake)


def _scores(q: Tensor, k: Tensor, bias: Any, scale: float) -> Tensor:
    s = torch.einsum("bihd,bjhd->bhij", q, k) * scale
    if bias is None:
        return s
    shape = (1, 1, q.size(1), k.size(1))
    return s + (bias if isinstance(bias, Tensor) else bias.materialize(shape, dtype=torch.float64)).to(s.dtype)


def _dense_forward(q: Tensor, k: Tensor, v: Tensor, bias: Any, *, scale: float, op: str) -> tuple[Tensor, Tensor]:
    s = _scores(q, k, bias, scale)
    return torch.einsum("bhij,bjhd->bihd", s.softmax(-1), v), s.logsumexp(-1)


def _dense_backward(
    dout: Tensor, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Any, *, scale: float, op: str
) -> tuple[Tensor, Tensor, Tensor]:
    p = (_scores(q, k, bias, scale) - lse[..., None]).exp()
    delta = (dout * out).sum(-1).transpose(1, 2)[..., None]
    ds = p * (torch.einsum("bihd,bjhd->bhij", dout, v) - delta) * scale
    gradients = (ds, k, "bhij,bjhd->bihd"), (ds, q, "bhij,bihd->bjhd"), (p, dout, "bhij,bihd->bjhd")
    dq, dk, dv = (torch.einsum(rule, a, b) for a, b, rule in gradients)
    return dq, dk, dv


RUN = [
    what
    for what in library_specimens()
    if all(
        not isinstance(branch, Tiles) or documents.documents(branch, 4) for branch in lower(what.pattern, 4).branches
    )
]


def test_the_patterns_that_xformers_runs() -> None:
    names = {what.pattern.name for what in RUN}
    assert names >= {"longnet", "sliding", "strided", "fixed", "longformer_local", "packed", "packed_sliding"}
    assert not names & {"longformer", "bigbird", "natten2d", "tree", "shared_prefix"}


@pytest.mark.parametrize("what", RUN, ids=lambda what: what.pattern.call)
@pytest.mark.usefixtures("_there")
def test_equals_the_formula(what: Specimen, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = lower(what.pattern, 4)
    for n, kernel in ((1, kernels.Flash()), (129, kernels.Flash()), (129, kernels.Cutlass())):
        monkeypatch.setattr(xformers, "kernel_for", lambda dtype, kernel=kernel: kernel)
        generator = torch.Generator().manual_seed(n)
        q, k, v, dout = (
            torch.randn(2, heads, n, 8, dtype=torch.float64, generator=generator).requires_grad_()
            for heads in (4, 2, 2, 4)
        )
        tables = {name: torch.from_numpy(table) for name, table in what.tables(n, 4).items()}
        out, lse = reference.attention(q, k, v, what.pattern, 0.3, tables=[tables[t] for t, _ in what.pattern.tables])
        expected = [out, lse, *torch.autograd.grad(out, (q, k, v), dout)]
        with torch.no_grad():
            out, lse = xformers.forward(q, k, v, plan, 0.3, tables)
            found = [out, lse, *xformers.backward(dout, q, k, v, out, lse, plan, 0.3, tables)]
        for mine, true in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, true, **ROUNDING)


@pytest.mark.parametrize("what", RUN, ids=lambda what: what.pattern.call)
def test_every_call_has_a_bias_of_its_own_pairs(what: Specimen) -> None:
    for call in set(strided.kernel_calls(lower(what.pattern, 4), 129, kernels.Flash())):
        distance = np.arange(call.k_len)[None] - np.arange(call.q_len)[:, None]
        expected = np.vectorize(call.band.__contains__)(distance)
        bias = kernels.Flash()._bias(call)
        shape = (call.q_len, call.k_len)
        held = np.ones(shape, bool) if bias is None else (bias.materialize(shape) == 0).numpy()
        assert (held == expected).all(), call


def test_documents_are_recognised() -> None:
    def found(text: str, heads: int = 2) -> str | None:
        (branch,) = lower(attnlang.loads(f"pattern p(doc: table) = {text}"), heads).branches
        assert isinstance(branch, Tiles)
        what = documents.documents(branch, heads)
        return what and what.bias_name

    assert found("same(doc[pos])") == "BlockDiagonalMask"
    assert found("causal & same(doc[pos])") == "BlockDiagonalCausalMask"
    assert found("same(doc[pos] // 2) & window(5)") == "BlockDiagonalCausalLocalAttentionMask"
    assert found("offset(-3..0) & same(doc[pos]) & offset(-9..5)") == "BlockDiagonalCausalLocalAttentionMask"
    for text in (
        "offset(-3..3) & same(doc[pos])",
        "offset(..-1) & same(doc[pos])",
        "same(doc[pos]) & same(pos % 2)",
        "same(doc[pos] + h)",
        "heads(1..) { same(doc[pos]) }",
        "causal & ~same(doc[pos])",
    ):
        assert found(text) is None, text


@pytest.mark.usefixtures("_there")
def test_documents_that_stand_apart_are_refused() -> None:
    plan = lower(attnlang.load("packed"), 2)
    x = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match="whose tokens stand together, but the table holds one that stands apart"):
        xformers.forward(x, x, x, plan, 1.0, {"doc": torch.tensor([0, 1, 1, 0])})


@pytest.mark.usefixtures("_there")
def test_what_xformers_cannot_do_is_refused_by_name() -> None:
    causal, longformer, packed = (lower(attnlang.load(name), 2) for name in ("causal", "longformer", "packed"))
    for plan, device, dtype, dim, message in (
        (causal, "cpu", torch.float32, 64, "runs on cuda, not on cpu; backends 'sdpa' and 'reference'"),
        (causal, "cuda", torch.float64, 64, "no float64"),
        (causal, "cuda", torch.float16, 12, "a multiple of 8 and at most 256, not 12"),
        (longformer, "cuda", torch.float16, 64, "no bias for tiles"),
        (packed, "cuda", torch.float32, 64, "documents in float16 and bfloat16 only"),
    ):
        assert message in (xformers.refusal(plan, torch.device(device), dtype, dim) or "")
    assert runs(causal)
    assert runs(packed)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("xformers", None)
    found: dict[str, Any] = {"xformers": None}
    monkeypatch.setattr(loading.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loading, "find_spec", lambda name: found.get(name))
    monkeypatch.setattr(loading, "_load", lambda place: False)
    for expected in ("pip install xformers", "pip install nvidia-cuda-runtime-cu12"):
        loading.missing.cache_clear()
        assert expected in (loading.missing() or "")
        found["xformers"] = spec
    tried: list[str] = []
    monkeypatch.setattr(loading, "_load", lambda place: (tried.append(place), "packages" in place)[1])
    runtime = importlib.machinery.ModuleSpec("nvidia.cuda_runtime", None, is_package=True)
    runtime.submodule_search_locations = ["/site-packages/nvidia/cuda_runtime"]
    found["nvidia.cuda_runtime"] = runtime
    assert loading._runtime_loaded()
    assert tried == ["libcudart.so.12", "/site-packages/nvidia/cuda_runtime/lib/libcudart.so.12"]
    loading.missing.cache_clear()


def test_a_module_says_why_xformers_does_not_run_here() -> None:
    x = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match="backend 'xformers' runs on cuda, not on cpu"):
        attnc.compile("causal", heads=2, backend="xformers")(x, x, x)
