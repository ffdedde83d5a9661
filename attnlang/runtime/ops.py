"""The operators `attnlang::forward` and `attnlang::backward`: one boundary around all backends, and its autograd.

    forward(q, k, v, tables, lengths, backend, program, scale) -> (out, lse)
    backward(dout, q, k, v, out, lse, tables, lengths, backend, program, scale) -> (dq, dk, dv)

What torch.compile, torch.export and activation checkpointing see is one opaque operator each way, told by a text what
to run (`attnlang.runtime.program`). Choosing a backend, padding, tables that differ within a batch, and queries fewer
than keys are dealt with inside, once for all backends. Differentiable once in q, k and v; lse is not differentiable,
for the backward of every backend takes the merged (out, lse), and no kernel's own lse gradient is needed.

In eager mode, unless someone looks on, what the operator would run is run at once. A plan that is one call of a kernel
of torch's (`attnlang.runtime.direct`) becomes that call: there, and in what torch.compile traces, after checkpoint
policies have seen the operator and before a compiler does. torch.export keeps the operator, which chooses anew wherever
the program runs; so does torch.compile where `auto` may find another forward pass faster (`attnlang.runtime.hybrid`).

Shape legend: B batch, H heads, Hkv heads of k and v, M queries, N keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.utils.flop_counter import register_flop_formula

from attnlang.runtime.batches import NEVER, Piece, padded_rows, work
from attnlang.runtime.flops import backward_flops, forward_flops
from attnlang.runtime.layouts import full_length, layout, like, readable
from attnlang.runtime.merge import accumulator_dtype
from attnlang.runtime.once import differentiable_once, refuse_forward_mode
from attnlang.runtime.program import Program
from attnlang.runtime.routes import Plain, Route, chosen, route_for, takes_fewer
from attnlang.runtime.tracing import rule, traced_backward, traced_forward

_library = torch.library.Library("attnlang", "DEF")
_REST = "Tensor[] tables, Tensor? lengths, str backend, str program, float? scale"
_TAGS = (torch.Tag.pt2_compliant_tag,)
_library.define(f"forward(Tensor q, Tensor k, Tensor v, {_REST}) -> (Tensor, Tensor)", tags=_TAGS)
_library.define(
    f"backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, {_REST}) -> (Tensor, Tensor, Tensor)",
    tags=_TAGS,
)
forward_op = torch.ops.attnlang.forward.default
backward_op = torch.ops.attnlang.backward.default


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    program: str,
    *,
    backend: str = "auto",
    scale: float | None = None,
    tables: Sequence[Tensor] = (),
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention under a program: out (B, H, M, D) in q's dtype, lse (B, H, M) in float32 (float64 for float64).

    q (B, H, M, D), k and v (B, Hkv, N, D) with Hkv a divisor of H; the M <= N queries are the last positions. `tables`
    are in the program's order; `lengths` (B,) are integers, and M = N with it. scale is D ** -0.5 unless given.

    Raises ValueError where no backend can run it, for lengths outside of 0..N, and for forward-mode derivatives.
    """
    grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if torch.compiler.is_compiling() or not unobserved(q, k, v):
        if not torch.compiler.is_compiling():
            refuse_forward_mode(q, k, v)
        if grad:
            if k is q:  # (torch.compile traces no autograd.Function that is given a tensor twice)
                k = k.view_as(k)
            if v is q or v is k:
                v = v.view_as(v)
            return _Attention.apply(q, k, v, lengths, backend, program, scale, *tables)
        return forward_op(q, k, v, [*tables], lengths, backend, program, scale)
    route = route_for(q, k, v, tables, lengths, backend, program)
    if route is not None:
        return attention_on(route, q, k, v, backend, program, scale)
    if grad:
        return _Eager.apply(q, k, v, lengths, None, (backend, program, scale), *tables)
    return _run_forward(q, k, v, tables, lengths, backend, program, scale)


def attention_on(
    route: Route, q: Tensor, k: Tensor, v: Tensor, backend: str, program: str, scale: float | None
) -> tuple[Tensor, Tensor]:
    """The same for a batch whose route is known, in eager mode and where no one looks on."""
    grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if grad and isinstance(route, Plain):
        return _Eager.apply(q, k, v, None, route, (backend, program, scale))
    return route.forward(q, k, v, scale)


# (torch has no public way to ask for modes, transforms or forward gradients)
_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack  # pyright: ignore[reportPrivateUsage] - see above
_transforms: Callable[[], bool] = torch._C._are_functorch_transforms_active  # pyright: ignore[reportPrivateUsage] - see above


def unobserved(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether no one would see the operator: then what it runs can be run at once, some 20 us sooner each way.

    Observers are dispatch modes (fake tensors, FLOP counters, selective checkpointing), functorch, forward gradients,
    and tensors with a mind of their own; compilers are asked for before.
    """
    return not (
        type(q) is not Tensor
        or type(k) is not Tensor
        or type(v) is not Tensor
        or _modes()
        or _transforms()
        or forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage] - see above
        or q.is_meta
    )


class _Eager(torch.autograd.Function):
    """The same where no one looks on: without setup_context, for which torch inspects signatures at every call."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        q, k, v, lengths, route, rest, *tables = args
        if route is None:
            out, lse = _run_forward(q, k, v, tables, lengths, *rest)
        else:
            out, lse = route.forward(q, k, v, rest[-1])
        ctx.save_for_backward(q, k, v, out, lse, lengths, *tables)
        ctx.route, ctx.rest = route, rest
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)  # else a gradient of zeros is made for lse, and thrown away
        return out, lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # (a guard against second derivatives enters and leaves no_grad: only where they can be asked for)
        return (_once if torch.is_grad_enabled() else _eager_backward)(ctx, *grads)


def _eager_backward(ctx: Any, dout: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return _eager_gradients(ctx, ctx.saved_tensors, dout)


def _once(ctx: Any, dout: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    """The same where a graph of it is wanted (create_graph=True)."""
    saved = ctx.saved_tensors  # (checkpointing lets them be asked for once)
    with torch.no_grad():
        found = _eager_gradients(ctx, saved, dout)
    return differentiable_once(found, *saved[:3], dout)


def _eager_gradients(ctx: Any, saved: Sequence[Any], dout: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, lengths, *tables = saved
    if dout is None:
        return (None,) * (6 + len(tables))
    if type(dout) is not Tensor or not unobserved(q, k, v):
        found = backward_op(dout, q, k, v, out, lse, tables, lengths, *ctx.rest)
    elif ctx.route is None or torch.is_autocast_enabled(q.device.type):  # (it may have been off in the forward pass)
        found = _run_backward(dout, q, k, v, out, lse, tables, lengths, *ctx.rest)
    else:
        found = ctx.route.backward(dout, q, k, v, out, lse, ctx.rest[-1])
    return (*found, None, None, None, *(None for _ in tables))


class _Attention(torch.autograd.Function):
    """The autograd of the operator."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        # (one starred argument: torch binds the others to their names anew with every call, which takes longer than
        # the operator)
        q, k, v, lengths, backend, program, scale, *tables = args
        return forward_op(q, k, v, tables, lengths, backend, program, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, lengths, backend, program, scale, *tables = inputs
        ctx.save_for_backward(q, k, v, *output, lengths, *tables)
        ctx.rest = backend, program, scale
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # (torch hands every gradient by position; its stub names a context that no one passes by name)
        q, k, v, out, lse, lengths, *tables = ctx.saved_tensors
        found = backward_op(grads[0], q, k, v, out, lse, tables, lengths, *ctx.rest)
        return (*found, None, None, None, None, *(None for _ in tables))

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> NoReturn:
        _no_vmap()


def _no_vmap(*_: Any) -> NoReturn:
    raise ValueError("attention under a pattern cannot be mapped by vmap: fold the mapped dimension into the batch")


# what runs ----------------------------------------------------------------------------------------------------------


def _forward(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    out, lse = _run_forward(q, *rest)
    return like(out, q), lse.contiguous()


def _backward(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = _run_backward(dout, q, k, v, *rest)
    return like(dq, q), like(dk, k), like(dv, v)


def _run_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: Sequence[Tensor],
    lengths: Tensor | None,
    backend: str,
    program_text: str,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    if not q.numel():
        return _empty_forward(q)
    route = route_for(q, k, v, tables, lengths, backend, program_text)
    if route is not None:
        return route.forward(q, k, v, scale)
    what, runner = chosen(backend, program_text, q.device, q.dtype, q.size(-1))
    factor = q.size(-1) ** -0.5 if scale is None else scale
    n, fewer = k.size(2), takes_fewer(runner)
    q_, k_, v_ = (readable(x) for x in (q, k, v))
    q_ = q_ if fewer else full_length(q_, n)
    padding = _padding(what, lengths, q_)
    if padding is not None:
        q_, k_, v_ = (x.masked_fill(padding[..., None], 0.0) for x in (q_, k_, v_))
    with _no_autocast(q.device) if torch.is_autocast_enabled(q.device.type) else nullcontext():
        todo = work(what, q_.size(0), n, tables, lengths)
        if len(todo) == 1 and _is_whole(todo[0], k_):
            out, lse = runner.forward(q_, k_, v_, what.plan, factor, todo[0].tables)
        else:
            out, lse = torch.zeros_like(q_), _lse_like(q_).fill_(float("-inf"))
            for piece in todo:
                q1, k1, v1 = map(piece.of, (q_, k_, v_))
                part, part_lse = runner.forward(q1, k1, v1, what.plan, factor, piece.tables)
                piece.of(out).copy_(part)
                piece.of(lse).copy_(part_lse)
        if padding is not None:
            out, lse = out.masked_fill(padding[..., None], 0.0), lse.masked_fill(padding, float("-inf"))
    if q_.size(2) != q.size(2):
        first = q_.size(2) - q.size(2)
        out, lse = out[:, :, first:], lse[:, :, first:]
    return out, lse


def _run_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    tables: Sequence[Tensor],
    lengths: Tensor | None,
    backend: str,
    program_text: str,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if not q.numel():
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    route = route_for(q, k, v, tables, lengths, backend, program_text)
    if route is not None:
        return route.backward(dout, q, k, v, out, lse, scale)
    what, runner = chosen(backend, program_text, q.device, q.dtype, q.size(-1))
    factor = q.size(-1) ** -0.5 if scale is None else scale
    n, fewer = k.size(2), takes_fewer(runner)
    k_, v_ = readable(k), readable(v)
    dout_, q_, out_ = (readable(x) if fewer else full_length(readable(x), n) for x in (dout, q, out))
    lse_ = lse if q_.size(2) == q.size(2) else torch.nn.functional.pad(lse, (n - q.size(2), 0), value=NEVER)
    padding = _padding(what, lengths, q_)
    if padding is not None:
        dout_, q_, k_, v_ = (x.masked_fill(padding[..., None], 0.0) for x in (dout_, q_, k_, v_))
        lse_ = lse_.masked_fill(padding, NEVER)
    with _no_autocast(q.device) if torch.is_autocast_enabled(q.device.type) else nullcontext():
        todo = work(what, q_.size(0), n, tables, lengths)
        if len(todo) == 1 and _is_whole(todo[0], k_):
            grads = runner.backward(dout_, q_, k_, v_, out_, lse_, what.plan, factor, todo[0].tables)
        else:
            grads = torch.zeros_like(q_), torch.zeros_like(k_), torch.zeros_like(v_)
            for piece in todo:
                dout1, q1, k1, v1, out1, lse1 = map(piece.of, (dout_, q_, k_, v_, out_, lse_))
                parts = runner.backward(dout1, q1, k1, v1, out1, lse1, what.plan, factor, piece.tables)
                for total, part in zip(grads, parts, strict=True):
                    piece.of(total).copy_(part)
    dq, dk, dv = grads
    return dq[:, :, dq.size(2) - q.size(2) :], dk, dv


def _padding(what: Program, lengths: Tensor | None, q: Tensor) -> Tensor | None:
    """Rows (B, 1, N) to be blanked before and after a run at full length: they may hold anything, even NaNs."""
    return padded_rows(lengths, q.size(2), q.device) if lengths is not None and what.ignores_padding else None


def _is_whole(piece: Piece, k: Tensor) -> bool:
    return (piece.first, piece.last, piece.n) == (0, k.size(0), k.size(2))


def _lse_like(q: Tensor) -> Tensor:
    return torch.empty(q.shape[:3], dtype=accumulator_dtype(q.dtype), device=q.device)


def _empty_forward(q: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(q), _lse_like(q).fill_(float("-inf"))


@contextmanager
def _no_autocast(device: torch.device) -> Generator[None]:
    """Inputs have their dtype by now; what is added up inside keeps its own."""
    with torch.autocast(device.type, enabled=False):
        yield


# what torch is told ---------------------------------------------------------------------------------------------------


def _fake_forward(q: Tensor, k: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return layout(q), _lse_like(q)


def _fake_backward(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return layout(q), layout(k), layout(v)


def _register(
    name: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    traced: Callable[..., Callable[[], Any] | None],
    flops: Callable[..., int],
) -> None:
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"attnlang::{name}", fake, lib=_library)
    torch.library.register_torch_dispatch(f"attnlang::{name}", ProxyTorchDispatchMode, rule(traced), lib=_library)
    torch.library.register_vmap(f"attnlang::{name}", _no_vmap, lib=_library)
    register_flop_formula(getattr(torch.ops.attnlang, name), get_raw=True)(flops)


_register("forward", _forward, _fake_forward, traced_forward, forward_flops)
_register("backward", _backward, _fake_backward, traced_backward, backward_flops)


# the operator called as it is, as in an exported program --------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, tables, lengths, backend, program, scale = inputs
    ctx.save_for_backward(q, k, v, *output, lengths, *tables)
    ctx.rest = backend, program, scale
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, dout: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    q, k, v, out, lse, lengths, *tables = ctx.saved_tensors
    with torch.no_grad():
        found = backward_op(dout, q, k, v, out, lse, tables, lengths, *ctx.rest)
    return (*differentiable_once(found, q, k, v, dout), [None] * len(tables), None, None, None, None)


torch.library.register_autograd("attnlang::forward", _gradients, setup_context=_save, lib=_library)
