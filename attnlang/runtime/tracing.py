"""What a tracer is given of the operators: the call of torch's that a plan is, if it runs as one (`runtime.direct`).

torch.compile traces below the policies of selective checkpointing, which see the operators, and above the compiler,
which sees the call. torch.export traces neither, so that an exported program chooses anew wherever it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attnlang.runtime import hybrid
from attnlang.runtime.backends import AUTO
from attnlang.runtime.direct import Direct, call_for


def traced_forward(*given: Any) -> Callable[[], Any] | None:
    """What a compiler is given in place of a call of the forward operator; None for the operator."""
    *inputs, scale = given
    call = _call(*inputs)
    return None if call is None else partial(call.forward, *inputs[:3], scale)


def traced_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *rest: Any
) -> Callable[[], Any] | None:
    """The same of a backward call: the operator too, if the kernel cares how d_out will lie in the end."""
    *inputs, scale = rest
    call = _call(q, k, v, *inputs)
    if call is None or not call.any_gradient:
        return None
    return partial(call.backward, dout, q, k, v, out, lse, scale)


def _call(q: Tensor, k: Tensor, v: Tensor, tables: Any, lengths: Any, backend: str, program: str) -> Direct | None:
    """The call of torch's, but for float64: compilers before torch 2.12 believe that its lse is float32.

    None too where `auto` may run another forward pass: the operator will see.
    """
    if q.dtype == torch.float64:
        return None
    call = call_for(q, k, v, tables, lengths, backend, program)
    if call is not None and backend == AUTO and hybrid.may_begin(q, k, call.causal):
        return None
    return call


def rule(traced: Callable[..., Callable[[], Any] | None]) -> Callable[..., Any]:
    """The rule by which a tracer takes the operator apart."""

    def apply(mode: Any, op: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = traced(*args, **kwargs)
        if call is None:
            return mode.__torch_dispatch__(op, types, args, kwargs)
        with mode:
            return call()

    return apply
