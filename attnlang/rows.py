"""Rows as arithmetic progressions, and their exact algebra: what a rank holds, sends and computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd, lcm


@dataclass(frozen=True, slots=True)
class Rows:
    """The positions first, first + step, .., `count` of them; count and step are at least 1."""

    first: int
    count: int
    step: int = 1

    @property
    def last(self) -> int:
        """The last of them."""
        return self.first + (self.count - 1) * self.step

    def __str__(self) -> str:
        if self.count == 1:
            return str(self.first)
        return f"{self.first}..{self.last}{'' if self.step == 1 else f' step {self.step}'}"

    def __contains__(self, position: int) -> bool:
        return self.first <= position <= self.last and (position - self.first) % self.step == 0

    def __and__(self, other: Rows) -> Rows | None:
        """The positions in both."""
        if self.step == other.step == 1:
            return span(max(self.first, other.first), min(self.last, other.last))
        return _meet(self, other)

    def within(self, low: int, high: int) -> Rows | None:
        """The positions from low to high, both included."""
        start = self.first if low <= self.first else self.first - (self.first - low) // self.step * self.step
        end = min(high, self.last)
        return None if start > end else Rows(start, (end - start) // self.step + 1, self.step)

    def congruent(self, residue: int, modulus: int) -> Rows | None:
        """The positions congruent to residue modulo modulus."""
        if modulus == 1:
            return self
        start = self.last - (self.last - residue) % modulus
        low = self.first + (residue - self.first) % modulus
        return None if low > start else self & Rows(low, (start - low) // modulus + 1, modulus)

    def minus(self, other: Rows) -> Iterator[Rows]:
        """The positions that are not in the other, as disjoint progressions."""
        common = self & other
        if common is None:
            yield self
            return
        before = self.within(self.first, common.first - 1)
        after = self.within(common.last + 1, self.last)
        yield from (part for part in (before, after) if part is not None)
        inside = self.within(common.first, common.last)
        assert inside is not None
        for skipped in range(1, common.step // self.step if common.count > 1 else 1):
            start = common.first + skipped * self.step
            yield Rows(start, common.count - 1, common.step)

    def index(self, position: int) -> int:
        """Which of the rows a position is; it must be one of them."""
        return (position - self.first) // self.step

    def numbered(self, rows: Rows, base: int = 0) -> Rows:
        """Where some of these positions stand among all of them, counted from base."""
        return Rows(base + self.index(rows.first), rows.count, max(1, rows.step // self.step))

    def moved(self, distance: int) -> Rows:
        """The same rows, further by so much."""
        return Rows(self.first + distance, self.count, self.step)


def span(first: int, last: int) -> Rows | None:
    """first..last, or None if that is nothing."""
    return None if last < first else Rows(first, last - first + 1)


def _meet(a: Rows, b: Rows) -> Rows | None:
    """X = a mod s and x = b mod t, between the larger first and the smaller last: the Chinese remainder theorem."""
    common, both = gcd(a.step, b.step), lcm(a.step, b.step)
    if (b.first - a.first) % common:
        return None
    turns = (b.first - a.first) // common * pow(a.step // common, -1, b.step // common) if b.step > common else 0
    place = a.first + a.step * turns
    low, high = max(a.first, b.first), min(a.last, b.last)
    start = low + (place - low) % both
    return None if start > high else Rows(start, (high - start) // both + 1, both)
