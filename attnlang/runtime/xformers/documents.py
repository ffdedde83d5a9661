"""Tiles that are documents packed in a row, which xformers knows as BlockDiagonal masks.

    same(e)                               BlockDiagonalMask
    causal & same(e)                      BlockDiagonalCausalMask
    offset(-w..0) & same(e)               BlockDiagonalCausalLocalAttentionMask

where e has one value along each document and another along each other; whether it does is known with the content of
the table. A batch is one row of B * N tokens.

Shape legend: B batch, H heads, N tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnlang.pattern import algebra
from attnlang.pattern.arrays import evaluate_at
from attnlang.pattern.expr import free_names
from attnlang.pattern.tables import Content, key
from attnlang.plan import FULL, Band, Tiles
from attnlang.runtime.scales import above_zero, gradient_of_q
from attnlang.runtime.strided import repeated_heads, summed_heads
from attnlang.runtime.xformers.loading import ops
from attnlang.syntax.tree import Expr, Int, Unary


@dataclass(frozen=True, slots=True)
class Documents:
    """Pairs of one document at a distance in the band: full, causal, or a window that ends at the query."""

    value: Expr
    band: Band

    @property
    def bias_name(self) -> str:
        """The class of xformers that stands for it."""
        if self.band == FULL:
            return "BlockDiagonalMask"
        return "BlockDiagonalCausalMask" if self.band.lo is None else "BlockDiagonalCausalLocalAttentionMask"


def documents(branch: Tiles, heads: int) -> Documents | None:
    """Tiles as documents, where they can be: on all heads alike, one `same` and any number of offsets."""
    if branch.part is not None:  # positions do not count from 0
        return None
    values: list[Expr] = []
    band = FULL
    for factor in _factors(branch.relation):
        match factor:
            case algebra.Same(value):
                values.append(value)
            case algebra.Offset(lo, hi, None) if (ends := (_literal(lo), _literal(hi))) and _known(lo, hi):
                band &= Band(*ends)
            case _:
                return None
    alike = branch.heads == tuple(range(heads)) and len(values) == 1 and "h" not in free_names(values[0])
    shaped = band == FULL or (band.hi == 0 and (band.lo is None or band.lo < 0))
    return Documents(values[0], band) if alike and shaped else None


def _factors(relation: algebra.Relation) -> Iterator[algebra.Relation]:
    if isinstance(relation, algebra.Both):
        yield from _factors(relation.left)
        yield from _factors(relation.right)
    else:
        yield relation


def _literal(end: Expr | None) -> int | None:
    match end:
        case Int(value):
            return value
        case Unary("-", Int(value)):
            return -value
        case _:
            return None


def _known(*ends: Expr | None) -> bool:
    return all(end is None or _literal(end) is not None for end in ends)


def lengths(what: Documents, heads: int, n: int, tables: Mapping[str, Tensor]) -> list[int]:
    """The lengths of the documents of a sequence of n tokens.

    Raises ValueError where the tokens of one document stand apart.
    """
    scope: dict[str, Any] = {
        key(name): Content(name, table.detach().cpu().numpy().astype(np.int64)) for name, table in tables.items()
    }
    values = evaluate_at(what.value, {**scope, "N": n, "n": n, "H": heads, "h": 0}, {"pos": np.arange(n)})
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    if len(np.unique(values[starts])) < len(starts):
        raise ValueError(
            "backend 'xformers' runs documents whose tokens stand together, but the table holds one that stands apart; "
            "backends 'sdpa', 'triton' and 'flex' run any"
        )
    return np.diff(np.append(starts, n)).tolist()


def forward(q: Tensor, k: Tensor, v: Tensor, what: Documents, sizes: list[int], scale: float) -> tuple[Tensor, Tensor]:
    """Out (B, H, N, D) and lse (B, H, N) of attention within documents of these sizes."""
    k, v = (repeated_heads(x, q.size(1)) for x in (k, v))
    bias = _bias(what, sizes, q)
    q, positive, _ = above_zero(q, scale)
    out, lse = ops().memory_efficient_attention_forward_requires_grad(
        _row(q), _row(k), _row(v), bias, scale=positive, op=ops().flash.FwOp
    )
    return _batch(out, q.size(0)), lse.view(q.size(1), q.size(0), q.size(2)).transpose(0, 1)


def backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    what: Documents,
    sizes: list[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Its share of dq, dk and dv, from the merged out and lse."""
    k_, v_ = (repeated_heads(x, q.size(1)) for x in (k, v))
    bias = _bias(what, sizes, q)
    q, positive, factor = above_zero(q, scale)
    packed = lse.transpose(0, 1).reshape(1, q.size(1), -1).contiguous()
    rows = (_row(x.to(q.dtype)) for x in (dout, out))
    dq, dk, dv = ops().memory_efficient_attention_backward(
        *rows, packed, _row(q), _row(k_), _row(v_), bias, scale=positive, op=ops().flash.BwOp
    )
    dq, dk, dv = (_batch(x, q.size(0)) for x in (dq, dk, dv))
    return gradient_of_q(dq, factor), summed_heads(dk, k.size(1)), summed_heads(dv, k.size(1))


def _bias(what: Documents, sizes: list[int], q: Tensor) -> Any:
    kinds = ops().attn_bias
    bias = kinds.BlockDiagonalMask.from_seqlens(sizes * q.size(0), device=q.device)
    if what.band == FULL:
        return bias
    return bias.make_causal() if what.band.lo is None else bias.make_local_attention(1 - what.band.lo)


def _row(x: Tensor) -> Tensor:
    """(B, H, N, D)  -->  (1, B N, H, D)"""
    return x.transpose(1, 2).reshape(1, -1, x.size(1), x.size(3))


def _batch(x: Tensor, batch: int) -> Tensor:
    """(1, B N, H, D)  -->  (B, H, N, D)"""
    return torch.unflatten(x[0], 0, (batch, -1)).transpose(1, 2)
