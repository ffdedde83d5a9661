"""Schedules on forked gloo ranks: equal to one device, with bytes as planned. What goes wrong is in test_refusals."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import attnc
import pytest
import torch
import torch.distributed as dist
from attnc.lower import lower
from attnc.schedule.placements import at_length, placement
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnlang import loads
from attnlang.diagnostics import AttnError
from attnlang.nn import PatternAttention
from attnlang.parallel import DistributedAttention, WireAudit, distribute, mean_loss, positions, shard, unshard
from attnlang.parallel.audit import planned
from attnlang.runtime import reference
from attnlang.schedule import Schedule
from tests.parallel.ranks import on_ranks
from tests.strategies import examples, relations

HEADS, HEAD_DIM = 4, 8
LONGNET = "causal & mix(segment(w) { dilate(r, shift=h) } for w, r in zip([8, 16, 32], [1, 2, 4]))"
WANTED = ("causal & mix(segment(w) { dilate(r, shift=h) } for w, r in zip([4, 8], [1, 2]))", "causal & window(9)")
PATTERNS = [LONGNET, "causal", "window(6)", "offset(-5..5) | key(pos < 2) | query(pos < 2)", "all"]


def planned_for(text: str, n: int, ranks: int, **more: Any) -> tuple[PatternAttention, Schedule]:
    pattern = loads(f"pattern p = {text}")
    schedule = attnc.plan(pattern, n=n, ranks=ranks, heads=HEADS, head_dim=HEAD_DIM, dtype="float64", **more)
    return attnc.compile(pattern, heads=HEADS), schedule


def inputs(n: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    return [torch.randn(2, HEADS, n, HEAD_DIM, generator=generator, dtype=torch.float64).to(dtype) for _ in range(4)]


def finite(lse: Tensor) -> Tensor:
    return lse.masked_fill(lse == float("-inf"), -1e6)


def compare(rank: int, module: PatternAttention, schedule: Schedule) -> float:
    """The largest error of out, lse, dq, dk and dv on this rank; and that the wire carried what was planned."""
    spread = distribute(module, dist.group.WORLD, schedule=schedule)
    *whole, dout = inputs(schedule.n)
    whole = [x.requires_grad_() for x in whole]
    out, lse = reference.attention(*whole, module.pattern, HEAD_DIM**-0.5)
    true = [out, finite(lse), *torch.autograd.grad(out, whole, dout)]
    mine = [shard(x.detach(), spread, 2).requires_grad_() for x in whole]
    with WireAudit() as seen:
        got, got_lse = spread(*mine, return_lse=True)
        grads = torch.autograd.grad(got, mine, shard(dout, spread, 2))
    dim = HEAD_DIM
    expected = planned(schedule, rank, 2, torch.float64, dim, backward=True)
    assert (seen.sent(rank), seen.received(rank)) == expected
    assert not seen.others
    parts = zip((got, finite(got_lse), *grads), true, strict=True)
    return max(float((part - shard(exact, spread, 2)).detach().abs().max()) for part, exact in parts)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
def test_equal_to_one_device(ranks: int) -> None:
    cases = [planned_for(text, 41 + 7 * ranks, ranks, placement="contiguous") for text in PATTERNS]
    cases.append(planned_for("causal", 40, ranks, placement="zigzag"))
    cases.append(planned_for("window(6)", 29, ranks, placement="striped"))
    cases.append(planned_for(LONGNET, 8 * ranks, ranks))
    errors = on_ranks(ranks, lambda rank: [compare(rank, *case) for case in cases])
    assert max(max(found) for found in errors) < 1e-12


@pytest.mark.parametrize("unit", [8, 16, 32])
def test_shards_cut_at_multiples_of_a_period_equal_one_device(unit: int) -> None:
    """As the search places them: of unequal sizes, the last rank with what is left."""
    n, ranks = 211, 3
    plan = at_length(lower(loads(f"pattern p = {LONGNET}"), HEADS), n)
    where = placement("contiguous", plan, n, ranks, unit)
    assert len(set(where.sizes)) > 1
    assert all(chunk.first % unit == 0 for (chunk,) in where.chunks)
    cases = [planned_for(text, n, ranks, placement=where) for text in (LONGNET, "window(6)")]
    cases += [planned_for(LONGNET, n, ranks, placement=where, objective="time")]
    errors = on_ranks(ranks, lambda rank: [compare(rank, *case) for case in cases])
    assert max(max(found) for found in errors) < 1e-12


def test_patterns_that_want_other_cuts_share_one_placement() -> None:
    """A model's tokens lie in one way for all its layers, whatever is best for each."""
    n, ranks = 211, 3
    sizes = {attnc.plan(loads(f"pattern p = {text}"), n=n, ranks=ranks, heads=HEADS, head_dim=HEAD_DIM,
                        dtype="float64").placement.sizes for text in WANTED}  # fmt: skip
    assert len(sizes) == 2
    loss, grads = one_device(n, WANTED)

    def job(rank: int) -> tuple[float, float, int]:
        torch.manual_seed(0)
        model = distribute(Model(WANTED), dist.group.WORLD, n=n, head_dim=HEAD_DIM, dtype="float64")
        places = {part.placement.chunks for part in model.modules() if isinstance(part, DistributedAttention)}
        wrapped = nn.parallel.DistributedDataParallel(model)
        group = dist.group.WORLD
        found = losses_of(
            wrapped, n, positions(model), lambda x: shard(x, model, 1), lambda x, w: mean_loss(x, w, group)
        )
        found.backward()
        worst = max(float((a - b).abs().max()) for a, b in zip(gradients(model), grads, strict=True))
        return float(found.detach()), worst, len(places)

    for found, worst, places in on_ranks(ranks, job):
        assert found == pytest.approx(loss, abs=1e-12)
        assert worst < 1e-12
        assert places == 1


placements = st.sampled_from(["contiguous", "zigzag", "striped", "auto"])
random_cases = st.lists(st.tuples(relations, st.integers(12, 40), placements), min_size=6, max_size=6)


@given(random_cases, st.integers(2, 6))
@examples(6)
def test_random_patterns_equal_one_device(chosen: list[tuple[str, int, str]], ranks: int) -> None:
    cases: list[tuple[PatternAttention, Schedule]] = []
    for text, n, kind in chosen:
        with contextlib.suppress(AttnError):  # (has no meaning at this size)
            cases.append(planned_for(text, n, ranks, placement=kind))
    errors = on_ranks(ranks, lambda rank: [compare(rank, *case) for case in cases])
    assert max(max(found, default=0.0) for found in errors) < 1e-12


class Model(nn.Module):
    """Two layers on one residual stream, as a language model has them; positions come from outside."""

    def __init__(self, texts: Sequence[str] = (LONGNET, "causal & window(9)"), width: int = HEADS * HEAD_DIM) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, width, dtype=torch.float64)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width, dtype=torch.float64) for _ in range(2))
        self.attention = nn.ModuleList(attnc.compile(loads(f"pattern p = {text}"), heads=HEADS) for text in texts)
        self.out = nn.Linear(width, 31, dtype=torch.float64)

    def forward(self, tokens: Tensor, places: Tensor, save: bool = False) -> Tensor:
        x = self.embed(tokens) + self.embed(places % 64)
        for qkv, attention in zip(self.qkv, self.attention, strict=True):
            q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in qkv(x).chunk(3, -1))
            y = checkpoint(attention, q, k, v, use_reentrant=False) if save else attention(q, k, v)
            x = x + y.transpose(1, 2).flatten(2)
        return self.out(x)


def losses_of(model: nn.Module, n: int, places: Tensor, cut: Any, mean: Any, save: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 64, (2, n + 1), generator=generator)
    weights = (torch.rand(2, n, generator=generator) < 0.8).double()
    logits = model(cut(tokens[:, :-1]), places, save)
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), cut(tokens[:, 1:] % 31).flatten(), reduction="none")
    return mean(losses, cut(weights).flatten())


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]


def one_device(n: int, *texts: Sequence[str]) -> tuple[float, list[Tensor]]:
    torch.manual_seed(0)
    model = Model(*texts)
    loss = losses_of(model, n, torch.arange(n), lambda x: x, lambda x, w: (x * w).sum() / w.sum())
    loss.backward()
    return float(loss.detach()), gradients(model)


@pytest.mark.parametrize("save", [False, True])
def test_a_model_learns_the_same_under_ddp_with_and_without_checkpointing(save: bool) -> None:
    n, ranks = 45, 3
    loss, grads = one_device(n)

    def job(rank: int) -> tuple[float, float]:
        torch.manual_seed(0)
        model = distribute(Model(), dist.group.WORLD, n=n, head_dim=HEAD_DIM, dtype="float64")
        wrapped = nn.parallel.DistributedDataParallel(model)
        group = dist.group.WORLD
        found = losses_of(
            wrapped, n, positions(model), lambda x: shard(x, model, 1), lambda x, w: mean_loss(x, w, group), save
        )
        found.backward()
        worst = max(float((a - b).abs().max()) for a, b in zip(gradients(model), grads, strict=True))
        return float(found.detach()), worst

    for found, worst in on_ranks(ranks, job):
        assert found == pytest.approx(loss, abs=1e-12)
        assert worst < 1e-12


def test_a_model_learns_the_same_under_fsdp2_on_a_mesh_of_two_dimensions() -> None:
    """Two sequences' worth of data parallelism by two ranks a sequence: parameters are sharded over all four."""
    n = 45
    loss, grads = one_device(n)

    def job(rank: int) -> float:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "cp"))
        torch.manual_seed(0)
        model = distribute(Model(), mesh["cp"], n=n, head_dim=HEAD_DIM, dtype="float64")
        fully_shard(model, mesh=mesh["dp", "cp"]._flatten("all"))
        found = losses_of(
            model,
            n,
            positions(model),
            lambda x: shard(x, model, 1),
            lambda x, w: mean_loss(x, w, mesh["cp"].get_group()),
        )
        found.backward()
        whole = [p.grad.full_tensor() for p in model.parameters() if p.grad is not None]
        assert float(found.detach()) == pytest.approx(loss, abs=1e-12)
        return max(float((a - b).abs().max()) for a, b in zip(whole, grads, strict=True))

    assert max(on_ranks(4, job)) < 1e-12


def test_unshard_gives_back_what_shard_took_with_its_gradient() -> None:
    module, schedule = planned_for("causal", 23, 3, placement="zigzag")

    def job(rank: int) -> None:
        spread = distribute(module, dist.group.WORLD, schedule=schedule)
        x = torch.arange(46.0).view(2, 23)
        mine = shard(x, spread, 1).requires_grad_()
        whole = unshard(mine, spread, 1)
        assert torch.equal(whole, x)
        (whole * x).sum().backward()
        assert torch.equal(mine.grad, 3 * mine.detach())

    on_ranks(3, job)


def test_a_loss_without_tokens_on_a_rank_is_no_nan() -> None:
    def job(rank: int) -> float:
        losses = torch.full((4,), float("nan") if rank == 1 else 2.0, requires_grad=True)
        weights = torch.zeros(4) if rank == 1 else torch.ones(4)
        loss = mean_loss(losses, weights, dist.group.WORLD)
        loss.backward()
        assert torch.equal(losses.grad, torch.full((4,), 0.0 if rank == 1 else 0.5))
        return float(loss)

    assert on_ranks(2, job) == [2.0, 2.0]


def test_bfloat16_runs_and_partials_are_float32() -> None:
    module, schedule = planned_for(LONGNET, 61, 4, placement="contiguous")

    def job(rank: int) -> tuple[float, float]:
        spread = distribute(module, dist.group.WORLD, schedule=schedule)
        q, k, v, dout = inputs(61)
        exact, _ = reference.attention(q, k, v, module.pattern, HEAD_DIM**-0.5)
        low = [x.bfloat16() for x in (q, k, v)]
        plain, _ = reference.attention(*low, module.pattern, HEAD_DIM**-0.5, torch.bfloat16)
        mine = [shard(x, spread, 2).requires_grad_() for x in low]
        out = spread(*mine)
        out.backward(shard(dout.bfloat16(), spread, 2))
        mine_error = float((out.detach().double() - shard(exact, spread, 2)).abs().max())
        return mine_error, float((plain.double() - exact).abs().max())

    for mine, plain in on_ranks(4, job):
        assert mine <= 2 * plain
