"""The few rows of a rank that meet keys of others, or whose keys others meet, where all its rows are one plan's.

The plan's results then stay as its backend returned them, in the dtype of q; only these rows are taken out, added to in
float32, and put back. Rows are flat: row i of head h of a rank with C rows is h * C + i.

Shape legend: B batch, H heads, C rows of this rank, E rows at its edges, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attnlang.parallel.engine import Partial, Work, add_rows, run, run_backward
from attnlang.runtime.merge import accumulator_dtype


class Edges:
    """What a rank does at its edges, with rows numbered among these alone."""

    def __init__(self, work: Sequence[Work], key_rows: Sequence[Tensor], rows: int, device: torch.device) -> None:
        self._count = rows
        self._queries = _together([part.q for part in work], device)
        self._keys = _together(key_rows, device)
        self._work = [replace(part, q=torch.searchsorted(self._queries, part.q)) for part in work]
        self._sent = [torch.searchsorted(self._keys, rows_) for rows_ in key_rows]

    def merge_(self, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
        """Merge what the rows meet in keys (B, R, D) that came into out (B, H, C, D) and lse (B, H, C)."""
        if not self._work:
            return
        mine = Partial.of(self._of(out, self._queries), self._of(lse, self._queries))
        run(self._of(q, self._queries), k, v, mine, self._work, scale)
        self._put(out, self._queries, mine.out)
        self._put(lse, self._queries, mine.lse)

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The share of dq at the edges (B, E, D), and dk and dv of the keys (B, R, D) that came, in float32."""
        kind = accumulator_dtype(q.dtype)
        dout_, q_, out_, lse_ = (self._of(x, self._queries) for x in (dout, q, out, lse))
        dq, dk, dv = (x.new_zeros(x.shape, dtype=kind) for x in (q_, k, v))
        run_backward(dout_, q_, k, v, out_, lse_, (dq, dk, dv), self._work, scale)
        return dq, dk, dv

    def add_queries_(self, dq: Tensor, share: Tensor) -> None:
        """Add a share (B, E, D) to dq (B, H, C, D)."""
        if len(self._queries):
            self._put(dq, self._queries, self._of(dq, self._queries).to(share.dtype) + share)

    def add_keys_(self, dk: Tensor, dv: Tensor, data: Tensor, parts: Sequence[Sequence[int]]) -> None:
        """Add gradients that came back, of each message's keys and then values, to dk and dv (B, H, C, D)."""
        if not len(self._keys):
            return
        batch, dim, at = dk.size(0), dk.size(-1), 0
        totals = [self._of(x, self._keys).to(data.dtype) for x in (dk, dv)]
        for rows, counts in zip(self._sent, parts, strict=True):
            for total in totals:
                added = data[at : at + batch * len(rows) * dim].view(batch, len(rows), dim)
                at += added.numel()
                first = 0
                for count in counts:
                    part = slice(first, first + count)
                    add_rows(total, rows[part], added[:, part], True)
                    first += count
        for x, total in zip((dk, dv), totals, strict=True):
            self._put(x, self._keys, total)

    def _of(self, x: Tensor, rows: Tensor) -> Tensor:
        """Some rows (B, E, ..) of (B, H, C, ..)."""
        return x[:, rows // self._count, rows % self._count]

    def _put(self, x: Tensor, rows: Tensor, values: Tensor) -> None:
        x[:, rows // self._count, rows % self._count] = values.to(x.dtype)


def _together(rows: Sequence[Tensor], device: torch.device) -> Tensor:
    """All rows that are named, each once, in order."""
    named = [each.flatten() for each in rows]
    return torch.cat(named).unique() if named else torch.zeros(0, dtype=torch.int64, device=device)
