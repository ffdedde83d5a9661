"""A piece of a plan on a device: its rows taken from and put back into (B, H, N, ..) tensors, and its mask as tensors.

Shape legend: B batch, H heads, G heads of a piece, X = B G, N tokens, L and S rows of queries and keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnlang.plan import Plan
from attnlang.runtime.flex.kernel import under_intervals, under_tiles
from attnlang.runtime.flex.pieces import Intervals, Piece, TileBits, fixed_pieces, pieces


@dataclass(frozen=True, eq=False, slots=True)
class Side:
    """Rows of queries or keys: which (head, token) each of G lists of rows names, or None for heads as they stand.

    into   places in H N that rows belong to; of a list that is shorter than others, only rows that exist
    taken  places in G L that those rows have in the piece
    every  for each place in G L the place in H N that it reads: rows that do not exist read some other row
    """

    into: Tensor
    taken: Tensor
    every: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """What one run of FlexAttention takes, for a batch of `batch` and `heads` heads of the piece."""

    batch: int
    heads: int
    function: Callable[..., Any]
    mask: tuple[Tensor, ...]
    orders: tuple[Tensor, ...]
    q: Side | None
    k: Side | None

    @property
    def whole(self) -> bool:
        """Whether the queries are all rows of all heads, as they stand."""
        return self.q is None

    def queries(self, x: Tensor) -> Tensor:
        """(B, H, N, ..)  -->  (X, 1, L, ..)"""
        return self._taken(x, self.q)

    def keys(self, x: Tensor) -> Tensor:
        """(B, Hkv, N, D)  -->  (X, 1, S, D)"""
        return self._taken(x, self.k)

    def _taken(self, x: Tensor, side: Side | None) -> Tensor:
        if side is not None:
            x = x.flatten(1, 2)[:, side.every]
        return x.reshape(self.batch * self.heads, 1, -1, *x.shape[3 if side is None else 2 :])

    def unfolded(self, part: Tensor) -> Tensor:
        """(X, 1, L, ..)  -->  (B, G, L, ..)"""
        return part.reshape(self.batch, self.heads, *part.shape[2:])

    def real(self, part: Tensor) -> Tensor:
        """The rows of a result (X, 1, L, ..) that exist, as (B, rows, ..), or (B, G, L, ..) if all do."""
        part = self.unfolded(part)
        return part if self.q is None else part.flatten(1, 2)[:, self.q.taken]

    def own(self, total: Tensor) -> Tensor:
        """The same rows of a tensor (B, H, N, ..)."""
        return total if self.q is None else total.flatten(1, 2)[:, self.q.into]

    def put_(self, total: Tensor, rows: Tensor) -> None:
        """Put them back."""
        if self.q is not None:
            total.view(total.size(0), -1, *total.shape[3:])[:, self.q.into] = rows

    def add_queries_(self, total: Tensor, part: Tensor) -> None:
        """Add (X, 1, L, D) to the rows of (B, H, N, D) that it comes from."""
        self._add_(total, part, self.q)

    def add_keys_(self, total: Tensor, part: Tensor) -> None:
        """Add (X, 1, S, D) to the rows of (B, Hkv, N, D) that it comes from, which may come several times."""
        self._add_(total, part, self.k)

    def _add_(self, total: Tensor, part: Tensor, side: Side | None) -> None:
        part = self.unfolded(part).to(total.dtype)
        if side is None:
            total.add_(part)
        else:
            total.view(total.size(0), -1, total.size(-1)).index_add_(1, side.into, part.flatten(1, 2)[:, side.taken])


def rows_of(
    plan: Plan, n: int, batch: int, group: int, device: torch.device, tables: Mapping[str, Tensor]
) -> tuple[Rows, ...]:
    """The runs of a plan at length n, where `group` query heads share a key head; kept for plans without tables."""
    if not tables:
        return _fixed(plan, n, batch, group, device)
    content = {name: table.detach().cpu().numpy().astype(np.int64) for name, table in tables.items()}
    return tuple(_rows(piece, plan.heads, n, batch, group, device) for piece in pieces(plan, n, content))


@lru_cache(maxsize=64)
def _fixed(plan: Plan, n: int, batch: int, group: int, device: torch.device) -> tuple[Rows, ...]:
    return tuple(_rows(piece, plan.heads, n, batch, group, device) for piece in fixed_pieces(plan, n))


def _rows(piece: Piece, heads: int, n: int, batch: int, group: int, device: torch.device) -> Rows:
    def tensor(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    which = np.array(piece.which)
    members = np.array(piece.heads)
    in_place = piece.heads == tuple(range(heads))
    q = None if in_place and piece.q_tokens is None else _side(members, which, piece.q_tokens, n, tensor)
    same = in_place and piece.k_tokens is None and group == 1
    k = None if same else _side(members // group, which, piece.k_tokens, n, tensor)
    orders = piece.blocks.kv, piece.blocks.full_kv, piece.blocks.q, piece.blocks.full_q
    several = len(set(piece.which)) > 1
    found: list[Tensor] = []
    for order in orders:
        for array in (order.counts, order.indices):
            found.append(tensor(np.tile(array[which], (batch,) + (1,) * (array.ndim - 1)) if several else array))
    match piece.mask:
        case Intervals(lower, upper):
            function = under_intervals
            mask = (tensor(np.tile(which, batch).astype(np.int32)), tensor(lower), tensor(upper))
        case TileBits(offset, first, width, base, table, bits):
            function = under_tiles
            mask = tuple(map(tensor, (offset, first, width, base, table, bits)))
    return Rows(batch, len(members), function, mask, tuple(found), q, k)


def _side(
    heads: NDArray[np.int64],
    which: NDArray[np.int64],
    tokens: NDArray[np.int32] | None,
    n: int,
    tensor: Callable[[NDArray[Any]], Tensor],
) -> Side:
    lists = np.arange(n)[None] if tokens is None else tokens
    each = lists[which].astype(np.int64)  # (G, L)
    there = each < n
    places = heads[:, None] * n + np.minimum(each, n - 1)
    return Side(tensor(places[there]), tensor(np.flatnonzero(there)), tensor(places.reshape(-1)))
