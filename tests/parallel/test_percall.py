"""Tables and lengths that come with the call: another packing every step, against one device to 1e-12 in float64."""

from __future__ import annotations

from typing import Any

import attnc
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from attnlang import loads
from attnlang.nn import PatternAttention
from attnlang.parallel import distribute, schedule_of, shard
from attnlang.parallel.planning import KEPT, Planner
from attnlang.runtime import reference
from tests.parallel.ranks import on_ranks, outcomes

HEADS, HEAD_DIM, N = 4, 8, 45
PACKED = "p(doc: table) = causal & same(doc[pos])"
WINDOW = "p(doc: table) = offset(-9..9) & same(doc[pos]) | key(pos < 2)"


def module_of(text: str) -> PatternAttention:
    return attnc.compile(loads(f"pattern {text}"), heads=HEADS)


def step_inputs(step: int, n: int = N) -> tuple[list[Tensor], Tensor]:
    """Q, k, v and dout of a batch of two; documents of random lengths, for both items or for each."""
    generator = torch.Generator().manual_seed(step)
    tensors = [torch.randn(2, HEADS, n, HEAD_DIM, generator=generator, dtype=torch.float64) for _ in range(4)]
    shape = (2, n) if step % 2 else (n,)
    return tensors, torch.sort(torch.randint(0, 5, shape, generator=generator))[0]


def finite(lse: Tensor) -> Tensor:
    return lse.masked_fill(lse == float("-inf"), -1e6)


def worst_of(module: Any, whole: PatternAttention, tensors: list[Tensor], **more: Tensor) -> float:
    """The largest error of out, lse, dq, dk and dv on this rank."""
    *inputs, dout = tensors
    theirs = [x.clone().requires_grad_() for x in inputs]
    tables = [more[name] for name, _ in whole.pattern.tables]
    out, lse = reference.attention(*theirs, whole.pattern, HEAD_DIM**-0.5, tables=tables, lengths=more.get("lengths"))
    true = [out, finite(lse), *torch.autograd.grad(out, theirs, dout)]
    mine = [shard(x, module, 2).requires_grad_() for x in inputs]
    got, got_lse = module(*mine, return_lse=True, **more)
    found = [got, finite(got_lse), *torch.autograd.grad(got, mine, shard(dout, module, 2))]
    errors = [(a.detach() - shard(b.detach(), module, 2)).abs().max() for a, b in zip(found, true, strict=True)]
    return max(float(error) for error in errors)


@pytest.mark.parametrize(("ranks", "kind"), [(1, "auto"), (2, "auto"), (3, "zigzag"), (4, "striped"), (5, "auto")])
def test_documents_packed_anew_at_every_step(ranks: int, kind: str) -> None:
    wholes = [module_of(text) for text in (PACKED, WINDOW)]

    def job(rank: int) -> float:
        errors = []
        for whole in wholes:
            module = distribute(whole, dist.group.WORLD, n=N, placement=kind, head_dim=HEAD_DIM, dtype="float64")
            for step in range(4):
                tensors, doc = step_inputs(step)
                errors.append(worst_of(module, whole, tensors, doc=doc))
        return max(errors)

    assert max(on_ranks(ranks, job)) < 1e-12


@pytest.mark.parametrize(
    "text",
    [
        "p = causal & window(6)",
        "p = offset(-7..7)",
        "p = mix(segment(w) { dilate(r, shift=h) } for w, r in [[8, 1], [32, 4]])",
        "p = neighborhood(5) | key(pos == n - 1)",
    ],
)
def test_padded_sequences(text: str) -> None:
    """Lengths down to fewer tokens than ranks, and to none."""
    whole = module_of(text)
    given = [torch.tensor(sizes) for sizes in ([N, 17], [3, 3], [0, 29])]

    def job(rank: int) -> float:
        errors = []
        for kind in ("contiguous", "zigzag", "striped"):
            module = distribute(whole, dist.group.WORLD, n=N, placement=kind, head_dim=HEAD_DIM, dtype="float64")
            errors += [worst_of(module, whole, step_inputs(0)[0], lengths=lengths) for lengths in given]
        return max(errors)

    assert max(on_ranks(4, job)) < 1e-12


def test_tables_and_lengths_together() -> None:
    whole = module_of(WINDOW)

    def job(rank: int) -> float:
        module = distribute(whole, dist.group.WORLD, n=N, head_dim=HEAD_DIM, dtype="float64")
        tensors, doc = step_inputs(1)
        return worst_of(module, whole, tensors, doc=doc, lengths=torch.tensor([30, 41]))

    assert max(on_ranks(3, job)) < 1e-12


def test_a_written_schedule_is_for_its_tables_and_others_are_planned() -> None:
    whole = module_of(PACKED)
    _, doc = step_inputs(0)
    schedule = attnc.plan(
        whole.pattern, n=N, ranks=3, heads=HEADS, head_dim=HEAD_DIM, dtype="float64", tables={"doc": doc.numpy()}
    )

    def job(rank: int) -> float:
        module = distribute(whole, dist.group.WORLD, schedule=schedule)
        tensors, other = step_inputs(2)
        mine = [shard(x, module, 2) for x in tensors[:3]]
        assert torch.equal(module(*mine), module(*mine, doc=doc))
        return worst_of(module, whole, tensors, doc=other)

    assert max(on_ranks(3, job)) < 1e-12


def test_other_tables_on_one_rank_are_an_error_on_every_rank() -> None:
    whole = module_of(PACKED)

    def job(rank: int) -> None:
        module = distribute(whole, dist.group.WORLD, n=N)
        tensors, doc = step_inputs(0)
        mine = [shard(x, module, 2) for x in tensors[:3]]
        module(*mine, doc=doc)
        module(*mine, doc=doc + (rank == 1))

    found = outcomes(3, job, timeout=30)
    assert not any(ok for ok, _ in found)
    assert all("ranks differ in tables" in text for _, text in found)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "needs the content of doc"),
        ({"doc": torch.zeros(3, 2, N)}, "integers"),
        ({"dok": torch.zeros(N).long()}, "dok"),
        ({"doc": torch.zeros(7, N).long()}, "batch axis of 2"),
    ],
)
def test_tables_that_do_not_fit_are_an_error_on_every_rank(tables: dict[str, Tensor], message: str) -> None:
    whole = module_of(PACKED)

    def job(rank: int) -> None:
        module = distribute(whole, dist.group.WORLD, n=N)
        mine = [shard(x, module, 2) for x in step_inputs(0)[0][:3]]
        module(*mine, **tables)

    found = outcomes(2, job, timeout=30)
    assert not any(ok for ok, _ in found)
    assert all(message in text for _, text in found)


def test_plans_are_kept_by_content_and_not_for_ever() -> None:
    plan = module_of(PACKED).plan
    placement = attnc.plan("causal", n=N, ranks=3, heads=HEADS, placement="contiguous").placement
    planner = Planner(plan, placement, HEADS, HEAD_DIM, "float64", "packed")
    first = planner.schedule(N, {"doc": np.zeros(N, np.int64)})
    assert planner.schedule(N, {"doc": np.zeros(N, np.int64)}) is first
    for step in range(KEPT):
        planner.schedule(N, {"doc": np.arange(N) // (step + 2)})
    assert planner.schedule(N, {"doc": np.zeros(N, np.int64)}) is not first
    assert len(planner._kept) == KEPT


def test_what_is_planned_at_the_call_has_no_schedule_before() -> None:
    whole = module_of(PACKED)

    def job(rank: int) -> None:
        schedule_of(distribute(whole, dist.group.WORLD, n=N))

    ((ok, text),) = outcomes(1, job)
    assert not ok
    assert "planned at the call" in text
