"""The flex backend on the cpu: its block lists, its masks, and its gradients, against a FlexAttention written densely.

On a GPU `attnc verify --all` runs the real one over the whole library.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attnc
import numpy as np
import pytest
import torch
from attnc.lower import lower
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import flex_attention

import attnlang
from attnlang.nn import PatternAttention
from attnlang.runtime import flex
from attnlang.runtime.blocks import FULL
from attnlang.runtime.flex import kernel, pieces
from attnlang.runtime.flex.lists import SIDE, Blocks, Order, interval_blocks
from attnlang.runtime.flex.pieces import TileBits
from tests.strategies import examples, heads, relations

ROUNDING = {"rtol": 0, "atol": 1e-12}
CASES: dict[str, dict[str, Any]] = {
    "longnet": {"segments": [64, 128], "dilations": [2, 4]},
    "longnet_torchscale": {"segments": [64, 256], "dilations": [1, 3]},
    "sliding": {"w": 200},
    "fixed": {"l": 32, "c": 3},
    "strided_heads": {"l": 16},
    "longformer": {},
    "bigbird": {},
    "power_attention": {"w": 16, "sinks": 2, "steps": 6},
    "natten2d": {"rows": 20, "cols": 20},
}


def spread(order: Order, columns: int) -> np.ndarray:
    """How often each block is listed: (P, rows, columns)."""
    found = np.zeros((*order.counts.shape, columns), int)
    for (which, row), count in np.ndenumerate(order.counts):
        np.add.at(found[which, row], order.indices[which, row, :count], 1)
    return found


def counted(blocks: Blocks, q_blocks: int, k_blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Partial and full blocks; both orders must name the same ones, once each.

    Lists of partial and of full blocks must be laid out alike: torch 2.11 reads both by the strides of one.
    """
    assert blocks.kv.indices.shape == blocks.full_kv.indices.shape
    assert blocks.q.indices.shape == blocks.full_q.indices.shape
    partial, full, partial_q, full_q = (
        spread(order, columns)[:, :rows]  # rows past these are there to be two at least, and list nothing
        for order, rows, columns in (
            (blocks.kv, q_blocks, k_blocks),
            (blocks.full_kv, q_blocks, k_blocks),
            (blocks.q, k_blocks, q_blocks),
            (blocks.full_q, k_blocks, q_blocks),
        )
    )
    assert (partial_q.swapaxes(1, 2) == partial).all()
    assert (full_q.swapaxes(1, 2) == full).all()
    assert (partial + full).max(initial=0) <= 1
    return partial > 0, full > 0


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**32 - 1))
@examples(60)
def test_interval_blocks_hold_every_pair_and_full_ones_nothing_else(rows: int, keys: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    wide = int(generator.integers(1, 2 * keys + 1))
    middle = np.sort(generator.integers(-20, keys + 20, (2, rows)), axis=1)
    lower, upper = np.maximum(middle - wide, 0).astype(np.int32), np.minimum(middle + wide, keys - 1).astype(np.int32)
    chosen = generator.random((2, rows)) < 0.1
    lower[chosen], upper[chosen] = 1, 0
    side = [-(-rows // SIDE), -(-keys // SIDE)]
    partial, full = counted(interval_blocks(lower, upper, keys), *side)
    held = np.zeros((2, side[0] * SIDE, side[1] * SIDE), bool)
    j = np.arange(keys)
    held[:, :rows, :keys] = (j >= lower[..., None]) & (j <= upper[..., None])
    tiles = held.reshape(2, side[0], SIDE, side[1], SIDE)
    assert not (tiles.any((2, 4)) & ~(partial | full)).any()
    assert not (full & ~tiles.all((2, 4))).any()


def masks_of(tiles: TileBits) -> np.ndarray:
    """The mask of every tile, as `kernel.under_tiles` finds it: (query blocks, key blocks, SIDE, SIDE / 8)."""
    place = np.arange(len(tiles.first)) - tiles.first[:, None]
    inside = (place >= 0) & (place < tiles.width[:, None])
    return tiles.bits[tiles.base[:, None] + tiles.table[np.where(inside, tiles.offset[:, None] + place, 0)]]


@given(st.integers(2, 12), st.integers(1, 30), st.sampled_from((12, 15, 40, 1000)), st.integers(0, 2**32 - 1))
@examples(60)
def test_every_tile_keeps_its_mask_however_many_pages_there_are(side: int, count: int, most: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    q, k = np.nonzero(generator.random((side, side)) < generator.random() * (np.indices((side, side)).sum(0) > 0))
    bits = generator.integers(0, 256, (count, SIDE, SIDE // 8)).astype(np.uint8)
    masks = generator.integers(FULL, count, len(q)).astype(np.int32)
    expected = np.zeros((side, side, SIDE, SIDE // 8), np.uint8)
    expected[q, k] = np.where((masks == FULL)[:, None, None], 255, bits[masks])
    if len(q):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pieces, "MOST_MASKS", most)
            tiles = pieces._bits(q, k, masks, side, bits)
        assert tiles.table.dtype == np.int16, "numbers of 32 bits would be kept in shared memory"
        assert (masks_of(tiles) == expected).all()


def test_more_masks_for_a_query_than_a_page_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MOST_MASKS", 3)
    bits = np.arange(4 * SIDE * SIDE // 8).reshape(4, SIDE, SIDE // 8).astype(np.uint8)
    with pytest.raises(ValueError, match=r"at most 3 tiles of 128 x 128 pairs .* here are 4; backend 'triton'"):
        pieces._bits(np.zeros(4, np.int64), np.arange(4), np.arange(4, dtype=np.int32), 4, bits)


def dense(query: Tensor, key: Tensor, value: Tensor, *, block_mask: Any, scale: float, **_: Any) -> Any:
    """FlexAttention by its definition: pairs of listed full blocks, and of partial ones those that the mask holds."""
    x, _, rows, _ = query.shape
    keys = key.size(2)
    index = torch.meshgrid(*(torch.arange(size) for size in (x, 1, rows, keys)), indexing="ij")
    held = block_mask.mask_mod(*index)
    lists = [
        Order(counts[:, 0].numpy(), indices[:, 0].numpy())
        for counts, indices in (
            (block_mask.kv_num_blocks, block_mask.kv_indices),
            (block_mask.full_kv_num_blocks, block_mask.full_kv_indices),
            (block_mask.q_num_blocks, block_mask.q_indices),
            (block_mask.full_q_num_blocks, block_mask.full_q_indices),
        )
    ]
    sides = -(-rows // SIDE), -(-keys // SIDE)
    partial, full = (
        torch.from_numpy(found).repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2)[:, None, :rows, :keys]
        for found in counted(Blocks(*lists), *sides)
    )
    assert bool((~full | held).all()), "a full block holds a pair that the mask does not"
    assert bool((~held | partial | full).all()), "a pair lies in no block"
    s = (query @ key.mT * scale).masked_fill(~(full | (partial & held)), float("-inf"))
    lse = s.logsumexp(-1)
    p = (s - lse.masked_fill(lse == float("-inf"), 0.0)[..., None]).exp()
    return p @ value, SimpleNamespace(lse=lse)


@pytest.fixture
def _differentiable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "flex_attention", dense)
    monkeypatch.setattr(kernel, "no_backward", lambda device: None)


def results(module: PatternAttention, n: int, **tables: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    q, k, v, weight = (
        torch.randn(2, heads, n, 16, dtype=torch.float64, generator=generator).requires_grad_()
        for heads in (module.heads, module.heads // 2, module.heads // 2, module.heads)
    )
    out, lse = module(q, k, v, return_lse=True, **tables)
    return [out, lse, *torch.autograd.grad(out, (q, k, v), weight.detach())]


def agree(pattern: attnlang.Pattern, heads: int, n: int, **tables: Tensor) -> None:
    plan = lower(pattern, heads)
    mine, true = (PatternAttention(pattern, plan, heads, backend) for backend in ("flex", "reference"))
    for a, b in zip(results(mine, n, **tables), results(true, n, **tables), strict=True):
        torch.testing.assert_close(a, b, **ROUNDING)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("_differentiable")
def test_equals_the_formula_with_gradients(name: str) -> None:
    pattern = attnlang.load(name, **CASES[name])
    for n in (1, 130, 300) if name != "natten2d" else (400,):
        agree(pattern, 4, n)


@given(relations, st.integers(1, 200), heads)
@examples(25)
def test_random_patterns_equal_the_formula(text: str, n: int, heads: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "flex_attention", dense)
        patch.setattr(kernel, "no_backward", lambda device: None)
        agree(attnlang.loads(f"pattern p = {text}"), 2 * heads, n)


@pytest.mark.usefixtures("_differentiable")
def test_tables_change_with_every_call() -> None:
    pattern = attnlang.load("packed")
    for step in (7, 50, 400):
        agree(pattern, 2, 300, doc=torch.arange(300) // step)


def test_the_real_one_forwards_on_the_cpu() -> None:
    module = attnc.compile("longnet", heads=4, backend="flex", **CASES["longnet"])
    expected = attnc.compile("longnet", heads=4, backend="reference", **CASES["longnet"])
    x = [torch.randn(2, 4, 200, 16) for _ in range(3)]
    for mine, true in zip(module(*x, return_lse=True), expected(*x, return_lse=True), strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=2e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_real_one_differentiates_where_torch_lets_it(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch has a dense backward of FlexAttention on the cpu, which it lets no one have; it is the real one."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    monkeypatch.setattr(kernel, "no_backward", lambda device: None)
    if compiled:
        torch._dynamo.reset()
        functions = (kernel.under_intervals, kernel.under_tiles)
        compile_ = {f: torch.compile(f, dynamic=True, fullgraph=True, backend="aot_eager") for f in functions}
        monkeypatch.setattr(kernel, "run", lambda f, *args: compile_[f](*args))
    for name in ("longnet", "power_attention"):
        agree(attnlang.load(name, **CASES[name]), 4, 140)


def test_one_graph_serves_all_patterns_and_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    graphs: list[Any] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    functions = (kernel.under_intervals, kernel.under_tiles)
    compiled = {f: torch.compile(f, dynamic=True, fullgraph=True, backend=count) for f in functions}

    def run(function: Any, *args: Any) -> Any:
        with kernel.one_for_all():
            return compiled[function](*args)

    monkeypatch.setattr(kernel, "run", run)
    for name, n in (("longnet", 200), ("fixed", 300), ("longformer", 260), ("bigbird", 170), ("sliding", 310)):
        module = attnc.compile(name, heads=4, backend="flex", **CASES[name])
        module(*(torch.randn(2, 4, n, 16) for _ in range(3)))
    assert len(graphs) == 3  # intervals with one list of blocks for all heads, intervals with one a head, tiles
    calls = [
        node for graph in graphs for node in graph.graph.nodes if node.target is torch.ops.higher_order.flex_attention
    ]
    assert [node.args[5] for node in calls] == [0.25] * 3, "the scale is a number, which stands in the kernel's text"


def test_what_flex_cannot_do_is_refused_by_name() -> None:
    module = attnc.compile("causal", heads=2, backend="flex")
    x = torch.randn(1, 2, 9, 16, requires_grad=True)
    with pytest.raises(ValueError, match="no backward on the cpu, as FlexAttention has none; backend 'sdpa' has"):
        module(x, x, x).sum().backward()
    long = torch.randn(1, 2, 2**14, 16)
    with pytest.raises(ValueError, match=r"writes down all 536,870,912 scores on the cpu.*'sdpa' does without"):
        module(long, long, long)
    plan = module.plan
    assert plan is not None
    for device, dtype, dim, message in (
        ("mps", torch.float32, 64, "not on mps; backend 'reference'"),
        ("cuda", torch.float64, 64, "no float64 on cuda"),
        ("cuda", torch.bfloat16, 8, "a head dimension of 16 to 256, not 8"),
    ):
        assert message in (flex.refusal(plan, torch.device(device), dtype, dim) or "")
    assert flex.refusal(plan, torch.device("cuda"), torch.bfloat16, 64) is None
