"""Cost over length: the exact counts of a pattern at many lengths, for plots."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.analysis.report import report
from attnlang.diagnostics import AttnError
from attnlang.pattern import Pattern

SHORTEST = 2**8
LONGEST = 2**20
MAX_ENUMERATED = 2**24
"""How many entries of a multiplicity are counted for one point, where no formula is known."""


@dataclass(frozen=True, slots=True)
class Point:
    """At length n: pairs of all heads with multiplicity, and FLOPs of a forward."""

    n: int
    bag: int
    forward: int
    dense_forward: int


def curve(pattern: Pattern, n: int, heads: int, head_dim: int, by_formula: bool) -> tuple[Point, ...]:
    """Counts at the powers of two from 256 to 2^20 (or beyond n), and at n.

    by_formula  whether counts cost the same at every length; else long ones are left out

    Lengths at which the pattern has no meaning or cannot be counted are left out, and so are all but n for patterns
    with runtime tables, whose content belongs to one length.
    """
    if pattern.tables:
        return ()
    found: list[Point] = []
    for length in _lengths(n):
        if not by_formula and heads * length**2 > MAX_ENUMERATED:
            break
        try:
            counted = report(pattern, length, heads, head_dim)
        except AttnError:
            continue
        dense = counted.to_dict()["flops"]["dense_forward"]
        found.append(Point(length, counted.bag, counted.forward_flops, dense))
    return tuple(found)


def _lengths(n: int) -> list[int]:
    powers: set[int] = set()
    length = SHORTEST
    while length <= max(LONGEST, n):
        powers.add(length)
        length *= 2
    return sorted(powers | ({n} if n > 0 else set()))
