"""A batch like the one before goes straight where that one went; whatever differs is checked and decided on anew."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from direct_inputs import same, tensors, with_grads
from seen_modules import PATTERNS, compiled, met
from torch import Tensor

from attnlang.nn import attention
from attnlang.runtime import cudnn, seen
from attnlang.runtime.direct import Direct
from attnlang.runtime.routes import Plain

FORWARD = torch.ops.attnlang.forward.default


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the batches that were checked."""
    lengths: list[int] = []
    check = attention.check_inputs

    def counted(q: Tensor, *rest: Any) -> None:
        lengths.append(q.size(2))
        check(q, *rest)

    monkeypatch.setattr(attention, "check_inputs", counted)
    return lengths


@pytest.mark.parametrize("name", PATTERNS)
def test_like_batches_are_checked_once(name: str, checked: list[int]) -> None:
    module = compiled(name)
    for _ in range(3):
        same(with_grads(module, tensors()), with_grads(compiled(name), tensors()))
        same(with_grads(module, tensors(), scale=0.3), with_grads(compiled(name), tensors(), scale=0.3))
        assert torch.equal(module(*tensors()), module(*tensors(), return_lse=True)[0])
    assert checked == [40] * 7
    assert module._last is not None
    assert isinstance(module._last.route, Direct if name == "causal" else Plain)


def _of(change: Callable[[Tensor], Tensor], place: int) -> list[Tensor]:
    inputs = tensors()
    inputs[place] = change(inputs[place].detach()).requires_grad_()
    return inputs


def _turned(x: Tensor) -> Tensor:
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def _unaligned(x: Tensor) -> Tensor:
    return torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape).copy_(x)


OTHERS: dict[str, Callable[[], list[Tensor]]] = {
    "length": lambda: tensors(33),
    "batch": lambda: tensors(batch=3),
    "dtype": lambda: tensors(dtype=torch.float32),
    "kv heads": lambda: tensors(heads=2),
    "fewer queries": lambda: [x[:, :, -5:] if i == 0 else x for i, x in enumerate(tensors())],
    **{f"strides of {'qkv'[place]}": partial(_of, _turned, place) for place in range(3)},
    **{f"row of {'qkv'[place]} repeated": partial(_of, lambda x: x[:, :1].expand(x.shape), place) for place in (1, 2)},
    **{f"columns of {'qkv'[place]}": partial(_of, lambda x: x.mT.contiguous().mT, place) for place in range(3)},
    **{f"data of {'qkv'[place]}": partial(_of, _unaligned, place) for place in range(3)},
    "empty": lambda: tensors(0),
}  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("other", OTHERS)
def test_another_batch_is_checked_and_decided_on_anew(name: str, other: str, checked: list[int]) -> None:
    module = met(name)
    for inputs in (OTHERS[other](), OTHERS[other](), tensors()):
        true = with_grads(compiled(name), inputs)
        checked.clear()
        same(with_grads(module, inputs), true)
    assert checked == [40]  # the first kind again; of the other kind each, or all but the first, were checked


def test_the_other_kind_is_checked_too(checked: list[int]) -> None:
    for other in OTHERS.values():
        module = met("causal")
        checked.clear()
        module(*other())
        assert len(checked) == 1


WRONG: dict[str, tuple[Callable[[list[Tensor]], list[Any]], dict[str, Any]]] = {
    "no tensor": (lambda x: [*x[:2], [1.0]], {}),
    "heads": (lambda x: [y[:, :3] for y in x], {}),
    "dims": (lambda x: [y[0] for y in x], {}),
    "dtype": (lambda x: [y.half().long() for y in x], {}),
    **{f"dtype of {i}": (lambda x, i=i: [y.float() if j == i else y for j, y in enumerate(x)], {}) for i in range(3)},
    **{f"meta {i}": (lambda x, i=i: [y.to("meta") if j == i else y for j, y in enumerate(x)], {}) for i in range(3)},
    "k": (lambda x: [x[0], x[1][:, :, 1:], x[2]], {}),
    "v": (lambda x: [*x[:2], x[2][..., :4]], {}),
    "batch": (lambda x: [x[0][:1], *x[1:]], {}),
    "more queries": (lambda x: [x[0], *(y[:, :, 1:] for y in x[1:])], {}),
    "sparse": (lambda x: [*x[:2], x[2].detach().to_sparse()], {}),
    "sparse q": (lambda x: [y.detach().to_sparse() for y in x], {}),
    "nested": (lambda x: [torch.nested.nested_tensor(list(y.detach())) for y in x], {}),
    "scale": (lambda x: x, {"scale": "1"}),
    "lengths": (lambda x: x, {"lengths": torch.tensor([1, 99])}),
    "kinds of lengths": (lambda x: x, {"lengths": [1, 2]}),
    "tables": (lambda x: x, {"docs": torch.zeros(40, dtype=torch.int64)}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("wrong", WRONG)
def test_errors_are_those_of_a_module_that_has_seen_nothing(name: str, wrong: str) -> None:
    change, rest = WRONG[wrong]
    said: list[str] = []
    for module in (met(name), compiled(name)):
        with pytest.raises(ValueError) as error:
            module(*change(tensors()), **rest)
        said.append(str(error.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("name", PATTERNS)
def test_lengths_are_heeded(name: str) -> None:
    given = torch.tensor([40, 3])
    same(with_grads(met(name), tensors(), lengths=given), with_grads(compiled(name), tensors(), lengths=given))


@pytest.mark.parametrize("name", PATTERNS)
def test_gradient_modes_are_asked_each_time(name: str) -> None:
    module = met(name)
    for context, wanted in ((torch.no_grad(), False), (torch.inference_mode(), False), (torch.enable_grad(), True)):
        with context:
            assert module(*tensors()).requires_grad is wanted
    assert not module(*tensors(grad=False)).requires_grad
    for place in range(3):
        inputs = tensors(grad=False)
        inputs[place].requires_grad_()
        (mine,) = torch.autograd.grad(module(*inputs).square().sum(), inputs[place])
        (true,) = torch.autograd.grad(compiled(name)(*inputs).square().sum(), inputs[place])
        same([mine], [true])


@pytest.mark.parametrize("name", PATTERNS)
def test_autocast_is_heeded(name: str, checked: list[int]) -> None:
    module, single = compiled(name), tensors(dtype=torch.float32)
    half = [x.detach().bfloat16().requires_grad_() for x in single]
    halves = [x.detach().half().requires_grad_() for x in single]
    module(*single)
    module(*half)
    for inputs, dtype in ((single, torch.bfloat16), (half, torch.float16), (half, torch.bfloat16)) * 2:
        with torch.autocast("cpu", dtype):
            out = module(*inputs)
            assert out.dtype == dtype
            assert torch.equal(out, compiled(name)(*inputs))
        assert module(*half).dtype == torch.bfloat16
        assert module(*halves).dtype == torch.float16
        assert module(*single).dtype == torch.float32
    module(*half)
    with torch.autocast("cpu", torch.bfloat16):
        module(*half)
        checked.clear()
        module(*half)
        assert checked == ([] if name == "causal" else [40])  # a backend is called with autocast off: by the long way
        out = module(*half)
        mine = torch.autograd.grad(out.sum(), half)
    same(list(mine), list(torch.autograd.grad(compiled(name)(*half).sum(), half)))


def test_backward_under_autocast_that_was_off_in_the_forward_pass() -> None:
    module, inputs = compiled("sliding"), [x.detach().bfloat16().requires_grad_() for x in tensors()]
    for _ in range(2):
        out = module(*inputs)
        with torch.autocast("cpu", torch.float16):
            mine = torch.autograd.grad(out.sum(), inputs)
        assert {x.dtype for x in mine} == {torch.bfloat16}
        same(list(mine), list(torch.autograd.grad(compiled("sliding")(*inputs).sum(), inputs)))


@pytest.mark.parametrize("name", PATTERNS)
def test_that_results_must_repeat_is_heeded(name: str, checked: list[int]) -> None:
    module, lengths = met(name), list[int]()
    for wanted in (True, True, False, False):
        torch.use_deterministic_algorithms(wanted)
        try:
            checked.clear()
            same(with_grads(module, tensors()), with_grads(compiled(name), tensors()))
        finally:
            torch.use_deterministic_algorithms(False)
        lengths.append(len(checked))
    assert lengths == [2, 1, 2, 1]  # (one is of the module that has seen nothing)


def test_another_backend_is_taken_at_once() -> None:
    module = met("causal")
    module.backend = "flex"
    with torch.no_grad():
        module(*tensors(dtype=torch.float32))
    assert module._last is not None
    assert module._last.backend == "flex"
    module.heads = 3
    with pytest.raises(ValueError, match="compiled for 3 heads"):
        module(*tensors(dtype=torch.float32))


# what is kept -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATTERNS)
def test_copies_have_seen_nothing(name: str) -> None:
    module, saved = met(name), io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=False)
    for clone in (copy.copy(module), copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert clone._last is None
        same(with_grads(clone, tensors()), with_grads(module, tensors()))
    assert module._last is not None
    assert not module.state_dict()
    assert copy.deepcopy(torch.nn.Sequential(module))[0]._last is None


@pytest.mark.parametrize("name", PATTERNS)
def test_no_tensor_is_kept(name: str) -> None:
    module, inputs = compiled(name), tensors()
    out = module(*inputs)
    kept = [weakref.ref(x) for x in (*inputs, out)]
    del inputs, out
    gc.collect()
    assert [x() for x in kept] == [None] * 4


def test_threads_may_share_a_module() -> None:
    module, wrong = compiled("causal"), list[int]()
    cases = [tensors(n, grad=False, batch=1) for n in (8, 9, 10, 11)]
    true = [F.scaled_dot_product_attention(*x, is_causal=True) for x in cases]

    def work(first: int) -> None:
        for i in range(300):
            place = (first + i // 3) % len(cases)
            if not torch.equal(module(*cases[place]), true[place]):
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# on cuDNN -----------------------------------------------------------------------------------------------------------


def test_on_cudnn_an_lse_is_written_only_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the autograd of the cpu's kernel in place of cuDNN's."""
    cpu, asked = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, list[bool]()

    def forward(q: Tensor, k: Tensor, v: Tensor, _: None, lse: bool, dropout: float, causal: bool, scale: Any) -> Any:
        asked.append(lse)
        out, sums = cpu(q, k, v, dropout, causal, scale=scale)
        return out, sums if lse else None

    monkeypatch.setattr(cudnn, "_forward", forward)
    monkeypatch.setattr(seen, "route_for", lambda *_: Direct(causal=True, on_gpu=True))
    module, inputs = compiled("causal"), tensors()
    dout = torch.ones(2, 4, 40, 8, dtype=torch.float64).cumsum(-1).mT.contiguous().mT
    for given, wanted in ((inputs, True), (tensors(grad=False), False), (inputs, True)):
        asked.clear()
        out = module(*given)
        with torch.no_grad():
            assert torch.equal(module(*given), out)
        both = module(*given, return_lse=True)
        assert asked == [wanted, False, True]
        assert torch.equal(both[0], out)
        if wanted:
            layouts: list[tuple[int, ...]] = []
            out.grad_fn.register_prehook(lambda grads, layouts=layouts: layouts.append(grads[0].stride()))
            mine = torch.autograd.grad(out, inputs, dout)
            assert layouts == [out.stride()] != [dout.stride()]
            true = torch.autograd.grad(F.scaled_dot_product_attention(*inputs, is_causal=True), inputs, dout)
            same(list(mine), list(true))
