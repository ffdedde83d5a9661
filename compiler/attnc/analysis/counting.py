"""Exact numbers of pairs at any N, from pieces, in closed form: N = 10^9 costs what N = 10 does.

A bag is the sum over its pieces. A set, where pieces overlap, is inclusion and exclusion over their intersections,
which are pieces again.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeAlias

from attnc.lower.pieces import ColumnsPiece, Inexpressible, LatticePiece, Piece, intersect
from attnlang.plan import Band, Runs

MAX_TERMS = 50_000

Terms: TypeAlias = tuple[tuple[int, Piece], ...]


def bag_count(pieces: tuple[Piece, ...], n: int) -> int:
    """Sum of m over all pairs of one head at length n."""
    return sum(piece_count(piece, n) for piece in pieces)


def distinct_count(pieces: tuple[Piece, ...], n: int) -> int:
    """Number of pairs with m > 0 of one head at length n. Raises Inexpressible if intersections leave the algebra."""
    return sum(sign * piece_count(piece, n) for sign, piece in inclusion_exclusion(pieces))


@lru_cache(maxsize=1024)
def inclusion_exclusion(pieces: tuple[Piece, ...]) -> Terms:
    """|a + b + ..| as signed pieces:  |a ∪ b|  =  |a| + |b| - |a ∩ b|"""
    terms: list[tuple[int, Piece]] = []
    for piece in pieces:
        overlaps = [(-sign, both) for sign, term in terms for both in intersect(term, piece)]
        terms += [(1, piece), *overlaps]
        if len(terms) > MAX_TERMS:
            raise Inexpressible(f"more than {MAX_TERMS} overlaps")
    return tuple(terms)


@lru_cache(maxsize=65_536)
def piece_count(piece: Piece, n: int) -> int:
    """The number of pairs of a piece at length n."""
    if isinstance(piece, ColumnsPiece):
        return _columns_count(piece, n)
    r = piece.dilation
    band = Band(*(None if end is None else end // r for end in (piece.band.lo, piece.band.hi)))
    return sum(times * band_count(rows, rows, band) for times, rows in _row_lengths(piece, n))


def _row_lengths(piece: LatticePiece, n: int) -> Iterator[tuple[int, int]]:
    """(how often, how many positions) for every residue class of every run."""
    r = piece.dilation
    for times, first, length in _runs(piece.runs, n):
        if piece.phase is None:
            shorter, longer = divmod(length, r)
            yield times * longer, shorter + 1
            yield times * (r - longer), shorter
        else:
            yield times, _congruent(first + length, piece.phase, r) - _congruent(first, piece.phase, r)


def _congruent(end: int, phase: int, r: int) -> int:
    """How many of 0..end-1 are congruent to phase mod r."""
    return max(0, -(-(end - phase) // r))


def _runs(runs: Runs | None, n: int) -> Iterator[tuple[int, int, int]]:
    """(how often, first coordinate present, positions present) for the runs of a sequence of n."""
    if runs is None:
        yield 1, 0, n
        return
    first = -((runs.start + runs.width - 1) // runs.period)  # the number of the first run that reaches position 0
    last = (n - 1 - runs.start) // runs.period
    for number in {first, last}:
        begin = runs.start + number * runs.period
        present = min(n, begin + runs.width) - max(0, begin)
        if first <= last and present > 0:
            yield 1, max(0, -begin), present
    if last - first > 1:
        yield last - first - 1, 0, runs.width


def band_count(rows: int, columns: int, band: Band) -> int:
    """How many (i, j), i < rows, j < columns, have j - i in the band."""
    up_to_hi = rows * columns if band.hi is None else _below(rows, columns, band.hi)
    return max(0, up_to_hi - (0 if band.lo is None else _below(rows, columns, band.lo - 1)))


def _below(rows: int, columns: int, x: int) -> int:
    """How many (i, j) have j - i <= x: the sum of i + x + 1, between 0 and columns, over all i."""
    low, high = max(x + 1, 1), min(x + rows, columns)
    partial = (low + high) * (high - low + 1) // 2 if high >= low else 0
    full = max(0, x + rows - max(columns, x))
    return partial + columns * min(full, rows)


def _columns_count(piece: ColumnsPiece, n: int) -> int:
    p = piece.period
    total = 0
    for q_times, q_rows in _class_lengths(0, p, p, n):
        for k_times, k_rows in _class_lengths(piece.first, piece.last, p, n):
            total += q_times * k_times * band_count(q_rows, k_rows, piece.band)
    return total


def _class_lengths(first: int, last: int, period: int, n: int) -> Iterator[tuple[int, int]]:
    """Residues first..last-1 by how many positions they have: (how many residues, positions)."""
    rows, longer = divmod(n, period)
    yield max(0, min(last, longer) - first), rows + 1
    yield max(0, last - max(first, longer)), rows
