"""Plans that are one call of torch's own, under compilers, exporters, counters and checkpoints."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import attnc
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from direct_inputs import ON_CPU, ROUNDING, same, tensors, with_grads
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.fx import GraphModule
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

from attnlang.nn import PatternAttention
from attnlang.runtime import direct, ops


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


class _Graphs:
    """A torch.compile backend that keeps the graphs that a compiler would be given, and runs them."""

    def __init__(self) -> None:
        self.forward: list[str] = []
        self.backward: list[str] = []
        self.run = aot_autograd(
            fw_compiler=partial(self._keep, self.forward),
            bw_compiler=partial(self._keep, self.backward),
            partition_fn=min_cut_rematerialization_partition,
        )

    def _keep(self, graphs: list[str], graph: GraphModule, _: Any) -> Any:
        graphs.append(str(graph.graph))
        return make_boxed_func(graph.forward)

    def __call__(self, graph: Any, inputs: Any) -> Any:
        return self.run(graph, inputs)


def test_a_compiler_is_given_torchs_call() -> None:
    module, graphs = attnc.compile("causal", heads=4), _Graphs()
    compiled = torch.compile(module, fullgraph=True, backend=graphs)
    inputs = tensors(dtype=torch.float32)
    same(with_grads(compiled, inputs), with_grads(module, inputs))
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), module(*inputs))
    assert len(graphs.forward) == 2
    for graph in (*graphs.forward, *graphs.backward):
        assert f"aten.{ON_CPU}" in graph
        assert "attnlang" not in graph


@pytest.mark.parametrize("case", ["lengths", "grouped heads", "any head dimension", "window", "float64"])
def test_a_compiler_is_given_the_operator_for_the_rest(case: str) -> None:
    module = attnc.compile("sliding", heads=4, w=8) if case == "window" else attnc.compile("causal", heads=4)
    dtype = torch.float64 if case == "float64" else torch.float32
    inputs, graphs = tensors(heads=2 if case == "grouped heads" else 4, dtype=dtype), _Graphs()
    rest: dict[str, Any] = {"lengths": torch.tensor([40, 3])} if case == "lengths" else {}
    compiled = torch.compile(module, fullgraph=True, backend=graphs, dynamic=case == "any head dimension" or None)
    same(with_grads(compiled, inputs, **rest), with_grads(module, inputs, **rest))
    assert "attnlang.forward" in graphs.forward[0]
    assert "attnlang.backward" in graphs.backward[0]
    assert ON_CPU not in graphs.forward[0] + graphs.backward[0]


def test_a_compiled_step_on_cudnn_is_two_calls_and_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuDNN's operators as the cpu's kernel can play them: what is between the leaves and them, there and back."""
    aten, given, made = torch.ops.aten, list[Tensor](), list[Tensor]()

    def forward(q: Tensor, k: Tensor, v: Tensor, _: None, lse: bool, dropout: float, causal: bool, **rest: Any) -> Any:
        out, lse_ = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, dropout, causal, **rest)
        none, seed = q.new_empty(0), torch.zeros((), dtype=torch.int64)
        return out.contiguous(), lse_.contiguous().unsqueeze(-1), none, none, q.size(2), k.size(2), seed, seed, none

    def backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *rest: Any, **more: Any
    ) -> Any:
        run = aten._scaled_dot_product_flash_attention_for_cpu_backward
        found = run(dout, q, k, v, out, lse.squeeze(-1), 0.0, rest[-1], **more)
        given[:], made[:] = (dout, q, k, v), (x.contiguous() for x in found)
        return tuple(made)

    module, graphs = attnc.compile("causal", heads=4), _Graphs()
    inputs = tensors(dtype=torch.float32)
    true = with_grads(module, inputs)
    monkeypatch.setattr(direct, "direct_program", lambda *_: direct.Direct(causal=True, on_gpu=True))
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_scaled_dot_product_cudnn_attention", forward, "CPU")
        library.impl("_scaled_dot_product_cudnn_attention_backward", backward, "CPU")
        out = torch.compile(module, fullgraph=True, backend=graphs)(*inputs)
        dout = torch.ones_like(out).cumsum(-1)
        grads = torch.autograd.grad(out, inputs, dout)
    same([out, *grads], [true[0], *true[2:]])
    calls = [
        re.findall(r"call_function\[target=torch\.ops\.(\S+?)\]", text) for text in (*graphs.forward, *graphs.backward)
    ]
    assert calls == [
        ["aten._scaled_dot_product_cudnn_attention.default", "aten.squeeze.dim"],
        ["attnlang.backward.default"],
    ]
    pointers = [[x.data_ptr() for x in each] for each in (given, (dout, *inputs), made, grads)]
    assert pointers[0] == pointers[1]
    assert pointers[2] == pointers[3]


def test_one_graph_for_any_length() -> None:
    module, graphs = attnc.compile("causal", heads=4), _Graphs()
    compiled = torch.compile(module, fullgraph=True, backend=graphs)
    inputs = [tensors(n, dtype=torch.float32) for n in (40, 33, 64)]
    for given in inputs:
        for x in given:
            torch._dynamo.mark_dynamic(x, 2)
        same(with_grads(compiled, given), with_grads(module, given))
    assert len(graphs.forward) == len(graphs.backward) == 1
    assert f"aten.{ON_CPU}" in graphs.forward[0]


def test_compiled_as_often_as_by_hand() -> None:
    """Lengths, batches and grad modes: the module compiles again where torch's function does, and nowhere else."""
    counts: list[int] = []
    for function in (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        attnc.compile("causal", heads=4),
    ):
        torch._dynamo.reset()
        graphs = _Graphs()
        compiled = torch.compile(function, fullgraph=True, backend=graphs)
        for n, batch in 2 * ((40, 2), (33, 2), (64, 2), (64, 3), (20, 5)):
            inputs = tensors(n, batch=batch)
            torch.autograd.grad(compiled(*inputs).sum(), inputs)
            with torch.no_grad():
                compiled(*inputs)
        counts.append(len(graphs.forward))
    assert counts[1] <= counts[0]


def test_checkpoint_policies_inside_compile_are_asked_about_the_operator() -> None:
    module, inputs = attnc.compile("causal", heads=4), tensors(dtype=torch.float32)
    keep = partial(create_selective_checkpoint_contexts, [torch.ops.attnlang.forward.default])
    without = int(torch.__version__ >= "2.12")  # (before, torch kept what a plain checkpoint in a graph computes)
    for context, recomputed in ((keep, 0), (None, without)):
        torch._dynamo.reset()
        graphs = _Graphs()
        options: dict[str, Any] = {} if context is None else {"context_fn": context}

        @torch.compile(fullgraph=True, backend=graphs)
        def run(*x: Tensor, options: dict[str, Any] = options, **rest: Any) -> Any:
            return checkpoint(module, *x, use_reentrant=False, **options, **rest)

        same(with_grads(run, inputs), with_grads(module, inputs))
        assert graphs.backward[0].count(f"aten.{ON_CPU}.default") == recomputed
        assert graphs.backward[0].count(f"aten.{ON_CPU}_backward.default") == 1


@pytest.mark.parametrize("name", ["causal", "dense"])
def test_flops_of_a_graph_that_was_compiled_before(name: str) -> None:
    report = attnc.report(name, n=200, heads=4, head_dim=8)
    inputs = tensors(200, batch=1)
    module = attnc.compile(name, heads=4)
    for function in (module, lambda *x: module(*x) * 1):
        compiled = torch.compile(function, backend="aot_eager")
        compiled(*inputs)
        with FlopCounterMode(display=False) as counter:
            compiled(*inputs).sum().backward()
        assert counter.get_flop_counts()["Global"] == {
            torch.ops.attnlang.forward: report.executed_forward_flops,
            torch.ops.attnlang.backward: report.executed_forward_flops * 10 // 4,
        }


def test_one_tensor_as_query_key_and_value() -> None:
    for name in ("causal", "sliding"):
        module, graphs = attnc.compile(name, heads=4, **({"w": 8} if name == "sliding" else {})), _Graphs()
        compiled = torch.compile(lambda x, module=module: module(x, x, x), fullgraph=True, backend=graphs)
        (x, *_), (y, *_) = tensors(), tensors()
        (mine,), (true,) = (torch.autograd.grad(f.sum(), z) for f, z in ((compiled(x), x), (module(y, y, y), y)))
        torch.testing.assert_close(mine, true, **ROUNDING)


def test_opcheck() -> None:
    module = attnc.compile("causal", heads=4)
    inputs, rest = [x.detach() for x in tensors(20)], ([], None, "auto", module._program, None)
    torch.library.opcheck(ops.forward_op, (*inputs, *rest))
    out, lse = module(*inputs, return_lse=True)
    torch.library.opcheck(ops.backward_op, (torch.ones_like(out), *inputs, out, lse, *rest))


def test_exported_it_is_the_operator() -> None:
    module: PatternAttention = attnc.compile("causal", heads=4)
    graph = str(torch.export.export(module, tuple(tensors(grad=False))).graph)
    assert "attnlang.forward.default" in graph


def test_inductor_runs_it() -> None:
    module = attnc.compile("causal", heads=4)
    compiled = torch.compile(module, fullgraph=True)
    same(with_grads(compiled, tensors()), with_grads(module, tensors()))
