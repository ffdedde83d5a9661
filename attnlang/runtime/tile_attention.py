"""Attention over tiles in plain torch operations: what the `sdpa` backend does with what is no strided view.

Query blocks with equally many key blocks are one batch: their keys and values are gathered, scores are a matrix
product, pairs that do not count are -inf. Batches are cut so that no intermediate result is larger than `WORK` numbers.
The backward computes the scores again, from the merged lse.

Shape legend: B batch, G heads of a group, C query blocks of a chunk, Q rows of a block, T key tiles times keys of one,
N tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnlang.plan import Tiles
from attnlang.runtime.blocks import BLOCK, FULL, BlockLists, block_lists
from attnlang.runtime.merge import merge_

WORK = 2**24
"""How many scores are held at once."""
NONE = -2
"""The mask of a tile in which no pair counts."""


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Query blocks that meet equally many key blocks.

    rows     their numbers
    entries  the first entry in the lists of each of their tiles (blocks, tiles)
    often    how many entries the tile has: one, unless a pair of it counts several times
    """

    rows: NDArray[np.int64]
    entries: NDArray[np.int64]
    often: NDArray[np.int64]


@lru_cache(maxsize=64)
def batches(lists: BlockLists) -> tuple[Batch, ...]:
    """All query blocks that have keys, by how many key blocks they meet."""
    firsts = lists.firsts
    often = np.diff(firsts, append=lists.entries)
    starts = np.searchsorted(firsts, lists.starts)
    counts = np.diff(starts)
    found: list[Batch] = []
    for count in np.unique(counts[counts > 0]).tolist():
        rows = np.flatnonzero(counts == count)
        tiles = starts[rows][:, None] + np.arange(count)
        found.append(Batch(rows, firsts[tiles], often[tiles]))
    return tuple(found)


def lists_of(branch: Tiles, heads: int, n: int, tables: Mapping[str, Tensor], first: int = 0) -> tuple[BlockLists, ...]:
    """The tiles of a branch at this length, in blocks as this room uses them, with queries from `first` on."""
    content = {name: table.detach().cpu().numpy().astype(np.int64) for name, table in tables.items()}
    return block_lists(branch, heads, n, BLOCK, BLOCK, content, first)


@dataclass(frozen=True, eq=False, slots=True)
class _Chunk:
    """Some query blocks of a group, with tiles of theirs: tokens of their rows (C, Q) and keys (C, T).

    A tile with pairs that count m times is computed once, with log m added to their scores.
    """

    q: Tensor
    k: Tensor
    real: Tensor
    held: Tensor | None
    log_m: Tensor | None

    def scores(self, q_BGCQD: Tensor, k_BGCTD: Tensor, scale: float) -> Tensor:
        """Scaled scores (B, G, C, Q, T), -inf where a pair does not count."""
        s = _product(q_BGCQD, k_BGCTD.mT) * scale
        if self.log_m is not None:
            s += self.log_m.to(s.dtype)
        return s if self.held is None else s.masked_fill_(~self.held, float("-inf"))


def _chunks(lists: BlockLists, device: torch.device, batch: int, queries: int) -> Iterator[_Chunk]:
    room = max(1, WORK // (batch * len(lists.heads) * BLOCK * BLOCK))  # tiles at once
    for group in batches(lists):
        for column in range(0, group.entries.shape[1], room):
            tiles = slice(column, column + room)
            per_chunk = max(1, room // group.entries[:, tiles].shape[1])
            for at in range(0, len(group.rows), per_chunk):
                chosen = slice(at, at + per_chunk)
                some = Batch(group.rows[chosen], group.entries[chosen, tiles], group.often[chosen, tiles])
                yield _chunk(lists, some, device, lists.n - queries)


def _chunk(lists: BlockLists, some: Batch, device: torch.device, first: int) -> _Chunk:
    """Queries are counted from `first`, for which those before it stand, as the last token for rows and keys past the
    end: no pair of theirs counts.
    """
    steps = np.arange(BLOCK)
    q = some.rows[:, None] * BLOCK + steps
    k = (lists.blocks[some.entries].astype(np.int64)[:, :, None] * BLOCK + steps).reshape(len(q), -1)
    last = lists.n - 1
    q_tokens, k_tokens = (
        torch.from_numpy(x).to(device) for x in (np.clip(q, first, last) - first, np.minimum(k, last))
    )
    real = (first <= q) & (q <= last)
    return _Chunk(q_tokens, k_tokens, torch.from_numpy(real).to(device), *_counted(lists, some, real, device))


def _counted(
    lists: BlockLists, some: Batch, real: NDArray[np.bool_], device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Which pairs of a chunk count, (C, Q, T) booleans, and the log of how often; None where all do, and do once.

    `real` says which rows (C, Q) do.
    """
    masks = lists.masks[some.entries]
    if (some.often == 1).all():
        if (masks == FULL).all() and real.all():
            return None, None
        return _bits(lists, masks, device) & torch.from_numpy(real).to(device)[:, :, None], None
    total = torch.zeros((), dtype=torch.int32, device=device)
    for layer in range(int(some.often.max())):
        here = some.often > layer
        masks = np.where(here, lists.masks[np.where(here, some.entries + layer, 0)], NONE)
        total = total + _bits(lists, masks, device)
    return (total > 0) & torch.from_numpy(real).to(device)[:, :, None], total.clamp(min=1).double().log_()


def _bits(lists: BlockLists, masks: NDArray[np.int32], device: torch.device) -> Tensor:
    """The pairs that masks (C, tiles) hold, as booleans (C, Q, T): all for `FULL`, none for `NONE`."""
    numbers = np.unique(masks)
    kept = np.zeros((len(numbers), BLOCK, BLOCK // 8), np.uint8)
    kept[numbers >= 0] = lists.bits[numbers[numbers >= 0]]
    kept[numbers == FULL] = 255
    packed = torch.from_numpy(kept).to(device)[torch.from_numpy(np.searchsorted(numbers, masks)).to(device)]
    shifts = torch.arange(8, device=device, dtype=torch.uint8)
    held = ((packed[..., None] >> shifts) & 1).bool().flatten(-2)  # (C, tiles, Q, keys)
    return held.transpose(1, 2).flatten(2)


def forward_(out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, lists: BlockLists, scale: float) -> None:
    """Merge the attention of a group's heads over their tiles into `out` (B, H, N, D) and `lse` (B, H, N)."""
    heads, kv_heads = _heads(lists, q, k)
    for chunk in _chunks(lists, q.device, q.size(0), q.size(2)):
        v_ = _rows(v, kv_heads, chunk.k)
        s = chunk.scores(_rows(q, heads, chunk.q), _rows(k, kv_heads, chunk.k), scale).to(out.dtype)
        part_lse = s.logsumexp(-1)
        p = (s - part_lse.masked_fill(part_lse == float("-inf"), 0.0).unsqueeze(-1)).exp_()
        part = _product(p.to(v.dtype), v_).to(out.dtype)
        tokens = chunk.q[chunk.real][None]
        mine, mine_lse = out[:, heads[:, None], tokens], lse[:, heads[:, None], tokens]
        merge_(mine, mine_lse, part[:, :, chunk.real], part_lse[:, :, chunk.real])
        out[:, heads[:, None], tokens] = mine
        lse[:, heads[:, None], tokens] = mine_lse


def backward_(
    grads: tuple[Tensor, Tensor, Tensor],
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    lists: BlockLists,
    scale: float,
) -> None:
    """Add the gradients of a group's heads over their tiles to dq, dk and dv, from the merged out and lse.

    dq (B, H, N, D), dk and dv (B, Hkv, N, D) are contiguous, in the dtype that partial results are added up in.
    """
    heads, kv_heads = _heads(lists, q, k)
    dq, dk, dv = grads
    kind = dq.dtype
    for chunk in _chunks(lists, q.device, q.size(0), q.size(2)):
        q_, dout_, out_ = (_rows(x, heads, chunk.q) for x in (q, dout, out))
        k_, v_ = (_rows(x, kv_heads, chunk.k) for x in (k, v))
        lse_ = _rows(lse, heads, chunk.q)
        s = chunk.scores(q_, k_, scale).to(kind)
        p = (s - lse_.masked_fill(lse_ == float("-inf"), float("inf")).unsqueeze(-1)).exp_()
        delta = (dout_.to(kind) * out_.to(kind)).sum(-1, keepdim=True)
        ds = (p * (_product(dout_, v_.mT).to(kind) - delta) * scale).to(q.dtype)
        _add_rows_(dq, heads, chunk.q, _product(ds, k_))
        _add_rows_(dk, kv_heads, chunk.k, _product(ds.mT, q_))
        _add_rows_(dv, kv_heads, chunk.k, _product(p.to(v.dtype).mT, dout_))


def _heads(lists: BlockLists, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The heads of a group, and the heads of k and v that they read."""
    heads = torch.tensor(lists.heads, device=q.device)
    return heads, heads // (q.size(1) // k.size(1))


def _rows(x: Tensor, heads: Tensor, tokens: Tensor) -> Tensor:
    """Rows of some heads: (B, H, N, ..) at tokens (C, Q)  -->  (B, G, C, Q, ..)"""
    return x[:, heads[:, None, None], tokens[None]]


def _add_rows_(total: Tensor, heads: Tensor, tokens: Tensor, part: Tensor) -> None:
    """Add (B, G, C, Q, D) to rows of (B, H, N, D); rows and heads may come several times."""
    flat = total.view(total.size(0), -1, total.size(-1))
    index = heads[:, None] * total.size(2) + tokens.flatten()[None]
    flat.index_add_(1, index.flatten(), part.to(total.dtype).flatten(1, 3))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product; half precisions are multiplied as they are, and added up and returned in float32."""
    if a.dtype not in (torch.float16, torch.bfloat16):
        return a @ b
    if not a.is_cuda:
        return a.float() @ b.float()
    flat = torch.bmm(a.flatten(0, -3), b.flatten(0, -3), out_dtype=torch.float32)
    return flat.view(*a.shape[:-1], b.size(-1))
