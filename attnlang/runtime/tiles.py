"""Banded calls as calls that a kernel without windows can run: full squares, lower triangles, and small masked tiles.

    a band of finite width  -->  for each distance between blocks, all pairs of blocks at that distance as one call
    an open lower triangle with a strip above it  -->  the triangle, and the strip
    an upper triangle  -->  a full square and two upper triangles of half the size

No mask is larger than a block by a block and a window, and none depends on N.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attnlang.plan import Band
from attnlang.runtime.calls import Axis, Call, trimmed

SMALLEST_BLOCK = 32
LARGEST_BLOCK = 1024


def tiles(call: Call) -> Iterator[Call]:
    """Calls with the same pairs, each full, causal, or masked and small. Rows are no longer touched once only."""
    if call.full or call.causal:
        yield call
        return
    for part in _tiles(replace(call, fresh=False)):
        yield from trimmed(part)


def _tiles(call: Call) -> Iterator[Call]:
    lo, hi = call.band.lo, call.band.hi
    if lo is None and hi is not None:
        yield from _lower(call, hi)
    elif hi is None and lo is not None:
        yield from _upper(call, lo)
    elif lo is not None and hi is not None:
        yield from _strip(call, lo, hi)
    else:
        yield call


def _with_band(call: Call, lo: int | None, hi: int | None) -> Iterator[Call]:
    for part in trimmed(replace(call, band=Band(lo, hi))):
        yield from tiles(part)


def _lower(call: Call, hi: int) -> Iterator[Call]:
    """J - i <= hi: the triangle j <= i of the square, a full block of the rows below it, a strip above the diagonal."""
    square = min(call.q_len, call.k_len)
    if hi > 0:
        yield from _with_band(call, 1, hi)
        yield from _with_band(call, None, 0)
        return
    yield _part(call, 0, square, 0, square, Band(None, 0))
    if call.q_len > square:
        yield _part(call, square, call.q_len, 0, call.k_len, Band())


def _upper(call: Call, lo: int) -> Iterator[Call]:
    """J - i >= lo, by halves."""
    if lo < 0:
        yield from _with_band(call, lo, -1)
        yield from _with_band(call, 0, None)
        return
    square = min(call.q_len, call.k_len)
    if call.k_len > square:
        yield _part(call, 0, call.q_len, square, call.k_len, Band())
    if square <= 4 * SMALLEST_BLOCK:
        yield _part(call, 0, square, 0, square, Band(0, None))
        return
    half = square // 2
    yield _part(call, 0, half, half, square, Band())
    yield from _upper(_part(call, 0, half, 0, half, Band(0, None)), 0)
    yield from _upper(_part(call, half, square, half, square, Band(0, None)), 0)


def block_size(lo: int, hi: int) -> int:
    """A power of two near a quarter of the band: little waste at its edges, few calls over its width."""
    size = SMALLEST_BLOCK
    while size < LARGEST_BLOCK and size * 8 <= hi - lo + 1:
        size *= 2
    return size


def _strip(call: Call, lo: int, hi: int) -> Iterator[Call]:
    """Lo <= j - i <= hi: blocks of b rows against blocks of b columns, by the distance between the blocks."""
    b = block_size(lo, hi)
    rows, columns = call.q_len // b, call.k_len // b
    for distance in range((lo - b + 1) // b, (hi + b - 1) // b + 1):
        first, last = max(0, -distance), min(rows, columns - distance)
        if first < last:
            moved = Axis(last - first, b * call.step, b * call.step)
            axes = (moved, *call.axes) if last - first > 1 else call.axes
            band = Band(lo - distance * b, hi - distance * b)
            start, key = first * b, (first + distance) * b
            yield replace(_part(call, start, start + b, key, key + b, band), axes=axes)
    yield from _rest(call, lo, hi, rows * b, columns * b)


def _rest(call: Call, lo: int, hi: int, rows: int, columns: int) -> Iterator[Call]:
    """The last rows, fewer than a block, and the last columns for all rows before those.

    Where the band covers a whole rectangle it is cut out, so that masks stay as small as the edges.
    """
    if rows < call.q_len:
        last_row = call.q_len - 1
        for first, last in _cuts(max(0, rows + lo), last_row + lo, rows + hi + 1, min(call.k_len, call.q_len + hi)):
            yield _part(call, rows, call.q_len, first, last, Band(lo + rows - first, hi + rows - first))
    if columns < call.k_len:
        last_column = call.k_len - 1
        for first, last in _cuts(max(0, columns - hi), last_column - hi, columns - lo + 1, min(rows, call.k_len - lo)):
            yield _part(call, first, last, columns, call.k_len, Band(lo + first - columns, hi + first - columns))


def _cuts(start: int, full_from: int, full_to: int, end: int) -> Iterator[tuple[int, int]]:
    """start..end in up to three pieces, of which the middle one lies within full_from..full_to."""
    low = min(max(full_from, start), end)
    high = min(max(full_to, low), end)
    for first, last in ((start, low), (low, high), (high, end)):
        if first < last:
            yield first, last


def _part(call: Call, q_from: int, q_to: int, k_from: int, k_to: int, band: Band) -> Call:
    return replace(
        call,
        q=call.q + q_from * call.step,
        k=call.k + k_from * call.step,
        q_len=q_to - q_from,
        k_len=k_to - k_from,
        band=band,
    )
