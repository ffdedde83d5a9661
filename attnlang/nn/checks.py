"""What may be passed to a module, and what is said about the rest."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from attnlang.pattern import Pattern
from attnlang.pattern.tables import check_names

LARGEST = sys.float_info.max
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless all three are dense tensors."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance] - not everyone checks types
            raise ValueError(f"{name} must be a tensor (batch, heads, length, head_dim), not {type(x).__name__}")
        if x.layout != torch.strided or x.is_nested:
            kind = "nested" if x.is_nested else _name(x.layout)
            raise ValueError(f"{name} must be a dense tensor (batch, heads, length, head_dim), but is {kind}")


def check_inputs(q: Tensor, k: Tensor, v: Tensor, heads: int) -> None:
    """Raise ValueError unless q, k and v fit one another and a module of so many heads."""
    alike = q.shape == k.shape == v.shape and q.dtype == k.dtype == v.dtype and q.device == k.device == v.device
    if alike and q.dim() == 4 and q.dtype in DTYPES and q.size(1) == heads and q.size(3):
        return
    given = {"q": q, "k": k, "v": v}
    for name, x in given.items():
        if x.dim() != 4:
            raise ValueError(f"{name} must be (batch, heads, length, head_dim), but has shape {tuple(x.shape)}")
        if x.dtype not in DTYPES:
            raise ValueError(f"{name} must be float64, float32, bfloat16 or float16, but is {_name(x.dtype)}")
    for what in ("dtype", "device"):
        kinds = {name: str(getattr(x, what)).removeprefix("torch.") for name, x in given.items()}
        if len(set(kinds.values())) > 1:
            raise ValueError(f"q, k and v must have one {what}, but have {_listed(kinds)}")
    if q.size(1) != heads:
        turned = q.size(2) == heads
        advice = (
            "q, k and v are (batch, heads, length, head_dim): transpose(1, 2) them if they are (batch, length, heads, "
            "head_dim)"
            if turned
            else f"compile it with heads={q.size(1)}"
        )
        raise ValueError(
            f"this module was compiled for {heads} heads, but q has {q.size(1)} (shape {tuple(q.shape)}); {advice}"
        )
    shapes = {name: tuple(x.shape) for name, x in given.items()}
    if k.shape != v.shape:
        raise ValueError(f"k and v must have one shape, but the shapes are {_listed(shapes)}")
    if k.size(0) != q.size(0) or k.size(3) != q.size(3) or not q.size(3):
        raise ValueError(
            "q, k and v must have one batch size and one head dimension of at least 1, but the shapes are "
            f"{_listed(shapes)}"
        )
    if not k.size(1) or heads % k.size(1):
        raise ValueError(
            f"the {heads} heads of q must be a multiple of the heads of k and v, but those are {k.size(1)}: with "
            "grouped heads, query head h reads key head h // (heads // kv heads)"
        )
    if q.size(2) > k.size(2):
        raise ValueError(
            f"q has {q.size(2)} positions, more than the {k.size(2)} of k: queries are the last positions of the "
            "sequence, so there may be fewer of them, not more"
        )


def check_scale(scale: float | None) -> None:
    """Raise ValueError unless the scale is a finite number, or left out."""
    if scale is None:
        return
    if not isinstance(scale, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] - as above
        raise ValueError(f"scale must be a number, or None for head_dim ** -0.5, not {type(scale).__name__}")
    if not abs(scale) <= LARGEST:
        raise ValueError(f"scale must be finite, not {scale:g}" if isinstance(scale, float) else "scale is too large")


def check_lengths(lengths: Tensor | None, q: Tensor, k: Tensor) -> None:
    """Raise ValueError unless lengths are integers (B,), given for queries and keys of one length."""
    if lengths is None:
        return
    if not isinstance(lengths, Tensor) or _is_no_integer(lengths) or lengths.dtype == torch.bool:  # pyright: ignore[reportUnnecessaryIsInstance] - as above
        kind = _name(lengths.dtype) if isinstance(lengths, Tensor) else type(lengths).__name__  # pyright: ignore[reportUnnecessaryIsInstance] - as above
        raise ValueError(f"lengths must be a tensor of integers, one for each sequence of the batch, not {kind}")
    if tuple(lengths.shape) != (q.size(0),):
        raise ValueError(
            f"lengths must have shape ({q.size(0)},), one for each sequence, but has {tuple(lengths.shape)}"
        )
    if q.size(2) != k.size(2):
        raise ValueError(
            f"with lengths, q and k must be padded to one length, but have {q.size(2)} and {k.size(2)} positions: "
            "which of a padded sequence's positions fewer queries would be, no one has said"
        )


NOT_HERE = {
    "attn_mask": "which keys a query sees is the pattern's to say; where sequences are padded, give lengths=",
    "is_causal": "which keys a query sees is the pattern's to say",
    "dropout_p": "attention weights are never formed here, so none can be dropped",
    "enable_gqa": "k and v may have fewer heads than q as it is",
}
"""What scaled_dot_product_attention takes besides, and why a module does not."""


def check_tables(pattern: Pattern, tables: Mapping[str, Tensor], batch: int) -> list[Tensor]:
    """The tables in the pattern's order. Raises ValueError unless they are those that the pattern asks for."""
    own = {name for name, _ in pattern.tables}
    for name in tables:
        if name in NOT_HERE and name not in own:
            raise ValueError(f"leave {name} out: {NOT_HERE[name]}")
    check_names(pattern.tables, tables, f"pattern {pattern.name}")
    for name, axes in pattern.tables:
        table = tables[name]
        if not isinstance(table, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance] - as above
            raise ValueError(f"table {name} must be a tensor of integers, not {type(table).__name__}")
        if _is_no_integer(table):
            raise ValueError(f"table {name} must hold integers, but is {_name(table.dtype)}")
        if table.dim() != axes and (table.dim() != axes + 1 or table.size(0) != batch):
            axis, shape = "axis" if axes == 1 else "axes", tuple(table.shape)
            wanted = f"{axes} {axis}, or a batch axis of {batch} before"
            raise ValueError(f"table {name} must have {wanted}, but has shape {shape}")
    return [tables[name] for name, _ in pattern.tables]


def _is_no_integer(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _name(what: torch.dtype | torch.layout) -> str:
    return str(what).removeprefix("torch.")


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
