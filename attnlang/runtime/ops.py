"""The operators `attnlang::forward` and `attnlang::backward`: one boundary around all backends, and its autograd.

    forward(q, k, v, tables, lengths, backend, program, scale) -> (out, lse)
    backward(dout, q, k, v, out, lse, tables, lengths, backend, program, scale) -> (dq, dk, dv)

What torch.compile, torch.export and activation checkpointing see is one opaque operator each way, told by a text what
to run (`attnlang.runtime.program`). Choosing a backend, padding, tables that differ within a batch, and queries fewer
than keys are dealt with inside, once for all backends (`attnlang.runtime.running`). Differentiable once in q, k and v;
lse is not differentiable, for the backward of every backend takes the merged (out, lse), and no kernel's own lse
gradient is needed.

In eager mode, unless someone looks on, what the operator would run is run at once. A plan that is one call of a kernel
of torch's (`attnlang.runtime.direct`) becomes that call: there, and in what torch.compile traces, after checkpoint
policies have seen the operator and before a compiler does. torch.export keeps the operator, which chooses anew wherever
the program runs; so does torch.compile where `auto` may find another forward pass faster (`attnlang.runtime.hybrid`).

Shape legend: B batch, H heads, Hkv heads of k and v, M queries, N keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.utils.flop_counter import register_flop_formula

from attnlang.runtime.flops import backward_flops, forward_flops
from attnlang.runtime.layouts import layout, like
from attnlang.runtime.once import differentiable_once, refuse_forward_mode
from attnlang.runtime.routes import Plain, Route, route_for
from attnlang.runtime.running import lse_like, run_backward, run_forward
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
    return run_forward(q, k, v, tables, lengths, backend, program, scale)


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
            out, lse = run_forward(q, k, v, tables, lengths, *rest)
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
        found = run_backward(dout, q, k, v, out, lse, tables, lengths, *ctx.rest)
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
    out, lse = run_forward(q, *rest)
    return like(out, q), lse.contiguous()


def _backward(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = run_backward(dout, q, k, v, *rest)
    return like(dq, q), like(dk, k), like(dv, v)


# what torch is told ---------------------------------------------------------------------------------------------------


def _fake_forward(q: Tensor, k: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return layout(q), lse_like(q)


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
