"""One rank's forward and backward under a schedule, as steps between which messages travel.

    forward    send k, v, q  ·  own rows  ·  queries that came  ·  send their partial results back  ·  keys that came
    backward   send d_out, out, lse  ·  keys that came  ·  queries that came  ·  send gradients back  ·  own rows

The steps are generators: they yield a `Start` with what to send, later a `Wait` for what arrives, and compute in
between, so that communication overlaps with computing. Who drives them decides how messages travel: torch.distributed
(`attnlang.parallel.wire`), or a loop over all ranks on one device (`attnlang.parallel.streaming`).

Shape legend: B batch, H heads, C rows of this rank, R flat rows, D head dimension.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from attnlang.parallel.choosing import fills_the_gpu, kernel_of
from attnlang.parallel.edges import Edges
from attnlang.parallel.engine import (
    Partial,
    add_rows,
    prepared,
    run,
    run_backward,
)
from attnlang.parallel.lanes import Lane
from attnlang.parallel.own_rows import OwnRows
from attnlang.parallel.recipe import Recipe, recipe
from attnlang.runtime.merge import accumulator_dtype
from attnlang.schedule import Schedule


@dataclass(frozen=True, eq=False, slots=True)
class Start:
    """Send `data`, (sum of sends) numbers in the order of ranks, and expect so many from each."""

    data: Tensor
    sends: tuple[int, ...]
    receives: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Wait:
    """Give what arrived for a start, the oldest that was not yet waited for."""


Steps: TypeAlias = "Generator[Start | Wait, Tensor, Any]"


@dataclass(frozen=True, eq=False, slots=True)
class Kept:
    """What the backward needs besides q, k, v, out and lse: rows that came from others."""

    k: Tensor
    v: Tensor
    q: Tensor


class RankWork:
    """A schedule on one rank and device, with everything derived from it that does not depend on the batch."""

    def __init__(
        self, schedule: Schedule, rank: int, device: torch.device, head_dim: int, backend: str = "auto"
    ) -> None:
        self.schedule = schedule
        self.backend = backend
        self.recipe: Recipe = recipe(schedule, rank)
        self.device = device
        self.key_rows = self._rows(self.recipe.key_sends)
        self.query_rows = self._rows(self.recipe.query_sends)
        r = self.recipe
        self.own, self.foreign_queries, self.gathered, self.foreign_keys = (
            prepared(groups, device, head_dim) for groups in (r.own, r.foreign_queries, r.gathered, r.foreign_keys)
        )
        self.tables = {name: torch.from_numpy(np.asarray(content, np.int64)) for name, content in schedule.tables}
        self.mine = OwnRows(r, backend, self.tables)
        self.talks = communicates(schedule)
        self.ships = ships_queries(schedule)
        self.edges: Edges | None = None
        if self.talks and not (self.ships or self.own):
            self.edges = Edges(self.foreign_keys, self.key_rows, r.key_parts, r.rows, device)

    def _rows(self, sends: Sequence[Any]) -> list[Tensor]:
        return [torch.from_numpy(rows).to(self.device) for rows in sends]

    def check(self, q: Tensor) -> None:
        """Raises ValueError, naming what can, where no kernel runs some of it: before others wait for this rank."""
        self.mine.check(q)
        for work in (*self.own, *self.foreign_queries, *self.gathered, *self.foreign_keys):
            if work.times is None:
                kernel_of(work.call, self.backend, q.device, q.dtype, q.size(-1))

    # forward -------------------------------------------------------------------------------------------------------

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Steps:
        """Returns (out (B, H, C, D) in q's dtype, lse (B, H, C), Kept)."""
        whole = self.mine.whole(q)
        if whole is not None and not self.talks and not self.own:
            out, lse = self.mine.run_whole(whole, q, k, v, scale)
            return out, lse, _nothing(q)
        batch, heads, rows, dim = q.shape
        if whole is not None and self.edges is not None:
            yield start(self.edges.messages(k, v), self._forward_sizes(batch, dim), q)
            if fills_the_gpu(whole, q):
                kept = self._unpacked((yield Wait()), batch, dim)
                lane = Lane(q.device)
                out, lse = self.mine.run_whole(whole, q, k, v, scale)
            else:
                out, lse = self.mine.run_whole(whole, q, k, v, scale)
                kept, lane = self._unpacked((yield Wait()), batch, dim), None
            self.edges.merge_(out, lse, q, kept.k, kept.v, scale, self.backend, lane)
            return out, lse, kept
        q_, k_, v_ = (x.reshape(batch, x.size(1) * rows, dim) for x in (q, k, v))
        if self.talks:
            messages = [self._forward_message(q_, k_, v_, to) for to in range(self.schedule.ranks)]
            yield start(messages, self._forward_sizes(batch, dim), q_)
        mine = Partial.empty(q_, heads * rows)
        self.mine.forward_(q, k, v, mine, scale)
        run(q_, k_, v_, mine, self.own, scale, self.backend)
        kept = _nothing(q)
        if self.talks:
            kept = self._unpacked((yield Wait()), batch, dim)
        if self.ships:
            theirs = Partial.empty(q_, kept.q.size(1))
            run(kept.q, k_, v_, theirs, self.foreign_queries, scale, self.backend)
            run(kept.q, kept.k, kept.v, theirs, self.gathered, scale, self.backend)
            sizes = [batch * len(rows_) * (dim + 1) for rows_ in self.query_rows]
            yield start(self._results(theirs), sizes, theirs.out)
        run(q_, kept.k, kept.v, mine, self.foreign_keys, scale, self.backend)
        if self.ships:
            self._merge_results(mine, (yield Wait()), batch, dim)
        out = mine.out.view(batch, heads, rows, dim).to(q.dtype)
        return out, mine.lse.view(batch, heads, rows), kept

    def _forward_message(self, q: Tensor, k: Tensor, v: Tensor, to: int) -> list[Tensor]:
        keys, queries = self.key_rows[to], self.query_rows[to]
        parts = [x[:, keys] for x in (k, v)] if len(keys) else []
        return [*parts, q[:, queries]] if len(queries) else parts

    def _forward_sizes(self, batch: int, dim: int) -> list[int]:
        r = self.recipe
        return [batch * dim * (2 * keys + queries) for keys, queries in zip(r.keys_from, r.queries_from, strict=True)]

    def _unpacked(self, data: Tensor, batch: int, dim: int) -> Kept:
        """Messages of all ranks as rows of k, of v and of q."""
        r = self.recipe
        found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        at = 0
        for keys, queries in zip(r.keys_from, r.queries_from, strict=True):
            for place, count in enumerate((keys, keys, queries)):
                size = batch * count * dim
                if count:
                    found[place].append(data[at : at + size].view(batch, count, dim))
                at += size
        none = data.new_zeros((batch, 0, dim))
        views = all(len(parts) < 2 for parts in found)  # (of all of it: a view of some would keep the rest as well)
        k, v, q = (parts[0] if views and parts else torch.cat([none, *parts], 1) for parts in found)
        return Kept(k, v, q)

    def _results(self, theirs: Partial) -> list[list[Tensor]]:
        messages: list[list[Tensor]] = []
        at = 0
        for count in self.recipe.queries_from:
            rows = slice(at, at + count)
            messages.append([theirs.out[:, rows], theirs.lse[:, rows]] if count else [])
            at += count
        return messages

    def _merge_results(self, mine: Partial, data: Tensor, batch: int, dim: int) -> None:
        at = 0
        for rows, parts in zip(self.query_rows, self.recipe.query_parts, strict=True):
            out = data[at : at + batch * len(rows) * dim].view(batch, len(rows), dim)
            at += out.numel()
            lse = data[at : at + batch * len(rows)].view(batch, len(rows))
            at += lse.numel()
            first = 0
            for count in parts:
                if count:
                    part = slice(first, first + count)
                    mine.merge(rows[part], out[:, part], lse[:, part])
                first += count

    # backward ------------------------------------------------------------------------------------------------------

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, kept: Kept, scale: float
    ) -> Steps:
        """Returns (dq, dk, dv), in the shapes and dtypes of q, k and v."""
        dout = dout if dout.stride(-1) == 1 else dout.contiguous()
        whole = self.mine.whole(q)
        if whole is not None and not self.talks and not self.own:
            return self.mine.run_whole_backward(whole, dout, q, k, v, out, lse, scale)
        if whole is not None and self.edges is not None:
            return (yield from self._backward_at_edges(self.edges, whole, dout, q, k, v, out, lse, kept, scale))
        batch, heads, rows, dim = q.shape
        q_, k_, v_, dout_, out_ = (x.reshape(batch, x.size(1) * rows, dim) for x in (q, k, v, dout, out))
        lse_ = lse.reshape(batch, heads * rows)
        kind = accumulator_dtype(q.dtype)
        dq, dk, dv = (x.new_zeros(x.shape, dtype=kind) for x in (q_, k_, v_))
        their_dq, their_dk, their_dv = (x.new_zeros(x.shape, dtype=kind) for x in (kept.q, kept.k, kept.v))
        if self.ships:
            ratio = kind.itemsize // q.dtype.itemsize
            sizes = [batch * count * (2 * dim + ratio) for count in self.recipe.queries_from]
            messages = [self._backward_message(dout_, out_, lse_, rows_) for rows_ in self.query_rows]
            yield start(messages, sizes, q_)
        run_backward(
            dout_, q_, kept.k, kept.v, out_, lse_, (dq, their_dk, their_dv), self.foreign_keys, scale, self.backend
        )
        if self.ships:
            their_dout, their_out, their_lse = self._unpacked_backward((yield Wait()), batch, dim, kind)
            for k1, v1, grads, work in (
                (k_, v_, (their_dq, dk, dv), self.foreign_queries),
                (kept.k, kept.v, (their_dq, their_dk, their_dv), self.gathered),
            ):
                run_backward(their_dout, kept.q, k1, v1, their_out, their_lse, grads, work, scale, self.backend)
        if self.talks:
            sizes = [
                batch * dim * (2 * len(keys) + len(queries))
                for keys, queries in zip(self.key_rows, self.query_rows, strict=True)
            ]
            yield start(self._gradients(their_dq, their_dk, their_dv), sizes, dq)
        shaped = dq.view(q.shape), dk.view(k.shape), dv.view(v.shape)
        self.mine.backward_(dout, q, k, v, out, lse, shaped, scale)
        run_backward(dout_, q_, k_, v_, out_, lse_, (dq, dk, dv), self.own, scale, self.backend)
        if self.talks:
            self._add_gradients((dq, dk, dv), (yield Wait()), batch, dim)
        return shaped[0].to(q.dtype), shaped[1].to(k.dtype), shaped[2].to(v.dtype)

    def _backward_at_edges(
        self, edges: Edges, whole: str, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
        kept: Kept, scale: float,
    ) -> Steps:  # fmt: skip
        batch, _, _, dim = q.shape
        kind = accumulator_dtype(q.dtype)
        sizes = [batch * dim * 2 * len(keys) for keys in self.key_rows]
        share, their_dk, their_dv = edges.backward(dout, q, kept.k, kept.v, out, lse, scale, self.backend)
        yield start(self._gradients(share[:, :0], their_dk, their_dv), sizes, q.new_empty(0, dtype=kind))
        rest = self.mine.begin_whole_backward(whole, dout, q, k, v, out, lse, scale)
        came = (yield Wait()) if fills_the_gpu(whole, q) else None
        dq, dk, dv = rest()
        edges.add_queries_(dq, share)
        edges.add_keys_(dk, dv, (yield Wait()) if came is None else came)
        return dq, dk, dv

    def _backward_message(self, dout: Tensor, out: Tensor, lse: Tensor, rows: Tensor) -> list[Tensor]:
        """The lse, as numbers of q's dtype, comes first, so that it is aligned where it arrives."""
        if not len(rows):
            return []
        return [lse[:, rows].contiguous().view(dout.dtype), dout[:, rows], out[:, rows]]

    def _unpacked_backward(
        self, data: Tensor, batch: int, dim: int, kind: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        ratio = kind.itemsize // data.dtype.itemsize
        lses: list[Tensor] = [data.new_zeros((batch, 0), dtype=kind)]
        douts: list[Tensor] = [data.new_zeros((batch, 0, dim))]
        outs: list[Tensor] = [data.new_zeros((batch, 0, dim))]
        at = 0
        for count in self.recipe.queries_from:
            if not count:
                continue
            lses.append(data[at : at + batch * count * ratio].clone().view(kind).view(batch, count))
            at += batch * count * ratio
            for found in (douts, outs):
                found.append(data[at : at + batch * count * dim].view(batch, count, dim))
                at += batch * count * dim
        return torch.cat(douts, 1), torch.cat(outs, 1), torch.cat(lses, 1)

    def _gradients(self, dq: Tensor, dk: Tensor, dv: Tensor) -> list[list[Tensor]]:
        messages: list[list[Tensor]] = []
        key = query = 0
        for keys, queries in zip(self.recipe.keys_from, self.recipe.queries_from, strict=True):
            message = [x[:, key : key + keys] for x in (dk, dv)] if keys else []
            messages.append([*message, dq[:, query : query + queries]] if queries else message)
            key, query = key + keys, query + queries
        return messages

    def _add_gradients(self, grads: tuple[Tensor, Tensor, Tensor], data: Tensor, batch: int, dim: int) -> None:
        dq, dk, dv = grads
        at = 0
        r = self.recipe
        for to in range(self.schedule.ranks):
            keys, queries = self.key_rows[to], self.query_rows[to]
            for total, rows, parts in (
                (dk, keys, r.key_parts[to]),
                (dv, keys, r.key_parts[to]),
                (dq, queries, r.query_parts[to]),
            ):
                added = data[at : at + batch * len(rows) * dim].view(batch, len(rows), dim)
                at += added.numel()
                first = 0
                for count in parts:
                    part = slice(first, first + count)
                    add_rows(total, rows[part], added[:, part], True)
                    first += count


def start(messages: Sequence[Sequence[Tensor]], receives: Sequence[int], like: Tensor) -> Start:
    """Send messages, by rank, in the dtype of `like`."""
    sends = tuple(sum(part.numel() for part in message) for message in messages)
    return Start(sent_together(messages, like), sends, tuple(receives))


def sent_together(messages: Sequence[Sequence[Tensor]], like: Tensor) -> Tensor:
    """All numbers of all messages one after another: copied at once where they lie together, else part by part."""
    parts = [part for message in messages for part in message]
    if all(part.is_contiguous() and part.dtype == like.dtype for part in parts):
        return torch.cat([part.view(-1) for part in parts]) if parts else like.new_zeros(0)
    sizes = [part.numel() for part in parts]
    data = like.new_empty(sum(sizes))
    for place, part in zip(data.split(sizes), parts, strict=True):
        place.view(part.shape).copy_(part)
    return data


def _nothing(q: Tensor) -> Kept:
    """No rows that came."""
    none = q.new_zeros((q.size(0), 0, q.size(-1)))
    return Kept(none, none, none)


def communicates(schedule: Schedule) -> bool:
    """Whether any rank has something to send: then every rank takes part in every exchange."""
    return schedule.ranks > 1 and bool(schedule.transfers or schedule.gathered)


def ships_queries(schedule: Schedule) -> bool:
    """Whether any query is computed away from home."""
    return schedule.ranks > 1 and bool(schedule.gathered or any(t.queries for t in schedule.transfers))
