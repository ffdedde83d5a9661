"""The contract of PatternAttention: what may be passed, what comes back, and what is said of the rest."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import attnc
import numpy as np
import pytest
import torch
from torch import Tensor

import attnlang
from attnlang.nn import PatternAttention
from attnlang.runtime import reference

LONGNET = {"segments": [16, 32, 64], "dilations": [1, 2, 4]}
PATTERNS: dict[str, dict[str, Any]] = {
    "longnet": LONGNET,
    "sliding": {"w": 9},
    "fixed": {"l": 8, "c": 2},
    "dense": {},
    "longformer": {},
}
ROUNDING = {"rtol": 0, "atol": 1e-12}


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def agree(module: PatternAttention, inputs: list[Tensor], **rest: Any) -> None:
    """Out, lse and gradients equal the formula's."""
    q, k, v = inputs
    tables = [rest[name] for name, _ in module.pattern.tables]
    out, lse = module(q, k, v, return_lse=True, **rest)
    scale = rest.get("scale") or q.size(-1) ** -0.5
    expected = reference.attention(q, k, v, module.pattern, scale, tables=tables, lengths=rest.get("lengths"))
    weight = torch.randn_like(out)
    for mine, true in zip((out, lse), expected, strict=True):
        torch.testing.assert_close(mine, true, **ROUNDING)
    for mine, true in zip(*(torch.autograd.grad(x, inputs, weight) for x in (out, expected[0])), strict=True):
        torch.testing.assert_close(mine, true, **ROUNDING)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(12, 4), (12, 1), (6, 3), (8, 8)])
def test_grouped_heads(name: str, heads: int, kv_heads: int) -> None:
    module = attnc.compile(name, heads=heads, **PATTERNS[name])
    agree(module, tensors((2, heads, 75, 8), (2, kv_heads, 75, 8), (2, kv_heads, 75, 8)))


def test_grouped_heads_where_each_head_is_different() -> None:
    pattern = attnlang.loads("pattern p = heads(2..5) { causal } + heads(5..) { dilate(3, shift=h) } + window(h + 1)")
    agree(attnc.compile(pattern, heads=12), tensors((2, 12, 31, 8), (2, 4, 31, 8), (2, 4, 31, 8)))


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("queries", "keys"), [(1, 70), (13, 70), (0, 5), (1, 1), (5, 6)])
def test_fewer_queries_are_the_last_positions(name: str, queries: int, keys: int) -> None:
    module = attnc.compile(name, heads=4, **PATTERNS[name])
    q, k, v = tensors((2, 4, keys, 8), (2, 2, keys, 8), (2, 2, keys, 8))
    last = q[:, :, keys - queries :]
    torch.testing.assert_close(module(last, k, v), module(q, k, v)[:, :, keys - queries :], **ROUNDING)
    agree(module, [last.detach().requires_grad_(), k, v])


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_lengths_make_each_sequence_its_own(name: str, backend: str) -> None:
    module = attnc.compile(name, heads=4, backend=backend, **PATTERNS[name])
    lengths = torch.tensor([50, 0, 17, 17, 1])
    inputs = tensors((5, 4, 50, 8), (5, 2, 50, 8), (5, 2, 50, 8))
    agree(module, inputs, lengths=lengths)
    padded = [x.detach().clone() for x in inputs]
    for item, length in enumerate(lengths.tolist()):
        for x in padded:
            x[item, :, length:] = float("nan")
    leaves = [x.requires_grad_() for x in padded]
    out, lse = module(*leaves, lengths=lengths, return_lse=True)
    grads = torch.autograd.grad(out, leaves, torch.randn_like(out))
    for item, length in enumerate(lengths.tolist()):
        alone, lse_alone = module(*(x[item : item + 1, :, :length].detach() for x in inputs), return_lse=True)
        torch.testing.assert_close(out[item : item + 1, :, :length], alone, **ROUNDING)
        torch.testing.assert_close(lse[item : item + 1, :, :length], lse_alone, **ROUNDING)
        assert (out[item, :, length:] == 0).all()
        assert (lse[item, :, length:] == float("-inf")).all()
        assert all((grad[item, :, length:] == 0).all() for grad in grads)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_tables_for_all_or_for_each_item(backend: str) -> None:
    module = attnc.compile("packed", heads=2, backend=backend)
    inputs = tensors((3, 2, 20, 4), (3, 1, 20, 4), (3, 1, 20, 4))
    shared = torch.arange(20) // 7
    agree(module, inputs, doc=shared)
    own = torch.stack([torch.arange(20) // step for step in (3, 7, 20)])
    agree(module, inputs, doc=own.int())
    agree(module, inputs, doc=own, lengths=torch.tensor([20, 4, 0]))
    for item in range(3):
        alone = module(*(x[item : item + 1] for x in inputs), doc=own[item])
        torch.testing.assert_close(module(*inputs, doc=own)[item : item + 1], alone, **ROUNDING)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
@pytest.mark.parametrize("n", [0, 1, 2, 40])
def test_any_length_and_batch(backend: str, n: int) -> None:
    module = attnc.compile("longnet", heads=4, backend=backend, **LONGNET)
    for batch in (0, 1, 3):
        inputs = tensors(*[(batch, 4, n, 8)] * 3)
        agree(module, inputs)
        assert module(*inputs).shape == (batch, 4, n, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    module = attnc.compile("longnet", heads=4, **LONGNET)
    inputs = tensors(*[(1, 4, 40, 8)] * 3, dtype=dtype)
    out, lse = module(*inputs, return_lse=True)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    exact = module(*(x.double() for x in inputs))
    assert (out - exact).abs().max() < 8 * torch.finfo(dtype).eps
    assert all(grad.dtype == dtype for grad in torch.autograd.grad(out.sum(), inputs))


def test_autocast_casts_as_torch_attention_does() -> None:
    module = attnc.compile("longnet", heads=4, **LONGNET)
    q, k, v = tensors(*[(1, 4, 40, 8)] * 3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(q, k.bfloat16(), v)
        assert out.dtype == torch.bfloat16
        assert module(q.double(), k.double(), v.double()).dtype == torch.float64
    assert torch.equal(out, module(q.bfloat16(), k.bfloat16(), v.bfloat16()))
    assert torch.autograd.grad(out.sum(), q)[0].dtype == torch.float32


def test_layout_of_the_result_is_that_of_the_queries() -> None:
    module = attnc.compile("longnet", heads=4, **LONGNET)
    q, k, v = (torch.randn(2, 30, 4, 8, requires_grad=True).transpose(1, 2) for _ in range(3))
    out = module(q, k, v)
    assert out.transpose(1, 2).is_contiguous()
    assert module(q.contiguous(), k, v).is_contiguous()


def test_scale() -> None:
    module = attnc.compile("causal", heads=2)
    q, k, v = tensors(*[(1, 2, 9, 4)] * 3)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
    torch.testing.assert_close(module(q, k, v, scale=0.3), expected, **ROUNDING)


def test_modules_pickle_copy_and_hold_no_state() -> None:
    module = attnc.compile("longnet", heads=4, **LONGNET)
    inputs = tensors(*[(1, 4, 33, 8)] * 3)
    expected = module(*inputs)
    for clone in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(clone(*inputs), expected)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(*inputs), expected)
    assert module.state_dict() == {}
    assert not list(module.buffers())
    assert "longnet(segments=[16" in repr(module)


@pytest.mark.parametrize("backend", ["auto", "sdpa", "reference"])
def test_meta_device(backend: str) -> None:
    q, k = (torch.empty(shape, device="meta", dtype=torch.bfloat16) for shape in ((2, 4, 7, 8), (2, 2, 9, 8)))
    out, lse = attnc.compile("longnet", heads=4, backend=backend, **LONGNET)(q, k, k, return_lse=True)
    assert (out.shape, out.dtype, out.device.type) == ((2, 4, 7, 8), torch.bfloat16, "meta")
    assert (lse.shape, lse.dtype) == ((2, 4, 7), torch.float32)


def test_lse_carries_no_gradient() -> None:
    _, lse = attnc.compile("causal", heads=2)(*tensors(*[(1, 2, 8, 4)] * 3), return_lse=True)
    assert not lse.requires_grad


def test_the_choice_of_auto_has_a_reason() -> None:
    module = attnc.compile("causal", heads=2)
    assert module.backend == "auto"
    assert (module.choice("cpu").name, module.choice("cpu").why) == ("sdpa", "sdpa is the first choice on cpu")
    with pytest.raises(ValueError, match="runs on cpu and cuda, not on mps; backend 'reference'"):
        attnc.compile("causal", heads=2, backend="sdpa").choice("mps")
    with pytest.raises(ValueError, match="head dimension that is a multiple of 8 and at most 256, not 12"):
        attnc.compile("causal", heads=2, backend="sdpa").choice("cuda", torch.bfloat16, 12)


def shaped(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": shaped(4, 9, 8)}, r"q must be \(batch, heads, length, head_dim\)"),
        (
            {"q": shaped(1, 3, 9, 8)},
            r"compiled for 4 heads, but q has 3 \(shape \(1, 3, 9, 8\)\); compile it with heads",
        ),
        ({"k": shaped(1, 2, 9, 8)}, "k and v must have one shape"),
        ({"v": shaped(1, 4, 8, 8)}, "k and v must have one shape"),
        (
            {"k": shaped(1, 3, 9, 8), "v": shaped(1, 3, 9, 8)},
            "must be a multiple of the heads of k and v, but those are 3",
        ),
        ({"k": shaped(1, 0, 9, 8), "v": shaped(1, 0, 9, 8)}, "but those are 0"),
        ({"k": shaped(2, 4, 9, 8), "v": shaped(2, 4, 9, 8)}, "one batch size"),
        ({"k": shaped(1, 4, 9, 6), "v": shaped(1, 4, 9, 6)}, "one head dimension"),
        ({"q": shaped(1, 4, 9, 0), "k": shaped(1, 4, 9, 0), "v": shaped(1, 4, 9, 0)}, "of at least 1"),
        ({"q": shaped(1, 4, 10, 8)}, "q has 10 positions, more than the 9 of k: queries are the last"),
        ({"k": shaped(1, 4, 9, 8).double()}, "must have one dtype, but have q float32, k float64"),
        ({"k": shaped(1, 4, 9, 8).to("meta")}, "must have one device"),
        ({"q": shaped(1, 4, 9, 8).long()}, "must be float64, float32, bfloat16 or float16, but is int64"),
        ({"q": shaped(1, 4, 9, 8).to(torch.float8_e5m2)}, "but is float8_e5m2"),
        ({"lengths": 3}, "lengths must be a tensor of integers, one for each sequence of the batch, not int"),
        ({"lengths": torch.tensor([1.0])}, "not float32"),
        ({"lengths": torch.tensor([1, 2])}, r"lengths must have shape \(1,\)"),
        ({"lengths": torch.tensor([10])}, r"lengths must lie in 0..9, the length of q, but one is 10"),
        ({"lengths": torch.tensor([-1])}, "but one is -1"),
        ({"lengths": torch.tensor([3]), "q": shaped(1, 4, 8, 8)}, "padded to one length, but have 8 and 9"),
        ({"q": np.zeros((1, 4, 9, 8))}, r"q must be a tensor \(batch, heads, length, head_dim\), not ndarray"),
        ({"q": shaped(1, 9, 4, 8)}, r"q has 9 .*transpose\(1, 2\) them if they are \(batch, length, heads"),
        ({"scale": "0.1"}, r"scale must be a number, or None for head_dim \*\* -0.5, not str"),
        ({"scale": float("nan")}, "scale must be finite, not nan"),
        ({"scale": float("-inf")}, "scale must be finite, not -inf"),
        ({"scale": 10**400}, "scale is too large"),
        ({"lengths": torch.tensor([True])}, "lengths must be a tensor of integers, .*, not bool"),
        ({"doc": torch.tensor([3])}, "has no table 'doc': it takes none"),
        ({"attn_mask": None}, "leave attn_mask out: .* give lengths="),
        ({"is_causal": True}, "leave is_causal out: which keys a query sees is the pattern's to say"),
        ({"dropout_p": 0.0}, "leave dropout_p out"),
        ({"enable_gqa": True}, "leave enable_gqa out: k and v may have fewer heads"),
    ],
)
def test_unsuitable_tensors_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {name: torch.zeros(1, 4, 9, 8) for name in "qkv"} | change
    with pytest.raises(ValueError, match=message):
        attnc.compile("causal", heads=4)(**arguments)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "needs the content of doc: give doc="),
        ([0] * 9, "table doc must be a tensor of integers, not list"),
        (torch.zeros(9), "table doc must hold integers, but is float32"),
        (torch.zeros(2, 9, dtype=torch.int64), "1 axis, or a batch axis of 1 before, but has shape"),
        (torch.zeros(8, dtype=torch.int64), "index 8, but axis 0 of `doc` has 8 entries"),
    ],
)
def test_unsuitable_tables_are_refused(table: Any, message: str) -> None:
    x = torch.zeros(1, 4, 9, 8)
    with pytest.raises((ValueError, attnlang.AttnError)) as caught:
        attnc.compile("packed", heads=4, backend="reference")(x, x, x, **({} if table is None else {"doc": table}))
    assert message in str(caught.value) or caught.match(message)


def test_a_scale_that_is_no_number_is_refused_after_a_batch_alike() -> None:
    module, x = attnc.compile("causal", heads=4), torch.zeros(1, 4, 9, 8)
    module(x, x, x, scale=0.5)
    with pytest.raises(ValueError, match="scale must be finite, not nan"):
        module(x, x, x, scale=float("nan"))


def test_the_formula_may_be_asked_for_later() -> None:
    module, x = attnc.compile("longnet", heads=2, segments=[4, 8], dilations=[1, 2]), torch.randn(1, 2, 20, 8)
    found = module(x, x, x)
    module.backend = "reference"
    torch.testing.assert_close(module(x, x, x), found)


def test_unsuitable_modules_are_refused() -> None:
    pattern, plan = attnlang.load("causal"), attnc.compile("causal", heads=2).plan
    with pytest.raises(ValueError, match="unknown backend 'flash': there are 'auto', "):
        PatternAttention(pattern, plan, 2, "flash")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a plan"):
        PatternAttention(pattern, None, 2)
    with pytest.raises(ValueError, match="the plan is for 2 heads, not for 3"):
        PatternAttention(pattern, plan, 3)
