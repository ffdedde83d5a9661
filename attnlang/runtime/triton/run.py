"""Forward and backward: tensors, and every launch on them in order; what calls have in common is kept from the first.

Shape legend: B batch, H heads of q, K heads of k and v, N tokens, D head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from attnlang.plan import Plan
from attnlang.runtime.triton import measuring, rows, specialised
from attnlang.runtime.triton.gradients import Gradients, gradients
from attnlang.runtime.triton.kept import Call, Pointer, launch
from attnlang.runtime.triton.launches import Mode
from attnlang.runtime.triton.matrices import Form, form_of
from attnlang.runtime.triton.nesting import Shape
from attnlang.runtime.triton.prepared import Contents, contents_of
from attnlang.runtime.triton.ready import Attend, Operands, Options, Ready, Step, has_tensor_maps, ready
from attnlang.runtime.triton.tuning import Config, kind_of, padded

DEFAULT = Options()


def forward(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, tables: Mapping[str, Tensor], options: Options = DEFAULT
) -> tuple[Tensor, Tensor]:
    """Out (B, H, N, D) in q's dtype and lse (B, H, N) in float32 of q (B, H, N, D), k and v (B, K, N, D)."""
    q, k, v = _rows_in_order(q), _rows_in_order(k), _rows_in_order(v)
    if not q.numel():
        return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    given = plan, scale, options, form_of(q), form_of(k), form_of(v), q.device
    todo = _forward_filled(*given, contents_of(tables)) if tables else _forward(*given, None)
    out = todo.results[0].empty(q)
    if todo.complete:
        lse = q.new_empty(q.shape[:3], dtype=torch.float32)
        todo.run(Operands(q, q, k, v, lse, lse, out, out, out, out))
        return out, lse
    lse = q.new_full(q.shape[:3], -math.inf, dtype=torch.float32)
    total = q.new_empty(q.shape, dtype=torch.float32) if todo.accumulate else out
    todo.run(Operands(q, q, k, v, lse, lse, out, out, total, total))
    if todo.unfinished:
        heads = _heads(todo.unfinished, out)
        found = lse[:, heads].unsqueeze(-1) > -math.inf
        out[:, heads] = torch.where(found, total[:, heads], 0.0).to(out.dtype) if todo.accumulate else 0.0
    return out, lse


def is_specialised(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> bool:
    """Whether `forward` runs such tensors, whose last stride is 1, in the kernels of `hopper` and `hopper_lists`."""
    return _forward(plan, scale, DEFAULT, form_of(q), form_of(k), form_of(v), q.device, None).specialised


def backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    plan: Plan,
    scale: float,
    tables: Mapping[str, Tensor],
    options: Options = DEFAULT,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv from the merged out and lse; every sum in float32 and in one order."""
    return begin_backward(dout, q, k, v, out, lse, plan, scale, tables, options)()


def begin_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    plan: Plan,
    scale: float,
    tables: Mapping[str, Tensor],
    options: Options = DEFAULT,
) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """The same in two halves: here runs what leaves room for others on the GPU, in what is returned what fills it."""
    dout, q, k, v, out = (_rows_in_order(x) for x in (dout, q, k, v, out))
    if not q.numel():
        empty = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        return lambda: empty
    lse = lse.contiguous()
    forms = form_of(dout), form_of(q), form_of(k), form_of(v), form_of(out)
    given = plan, scale, options, *forms, q.device
    todo = _backward_filled(*given, contents_of(tables)) if tables else _backward(*given, None)
    dq, dk, dv = (form.empty(x) for form, x in zip(todo.results, (q, k, v), strict=True))
    planes = len(todo.rates), *lse.shape  # the first is the vector itself
    log2_lse, delta = lse.new_empty(planes), lse.new_empty(planes)
    launch((todo.rows,), (out, dout, lse, delta, log2_lse))
    if todo.queries is not None:
        (total,) = _totals(todo.queries, dq)
        todo.queries.run(Operands(q, dout, k, v, log2_lse[0], delta[0], dq, dq, total, total))
        _finish(todo.queries, (dq, total))
    if todo.keys is not None:
        totals = _totals(todo.keys, dk, dv)
        todo.keys.run(Operands(k, v, q, dout, log2_lse[0], delta[0], dk, dv, *totals))
        _finish(todo.keys, (dk, totals[0]), (dv, totals[1]))

    def rest() -> tuple[Tensor, Tensor, Tensor]:
        if todo.squares is not None:
            todo.squares.run((q, k, v, dout, log2_lse, delta, dq, dk, dv))
        return dq, dk, dv

    return rest


def _rows_in_order(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _heads(heads: tuple[int, ...], x: Tensor) -> slice | list[int]:
    return slice(None) if len(heads) == x.size(1) else list(heads)


def _totals(todo: Ready, *results: Tensor) -> tuple[Tensor, ...]:
    """Accumulators for gradients, where there must be any."""
    if not todo.accumulate:
        return results
    return tuple(torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in results)


def _finish(todo: Ready, *results: tuple[Tensor, Tensor]) -> None:
    """Write the results that no launch has written."""
    for x, total in results if todo.unfinished else ():
        heads = _heads(todo.unfinished, x)
        x[:, heads] = total[:, heads].to(x.dtype) if todo.accumulate else 0.0


# what is kept from call to call ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Backward:
    """What `row_products` makes of every row, and then gradients: by the kernels of `hopper_gradients`, or by others.

    rates    lse and delta are made in planes of these
    results  forms of dq, dk, dv
    """

    rows: Call
    rates: tuple[int, ...]
    results: tuple[Form, Form, Form]
    squares: Gradients | None
    queries: Ready | None
    keys: Ready | None


def _make_forward(
    plan: Plan,
    scale: float,
    options: Options,
    q: Form,
    k: Form,
    v: Form,
    device: torch.device,
    content: Contents | None,
) -> Ready:
    out = q.like()
    given = q, k, v, plan, scale, options.split, options.nest, device, content
    if options.specialise and (found := specialised.steps(*given)):
        left, calls = found
        made = ready((Step(call, None) for call in calls), (out, out), left, q.shape[2])
        return replace(made, specialised=True)
    made = _attend("forward", ((q, q), (k, v), (out, out)), q.shape[1], k.shape[1], plan, scale, options, device)
    return made.ready(plan, content, device)


def _make_backward(
    plan: Plan,
    scale: float,
    options: Options,
    dout: Form,
    q: Form,
    k: Form,
    v: Form,
    out: Form,
    device: torch.device,
    content: Contents | None,
) -> Backward:
    rest = q.shape[1], k.shape[1], plan, scale, options, device
    dq, dk, dv = q.like(), k.like(), v.like()
    found = None
    if options.specialise:
        found = gradients((q, k, v, dout), plan, scale, options.build, options.nest, device, content)
    queries = keys = None
    if found is None or not found.room:
        queries = _attend("query gradient", ((q, dout), (k, v), (dq, dq)), *rest).ready(plan, content, device)
    if found is None:
        keys = _attend("key gradient", ((k, v), (q, dout), (dk, dv)), *rest).ready(plan, content, device)
    rates = found.rates if found else keys.rates if keys else ()
    return Backward(_row_products(out, dout, rates), rates, (dq, dk, dv), found, queries, keys)


_forward = lru_cache(maxsize=64)(_make_forward)
_backward = lru_cache(maxsize=16)(_make_backward)  # (its tables of work are large)
_forward_filled = lru_cache(maxsize=4)(_make_forward)  # (their block lists are large)
_backward_filled = lru_cache(maxsize=4)(_make_backward)


def _attend(
    mode: Mode,
    forms: tuple[tuple[Form, Form], tuple[Form, Form], tuple[Form, Form]],
    heads: int,
    kv_heads: int,
    plan: Plan,
    scale: float,
    options: Options,
    device: torch.device,
) -> Attend:
    """The kernel for all GPUs in the tile shapes for a plan."""
    _, _, n, dim = forms[0][0].shape
    config = dict(options.configs).get(mode) or measuring.config(
        mode, dim, forms[0][0].dtype, kind_of(plan), device, timed
    )
    shape = Shape(n, heads, kv_heads, config.fixed, config.streamed, options.nest)
    described = has_tensor_maps(device) if options.descriptors is None else options.descriptors
    return Attend(mode, *forms, scale, config, options, shape, described)


def _row_products(out: Form, dout: Form, rates: tuple[int, ...]) -> Call:
    batch, heads, n, dim = out.shape
    size = 32 if dim > 64 else 64
    return Call(
        rows.row_products,
        (-(-n // size), heads, batch),
        (*map(Pointer, range(5)), *out.strides[:3], *dout.strides[:3], n, heads),
        {"D": dim, "PADDED": padded(dim), "F": size, "PLANES": len(rates), "RATES": rates},
    )


def timed(
    plan: Plan, mode: Mode, config: Config, head_dim: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], object]:
    """A function that runs one mode of a plan with a configuration, on tensors of 2^17 rows."""
    n, heads = 8192, 16
    plan = replace(plan, heads=heads, branches=tuple(replace(b, heads=tuple(range(heads))) for b in plan.branches))
    q, k, v, dout = (torch.randn(1, n, heads, head_dim, dtype=dtype, device=device).transpose(1, 2) for _ in range(4))
    lse, delta = (torch.zeros(1, heads, n, device=device) for _ in range(2))
    x, y = torch.empty_like(q), torch.empty_like(q)
    fixed, streamed = ((k, v), (q, dout)) if mode == "key gradient" else ((q, dout), (k, v))
    forms = [(form_of(a), form_of(b)) for a, b in (fixed, streamed, (x, y))]
    options = Options(((mode, config),))
    todo = _attend(mode, (forms[0], forms[1], forms[2]), heads, heads, plan, head_dim**-0.5, options, device).ready(
        plan, None, device
    )
    return lambda: todo.run(Operands(*fixed, *streamed, lse, delta, x, y, x, y))
