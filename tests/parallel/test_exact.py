"""Schedules on one device, rank after rank, against the formula: out, lse and all gradients, to 1e-12 in float64."""

from __future__ import annotations

from random import Random

import attnc
import numpy as np
import pytest
import torch
from torch import Tensor

from attnlang import Pattern, loads
from attnlang.parallel import attention_by_ranks, simulate
from attnlang.parallel.rank import RankWork
from attnlang.parallel.streaming import driven
from attnlang.plan import Lattice
from attnlang.runtime import reference
from attnlang.schedule import Schedule

HEADS, HEAD_DIM, BATCH = 4, 8, 2
TEXTS = [
    "causal",
    "all",
    "causal & window(5)",
    "offset(-4..3)",
    "segment(8)",
    "causal & mix(segment(w) { dilate(r, shift=h) } for w, r in zip([8, 16, 32], [1, 2, 4]))",
    "segment(12) { dilate(3, shift=h) } + segment(7)",
    "causal & (offset(-4..0) | offset(..0 step 4))",
    "causal & (segment(6) | key(pos % 6 >= 4))",
    "dilate(3) { window(4) }",
    "dilate(5)",
    "offset(-6..6) | key(pos < 2) | query(pos < 2)",
    "causal & (key(pos < 2) | window(7))",
    "blocks(4) { offset(-1..1) | key(pos == 0 or pos == n-1) | query(pos == 0 or pos == n-1) | random(2, seed=0) }",
    "heads(0..H//2) { window(5) } | heads(H//2..H) { causal & offset(..0 step 4) }",
    "none",
    "causal + causal & window(4)",
    "neighborhood(5)",
    "same(doc[pos]) & causal",
]


def results(
    pattern: Pattern, n: int, heads: int, kv_heads: int, tables: dict[str, Tensor], schedule: Schedule | None
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    group = heads // kv_heads
    sizes = heads, kv_heads, kv_heads, heads
    q, k, v, dout = (torch.randn(BATCH, size, n, HEAD_DIM, generator=generator, dtype=torch.float64) for size in sizes)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    if schedule is None:
        wide = [inputs[0], *(x.repeat_interleave(group, 1) for x in inputs[1:])]
        contents = [tables[name] for name, _ in pattern.tables]
        out, lse = reference.attention(*wide, pattern, HEAD_DIM**-0.5, tables=contents)
    else:
        out, lse = attention_by_ranks(*inputs, schedule)
    return [out.detach(), lse.detach().masked_fill(lse == float("-inf"), -1e6), *torch.autograd.grad(out, inputs, dout)]


def check(
    pattern: Pattern, schedule: Schedule, n: int, kv_heads: int, tables: dict[str, np.ndarray], heads: int = HEADS
) -> None:
    given = {name: torch.from_numpy(content) for name, content in tables.items()}
    mine = results(pattern, n, heads, kv_heads, given, schedule)
    true = results(pattern, n, heads, kv_heads, given, None)
    for a, b in zip(mine, true, strict=True):
        assert float((a - b).abs().max()) < 1e-12


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("text", TEXTS)
def test_equal_to_the_formula(text: str, seed: int) -> None:
    random = Random(f"{text}{seed}")
    tabled = "doc" in text
    pattern = loads(f"pattern p{'(doc: table)' if tabled else ''} = {text}")
    ranks = random.randint(2, 8)
    n = random.randint(ranks, 60)
    kind = random.choice(["contiguous", "zigzag", "striped"] if n >= 2 * ranks else ["contiguous", "striped"])
    kv_heads = random.choice([4, 2, 1])
    tables = {"doc": np.sort(np.array([random.randint(0, 3) for _ in range(n)]))} if tabled else {}
    schedule = attnc.plan(
        pattern, n=n, ranks=ranks, heads=HEADS, kv_heads=kv_heads, head_dim=HEAD_DIM, dtype="float64", placement=kind,
        objective=random.choice(["time", "bytes"]), tables=tables,
    )  # fmt: skip
    check(pattern, schedule, n, kv_heads, tables)
    assert simulate(schedule).pairs == pattern.multiplicity(n, HEADS, **tables).sum()


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("text", [TEXTS[1], TEXTS[5], TEXTS[6], TEXTS[7], TEXTS[10]])
def test_owners_compute_the_same(text: str, kv_heads: int) -> None:
    """Every lattice computed by owners, whether that is worth it or not."""
    from attnc.lower import lower
    from attnc.schedule.placements import at_length, placement
    from attnc.schedule.solution import Problem
    from attnc.schedule.solver import solve

    from attnlang.schedule import RowBytes

    pattern, n, ranks = loads(f"pattern p = {text}"), 61, 5
    plan = at_length(lower(pattern, HEADS), n)
    problem = Problem(plan, placement("contiguous", plan, n, ranks), kv_heads, RowBytes(HEAD_DIM, 8))
    owned = [number for number, branch in enumerate(plan.branches) if isinstance(branch, Lattice)]
    schedule = solve(problem, owned).schedule(dtype="float64")
    check(pattern, schedule, n, kv_heads, {})
    assert simulate(schedule).pairs == pattern.multiplicity(n, HEADS).sum()


def test_a_run_repeats_bit_for_bit() -> None:
    pattern = loads(f"pattern p = {TEXTS[5]}")
    schedule = attnc.plan(pattern, n=53, ranks=4, heads=HEADS, dtype="float32", placement="contiguous")
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, 53, HEAD_DIM) for _ in range(3))
    first, again = (attention_by_ranks(q, k, v, schedule)[0] for _ in range(2))
    assert torch.equal(first, again)


def test_one_rank_is_the_plan() -> None:
    pattern = loads(f"pattern p = {TEXTS[11]}")
    check(pattern, attnc.plan(pattern, n=33, ranks=1, heads=HEADS, dtype="float64"), 33, HEADS, {})


@pytest.mark.parametrize("text", ["window(7)", "offset(-9..9) | key(pos < 2) | query(pos < 2)", TEXTS[5]])
@pytest.mark.parametrize("ranks", [2, 4])
def test_no_more_is_kept_for_the_backward_pass_than_rows_that_came(text: str, ranks: int) -> None:
    """Messages of several ranks are put together; a view of what arrived with them would keep all of it."""
    schedule = attnc.plan(
        loads(f"pattern p = {text}"), n=41, ranks=ranks, heads=HEADS, head_dim=HEAD_DIM, placement="contiguous"
    )
    works = [RankWork(schedule, rank, torch.device("cpu"), HEAD_DIM) for rank in range(ranks)]
    held = [torch.randn(BATCH, HEADS, work.recipe.rows, HEAD_DIM) for work in works]
    for _, _, kept in driven([work.forward(x, x, x, 1.0) for work, x in zip(works, held, strict=True)]):
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in (kept.k, kept.v, kept.q)}
        assert sum(storages.values()) == sum(x.nbytes for x in (kept.k, kept.v, kept.q))
