"""Who looks on sees every operator, whatever a module has seen: modes, transforms, compilers, kinds of tensors."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from direct_inputs import same, tensors, with_grads
from seen_modules import PATTERNS, compiled, met
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

FORWARD = torch.ops.attnlang.forward.default


class _Named(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func)
        return func(*args, **(kwargs or {}))


class _Kind(Tensor):
    """A tensor with a mind of its own."""


@pytest.mark.parametrize("name", PATTERNS)
def test_observers_see_the_operator(name: str) -> None:
    module = met(name)
    with _Named() as mode:
        module(*tensors())
    assert FORWARD in mode.names
    with FlopCounterMode(display=False) as counter:
        module(*tensors()).sum().backward()
    assert set(counter.get_flop_counts()["Global"]) == {torch.ops.attnlang.forward, torch.ops.attnlang.backward}
    real = tensors()
    out = module(*real)
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert name == "causal" or set(counter.get_flop_counts()["Global"]) == {torch.ops.attnlang.backward}
    with FakeTensorMode(allow_non_fake_inputs=True) as fakes:
        assert isinstance(module(*real), FakeTensor)
        assert isinstance(module(*tensors()), FakeTensor)
        assert isinstance(module(*(fakes.from_tensor(x) for x in tensors(grad=False))), FakeTensor)
    assert module(*(x.to("meta") for x in tensors())).is_meta
    assert type(module(*tensors())) is Tensor


@pytest.mark.parametrize("name", PATTERNS)
def test_transforms_and_kinds_of_tensors(name: str) -> None:
    module, (q, k, v) = met(name), tensors(grad=False)
    with pytest.raises(ValueError, match="cannot be mapped by vmap"):
        torch.vmap(lambda x: module(x, k, v))(torch.stack([q, q]))
    with pytest.raises(ValueError, match="no forward-mode derivatives"), forward_ad.dual_level():
        module(forward_ad.make_dual(q, q), k, v)
    mine, true = (torch.func.grad(lambda x, of=of: of(x, k, v).sum())(q) for of in (module, compiled(name)))
    assert torch.equal(mine, true)
    assert type(module(q.as_subclass(_Kind), k, v)) is _Kind
    assert torch.equal(module(torch.nn.Parameter(q), k, v), module(q, k, v))


@pytest.mark.parametrize("name", PATTERNS)
def test_what_is_left_of_a_transform(name: str) -> None:
    """Such a tensor has no data that can be asked where it begins."""
    left, module, (q, k, v) = list[Tensor](), compiled(name), tensors(grad=False)
    torch.func.grad(lambda x: (left.append(x), x.sum())[1])(q)
    for _ in range(2):
        assert torch.equal(module(left[0], k, v), compiled(name)(q, k, v))
        assert module._last is None
        assert torch.equal(module(q, k, v), module(left[0], k, v))


def test_function_modes_see_torchs_call() -> None:
    seen_: list[Any] = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen_.append(func)
            return func(*args, **(kwargs or {}))

    module = met("causal")
    with Mode():
        out = module(*tensors())
    assert torch.equal(out, module(*tensors()))


@pytest.mark.parametrize("name", PATTERNS)
def test_checkpointing(name: str) -> None:
    module, inputs = met(name), tensors()
    selective = partial(create_selective_checkpoint_contexts, [FORWARD])
    for more in ({}, {"context_fn": selective}):
        run: Any = partial(checkpoint, module, use_reentrant=False, **more)
        same(with_grads(run, inputs), with_grads(compiled(name), inputs))


@pytest.mark.parametrize("name", PATTERNS)
def test_compilers_do_not_know_of_it(name: str) -> None:
    """One graph, whatever the module sees in eager mode between its calls, and the operator in an export."""
    torch._dynamo.reset()
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    module = compiled(name)
    quick = torch.compile(module, fullgraph=True, backend=backend)
    for n in (40, 33, 40, 20):
        assert torch.equal(quick(*tensors(grad=False)), compiled(name)(*tensors(grad=False)))
        module(*tensors(n))
    assert len(graphs) == 1
    for strict in (False, True):
        graph = str(torch.export.export(module, tuple(tensors(grad=False)), strict=strict).graph)
        assert "attnlang.forward.default" in graph
    last = module._last
    assert last is not None
    assert last.q_shape[2] == 20


@pytest.mark.filterwarnings("ignore")
def test_traced_by_jit() -> None:
    module = met("causal")
    traced: Any = torch.jit.trace(module, tuple(tensors(grad=False)))
    assert torch.equal(traced(*tensors(grad=False, batch=2)), module(*tensors(grad=False)))
    fresh = compiled("causal")
    torch.jit.trace(fresh, tuple(tensors(grad=False)))
    assert fresh._last is not None  # (from the run by which torch checks a trace)
    assert {type(size) for size in fresh._last.q_shape} == {int}
