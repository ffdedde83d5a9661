"""The work of a launch cut into pieces, in plain integers: what `hopper` reads instead of computing it.

A piece is a head, some consecutive queries of one residue class, and all tiles of keys that they meet: of their own run
within its band, and of the outer runs of nested lattices (`nesting`, and `streams.band` and `streams.outer`, which
compute the same). Divisions that a GPU would repeat in every piece are made here, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from attnlang.plan import Band
from attnlang.runtime.triton.launches import Launch
from attnlang.runtime.triton.nesting import MOST_PARTS

Ints: TypeAlias = npt.NDArray[np.int64]
COLUMNS = 64
"""Integers of a piece: those of its consumers from 0, those of its loader from 16, eight for each outer run from 24."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How a tensor is seen as a matrix (`matrices`): its stride of a token, and how far batch items and heads lie."""

    stride: int
    place: tuple[int, int, int, int]

    def corner(self, token: Ints, head: Ints, batch: Ints, rate: Ints) -> tuple[Ints, Ints]:
        """Row and column of a token of a head, in the matrix of a rate."""
        by_batch, by_head, column_by_batch, column_by_head = self.place
        at = token + head * by_head + batch * by_batch
        return at // rate, at % rate * self.stride + head * column_by_head + batch * column_by_batch


def pieces(
    launch: Launch, band: Band, n: int, batch: int, fixed: int, streamed: int, x: Seen, y: Seen
) -> npt.NDArray[np.int32]:
    """(pieces, COLUMNS), for `fixed` rows a piece and `streamed` rows a tile. Columns:

    0 batch, 1 head, 2 flags, 3 first token, 4 step, 5 rows of the class, 6 first row;
    own run: 7 tiles, 8 first row (a multiple of a tile), 9 first token, 10 rate, 11 rows;
    tiles of outer runs: 12 weighted, and 13 after them with weight 1;
    16 and 17 row and column of the own run's first tile in x, 18 and 19 in y, 20 its row of weights;
    outer run p at 24 + 8 (p - 1): row and column in x, in y, row where to jump, how far, tiles, row of weights.
    """
    entries, tiles = launch.entries, launch.tiles
    b, e, run, t = (
        axis.ravel()
        for axis in np.meshgrid(
            np.arange(batch), np.arange(len(entries)), np.arange(launch.count), np.arange(len(tiles)), indexing="ij"
        )
    )
    t = (t + run) % len(tiles)  # long and short pieces in turn, for every program that takes each so manyth
    head, phase, flags, other = (
        np.array([(i.head, i.phase, i.flags, i.members[0]) for i in entries], np.int64)[e].T
    )  # fmt: skip
    level, step, shift, row0 = np.array([(i.level, i.step, i.shift, i.row0) for i in tiles], np.int64)[t].T
    run_start = launch.first + run * launch.period
    run_end = np.minimum(run_start + launch.width, n)
    base = run_start + (phase + shift) % step
    base += np.where(base < 0, -(np.minimum(base, 0) // step) * step, 0)
    rows = _up(np.maximum(run_end - base, 0), step)
    rate, start = step, base
    if launch.nested:
        rate = np.full_like(step, launch.chain[0][1])
        start = run_start + phase % rate
    limit = _up(np.maximum(run_end - start, 0), rate)
    most = base + (np.minimum(row0 + fixed, rows) - 1) * step
    begin, end = np.zeros_like(limit), limit
    if band.lo is not None:
        begin = _up(np.maximum(base + row0 * step + band.lo - start, 0), rate) // streamed * streamed
    if band.hi is not None:
        end = np.minimum(np.maximum(most + band.hi - start + rate, 0) // rate, limit)
    own = _up(np.maximum(end - begin, 0), streamed)

    table = np.zeros((len(b), COLUMNS), np.int64)
    table[:, :12] = np.stack((b, head, flags, base, step, rows, row0, own, begin, start, rate, limit), 1)
    weights = _weights_row(launch, e)
    x_row, x_column = x.corner(start, other, b, rate)
    y_row, y_column = y.corner(start, other, b, rate)
    table[:, 16:21] = np.stack((x_row + begin, x_column, y_row + begin, y_column, weights + level), 1)
    for part in range(1, launch.parts):
        outer = _outer(launch, band, part, run_start, phase, n)
        count = np.where((level >= part) & (own > 0), _up(outer.last, streamed), 0)
        x_row, x_column = x.corner(outer.start, other, b, outer.rate)
        y_row, y_column = y.corner(outer.start, other, b, outer.rate)
        row = weights + part * MOST_PARTS + level
        at = 16 + 8 * part
        table[:, at : at + 8] = np.stack((x_row, x_column, y_row, y_column, outer.own, outer.length, count, row), 1)
        plain = level == part  # (a query meets the keys of the largest run that it is in once)
        table[:, 12] += np.where(plain, 0, count)
        table[:, 13] += np.where(plain, count, 0)
    return table[row0 < rows].astype(np.int32)


def tiles(table: npt.NDArray[np.int32], parts: int) -> Ints:
    """How many tiles each piece has, of its own run and of outer ones."""
    return table[:, [7, *(24 + 8 * (part - 1) + 6 for part in range(1, parts))]].astype(np.int64).sum(1)


@dataclass(frozen=True, slots=True)
class _Outer:
    """An outer run: first token, rate, rows before its inner run, rows of that run, and all other rows that count."""

    start: Ints
    rate: Ints
    own: Ints
    length: Ints
    last: Ints


def _outer(launch: Launch, band: Band, part: int, run_start: Ints, phase: Ints, n: int) -> _Outer:
    inner_width = launch.chain[part - 1][0]
    width, dilation = launch.chain[part]
    outer_start = run_start // width * width
    start = outer_start + phase % dilation
    rate = np.full_like(start, dilation)
    limit = _up(np.minimum(outer_start + width, n) - start, rate)
    own = (run_start // inner_width * inner_width - outer_start) // dilation
    length = np.full_like(start, inner_width // dilation)
    last = own if band.hi is not None else np.maximum(limit - length, own)
    return _Outer(start, rate, own, length, last)


def _up(a: Ints, b: Any) -> Ints:
    return -(-a // b)


def _weights_row(launch: Launch, entry: Ints) -> Ints:
    """The first row of weights of each piece's phase."""
    if not launch.weighted:
        return np.zeros_like(entry)
    classes = _phases(launch)
    return np.array([classes.index(i.phase) for i in launch.entries], np.int64)[entry] * launch.parts * MOST_PARTS


def _phases(launch: Launch) -> list[int]:
    return sorted({entry.phase for entry in launch.entries})


def weights(launch: Launch, log_m: npt.NDArray[np.float32], streamed: int) -> npt.NDArray[np.float32]:
    """Log2 m of the rows of a tile, by phase, part and level: (phases * parts * MOST_PARTS, streamed).

    log_m is (parts, MOST_PARTS, residues); multiplicities repeat from tile to tile.
    """
    if not launch.weighted:
        return np.zeros((1, streamed), np.float32)
    found: list[npt.NDArray[np.float32]] = []
    for phase in _phases(launch):
        for part in range(launch.parts):
            rate = launch.chain[part][1]
            residue = (np.arange(streamed) * rate + phase % rate - phase) % launch.residues
            found.append(log_m[part][:, residue])
    return np.concatenate(found)
