"""Cost over length: the counts of a pattern at many lengths, for plots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic

from attnc.analysis.boxes import Counter
from attnc.analysis.pairs import count_pairs, pieces_by_head
from attnc.analysis.report import FORWARD_FLOPS, Report
from attnlang.diagnostics import AttnError

SHORTEST = 2**8
LONGEST = 2**20
BUDGET_S = 4.0


@dataclass(frozen=True, slots=True)
class Point:
    """At length n: pairs of all heads with multiplicity and FLOPs of a forward, and whether they are exact.

    basis  'exact' or 'upper bound'
    """

    n: int
    bag: int
    forward: int
    dense_forward: int
    basis: str


def curve(report: Report, budget_s: float = BUDGET_S) -> tuple[Point, ...]:
    """Counts at the powers of two from 256 to 2^20 (or beyond the report's length), and at that length.

    Lengths at which the pattern has no meaning are left out, and so are those that begin after `budget_s` seconds of
    counting: a pattern of little structure takes long at great lengths. Patterns with runtime tables, whose content
    belongs to one length, have no curve.
    """
    return () if report.pattern.tables else tuple(_points(report, budget_s))


def _points(report: Report, budget_s: float) -> Iterator[Point]:
    pattern, heads = report.pattern, report.heads
    by_head, counter = pieces_by_head(pattern, heads), Counter({})
    until = monotonic() + budget_s
    for n in _lengths(report.n):
        if monotonic() > until:
            return
        try:
            found = count_pairs(pattern, n, heads, by_head=by_head, counter=counter)
        except AttnError:
            continue
        a_pair = FORWARD_FLOPS * report.head_dim
        yield Point(n, found.bag, a_pair * found.bag, a_pair * heads * n * n, found.basis)


def _lengths(n: int) -> list[int]:
    powers: set[int] = set()
    length = SHORTEST
    while length <= max(LONGEST, n):
        powers.add(length)
        length *= 2
    return sorted(powers | ({n} if n > 0 else set()))
