"""Sets of positions as rows of bits: for every query the positions that it has heard of, 64 to a word.

A step takes rows R to A R: each query's row becomes the union of the rows of its keys. Lattices take a step by running
unions along each residue class of each run, which costs a pass over the bits whatever the number of pairs; patterns of
any other form gather the rows of their keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnc.lower.pieces import ColumnsPiece, Piece
from attnlang.plan import Band, Runs

Bits: TypeAlias = NDArray[np.uint64]
"""(n, words): bit k of row q is set if q has heard of k."""


def identity(n: int) -> Bits:
    """Every position knows itself."""
    rows = np.zeros((n, -(-n // 64)), np.uint64)
    places = np.arange(n)
    rows[places, places // 64] = np.uint64(1) << (places % 64).astype(np.uint64)
    return rows


def packed(matrix: NDArray[np.bool_]) -> Bits:
    """A boolean matrix as rows of bits."""
    n = matrix.shape[1]
    padded = np.zeros((matrix.shape[0], -(-n // 64) * 64), bool)
    padded[:, :n] = matrix
    return np.packbits(padded, axis=1, bitorder="little").view("<u8")


def unpacked(rows: Bits, n: int) -> NDArray[np.uint8]:
    """Rows of bits as rows of 0 and 1."""
    return np.unpackbits(rows.view(np.uint8), axis=1, count=n, bitorder="little")


# steps of lattices --------------------------------------------------------------------------------------------------


def add_piece(out: Bits, rows: Bits, piece: Piece, *, causal: bool = False) -> None:
    """Add to each row of `out` the rows of its keys: out |= A rows, where A holds the pairs of a piece.

    causal   whether no row holds a position after its own, nor will: then half of the words need no look
    """
    if isinstance(piece, ColumnsPiece):
        _add_columns(out, rows, piece)
        return
    r = piece.dilation
    lo, hi = (None if end is None else end // r for end in (piece.band.lo, piece.band.hi))
    for begin, end, first in _runs(piece.runs, len(rows)):
        classes = range(r) if piece.phase is None else (piece.phase,)
        for phase in classes:
            places = slice(begin + (phase - first) % r, end, r)
            if places.start < end and causal and lo is None and hi == 0:
                _add_prefixes(out[places], rows[places], places.start, r)
            elif places.start < end:
                _add_windowed(out[places], rows[places], Band(lo, hi))


def _runs(runs: Runs | None, n: int) -> Iterator[tuple[int, int, int]]:
    """(first position, end, coordinate of the first position) of every run of a sequence."""
    if runs is None:
        yield 0, n, 0
        return
    number = -((runs.start + runs.width - 1) // runs.period)
    while (begin := runs.start + number * runs.period) < n:
        if begin + runs.width > 0:
            yield max(0, begin), min(n, begin + runs.width), max(0, -begin)
        number += 1


def _add_windowed(out: Bits, rows: Bits, band: Band) -> None:
    """out[i] |= union of rows[j], j - i in the band."""
    m = len(rows)
    lo = -(m - 1) if band.lo is None else max(band.lo, -(m - 1))
    hi = m - 1 if band.hi is None else min(band.hi, m - 1)
    if lo > hi:
        return
    if lo == hi:
        _add_shifted(out, rows, lo)
    elif lo == -(m - 1):
        _add_shifted(out, _running(rows), hi, fill_end=True)
    elif hi == m - 1:
        _add_shifted(out[::-1], _running(rows[::-1]), -lo, fill_end=True)
    else:
        _add_sliding(out, rows, lo, hi)


def _add_prefixes(out: Bits, rows: Bits, first: int, step: int) -> None:
    """out[i] |= union of rows[0..i], where row i is that of position first + i step, and holds nothing after it."""
    heard = np.zeros(rows.shape[1], np.uint64)
    for i, (mine, row) in enumerate(zip(out, rows, strict=True)):
        words = (first + i * step) // 64 + 1
        known = heard[:words]
        np.bitwise_or(known, row[:words], out=known)
        np.bitwise_or(mine[:words], known, out=mine[:words])


def _running(rows: Bits) -> Bits:
    """Row i of the result is the union of rows 0..i. Row by row: numpy's accumulate strides through memory instead."""
    result = np.empty_like(rows)
    if len(rows):
        result[0] = rows[0]
    for i in range(1, len(rows)):
        np.bitwise_or(result[i - 1], rows[i], out=result[i])
    return result


def _add_shifted(out: Bits, rows: Bits, by: int, fill_end: bool = False) -> None:
    """out[i] |= rows[i + by]; past the end of the rows nothing, or the last one."""
    m = len(rows)
    first, last = max(0, -by), min(m, m - by)
    if first < last:
        out[first:last] |= rows[first + by : last + by]
    if fill_end and by > 0:
        out[max(0, m - by) :] |= rows[-1]


def _add_sliding(out: Bits, rows: Bits, lo: int, hi: int) -> None:
    """out[i] |= union of rows[i + lo .. i + hi]: running unions of blocks of that length, from both ends.

    A window of the block's length is the end of one block and the beginning of the next.
    """
    m, length = len(rows), hi - lo + 1
    blocks = -(-m // length) + 2
    padded = np.zeros((blocks * length, rows.shape[1]), np.uint64)
    padded[length : length + m] = rows
    cut = padded.reshape(blocks, length, -1)
    heads = _running(cut.swapaxes(0, 1)).swapaxes(0, 1).reshape(padded.shape)
    tails = _running(cut.swapaxes(0, 1)[::-1])[::-1].swapaxes(0, 1).reshape(padded.shape)
    first, last = max(0, -hi), min(m, m - lo)  # the rows whose window meets any row
    out[first:last] |= tails[first + lo + length : last + lo + length]
    ends = np.minimum(np.arange(first, last) + hi + length, len(padded) - 1)
    out[first:last] |= heads[ends]


def _add_columns(out: Bits, rows: Bits, piece: ColumnsPiece) -> None:
    """Every query hears of the chosen keys of the periods in its band."""
    p = piece.period
    periods = -(-len(rows) // p)
    summed = np.zeros((periods, rows.shape[1]), np.uint64)
    for residue in range(piece.first, min(piece.last, p)):
        found = rows[residue::p]
        summed[: len(found)] |= found
    heard = np.zeros_like(summed)
    _add_windowed(heard, summed, piece.band)
    for residue in range(min(p, len(rows))):
        places = out[residue::p]
        places |= heard[: len(places)]


# steps of any pattern -----------------------------------------------------------------------------------------------


def add_gathered(out: Bits, rows: Bits, keys: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
    """out[q] |= union of rows[k], k in keys[starts[q]:starts[q + 1]]: the first key of all queries, the second, .."""
    degrees = np.diff(starts)
    order = np.argsort(-degrees, kind="stable")
    firsts, ascending = starts[:-1][order], degrees[order][::-1]
    heard = np.zeros_like(out)
    for place in range(int(degrees.max(initial=0))):
        active = len(order) - int(np.searchsorted(ascending, place, side="right"))
        heard[:active] |= rows[keys[firsts[:active] + place]]
    out[order] |= heard


# what the bits say --------------------------------------------------------------------------------------------------


def counted(rows: Bits) -> int:
    """How many bits are set."""
    return int(np.bitwise_count(rows).sum(dtype=np.int64))


def distances(rows: Bits, n: int) -> NDArray[np.bool_]:
    """Which distances occur: entry d + n - 1 says whether any bit is set with q - k = d.

    Rows whose numbers are equal mod 64 are united at whole words, each at the place of its distance, and moved by their
    common number of bits at the end.
    """
    words = rows.shape[1]
    found = np.zeros(2 * n - 1, bool)
    for residue in range(min(64, n)):
        mine = rows[residue::64]
        united = np.zeros(words + len(mine) - 1, np.uint64)  # bit b is the distance 64 (len - 1) + residue - b
        for i, row in enumerate(mine):
            united[len(mine) - 1 - i : len(mine) - 1 - i + words] |= row
        bits = np.flatnonzero(np.unpackbits(united.view(np.uint8), bitorder="little"))
        found[64 * (len(mine) - 1) + residue - bits + n - 1] = True
    return found


def below_diagonal(n: int) -> Bits:
    """Row q holds 0..q: the pairs of a causal pattern."""
    rows = np.zeros((n, -(-n // 64)), np.uint64)
    places = np.arange(n)
    full, rest = (places + 1) // 64, ((places + 1) % 64).astype(np.uint64)
    for q in range(n):
        rows[q, : full[q]] = np.uint64(2**64 - 1)
    partial = rest > 0
    rows[places[partial], full[partial]] = (np.uint64(1) << rest[partial]) - np.uint64(1)
    return rows
