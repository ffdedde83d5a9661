"""The number of pairs as a closed form in N.

On multiples of M, the least common multiple of all periods and dilations, and from N0 on, the count of every piece is a
polynomial in N of degree at most 2: whole runs only, and bands that end within their rows. So three values determine
it; two more are checked all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import lcm

import sympy

from attnc.lower.pieces import ColumnsPiece, Piece

N = sympy.Symbol("N", integer=True, positive=True)


@dataclass(frozen=True, slots=True)
class Formula:
    """Pairs of all heads together, as a sympy polynomial in `N`, where N is a multiple of `multiple` and >= `least`."""

    pairs: sympy.Expr
    multiple: int
    least: int

    @property
    def complexity(self) -> str:
        """The class in N: O(1), O(N) or O(N^2)."""
        powers = [int(monomial[0]) for monomial in sympy.Poly(self.pairs, N).monoms()]
        degree = max(powers)
        return {0: "O(1)", 1: "O(N)"}.get(degree, f"O(N^{degree})")

    @property
    def leading(self) -> sympy.Expr:
        """The coefficient of the highest power."""
        return sympy.LC(self.pairs, N) if self.pairs.has(N) else self.pairs

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Under which conditions on N the formula is exact."""
        found: list[str] = []
        if self.multiple > 1:
            found.append(f"N is a multiple of {self.multiple}")
        if self.least > self.multiple:
            found.append(f"N >= {self.least}")
        return tuple(found)


def formula(pieces: Iterable[Piece], count: Callable[[int], int]) -> Formula:
    """The formula of what `count(n)` counts, for pieces as given.

    Raises AssertionError if the count is not the polynomial it must be: a fault of the compiler.
    """
    pieces = list(pieces)
    multiple = lcm(*(_period(piece) for piece in pieces))
    reach = max((_reach(piece) for piece in pieces), default=0)
    first = max(1, -(-reach // multiple))
    points = [(multiple * (first + i), count(multiple * (first + i))) for i in range(5)]
    polynomial = sympy.expand(sympy.interpolate(points[:3], N))
    assert all(polynomial.subs(N, n) == value for n, value in points), "a count is no polynomial of degree 2"
    return Formula(polynomial, multiple, multiple * first)


def _period(piece: Piece) -> int:
    if isinstance(piece, ColumnsPiece):
        return piece.period
    return piece.dilation if piece.runs is None else piece.runs.period


def _reach(piece: Piece) -> int:
    """From which N on the piece has all its bands and a whole run at both ends."""
    ends = [abs(end) for end in (piece.band.lo, piece.band.hi) if end is not None]
    widest = max(ends, default=0) + 1
    if isinstance(piece, ColumnsPiece):
        return (widest + 1) * piece.period
    return widest + piece.dilation if piece.runs is None else 2 * piece.runs.period


def text(expression: sympy.Expr) -> str:
    """An expression as one writes it: `6403/3*N`, with powers as N^2."""
    return str(expression).replace("**", "^")
