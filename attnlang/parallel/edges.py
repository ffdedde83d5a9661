"""The few rows of a rank that meet keys of others, or whose keys others meet, where all its rows are one plan's.

The plan's results then stay as its backend returned them, in the dtype of q, and only these rows are added to, in
float32: where they lie, if they are one stretch of every head and one kernel's work, and taken out and put back if not.
Rows are flat: row i of head h of a rank with C rows is h * C + i.

Shape legend: B batch, H heads, C rows of this rank, E rows at its edges, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from attnlang.parallel.choosing import kernel_of
from attnlang.parallel.engine import Partial, Work, first_of_stretch, run, run_backward, take
from attnlang.parallel.lanes import Lane
from attnlang.runtime.kernels import Kernel
from attnlang.runtime.merge import accumulator_dtype, merge_


class _Rows:
    """Some flat rows of tensors (B, H, C, ..): the same stretch of every head, as an edge mostly is, or any."""

    def __init__(self, rows: Tensor, count: int) -> None:
        self.rows = rows
        self._head, self._row = rows // count, rows % count
        self._count = count

    @cached_property
    def stretch(self) -> tuple[int, slice] | None:
        """Of how many heads, and which rows of each."""
        if not len(self.rows):
            return None
        heads = int(self._head[-1]) + 1
        first, each = int(self._row[0]), len(self.rows) // heads
        device = self.rows.device
        expected = torch.arange(heads, device=device)[:, None] * self._count + first + torch.arange(each, device=device)
        same = expected.numel() == len(self.rows) and bool(torch.equal(expected.flatten(), self.rows))
        return (heads, slice(first, first + each)) if same and first + each <= self._count else None

    def _part(self, x: Tensor) -> slice | None:
        """Which rows of each head of x these are, if the same of every one."""
        return self.stretch[1] if self.stretch is not None and self.stretch[0] == x.size(1) else None

    def view(self, x: Tensor) -> Tensor:
        """These rows of (B, H, C, ..), in order: (B, H, E / H, ..) without a copy if it can be, else (B, E, ..)."""
        part = self._part(x)
        return x[:, self._head, self._row] if part is None else x[:, :, part]

    def of(self, x: Tensor) -> Tensor:
        """These rows (B, E, ..) of (B, H, C, ..)."""
        found = self.view(x)
        return found if self._part(x) is None else found.flatten(1, 2)

    def put(self, x: Tensor, values: Tensor) -> None:
        """Make values (B, E, ..) these rows of (B, H, C, ..), in its dtype."""
        part = self._part(x)
        if part is None:
            x[:, self._head, self._row] = values.to(x.dtype)
            return
        rows = x[:, :, part]
        if values.data_ptr() != rows.data_ptr():  # (of a single head, `of` is a view: what was done to it is done)
            rows.copy_(values.reshape(rows.shape))

    def add_(self, x: Tensor, values: Tensor) -> None:
        """Add values (B, E, ..) to these rows of (B, H, C, ..): in the wider dtype of both, and then rounded."""
        part = self._part(x)
        if part is None:
            self.put(x, self.of(x).to(values.dtype) + values)
        else:
            rows = x[:, :, part]
            rows.add_(values.reshape(rows.shape))


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
            [
                _stretch_or_rows(part)
                for part in torch.searchsorted(self._keys.rows, rows_).split([count for count in counts if count])
                if len(part)
            ]
            for rows_, counts in zip(key_rows, key_parts, strict=True)
        ]

    def messages(self, k: Tensor, v: Tensor) -> list[list[Tensor]]:
        """What every rank is sent: rows of k and of v (B, H, C, D)."""
        return [[rows.view(x) for x in (k, v)] if len(rows.rows) else [] for rows in self._sends]

    def _in_place(self, q: Tensor, k: Tensor, backend: str) -> tuple[Work, slice, Kernel] | None:
        """The only work there is, the rows of every head that it is for, and its kernel, if that runs it on views.

        Its keys are all that came, in their order.
        """
        if len(self._work) != 1 or self._queries.stretch is None:
            return None
        (work,), (heads, rows) = self._work, self._queries.stretch
        each = rows.stop - rows.start
        if work.times is not None or work.q.shape != (heads, each) or work.q_first != 0 or q.size(1) != heads:
            return None
        if work.k_first != 0 or work.k.numel() != k.size(1):
            return None
        kernel = kernel_of(work.call, backend, q.device, q.dtype, q.size(-1))
        return (work, rows, kernel) if kernel.windows or work.call.full or work.call.causal else None

    def merge_(
        self, out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str = "auto",
        lane: Lane | None = None,
    ) -> None:  # fmt: skip
        """Merge what the rows meet in keys (B, R, D) that came into out (B, H, C, D) and lse (B, H, C).

        What can be computed without out and lse runs in the lane, if one is given.
        """
        if not self._work:
            return
        if (found := self._in_place(q, k, backend)) is not None:
            work, rows, kernel = found
            k_, v_ = (take(x, work.k, work.k_first) for x in (k, v))
            given = q[:, :, rows], k_, v_, work.call, scale
            part, part_lse = kernel.forward(*given) if lane is None else lane.run(kernel.forward, *given)
            merge_(out[:, :, rows], lse[:, :, rows], part, part_lse)
            return
        mine = Partial.of(self._queries.of(out), self._queries.of(lse))
        run(self._queries.of(q), k, v, mine, self._work, scale, backend)
        self._queries.put(out, mine.out)
        self._queries.put(lse, mine.lse)

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float,
        backend: str = "auto",
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """The share of dq at the edges (B, E, D), and dk and dv of the keys (B, R, D) that came.

        In float32, or as the kernel returned them where there is nothing to add up.
        """
        if (found := self._in_place(q, k, backend)) is not None:
            work, rows, kernel = found
            k_, v_ = (take(x, work.k, work.k_first) for x in (k, v))
            dout_, q_, out_, lse_ = (x[:, :, rows] for x in (dout, q, out, lse))
            parts = kernel.backward(dout_, q_, k_, v_, out_, lse_, work.call, scale)
            return parts[0].flatten(1, 2), parts[1].flatten(1, 2), parts[2].flatten(1, 2)
        kind = accumulator_dtype(q.dtype)
        dout_, q_, out_, lse_ = (self._queries.of(x) for x in (dout, q, out, lse))
        dq, dk, dv = (x.new_zeros(x.shape, dtype=kind) for x in (q_, k, v))
        run_backward(dout_, q_, k, v, out_, lse_, (dq, dk, dv), self._work, scale, backend)
        return dq, dk, dv

    def add_queries_(self, dq: Tensor, share: Tensor) -> None:
        """Add a share (B, E, D) to dq (B, H, C, D)."""
        if len(self._queries.rows):
            self._queries.add_(dq, share)

    def add_keys_(self, dk: Tensor, dv: Tensor, data: Tensor) -> None:
        """Add gradients that came back, of each message's keys and then values, to dk and dv (B, H, C, D)."""
        if not len(self._keys.rows):
            return
        batch, dim, at = dk.size(0), dk.size(-1), 0
        named = [len(parts) for parts in self._returns if parts]
        once = named == [1]  # then nothing is added twice to a row, and there is nothing to add up first
        totals = [] if once else [self._keys.of(x).to(data.dtype) for x in (dk, dv)]
        for sent, parts in zip(self._sends, self._returns, strict=True):
            for number, x in enumerate((dk, dv)):
                added = data[at : at + batch * len(sent.rows) * dim].view(batch, len(sent.rows), dim)
                at += added.numel()
                first = 0
                for rows, count in parts:
                    if once:
                        sent.add_(x, added)
                    else:
                        totals[number][:, rows] += added[:, first : first + count]
                    first += count
        for x, total in zip((dk, dv), totals, strict=False):
            self._keys.put(x, total)


def _stretch_or_rows(rows: Tensor) -> tuple[slice | Tensor, int]:
    """Rows that are all different, as a slice if they follow one another; and how many they are."""
    count, first = len(rows), first_of_stretch(rows)
    return rows if first is None else slice(first, first + count), count


def _together(rows: Sequence[Tensor], device: torch.device) -> Tensor:
    """All rows that are named, each once, in order."""
    named = [each.flatten() for each in rows]
    return torch.cat(named).unique() if named else torch.zeros(0, dtype=torch.int64, device=device)
