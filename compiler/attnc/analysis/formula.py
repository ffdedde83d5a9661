"""The number of pairs as a closed form in N.

Lattices: on multiples of M, the least common multiple of all periods and dilations, and from N0 on, the count of every
piece is a polynomial in N of degree at most 2: whole runs only, and bands that end within their rows. So three values
determine it, and it is exact; two more are checked all the same.

Any other pattern: the form is fitted to exact counts, on multiples of M, on squares where parameters are square roots
of N, on powers of two where they are logarithms, or double from part to part. It is checked at lengths that it was not
fitted to, far apart, and says at which: such a form is measured, not proved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt, lcm, prod
from typing import Any, Literal, TypeAlias

import sympy

from attnc.analysis.boxes import TooManyError
from attnc.analysis.expression_terms import NoTermError
from attnc.analysis.relation_terms import term_of
from attnc.analysis.terms import Steps, Terms, steps_of
from attnc.lower.pieces import ColumnsPiece, Piece
from attnlang.diagnostics import AttnError
from attnlang.pattern import Pattern, algebra
from attnlang.pattern.expr import free_names
from attnlang.pattern.walk import free_names_of, nodes
from attnlang.syntax import tree

N = sympy.Symbol("N", integer=True, positive=True)

Kind: TypeAlias = Literal["multiples", "squares", "powers"]
MAX_MULTIPLE = 2**34
"""No formula is given where its periods have a larger common multiple."""
NEIGHBOURS = 32
"""How many lengths, one after the other, a fitted form is tried at from where it seems to begin."""


@dataclass(frozen=True, slots=True)
class Formula:
    """Pairs of all heads together, as a sympy expression in `N`.

    kind      holds where N is a multiple of `multiple`, or that times a square, or that times a power of two,
    least     and at least this,
    most      and at most that, if not None
    checked   lengths at which a form that was fitted equals the exact count; empty for one that is proved
    """

    pairs: sympy.Expr
    multiple: int
    least: int
    most: int | None = None
    kind: Kind = "multiples"
    checked: tuple[int, ...] = ()

    @property
    def basis(self) -> str:
        """What it is: exact, or measured at the lengths at which it was compared with exact counts."""
        return "exact" if not self.checked else f"measured at N = {', '.join(map(str, self.checked))}"

    @property
    def leading(self) -> sympy.Expr:
        """The coefficient of what grows fastest."""
        return self._leading[0]

    @property
    def complexity(self) -> str:
        """The class in N: O(1), O(N), O(N log N), O(N sqrt N), O(N^2)."""
        _, power, logarithms = self._leading
        return f"O({_class(power, logarithms)})"

    @property
    def leading_term(self) -> sympy.Expr:
        """What grows fastest, with its coefficient."""
        coefficient, power, logarithms = self._leading
        return coefficient * N**power * sympy.log(N, 2) ** logarithms

    @property
    def _leading(self) -> tuple[sympy.Expr, sympy.Rational, int]:
        """(coefficient, power of N, power of log2 N) of what grows fastest."""
        logarithm = sympy.Symbol("l")
        expanded: Any = sympy.expand(self.pairs.subs(sympy.log(N) / sympy.log(2), logarithm))
        found: dict[tuple[Any, int], Any] = {}
        for part in sympy.Add.make_args(expanded):
            powers = part.as_powers_dict()
            key = (powers.get(N, sympy.Integer(0)), int(powers.get(logarithm, 0)))
            found[key] = found.get(key, 0) + part / (N ** key[0] * logarithm ** key[1])
        power, logarithms = max(found)
        return found[power, logarithms], power, logarithms

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Under which conditions on N the formula holds."""
        found: list[str] = []
        times = "" if self.multiple == 1 else f"{self.multiple} times "
        match self.kind:
            case "multiples":
                found += [f"N is a multiple of {self.multiple}"] if self.multiple > 1 else []
            case "squares":
                found.append(f"N is {times}a square")
            case "powers":
                found.append(f"N is {times}a power of two")
        if self.least > self.multiple:
            found.append(f"N >= {self.least}")
        if self.most is not None:
            found.append(f"N <= {self.most}")
        return tuple(found)

    def at(self, n: int) -> Any:
        """The number of pairs at a length at which it holds."""
        return sympy.expand_log(self.pairs.subs(N, n), force=True)

    def holds_at(self, n: int) -> bool:
        """Whether the assumptions are met."""
        rest, remainder = divmod(n, self.multiple)
        fits = {"multiples": True, "squares": isqrt(rest) ** 2 == rest, "powers": rest & (rest - 1) == 0}[self.kind]
        return not remainder and fits and self.least <= n and (self.most is None or n <= self.most)


def _class(power: Any, logarithms: int) -> str:
    whole, half = divmod(power, 1)
    parts = [] if whole == 0 else ["N" if whole == 1 else f"N^{whole}"]
    parts += ["sqrt N"] if half == sympy.Rational(1, 2) else []
    parts += [] if logarithms == 0 else ["log N" if logarithms == 1 else f"(log N)^{logarithms}"]
    return " ".join(parts) or "1"


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
    while first > 1 and polynomial.subs(N, multiple * (first - 1)) == count(multiple * (first - 1)):
        first -= 1  # where it begins to hold may be before all have their whole reach
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


# any pattern --------------------------------------------------------------------------------------------------------


def fitted(pattern: Pattern, heads: int, count: Callable[[int], int], near: int) -> Formula | None:
    """A form that equals `count` at all lengths where it was compared; None where there is none of these kinds.

    `count` gives exact counts, or raises TooManyError, NoTermError or AttnError. Where a form only holds from beyond
    `near` on, one around it is looked for.
    """
    if unfit(pattern):
        return None
    try:
        return _fitted(pattern, heads, count, near)
    except (TooManyError, NoTermError, AttnError):
        return None


def unfit(pattern: Pattern) -> str:
    """Why the number of pairs is no function of N alone; empty if it is one."""
    found = list(nodes(pattern.relation))
    if pattern.tables:
        return f"it depends on the content of {', '.join(name for name, _ in pattern.tables)}"
    if any(isinstance(node, algebra.Random) for node in found):
        return "random keys meet the other pairs by chance"
    if any(isinstance(node, algebra.Grid) for node in found):
        return "a grid has one length"
    return ""


def _fitted(pattern: Pattern, heads: int, count: Callable[[int], int], near: int) -> Formula | None:
    calls = {node.name for node in nodes(pattern.relation) if isinstance(node, tree.Call)}
    scale, reach = _scale(pattern, heads)
    if scale > MAX_MULTIPLE:
        return None
    if "isqrt" in calls and "log2" not in calls:
        return _on_squares(count, scale, reach)
    far = reach > max(near, 4 * scale)
    if (far or "log2" in calls) and (found := _around(count, scale, near)) is not None:
        return found
    found = None if "log2" in calls else _polynomial(count, scale, reach, whole=far)
    asked = max(near - near % scale, scale)
    return found if found is None or asked < found.least or found.at(asked) == count(asked) else None


def _scale(pattern: Pattern, heads: int) -> tuple[int, int]:
    """The common multiple of what does not change with N, and the largest number that does not."""
    seen: list[Steps] = []
    for n in (2**40, 64 * 3**25):
        terms = Terms()
        scopes = ({"N": n, "H": heads, "h": head} for head in range(heads))
        seen.append(steps_of(*(term_of(terms, pattern.relation, n, scope) for scope in scopes)))
    one, other = seen
    scale = lcm(*(one.periods & other.periods))
    if free_names_of(pattern.relation) & {"N", "n"}:
        divided = [node for node in nodes(pattern.relation) if isinstance(node, tree.Binary) and node.op in ("//", "%")]
        asked = (node.right for node in divided if node.op == "//" or free_names(node.left) & {"N", "n"})
        scale *= prod(abs(each.value) for each in asked if isinstance(each, tree.Int) and each.value)
    return scale, max(one.reaches & other.reaches, default=0)


def _polynomial(count: Callable[[int], int], scale: int, reach: int, *, whole: bool) -> Formula | None:
    """A polynomial of degree 2 on multiples of the scale, from about the first such multiple on from which it holds.

    whole   whether to be content with lengths at which everything has its whole reach
    """
    safe = 2 * (reach // scale + 1)
    points = [scale * (safe + step) for step in (0, 1, 2, 3, 4, safe + 5, 7 * safe + 11)]
    values = [count(n) for n in points]
    pairs = sympy.expand(sympy.interpolate(list(zip(points[:3], values[:3], strict=True)), N))
    if any(pairs.subs(N, n) != value for n, value in zip(points, values, strict=True)):
        return None
    low, high = (
        safe - 1 if whole else 0,
        safe,
    )  # it holds at `high`: bisect for where it begins, and trust only what was counted
    while high - low > 1:
        middle = (low + high) // 2
        n = scale * middle
        if pairs.subs(N, n) == count(n):
            high = middle
        else:
            low = middle
        points.append(n)
    near = range(high + 1, min(high + NEIGHBOURS, safe))  # where it begins, it may hold by chance
    high = max((step + 1 for step in near if pairs.subs(N, scale * step) != count(scale * step)), default=high)
    checked = sorted({n for n in points if n >= scale * high})
    return Formula(pairs, scale, scale * high, checked=tuple(checked))


Numbers: TypeAlias = tuple[int, ...]


def _squares(step: int) -> Numbers:
    """s^4, s^3, s^2, s, 1 at s = step, where N = scale s^2."""
    return tuple(step**power for power in (4, 3, 2, 1, 0))


def _powers(step: int) -> Numbers:
    """x^2, x t^2, x t, x, t^2, t, 1 at t = step and x = 2^t, where N = scale x."""
    x, t = 2**step, step
    return x * x, x * t * t, x * t, x, t * t, t, 1


def _on_squares(count: Callable[[int], int], scale: int, reach: int) -> Formula | None:
    """A form on squares, for parameters that are square roots of N."""
    first = max(2, isqrt(reach // scale) + 1)
    steps = [first + step for step in (0, 1, 2, 3, 4, 5, 7, 12, 40)]
    lengths = [scale * s * s for s in steps]
    root = sympy.sqrt(N) / sympy.sqrt(scale)
    shapes = (N**2 / scale**2, N / scale * root, N / scale, root, sympy.Integer(1))
    return _through(lengths, [_squares(s) for s in steps], shapes, count, "squares", scale, bounded=False)


def _around(count: Callable[[int], int], scale: int, near: int) -> Formula | None:
    """A form on powers of two around a length, as far beyond it as it holds."""
    highest = max(12, (max(near, 1) // scale).bit_length())
    further = _on_powers(count, scale, range(highest - 7, highest + 7))
    return further or _on_powers(count, scale, range(highest - 11, highest + 1))


def _on_powers(count: Callable[[int], int], scale: int, steps: Sequence[int]) -> Formula | None:
    lengths = [scale * 2**t for t in steps]
    x = N / scale
    t = sympy.log(N, 2) - sympy.log(scale, 2)
    shapes = (x**2, x * t**2, x * t, x, t**2, t, sympy.Integer(1))
    return _through(lengths, [_powers(t) for t in steps], shapes, count, "powers", scale, bounded=True)


def _through(
    lengths: Sequence[int],
    basis: Sequence[Numbers],
    shapes: Sequence[sympy.Expr],
    count: Callable[[int], int],
    kind: Kind,
    scale: int,
    *,
    bounded: bool,
) -> Formula | None:
    """The combination of the shapes that goes through as many lengths as there are shapes, if through the others too.

    basis   the values of the shapes at the lengths
    """
    values = [count(n) for n in lengths]
    used = slice(len(lengths) - len(shapes), None) if bounded else slice(0, len(shapes))
    weights = _solved(basis[used], values[used])
    if weights is None:
        return None
    holds = [sum(w * b for w, b in zip(weights, row, strict=True)) == v for row, v in zip(basis, values, strict=True)]
    first = next((i + 1 for i in range(len(holds) - 1, -1, -1) if not holds[i]), 0)
    kept = tuple(lengths[first:])
    if len(kept) < len(shapes) + 2:  # no better than the numbers that it was made of
        return None
    exact = (sympy.Rational(w.numerator, w.denominator) * shape for w, shape in zip(weights, shapes, strict=True))
    pairs: Any = sympy.expand(sum(exact))
    return Formula(pairs, scale, kept[0], kept[-1] if bounded else None, kind, kept)


def _solved(rows: Sequence[Numbers], values: Sequence[int]) -> list[Fraction] | None:
    """The weights with rows * weights = values, by elimination in exact numbers; None where there are not just one."""
    system = [[Fraction(each) for each in (*row, value)] for row, value in zip(rows, values, strict=True)]
    size = len(system)
    for column in range(size):
        pivot = next((row for row in range(column, size) if system[row][column]), None)
        if pivot is None:
            return None
        system[column], system[pivot] = system[pivot], system[column]
        head = system[column] = [each / system[column][column] for each in system[column]]
        for row in range(size):
            if row != column and (factor := system[row][column]):
                system[row] = [each - factor * one for each, one in zip(system[row], head, strict=True)]
    return [row[-1] for row in system]


def text(expression: sympy.Expr) -> str:
    """An expression as one writes it: `6403/3*N`, with powers as N^2 and logarithms to base 2."""
    written = str(sympy.sympify(expression).subs(sympy.log(N), sympy.Symbol("log2(N)") * sympy.log(2)))
    return written.replace("**", "^")
