"""Pieces: sets of pairs on one head that a strided view can hold, and their exact algebra.

A `LatticePiece` is all pairs within one run of a periodic family of runs, of one residue class, at a distance in a
band.
Intersections of lattices are lattices again (a few, when their runs do not nest): periods by least common multiple,
residues by the Chinese remainder theorem, bands by intervals. Differences are, where only the band differs. What the
algebra cannot say raises `Inexpressible`; it never says something wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import gcd, lcm
from typing import TypeAlias

from attnlang.plan import FULL, Band, Runs

MAX_PIECES = 4096
"""How many pieces one relation may fall into before we say that it is not made of lattices."""


class Inexpressible(Exception):  # noqa: N818 - an outcome, not an error: the caller says what follows from it
    """The relation is not a sum of pieces; `str()` says why."""


@dataclass(frozen=True, slots=True)
class LatticePiece:
    """Pairs of one run, q and k both congruent to `phase` (or to each other, if None), q - k in the band."""

    runs: Runs | None = None
    dilation: int = 1
    phase: int | None = 0
    band: Band = FULL


@dataclass(frozen=True, slots=True)
class ColumnsPiece:
    """Every query with the keys in first..last-1 modulo period; the band counts periods."""

    period: int
    first: int
    last: int
    band: Band = FULL


Piece: TypeAlias = LatticePiece | ColumnsPiece


def normal(piece: LatticePiece) -> LatticePiece | None:
    """The piece in its one normal form, or None if it is empty: equal sets of pairs compare equal."""
    r = piece.dilation
    phase = 0 if r == 1 else piece.phase
    lo = None if piece.band.lo is None else -(-piece.band.lo // r) * r
    hi = None if piece.band.hi is None else piece.band.hi // r * r
    runs = piece.runs
    if runs is not None:
        if phase is not None and phase >= runs.width:
            return None
        farthest = (runs.width - 1 - (phase or 0)) // r * r
        if (lo is not None and lo > farthest) or (hi is not None and hi < -farthest):
            return None
        lo = None if lo is not None and lo <= -farthest else lo
        hi = None if hi is not None and hi >= farthest else hi
        runs = Runs(runs.width, runs.period, runs.start % runs.period)
    if lo is not None and hi is not None and lo > hi:
        return None
    return LatticePiece(runs, r, phase, Band(lo, hi))


def intersect(a: Piece, b: Piece) -> list[Piece]:
    """The pairs in both, as disjoint pieces."""
    match a, b:
        case LatticePiece(), LatticePiece():
            return list(_intersect_lattices(a, b))
        case ColumnsPiece(), LatticePiece():
            return _columns_in_lattice(a, b)
        case LatticePiece(), ColumnsPiece():
            return _columns_in_lattice(b, a)
        case ColumnsPiece(), ColumnsPiece():
            return _intersect_columns(a, b)


def subtract(a: Piece, b: Piece) -> list[Piece]:
    """The pairs of a that are not in b, as disjoint pieces."""
    common = intersect(a, b)
    if not common:
        return [a]
    if common == [a]:
        return []
    only = common[0]
    if len(common) > 1 or not _same_but_band(a, only):
        raise Inexpressible("what is left after taking one part from another is no lattice")
    step = a.dilation if isinstance(a, LatticePiece) else 1
    below = None if only.band.lo is None else Band(None, only.band.lo - step)
    above = None if only.band.hi is None else Band(only.band.hi + step, None)
    sides = [replace(a, band=a.band & side) for side in (below, above) if side is not None]
    return [piece for side in sides if (piece := _normal(side)) is not None]


def _same_but_band(a: Piece, b: Piece) -> bool:
    return type(a) is type(b) and replace(a, band=FULL) == replace(b, band=FULL)


def _normal(piece: Piece) -> Piece | None:
    if isinstance(piece, LatticePiece):
        return normal(piece)
    lo, hi = piece.band.lo, piece.band.hi
    empty = piece.first >= piece.last or (lo is not None and hi is not None and lo > hi)
    return None if empty else piece


# lattices -----------------------------------------------------------------------------------------------------------


def _intersect_lattices(a: LatticePiece, b: LatticePiece) -> Iterator[LatticePiece]:
    band = a.band & b.band
    for runs, phase_a, phase_b in _common_runs(a, b):
        for dilation, phase in _common_classes(a.dilation, phase_a, b.dilation, phase_b):
            piece = normal(LatticePiece(runs, dilation, phase, band))
            if piece is not None:
                yield piece


def _common_runs(a: LatticePiece, b: LatticePiece) -> list[tuple[Runs | None, int | None, int | None]]:
    """Runs of the intersection, with the residue classes of a and b counted from their beginnings."""
    if a.runs is None and b.runs is None:
        return [(None, a.phase, b.phase)]
    if a.runs is None:
        return [(runs, phase_a, phase_b) for runs, phase_b, phase_a in _common_runs(b, a)]
    if b.runs is None:
        fixed = b.phase is None or b.dilation == 1
        period = a.runs.period if fixed else lcm(a.runs.period, b.dilation)
        families = _spread(a.runs, period)
        return _joined([(runs, a.phase, _seen_from(b, 0, runs.start)) for runs in families])
    period = lcm(a.runs.period, b.runs.period)
    found: list[tuple[Runs, int | None, int | None]] = []
    for one in _spread(a.runs, period):
        for other in _spread(b.runs, period):
            for turn in (-period, 0, period):
                start = max(one.start, other.start + turn)
                end = min(one.start + one.width, other.start + turn + other.width)
                if start < end:
                    phase_a = _seen_from(a, one.start, start)
                    found.append((Runs(end - start, period, start), phase_a, _seen_from(b, other.start + turn, start)))
    return _joined(found)


def _spread(runs: Runs, period: int) -> list[Runs]:
    """The same runs as families of a longer period."""
    count = period // runs.period
    if count > MAX_PIECES:
        raise Inexpressible("the lengths of its parts have too large a common multiple")
    return [Runs(runs.width, period, runs.start + i * runs.period) for i in range(count)]


def _seen_from(piece: LatticePiece, origin: int, start: int) -> int | None:
    """The piece's residue class, counted from `start` instead of from `origin`."""
    return None if piece.phase is None else (piece.phase - (start - origin)) % piece.dilation


def _joined(
    found: list[tuple[Runs, int | None, int | None]],
) -> list[tuple[Runs | None, int | None, int | None]]:
    """Families that differ by equal shifts only are one family of a shorter period again."""
    groups: dict[tuple[int, int, int | None, int | None], list[int]] = {}
    for runs, phase_a, phase_b in found:
        groups.setdefault((runs.width, runs.period, phase_a, phase_b), []).append(runs.start % runs.period)
    result: list[tuple[Runs | None, int | None, int | None]] = []
    for (width, period, phase_a, phase_b), starts in groups.items():
        for runs in join_runs(width, period, starts):
            result.append((runs, phase_a, phase_b))
    return result


def join_runs(width: int, period: int, starts: Sequence[int]) -> list[Runs]:
    """Runs of w every P from s, s + P/m, s + 2P/m, ..  -->  runs of w every P/m from s"""
    ordered = sorted(starts)
    count = len(ordered)
    if period % count == 0 and all(s == ordered[0] + i * (period // count) for i, s in enumerate(ordered)):
        return [Runs(width, period // count, ordered[0])]
    return [Runs(width, period, start) for start in ordered]


def _common_classes(ra: int, ca: int | None, rb: int, cb: int | None) -> Iterator[tuple[int, int | None]]:
    """Residue classes modulo lcm(ra, rb) that lie in both; None stands for every class, each by itself."""
    both = lcm(ra, rb)
    if ra == 1 or rb == 1:
        yield (rb, cb) if ra == 1 else (ra, ca)
    elif ca is None and cb is None:
        yield both, None
    elif ca is None or cb is None:
        rate, phase = (rb, cb) if ca is None else (ra, ca)
        assert phase is not None
        if both // rate > MAX_PIECES:
            raise Inexpressible("its dilations have too large a common multiple")
        for residue in range(phase, both, rate):
            yield both, residue
    elif (cb - ca) % gcd(ra, rb) == 0:
        step = (cb - ca) // gcd(ra, rb) * pow(ra // gcd(ra, rb), -1, rb // gcd(ra, rb))
        yield both, (ca + ra * step) % both


# columns ------------------------------------------------------------------------------------------------------------


def _intersect_columns(a: ColumnsPiece, b: ColumnsPiece) -> list[Piece]:
    if a.period != b.period:
        raise Inexpressible("keys of two different periods are combined")
    both = ColumnsPiece(a.period, max(a.first, b.first), min(a.last, b.last), a.band & b.band)
    return [] if _normal(both) is None else [both]


def _columns_in_lattice(columns: ColumnsPiece, lattice: LatticePiece) -> list[Piece]:
    """Restrict columns to a band of distances, or to the segments of their own period."""
    if lattice.dilation != 1:
        raise Inexpressible("chosen keys are combined with a dilation")
    if lattice.runs is not None:
        if lattice.runs != Runs(columns.period, columns.period, 0):
            raise Inexpressible("chosen keys are combined with segments of another length")
        inside = _normal(replace(columns, band=columns.band & Band(0, 0)))
        return [] if inside is None else intersect(inside, replace(lattice, runs=None))
    touched = _normal(replace(columns, band=columns.band & _periods(columns, lattice.band, whole=False)))
    inside = _normal(replace(columns, band=columns.band & _periods(columns, lattice.band, whole=True)))
    if touched != inside:
        raise Inexpressible("a diagonal cuts through chosen keys")
    return [] if inside is None else [inside]


def _periods(columns: ColumnsPiece, band: Band, *, whole: bool) -> Band:
    """Which distances in periods lie wholly, or at least partly, in a band of distances in tokens.

    At a distance of d periods, k - q goes from  d p + first - (p - 1)  to  d p + last - 1.
    """
    p = columns.period
    least, most = columns.first - (p - 1), columns.last - 1
    low_end, high_end = (least, most) if whole else (most, least)
    lo = None if band.lo is None else -((low_end - band.lo) // p)
    hi = None if band.hi is None else (band.hi - high_end) // p
    return Band(lo, hi)
