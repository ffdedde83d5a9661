"""What users give `distribute` and what goes with it: shared modules, positions, and arguments that do not fit."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import attnc
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnlang import load, loads
from attnlang.nn import MultiheadPatternAttention, PatternAttention
from attnlang.parallel import DistributedAttention, distribute, mean_loss, shard, unshard
from attnlang.parallel.module import is_of
from attnlang.parallel.wire import RanksDisagreeError
from attnlang.pattern.library import library_names
from tests.parallel.ranks import on_ranks
from tests.parallel.test_gloo import HEAD_DIM, HEADS, LONGNET, inputs, planned_for
from tests.parallel.test_library import sizes

N = 40


def module(text: str = LONGNET) -> PatternAttention:
    return attnc.compile(loads(f"pattern p = {text}"), heads=HEADS)


def spread(part: nn.Module | None = None, **more: Any) -> Any:
    sizes = {"n": N, "head_dim": HEAD_DIM, "dtype": "float64", "placement": "contiguous"}
    return distribute(module() if part is None else part, None, **{**sizes, **more})


class Layers(nn.Module):
    """Two layers with one attention between them: it has no parameters, so why make two."""

    def __init__(self, attention: PatternAttention) -> None:
        super().__init__()
        self.first = nn.ModuleDict({"attention": attention})
        self.second = nn.ModuleDict({"attention": attention})

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = self.first["attention"](q, k, v)
        return self.second["attention"](q, k, v)


def test_attention_that_layers_share_is_distributed_in_each_of_them() -> None:
    q, k, v = inputs(N)[:3]
    true = Layers(module())(q, k, v)

    def job(rank: int) -> tuple[bool, float]:
        model = spread(Layers(module()))
        out = model(*(shard(x, model, 2) for x in (q, k, v)))
        one = model.first["attention"] is model.second["attention"]
        return one, float((out - shard(true, model, 2)).abs().max())

    for one, error in on_ranks(2, job):
        assert one
        assert error < 1e-12


def test_layers_alike_share_what_is_planned_at_the_call() -> None:
    def job(rank: int) -> bool:
        layers = nn.ModuleList([attnc.compile("packed", heads=HEADS) for _ in range(2)])
        first, second = spread(layers)
        return first is not second and first._planner is second._planner

    assert on_ranks(2, job) == [True, True]


def test_rotary_positions_are_those_of_the_rows_that_a_rank_holds() -> None:
    x = torch.randn(2, N, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def job(rank: int) -> float:
        torch.manual_seed(0)
        layer = MultiheadPatternAttention(32, HEADS, module(), rope_theta=10000.0, num_kv_heads=2).double()
        true = layer(x)[0]
        spread(layer, kv_heads=2, placement="zigzag")
        with pytest.raises(ValueError, match="on ranks give lengths="):
            layer(shard(x, layer, 1), key_padding_mask=torch.zeros(2, N // 2, dtype=torch.bool))
        return float((layer(shard(x, layer, 1))[0] - shard(true, layer, 1)).abs().max())

    assert max(on_ranks(2, job)) < 1e-12


def test_a_copy_of_a_model_runs_on_the_same_ranks() -> None:
    q, k, v = inputs(N)[:3]

    def job(rank: int) -> bool:
        model = spread(Layers(module()))
        copied = copy.deepcopy(model)
        mine = [shard(x, copied, 2) for x in (q, k, v)]
        return copied.first["attention"] is not model.first["attention"] and torch.equal(copied(*mine), model(*mine))

    assert on_ranks(2, job) == [True, True]


OTHER = "schedule is of p, and not of p as it stands"
"""A schedule of another text under the same name."""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": "40"}, "n must be an integer of at least 1, not '40'"),
        ({"n": -3}, "n must be an integer of at least 1, not -3"),
        ({"n": True}, "n must be an integer of at least 1, not True"),
        ({"timeout": 5}, r"timeout must be a datetime.timedelta above 0, .* not 5"),
        ({"timeout": timedelta(seconds=-1)}, "timeout must be a datetime.timedelta above 0"),
        ({"agree": "never"}, "agree must be 'every call' or 'first call', not 'never'"),
        ({"schedule": "longnet"}, "schedule must be what attnc.plan returns, .* not str"),
        ({"schedule": planned_for(LONGNET, 44, 1)[1]}, "schedule is for 44 tokens, but n is 40: give one of them"),
        ({"schedule": planned_for("causal", N, 1)[1], "n": None}, OTHER),
        ({"schedule": planned_for(LONGNET.replace("16", "20"), N, 1)[1], "n": None}, OTHER),
        ({"schedule": planned_for(LONGNET, N, 1)[1], "placement": "striped"}, "on placement 'contiguous': give n= in"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_words(changes: dict[str, Any], message: str) -> None:
    def job(rank: int) -> None:
        with pytest.raises(ValueError, match=message):
            spread(**{"placement": "auto", **changes})

    on_ranks(1, job)


def test_what_is_no_module_and_no_mesh_is_refused_in_words() -> None:
    def job(rank: int) -> None:
        with pytest.raises(ValueError, match=r"module must be a PatternAttention, .* not str"):
            distribute("longnet", None, n=N)  # pyright: ignore[reportArgumentType] - what is tested
        with pytest.raises(ValueError, match=r"mesh must be a DeviceMesh, .* not int"):
            distribute(module(), 2, n=N)  # pyright: ignore[reportArgumentType] - what is tested
        with pytest.raises(ValueError, match=r"0 is distributed already, over 1 rank and 40 tokens"):
            spread(spread(nn.ModuleList([module()])))

    on_ranks(1, job)


@pytest.mark.parametrize("name", library_names())
def test_a_schedule_is_that_of_the_pattern_it_was_written_for(name: str) -> None:
    """Of every pattern of the library: branches in a schedule are those at its length."""
    parameters, tables, n, heads = sizes(name)
    pattern = load(name, **parameters)
    schedule = attnc.plan(pattern, n=n, ranks=2, heads=heads, tables=tables, placement="contiguous")
    assert is_of(schedule, attnc.compile(pattern, heads=heads))
    assert not is_of(schedule, attnc.compile("dilated_gym", heads=heads, w=5, d=3))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda q, k, v: (q, k, v, {"scale": torch.tensor(0.5)}), "scale must be a number, .* not Tensor"),
        (lambda q, k, v: (q, k, v, {"scale": "big"}), "scale must be a number, .* not str"),
        (
            lambda q, k, v: (q, k[:, :2], v[:, :2], {}),
            r"k and v have 2 heads, but .* for 4: distribute\(.*kv_heads=2",
        ),
    ],
)
def test_calls_that_do_not_fit_are_refused_in_words(changed: Any, message: str) -> None:
    def job(rank: int) -> None:
        part = spread()
        *tensors, options = changed(*(shard(x, part, 2) for x in inputs(N)[:3]))
        with pytest.raises(RanksDisagreeError, match=message):
            part(*tensors, **options)

    on_ranks(2, job)


def test_transforms_and_traces_are_refused_and_the_next_call_runs() -> None:
    def job(rank: int) -> None:
        part = spread()
        mine = [shard(x, part, 2) for x in inputs(N)[:3]]
        with pytest.raises(RanksDisagreeError, match=r"every rank: .* cannot be transformed by torch.func"):
            torch.func.vmap(part)(*(x[None] for x in mine))
        with pytest.raises(ValueError, match="attention on ranks cannot be traced or exported"):
            torch.export.export(part, tuple(mine))
        part(*mine)

    on_ranks(2, job)


def test_second_derivatives_are_refused_and_no_zeros() -> None:
    """Also where torch would take gradients that are cut off for gradients that are 0."""

    def job(rank: int) -> None:
        part = spread()
        for attention in (part, part.attention):
            mine = [shard(x, part, 2).requires_grad_() for x in inputs(N)[:3]]
            grads = torch.autograd.grad(attention(*mine).square().sum(), mine, create_graph=True)
            for unused in (False, True):
                with pytest.raises(RuntimeError, match="differentiable once"):
                    torch.autograd.grad(grads[0].sum(), mine, allow_unused=unused, retain_graph=True)

    on_ranks(2, job)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            lambda rank: torch.zeros(2 + rank, N // 2),
            r"ranks differ in shape: \[2, -1\] on rank 0, \[3, -1\] on",
        ),
        (lambda rank: torch.zeros(2, N // 2).to(torch.float64 if rank else torch.float32), "ranks differ in dtype"),
        (lambda rank: torch.zeros(2, N // 2 + rank), "rank 1: dimension 1 has 21 entries .* this rank holds 20 tokens"),
    ],
)
def test_rows_that_cannot_be_gathered_are_an_error_on_every_rank(rows: Any, message: str) -> None:
    def job(rank: int) -> None:
        part: DistributedAttention = spread()
        with pytest.raises(RanksDisagreeError, match=message):
            unshard(rows(rank), part, 1)

    on_ranks(2, job)


def test_a_mean_takes_one_weight_a_token_and_any_dtype() -> None:
    def job(rank: int) -> float:
        with pytest.raises(ValueError, match=r"weights must have the shape of losses, .* \(8, 1\) and not \(8,\)"):
            mean_loss(torch.ones(8), torch.ones(8, 1))
        return float(mean_loss(torch.full((8,), 1.0 + rank, dtype=torch.float64 if rank else torch.float32), None))

    assert on_ranks(2, job) == [1.5, 1.5]


def test_arguments_are_those_of_the_group() -> None:
    assert not dist.is_initialized()
    with pytest.raises(ValueError, match=r"no ranks yet: call torch.distributed.init_process_group"):
        distribute(module(), None, n=N)
