"""The few rows of a rank that meet keys of others, or whose keys others meet, where all its rows are one plan's.

The plan's results then stay as its backend returned them, in the dtype of q; only these rows are taken out, added to in
float32, and put back. Rows are flat: row i of head h of a rank with C rows is h * C + i.

Shape legend: B batch, H heads, C rows of this rank, E rows at its edges, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from attnlang.parallel.engine import Partial, Work, first_of_stretch, run, run_backward
from attnlang.runtime.merge import accumulator_dtype


class _Rows:
    """Some flat rows of tensors (B, H, C, ..): the same stretch of every head, as an edge mostly is, or any."""

    def __init__(self, rows: Tensor, count: int) -> None:
        self.rows = rows
        self._head, self._row = rows // count, rows % count
        self._count = count

    @cached_property
    def _stretch(self) -> tuple[int, slice] | None:
        """Of how many heads, and which rows of each."""
        if not len(self.rows):
            return None
        heads = int(self._head[-1]) + 1
        first, each = int(self._row[0]), len(self.rows) // heads
        device = self.rows.device
        expected = torch.arange(heads, device=device)[:, None] * self._count + first + torch.arange(each, device=device)
        same = expected.numel() == len(self.rows) and bool(torch.equal(expected.flatten(), self.rows))
        return (heads, slice(first, first + each)) if same and first + each <= self._count else None

    def of(self, x: Tensor) -> Tensor:
        """These rows (B, E, ..) of (B, H, C, ..)."""
        if self._stretch is not None and self._stretch[0] == x.size(1):
            return x[:, :, self._stretch[1]].flatten(1, 2)
        return x[:, self._head, self._row]

    def put(self, x: Tensor, values: Tensor) -> None:
        """Make values (B, E, ..) these rows of (B, H, C, ..), in its dtype."""
        if self._stretch is not None and self._stretch[0] == x.size(1):
            heads, part = self._stretch
            x[:, :, part] = values.unflatten(1, (heads, part.stop - part.start))
        else:
            x[:, self._head, self._row] = values.to(x.dtype)


class Edges:
    """What a rank does at its edges, with rows numbered among these alone."""

    def __init__(
        self,
        work: Sequence[Work],
        key_rows: Sequence[Tensor],
        key_parts: Sequence[Sequence[int]],
        rows: int,
        device: torch.device,
    ) -> None:
        self._queries = _Rows(_together([part.q for part in work], device), rows)
        self._keys = _Rows(_together(key_rows, device), rows)
        self._work = [
            Work.of(torch.searchsorted(self._queries.rows, part.q), part.k, part.call, part.times) for part in work
        ]
        self._sends = [_Rows(rows_, rows) for rows_ in key_rows]
        self._returns = [
            [_stretch_or_rows(part) for part in torch.searchsorted(self._keys.rows, rows_).split(list(counts))]
            for rows_, counts in zip(key_rows, key_parts, strict=True)
        ]

    def message(self, to: int, k: Tensor, v: Tensor) -> list[Tensor]:
        """What another rank is sent: rows (B, n, D) of k and of v (B, H, C, D)."""
        rows = self._sends[to]
        return [rows.of(x) for x in (k, v)] if len(rows.rows) else []

    def merge_(self, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
        """Merge what the rows meet in keys (B, R, D) that came into out (B, H, C, D) and lse (B, H, C)."""
        if not self._work:
            return
        mine = Partial.of(self._queries.of(out), self._queries.of(lse))
        run(self._queries.of(q), k, v, mine, self._work, scale)
        self._queries.put(out, mine.out)
        self._queries.put(lse, mine.lse)

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The share of dq at the edges (B, E, D), and dk and dv of the keys (B, R, D) that came, in float32."""
        kind = accumulator_dtype(q.dtype)
        dout_, q_, out_, lse_ = (self._queries.of(x) for x in (dout, q, out, lse))
        dq, dk, dv = (x.new_zeros(x.shape, dtype=kind) for x in (q_, k, v))
        run_backward(dout_, q_, k, v, out_, lse_, (dq, dk, dv), self._work, scale)
        return dq, dk, dv

    def add_queries_(self, dq: Tensor, share: Tensor) -> None:
        """Add a share (B, E, D) to dq (B, H, C, D)."""
        if len(self._queries.rows):
            self._queries.put(dq, self._queries.of(dq).to(share.dtype) + share)

    def add_keys_(self, dk: Tensor, dv: Tensor, data: Tensor) -> None:
        """Add gradients that came back, of each message's keys and then values, to dk and dv (B, H, C, D)."""
        if not len(self._keys.rows):
            return
        batch, dim, at = dk.size(0), dk.size(-1), 0
        totals = [self._keys.of(x).to(data.dtype) for x in (dk, dv)]
        for sent, parts in zip(self._sends, self._returns, strict=True):
            for total in totals:
                added = data[at : at + batch * len(sent.rows) * dim].view(batch, len(sent.rows), dim)
                at += added.numel()
                first = 0
                for rows, count in parts:
                    total[:, rows] += added[:, first : first + count]
                    first += count
        for x, total in zip((dk, dv), totals, strict=True):
            self._keys.put(x, total)


def _stretch_or_rows(rows: Tensor) -> tuple[slice | Tensor, int]:
    """Rows that are all different, as a slice if they follow one another; and how many they are."""
    count, first = len(rows), first_of_stretch(rows)
    return rows if first is None else slice(first, first + count), count


def _together(rows: Sequence[Tensor], device: torch.device) -> Tensor:
    """All rows that are named, each once, in order."""
    named = [each.flatten() for each in rows]
    return torch.cat(named).unique() if named else torch.zeros(0, dtype=torch.int64, device=device)
