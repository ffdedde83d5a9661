"""The modules a user plugs into a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn

from attnlang.pattern import Pattern
from attnlang.pattern.tables import check_names
from attnlang.plan import Plan
from attnlang.runtime import reference, sdpa

Backend: TypeAlias = Literal["sdpa", "reference"]
BACKENDS: tuple[str, ...] = get_args(Backend)


class PatternAttention(nn.Module):
    """Attention under a compiled pattern, called as torch's scaled_dot_product_attention is.

    Made by `attnc.compile(...)`, or by a module that `attnc compile -o` wrote. It has no parameters and no buffers, so
    nothing of it is in a state_dict; it can be pickled and copied.

    pattern   what it computes
    plan      how, for `heads` heads and any length
    backend   'sdpa' (torch's kernels on strided views) or 'reference' (the formula, dense)

    Raises ValueError for an unknown backend.
    """

    def __init__(self, pattern: Pattern, plan: Plan | None, heads: int, backend: Backend = "sdpa") -> None:
        super().__init__()
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}: there are {', '.join(map(repr, BACKENDS))}")
        if backend == "sdpa" and plan is None:
            raise ValueError("backend 'sdpa' needs a plan; backend 'reference' does without")
        self.pattern = pattern
        self.plan = plan
        self.heads = heads
        self.backend: Backend = backend

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        lengths: None = None,
        return_lse: bool = False,
        **tables: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of q to k and v.

        q, k, v     (B, H, N, D), one floating dtype, one device; any strides; any N, also one shorter than a segment
        scale       factor on <q, k>; D ** -0.5 unless given
        lengths     for padded batches; has no meaning yet and must be None
        return_lse  also return lse (B, H, N), the log of the softmax denominator, in float32 (float64 for float64
                    inputs); it carries no gradient
        tables      the content of each runtime table of the pattern, by name: integers, with as many axes as the
                    pattern gives indices, or with a batch axis of B before them

        Returns out (B, H, N, D) in q's dtype. Queries without keys get out 0 and lse -inf.
        Raises ValueError for shapes, dtypes or devices that do not fit.
        """
        self._check(q, k, v)
        if lengths is not None:
            raise ValueError("lengths= has no meaning yet: run each sequence of a padded batch at its own length")
        self._check_tables(tables, q.size(0))
        factor = max(q.size(-1), 1) ** -0.5 if scale is None else float(scale)
        if self.backend == "reference":
            out, lse = reference.attention(q, k, v, self.pattern, factor, tables=tables)
        else:
            assert self.plan is not None
            out, lse = sdpa.attention(q, k, v, self.plan, factor, tables)
        return (out, lse) if return_lse else out

    def _check(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        given = {"q": q, "k": k, "v": v}
        for name, x in given.items():
            if x.dim() != 4:
                raise ValueError(f"{name} must be (batch, heads, length, head_dim), but has shape {tuple(x.shape)}")
            if not x.is_floating_point():
                raise ValueError(f"{name} must be floating point, but is {x.dtype}")
        if q.size(1) != self.heads:
            raise ValueError(
                f"this module was compiled for {self.heads} heads, but q has {q.size(1)} (shape {tuple(q.shape)}); "
                f"compile it with heads={q.size(1)}"
            )
        shapes = {name: tuple(x.shape) for name, x in given.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"q, k and v must have one shape, but have {shapes}; "
                "repeat k and v for grouped heads (`repeat_interleave`), and pad them to one length"
            )
        for what in ("dtype", "device"):
            kinds = {name: str(getattr(x, what)) for name, x in given.items()}
            if len(set(kinds.values())) > 1:
                raise ValueError(f"q, k and v must have one {what}, but have {kinds}")

    def _check_tables(self, tables: Mapping[str, Tensor], batch: int) -> None:
        check_names(self.pattern.tables, tables, f"pattern {self.pattern.name}")
        for name, axes in self.pattern.tables:
            table = tables[name]
            if table.is_floating_point() or table.is_complex():
                raise ValueError(f"table {name} must hold integers, but is {table.dtype}")
            if table.dim() != axes and (table.dim() != axes + 1 or table.size(0) != batch):
                axis, shape = "axis" if axes == 1 else "axes", tuple(table.shape)
                wanted = f"{axes} {axis}, or a batch axis of {batch} before"
                raise ValueError(f"table {name} must have {wanted}, but has shape {shape}")

    def extra_repr(self) -> str:
        return f"{self.pattern.call}, heads={self.heads}, backend={self.backend!r}"
