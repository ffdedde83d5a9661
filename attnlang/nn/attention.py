"""`PatternAttention`: attention under a compiled pattern, where scaled_dot_product_attention would stand."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from attnlang.nn.checks import check_inputs, check_lengths, check_scale, check_tables, check_tensors
from attnlang.pattern import Pattern
from attnlang.pattern.recipe import from_recipe, recipe
from attnlang.plan import Plan
from attnlang.runtime import backends, multiplicity, ops, reference
from attnlang.runtime.backends import AUTO, REFERENCE, Choice
from attnlang.runtime.direct import Direct
from attnlang.runtime.program import Program
from attnlang.runtime.routes import Route
from attnlang.runtime.seen import Seen, seen

Backend: TypeAlias = Literal["auto", "triton", "sdpa", "flex", "xformers", "reference"]


def backend_name(text: str) -> Backend:
    """The name of a backend that this version has. Raises ValueError for any other."""
    there_are = (AUTO, *backends.names())
    if text not in there_are:
        raise ValueError(f"unknown backend {text!r}: there are {', '.join(map(repr, there_are))}")
    return cast("Backend", text)


class PatternAttention(nn.Module):
    """Attention under a compiled pattern, called as torch's scaled_dot_product_attention is.

    Made by `attnc.compile(...)`, or by a module that `attnc compile -o` wrote. It has no parameters and no buffers, so
    nothing of it is in a state_dict; it can be pickled and copied, and put under torch.compile(fullgraph=True),
    torch.export, activation checkpointing, autocast, DDP and FSDP. vmap is refused: fold what it would map into the
    batch.

    pattern   what it computes
    plan      how, for `heads` heads and any length; None is enough for backend 'reference'
    backend   'auto' (what suits the device of the inputs; `choice` says which), 'sdpa' (torch's kernels on strided
              views), 'triton' (our own), 'flex' (FlexAttention), 'xformers', or 'reference' (the formula, dense, and
              differentiable to any order)

    Raises ValueError for an unknown backend, or one that needs a plan and has none.
    """

    def __init__(self, pattern: Pattern, plan: Plan | None, heads: int, backend: Backend = "auto") -> None:
        super().__init__()
        backend_name(backend)
        if backend != REFERENCE and plan is None:
            raise ValueError(f"backend {backend!r} needs a plan; backend 'reference' does without")
        if plan is not None and plan.heads != heads:
            raise ValueError(f"the plan is for {plan.heads} heads, not for {heads}")
        self.pattern = pattern
        self.plan = plan
        self.heads = heads
        self.backend: Backend = backend
        self._name_what_runs()

    def _name_what_runs(self) -> None:
        """Name the program, or the pattern, as the operators know it in this process."""
        self._program = "" if self.plan is None else Program(self.plan, self.pattern.tables).text()
        self._formula = multiplicity.text(self.pattern) if self.backend == REFERENCE else ""
        self._last: Seen | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._name_what_runs()

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        lengths: Tensor | None = None,
        return_lse: bool = False,
        **tables: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of q to k and v.

        q           (B, H, M, D), float64, float32, bfloat16 or float16; any strides. Under autocast, all but float64
                    become its dtype
        k, v        (B, Hkv, N, D), like q; Hkv divides H, and query head h reads key head h // (H // Hkv). M may be
                    less than N: queries are then the last M positions, as flash-attention aligns them. Any N, 0
                    included
        scale       factor on <q, k>; D ** -0.5 unless given
        lengths     (B,) integers: only the first lengths[b] tokens of a sequence count, and N is each sequence's own
                    length; needs M = N. Rows of padding get out 0, lse -inf and no gradient. On the cpu they cost no
                    synchronisation with a GPU, and are checked always; on the GPU, only where the pattern has to know
        return_lse  also return lse (B, H, M), the log of the softmax denominator, in float32 (float64 for float64
                    inputs); it carries no gradient (except from backend 'reference')
        tables      the content of each runtime table of the pattern, by name: integers, with as many axes as the
                    pattern gives indices, or with a batch axis of B before them. They may change with every call

        Returns out (B, H, M, D) in q's dtype. Queries without keys get out 0 and lse -inf.
        Raises ValueError for shapes, dtypes or devices that do not fit, and where the backend cannot run them.
        """
        plain = not torch.compiler.is_compiling() and lengths is None and not tables
        if plain and (scale is None or (isinstance(scale, float) and isfinite(scale))):
            last = self._last
            if last is not None and last.is_like(q, k, v, self.heads, self.backend):
                return self._on(last.route, q, k, v, scale, return_lse)
        check_tensors(q, k, v)
        if not q.is_meta and torch.is_autocast_enabled(q.device.type):
            q, k, v = _autocast(q), _autocast(k), _autocast(v)
        check_inputs(q, k, v, self.heads)
        if scale is not None:
            check_scale(scale)
        if lengths is not None:
            check_lengths(lengths, q, k)
        contents = check_tables(self.pattern, tables, q.size(0)) if tables or self.pattern.tables else []
        if self.backend == REFERENCE:
            factor = q.size(-1) ** -0.5 if scale is None else scale
            formula = self._formula or multiplicity.text(self.pattern)  # (another backend may have been set before)
            out, lse = reference.attention(q, k, v, formula, factor, tables=contents, lengths=lengths)
            return (out, lse) if return_lse else out
        if plain:
            self._last = last = seen(q, k, v, self._program, self.heads, self.backend)
            if last is not None:
                return self._on(last.route, q, k, v, scale, return_lse)
        out, lse = ops.attention(
            q, k, v, self._program, backend=self.backend, scale=scale, tables=contents, lengths=lengths
        )
        return (out, lse) if return_lse else out

    def _on(
        self, route: Route, q: Tensor, k: Tensor, v: Tensor, scale: float | None, return_lse: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The same for a batch that fits, on its route."""
        if isinstance(route, Direct) and not return_lse:
            return route.output(q, k, v, scale)
        out, lse = ops.attention_on(route, q, k, v, self.backend, self._program, scale)
        return (out, lse) if return_lse else out

    def choice(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, head_dim: int = 64
    ) -> Choice:
        """The backend that runs such inputs, and why. Raises ValueError where none can."""
        if self.backend == REFERENCE or self.plan is None:
            return Choice(REFERENCE, "backend 'reference' was asked for")
        return backends.choose(self.backend, self.plan, torch.device(device), dtype, head_dim)

    def attn_config(self) -> dict[str, Any]:
        """The module as plain data for JSON: the pattern's source, parameters and SHA-256, the plan, the backend."""
        plan = None if self.plan is None else self.plan.to_json()
        return {"pattern": recipe(self.pattern), "plan": plan, "heads": self.heads, "backend": self.backend}

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> PatternAttention:
        """The module that `attn_config` described.

        Raises ValueError where the pattern was changed since, and for what `attn_config` does not write.
        """
        missing = [name for name in ("pattern", "plan", "heads", "backend") if name not in config]
        if missing:
            raise ValueError(f"this is no attn_config: it lacks {', '.join(missing)}")
        try:
            plan = None if config["plan"] is None else Plan.from_json(config["plan"])
            pattern = from_recipe(config["pattern"])
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"this is no attn_config: its plan or pattern is not as one writes it ({error!r})"
            ) from None
        return PatternAttention(pattern, plan, config["heads"], config["backend"])

    def extra_repr(self) -> str:
        return f"{self.pattern.call}, heads={self.heads}, backend={self.backend!r}"


def _autocast(x: Tensor) -> Tensor:
    """As torch's own attention under autocast: every floating dtype but float64 becomes the one that is set."""
    lesser = x.is_floating_point() and x.dtype != torch.float64
    return x.to(torch.get_autocast_dtype(x.device.type)) if lesser else x
