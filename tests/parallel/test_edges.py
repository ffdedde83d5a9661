"""Rows at a rank's edges: taken as a view where they are one stretch, gathered where not, with the same results."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attnlang.parallel.edges import Edges, _Rows  # pyright: ignore[reportPrivateUsage] - what the module is made of
from attnlang.parallel.engine import Partial, Work, first_of_stretch, run, run_backward
from attnlang.parallel.rank import sent_together
from attnlang.plan import Band
from attnlang.runtime.calls import Axis, Call

HEADS, ROWS, EDGE, DIM = 3, 20, 6, 4


def work(q_rows: Tensor, k_rows: Tensor) -> Work:
    return Work.of(q_rows, k_rows, Call(0, 0, 0, EDGE, EDGE, 1, (Axis(HEADS, 0, 0, 1),), Band(0, None)), None)


def of_every_head(first: int) -> Tensor:
    return torch.arange(HEADS)[:, None] * ROWS + first + torch.arange(EDGE)


def tensors(*shape: int, count: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("first", [0, 5, ROWS - EDGE])
def test_the_same_stretch_of_every_head_is_a_view(first: int) -> None:
    (x,) = tensors(2, HEADS, ROWS, DIM)
    rows = _Rows(of_every_head(first).flatten(), ROWS)
    expected = x.flatten(1, 2)[:, rows.rows]
    assert torch.equal(rows.of(x), expected)
    assert rows.stretch == (HEADS, slice(first, first + EDGE))
    rows.put(x, expected + 1)
    assert torch.equal(x.flatten(1, 2)[:, rows.rows], expected + 1)


@pytest.mark.parametrize(
    "rows",
    [
        torch.tensor([1, 2, 4, 21, 22, 24]),  # with a gap
        torch.tensor([18, 19, 20, 21]),  # over the end of a head
        torch.tensor([25, 26, 45, 46]),  # not in the first head
        torch.tensor([0, 1, 20]),  # fewer in one head
        torch.zeros(0, dtype=torch.int64),
    ],
)
def test_other_rows_are_gathered(rows: Tensor) -> None:
    (x,) = tensors(2, HEADS, ROWS, DIM)
    some = _Rows(rows, ROWS)
    assert some.stretch is None
    expected = x.flatten(1, 2)[:, rows]
    assert torch.equal(some.of(x), expected)
    some.put(x, expected + 1)
    assert torch.equal(x.flatten(1, 2)[:, rows], expected + 1)


def test_a_stretch_for_other_heads_than_there_are_is_gathered() -> None:
    (x,) = tensors(2, HEADS + 1, ROWS, DIM)
    rows = _Rows(of_every_head(2).flatten(), ROWS)
    assert torch.equal(rows.of(x), x.flatten(1, 2)[:, rows.rows])


def test_first_of_stretch() -> None:
    assert first_of_stretch(torch.arange(6).view(2, 3) + 4) == 4
    assert first_of_stretch(torch.tensor([[0, 1], [3, 4]])) is None
    assert first_of_stretch(torch.zeros((0, 3), dtype=torch.int64)) is None


@pytest.mark.parametrize("q_first", [0, 3])
@pytest.mark.parametrize("k_first", [0, 2])
def test_stretches_run_in_place_with_the_same_results(q_first: int, k_first: int) -> None:
    each = torch.arange(HEADS * EDGE).view(HEADS, EDGE)
    in_place = work(each + q_first, each + k_first)
    gathered = replace(in_place, q_first=None, k_first=None)
    assert (in_place.q_first, in_place.k_first) == (q_first, k_first)
    q, dout, out, k, v = tensors(2, HEADS * EDGE + 5, DIM, count=5)
    (lse,) = tensors(2, HEADS * EDGE + 5)
    found: list[list[Tensor]] = []
    for part in (in_place, gathered):
        into = Partial(out.clone(), lse.clone())
        run(q, k, v, into, [part], 0.5)
        grads = torch.ones_like(q), torch.ones_like(k), torch.ones_like(v)
        run_backward(dout, q, k, v, out, lse, grads, [part], 0.5)
        found.append([into.out, into.lse, *grads])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert not torch.equal(found[0][0], out)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_edges_merge_into_what_is_there(dtype: torch.dtype) -> None:
    """Against one softmax over both sets of keys."""
    q, out, k, v = (x.to(dtype) for x in tensors(1, HEADS, ROWS, DIM, count=4))
    first_k = torch.arange(HEADS * EDGE).view(HEADS, EDGE)
    edges = Edges([work(of_every_head(0), first_k)], [], [], ROWS, torch.device("cpu"))
    s0 = (q.double() * out.double()).sum(-1)  # one key for every query: its value is `out`
    lse = s0.to(torch.float64 if dtype == torch.float64 else torch.float32)
    mine, mine_lse = out.clone(), lse.clone()
    came_k, came_v = k[:, :, :EDGE].flatten(1, 2), v[:, :, :EDGE].flatten(1, 2)
    edges.merge_(mine, mine_lse, q, came_k, came_v, 0.5)
    s = 0.5 * q[:, :, :EDGE].double() @ k[:, :, :EDGE].double().mT
    s = s.masked_fill(torch.ones(EDGE, EDGE, dtype=torch.bool).tril(-1), float("-inf"))  # k - q >= 0
    s = torch.cat([s0[:, :, :EDGE, None], s], -1)
    p = s.softmax(-1)
    expected = p[..., :1] * out[:, :, :EDGE].double() + p[..., 1:] @ v[:, :, :EDGE].double()
    # in bfloat16 p, the part's out and the merged out are rounded, each to half a unit in the last place, 2^-9
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3 * 2.0**-9}[dtype]
    torch.testing.assert_close(mine[:, :, :EDGE].double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(mine_lse[:, :, :EDGE].double(), s.logsumexp(-1), rtol=1e-5, atol=1e-5)
    assert torch.equal(mine[:, :, EDGE:], out[:, :, EDGE:])


class Formula:
    """A kernel with windows, in float64, as torch has none on a cpu."""

    windows = True
    grouped = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
        s = self._scores(q, k, call, scale)
        lse = s.logsumexp(-1)
        return (s - lse[..., None]).exp() @ v, lse

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        p = (self._scores(q, k, call, scale) - lse[..., None]).exp()
        ds = p * (dout @ v.mT - (dout * out).sum(-1, keepdim=True)) * scale
        return ds @ k, ds.mT @ q, p.mT @ dout

    def _scores(self, q: Tensor, k: Tensor, call: Call, scale: float) -> Tensor:
        distance = torch.arange(call.k_len)[None] - torch.arange(call.q_len)[:, None]
        outside = torch.tensor([[int(d) not in call.band for d in row] for row in distance])
        return (scale * q @ k.mT).masked_fill(outside, float("-inf"))


def chosen(*_: object) -> Formula:
    return Formula()


@pytest.mark.parametrize("first", [0, ROWS - EDGE])
def test_one_stretch_of_every_head_runs_where_it_lies(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same results as by gathering, tensors of (B, N, H, D) in memory too, and nothing else is touched."""
    x = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors(2, HEADS, ROWS, DIM, count=6)]
    q, out, dout, dq, dk, dv = x
    (lse,) = tensors(2, HEADS, ROWS)
    k, v = tensors(2, HEADS * EDGE, DIM, count=2)
    sent = [of_every_head(ROWS - EDGE).flatten(), torch.zeros(0, dtype=torch.int64)]
    came = torch.randn(2 * 2 * HEADS * EDGE * DIM, dtype=torch.float64)
    found: list[list[Tensor]] = []
    for in_place in (False, True):
        if in_place:
            monkeypatch.setattr("attnlang.parallel.edges.kernel_of", chosen)
            monkeypatch.setattr("attnlang.parallel.edges.run", None)  # (what gathers)
            monkeypatch.setattr("attnlang.parallel.edges.run_backward", None)
        each = torch.arange(HEADS * EDGE).view(HEADS, EDGE)
        edges = Edges([work(of_every_head(first), each)], sent, [[len(sent[0])], []], ROWS, torch.device("cpu"))
        mine, mine_lse, mine_dq, mine_dk, mine_dv = (t.clone() for t in (out, lse, dq, dk, dv))
        edges.merge_(mine, mine_lse, q, k, v, 0.5)
        share, their_dk, their_dv = edges.backward(dout, q, k, v, mine, mine_lse, 0.5)
        edges.add_queries_(mine_dq, share)
        edges.add_keys_(mine_dk, mine_dv, came)
        found.append([mine, mine_lse, mine_dq, mine_dk, mine_dv, their_dk, their_dv])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    rest = [row for row in range(ROWS) if not first <= row < first + EDGE]
    assert torch.equal(found[1][0][:, :, rest], out[:, :, rest])
    assert not torch.equal(found[1][0], out)


def test_what_is_sent_is_one_buffer_in_the_order_of_ranks() -> None:
    k, v = tensors(1, HEADS, ROWS, DIM, count=2)
    some = torch.tensor([1, 2, 4, 21])  # gathered
    edges = Edges([], [of_every_head(3).flatten(), some], [[HEADS * EDGE], [4]], ROWS, torch.device("cpu"))
    data = sent_together(edges.messages(k, v), k.new_empty(0, dtype=torch.float32))
    flat = [x.flatten(1, 2)[:, rows].flatten() for rows in (of_every_head(3).flatten(), some) for x in (k, v)]
    assert torch.equal(data, torch.cat(flat).float())


def test_keys_that_go_to_one_rank_alone_are_added_to_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have parts in the recipe too, without rows: those are none."""
    dk, dv = tensors(1, HEADS, ROWS, DIM, count=2)
    before = dk.clone(), dv.clone()
    none = torch.zeros(0, dtype=torch.int64)
    sent = [none, of_every_head(ROWS - EDGE).flatten(), none]
    edges = Edges([], sent, [[0], [HEADS * EDGE], [0]], ROWS, torch.device("cpu"))
    monkeypatch.setattr("attnlang.parallel.edges._Rows.put", None)  # (what writes sums back that were taken out)
    edges.add_keys_(dk, dv, torch.ones(2 * HEADS * EDGE * DIM, dtype=torch.float64))
    for x, x_before in zip((dk, dv), before, strict=True):
        assert torch.equal(x[:, :, ROWS - EDGE :], x_before[:, :, ROWS - EDGE :] + 1)
        assert torch.equal(x[:, :, : ROWS - EDGE], x_before[:, :, : ROWS - EDGE])


def test_rows_of_a_single_head_are_a_view_that_is_put_back() -> None:
    """What is added up in them is where it belongs already: torch refuses to copy a view onto itself."""
    q, out, dout, dk, dv = tensors(1, 1, ROWS, DIM, count=5)
    (lse,) = tensors(1, 1, ROWS)
    k, v = tensors(1, 2 * EDGE, DIM, count=2)
    rows, call = torch.arange(EDGE)[None], Call(0, 0, 0, EDGE, EDGE, 1, ())
    halves = [Work.of(rows, rows + first, call, None) for first in (0, EDGE)]
    edges = Edges(halves, [rows[0], rows[0]], [[EDGE], [EDGE]], ROWS, torch.device("cpu"))
    before = [x.clone() for x in (out, lse, dk, dv)]
    edges.merge_(out, lse, q, k, v, 0.5)
    s = torch.cat([before[1][0, 0, :EDGE, None], 0.5 * q[0, 0, :EDGE] @ k[0].T], 1)
    expected = s.softmax(1) @ torch.cat([torch.zeros(1, DIM), v[0]]) + s.softmax(1)[:, :1] * before[0][0, 0, :EDGE]
    torch.testing.assert_close(out[0, 0, :EDGE], expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(out[:, :, EDGE:], before[0][:, :, EDGE:])
    share, *_ = edges.backward(dout, q, k, v, out, lse, 0.5)
    assert share.shape == (1, EDGE, DIM)
    edges.add_keys_(dk, dv, torch.ones(4 * EDGE * DIM, dtype=torch.float64))
    for x, x_before in zip((dk, dv), before[2:], strict=True):
        torch.testing.assert_close(x[:, :, :EDGE], x_before[:, :, :EDGE] + 2)
        assert torch.equal(x[:, :, EDGE:], x_before[:, :, EDGE:])
