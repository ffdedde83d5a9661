"""The sdpa backend on cpu, and on cuda where there is one."""

from __future__ import annotations

from typing import Any

import attnc
import pytest
import torch
from attnc.lower import lower
from torch.utils._python_dispatch import TorchDispatchMode

import attnlang
from attnlang.nn import PatternAttention
from attnlang.plan import Plan, Tiles
from attnlang.runtime import reference, sdpa
from attnlang.runtime.blocks import block_lists
from attnlang.runtime.specimens import Specimen, library_specimens
from attnlang.runtime.verify import verify, verify_backends

LONGNET = {"segments": [16, 32, 64, 128], "dilations": [1, 2, 4, 8]}
SMALL: dict[str, dict[str, Any]] = {
    "sliding": {"w": 48},
    "strided": {"l": 16},
    "fixed": {"l": 16, "c": 3},
    "longformer_local": {"w": 20, "d": 2},
    "chunked": {"b": 50},
    "s2attn": {"g": 32},
    "logsparse": {"steps": 6},
    "longnet": LONGNET,
    "longnet_bidirectional": LONGNET,
    "longnet_torchscale": LONGNET,
}

SPECIMENS = list(library_specimens())

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def inputs(n: int, heads: int = 12, batch: int = 1, dim: int = 8) -> list[torch.Tensor]:
    torch.manual_seed(n)
    return [torch.randn(batch, heads, n, dim, dtype=torch.float64, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("name", ["longnet", "longnet_bidirectional", "longnet_torchscale"])
@pytest.mark.parametrize("n", [1, 7, 128, 200, 391])
def test_longnet_equals_the_formula_in_float64(name: str, n: int) -> None:
    q, k, v = inputs(n)
    m = torch.from_numpy(attnlang.load(name, **LONGNET).multiplicity(n, 12))
    scores = q @ k.mT * 8**-0.5 + m.double().log()
    expected = scores.softmax(-1) @ v
    out = attnc.compile(name, heads=12, **LONGNET)(q, k, v)
    weight = torch.randn_like(out)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    mine, true = (torch.autograd.grad(x, (q, k, v), weight) for x in (out, expected))
    for a, b in zip(mine, true, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("what", SPECIMENS, ids=lambda what: what.pattern.call)
def test_verify_finds_the_whole_library_right(what: Specimen) -> None:
    found = verify_backends(what, lower(what.pattern, 6), backends=["sdpa"])
    assert found.passed, str(found)


@needs_cuda
@pytest.mark.parametrize("what", SPECIMENS, ids=lambda what: what.pattern.call)
def test_verify_on_cuda(what: Specimen) -> None:
    found = verify_backends(what, lower(what.pattern, 6), device="cuda")
    assert found.passed, str(found)


@pytest.mark.parametrize("name", ["longnet", "strided", "fixed"])
def test_gradcheck(name: str) -> None:
    module = attnc.compile(name, heads=3, **SMALL[name])
    q, k, v = (x[..., :19, :3].detach().requires_grad_() for x in inputs(40, heads=3))
    assert torch.autograd.gradcheck(module, (q, k, v))


def test_reference_gradgradcheck() -> None:
    module = attnc.compile("sliding", heads=2, backend="reference", w=3)
    assert torch.autograd.gradgradcheck(module, [x.detach().requires_grad_() for x in inputs(5, 2, dim=2)])


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_queries_without_keys_give_exactly_zero(backend: str) -> None:
    pattern = attnlang.loads("pattern p = dilate(4, shift=h)")
    module = attnc.compile(pattern, heads=2, backend=backend)
    q, k, v = inputs(10, heads=2)
    out, lse = module(q, k, v, return_lse=True)
    for head in (0, 1):
        empty = [t for t in range(10) if t % 4 != head]
        assert (out[:, head, empty] == 0).all()
        assert (lse[:, head, empty] == float("-inf")).all()
        assert lse[:, head, head::4].isfinite().all()
    dq, dk, dv = torch.autograd.grad(out.sum(), (q, k, v))
    assert all(g.isfinite().all() for g in (dq, dk, dv))
    assert (dv[:, 0, 1::4] == 0).all()


def test_order_of_branches_does_not_matter() -> None:
    q, k, v = inputs(130)
    one = attnc.compile("longnet", heads=12, **LONGNET)
    backwards = {name: values[::-1] for name, values in LONGNET.items()}
    torch.testing.assert_close(
        one(q, k, v), attnc.compile("longnet", heads=12, **backwards)(q, k, v), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("layout", ["BNHD", "every other", "broadcast", "last stride 2"])
def test_any_strides(layout: str) -> None:
    def make() -> torch.Tensor:
        match layout:
            case "BNHD":
                return torch.randn(2, 70, 4, 8, dtype=torch.float64).transpose(1, 2)
            case "every other":
                return torch.randn(2, 8, 140, 8, dtype=torch.float64)[:, 1::2, ::2]
            case "broadcast":
                return torch.randn(1, 1, 70, 8, dtype=torch.float64).expand(2, 4, 70, 8)
            case _:
                return torch.randn(2, 4, 70, 16, dtype=torch.float64)[..., ::2]

    torch.manual_seed(0)
    views = [make() for _ in range(3)]
    module = attnc.compile("longnet", heads=4, **LONGNET)
    copies = [view.contiguous().requires_grad_() for view in views]
    leaves = [view.detach().requires_grad_() for view in views]
    one, two = module(*leaves), module(*copies)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-13)
    for a, b in zip(torch.autograd.grad(one.sum(), leaves), torch.autograd.grad(two.sum(), copies), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_scale_and_one_branch_are_plain_attention() -> None:
    q, k, v = inputs(50, heads=2)
    for name, causal in (("dense", False), ("causal", True)):
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=0.3)
        torch.testing.assert_close(attnc.compile(name, heads=2)(q, k, v, scale=0.3), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [-0.4, 0.0, 1e-300, -1e-40])
@pytest.mark.parametrize("name", ["dense", "causal", "sliding", "longnet"])
def test_scales_that_are_not_above_0(name: str, scale: float) -> None:
    """torch's own kernel answers nan where it masks: it scales the -inf. One too small for float32 is 0 to it."""
    module = attnc.compile(name, heads=4, backend="sdpa", **SMALL.get(name, {}))
    q, k, v = leaves = inputs(150, heads=4)
    found, lse = module(q, k, v, scale=scale, return_lse=True)
    expected, expected_lse = reference.attention(q, k, v, module.pattern, scale)
    torch.testing.assert_close(lse, expected_lse, rtol=0, atol=1e-12)
    dout = torch.randn_like(found)
    true = expected, *torch.autograd.grad(expected, leaves, dout)
    for out in (found, module(q, k, v, scale=scale)):  # (without the lse, torch differentiates plain attention itself)
        mine = out, *torch.autograd.grad(out, leaves, dout)
        for a, b in zip(mine, true, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    single = module(*(x.detach().float() for x in leaves), scale=scale)
    torch.testing.assert_close(single, expected.float(), rtol=0, atol=1e-5)


class _Watch(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, and which storages the attention kernels read."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.read: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if "flash_attention_for_cpu" in str(func):
            first = 1 if "backward" in str(func) else 0
            self.read |= {x.untyped_storage().data_ptr() for x in args[first : first + 3]}
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, torch.Tensor):
                self.largest = max(self.largest, x.untyped_storage().nbytes() // x.element_size())
        return result


@pytest.mark.parametrize("name", ["longnet", "sliding", "strided", "fixed"])
def test_no_large_tensor_and_no_copy_of_the_inputs(name: str) -> None:
    n, heads, dim = 65_536, 2, 8
    parameters = {"strided": {"l": 2048}, "fixed": {"l": 2048, "c": 2}, "sliding": {"w": 2048}}.get(name, {})
    module = attnc.compile(name, heads=heads, **parameters)
    q, k, v = (torch.randn(1, heads, n, dim, requires_grad=True) for _ in range(3))
    with _Watch() as watch:
        out = module(q, k, v)
        if name == "longnet":
            out.backward(torch.ones_like(out))
    assert watch.largest <= q.numel(), "something is larger than the inputs"
    assert watch.read <= {x.untyped_storage().data_ptr() for x in (q, k, v)}, "a kernel read a copy"


def test_masks_do_not_grow_with_the_sequence() -> None:
    from attnlang.plan import Band
    from attnlang.runtime.kernels import CpuFlash
    from attnlang.runtime.strided import kernel_calls

    plan = lower(attnlang.load("sliding", w=1000), 1)

    def masks(n: int) -> int:
        calls = kernel_calls(plan, n, CpuFlash())
        return max(c.q_len * c.k_len for c in calls if not c.causal and c.band != Band())

    assert masks(10**6) == masks(10**5) <= 1024**2


def test_unsuitable_compilations_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown backend 'flash'"):
        attnc.compile("causal", heads=4, backend="flash")
    for heads in (0, "2", 2.5, True):
        with pytest.raises(ValueError, match="heads must be an integer of at least 1"):
            attnc.compile("causal", heads=heads)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n must be an integer of at least 0, not -1"):
        attnc.report("causal", n=-1)
    with pytest.raises(ValueError, match="takes the text of a pattern"):
        attnlang.loads(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is a pattern already"):
        attnc.compile(attnlang.load("sliding"), heads=2, w=3)
    with pytest.raises(attnlang.AttnError, match="did you mean `longnet`"):
        attnc.compile("longnett", heads=2)
    with pytest.raises(ValueError, match="needs a plan"):
        PatternAttention(attnlang.load("causal"), None, 2, "sdpa")


def test_verify_notices_a_wrong_plan() -> None:
    wrong = PatternAttention(attnlang.load("causal"), lower(attnlang.load("dense"), 2), 2)
    found = verify(wrong, lengths=(8,))
    assert not found.passed
    assert "WRONG" in str(found)


def test_heads_whose_classes_wrap_around_in_a_layout_with_heads_inside() -> None:
    module = attnc.compile(attnlang.loads("pattern p = segment(9, shift=6) { dilate(4, shift=h) }"), heads=4)
    views = [torch.randn(1, 20, 4, 8, dtype=torch.float64).transpose(1, 2) for _ in range(3)]
    torch.testing.assert_close(module(*views), module(*(x.contiguous() for x in views)), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "text",
    [
        "window(20) & random(9, seed=1) + window(70) & random(40, seed=2)",
        "key(pos < 9) + key(pos % 5 == 0) + key(pos < 90) & query(pos > 3)",
    ],
)
def test_tiles_with_pairs_that_count_several_times_are_computed_once(text: str) -> None:
    pattern = attnlang.loads(f"pattern p = {text}")
    branch = Tiles((0, 1), pattern.relation)
    plan, n = Plan(2, (branch,)), 150
    lists = block_lists(branch, 2, n, 64, 64)[0]
    assert pattern.multiplicity(n, 2).max() > 1
    assert len(lists.firsts) < lists.entries
    q, k, v, dout = (torch.randn(2, 2, n, 8, dtype=torch.float64) for _ in range(4))
    out, lse = sdpa.forward(q, k, v, plan, 0.3, {})
    grads = sdpa.backward(dout, q, k, v, out, lse, plan, 0.3, {})
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    true, true_lse = reference.attention(*leaves, pattern, 0.3)
    expected = [true, true_lse, *torch.autograd.grad(true, leaves, dout)]
    for mine, exact in zip((out, lse, *grads), expected, strict=True):
        torch.testing.assert_close(mine, exact, rtol=0, atol=1e-12)
