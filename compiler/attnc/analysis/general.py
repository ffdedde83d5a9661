"""The number of pairs with the parameters as symbols, where the structure of a plan allows it.

Every branch is one of these (w, r, N multiples of one another as the assumptions say; pairs of one head):

    segment(w) { dilate(r, shift=h) }           N w / r^2                equation 16 of LongNet, arXiv:2307.02486
    causal & segment(w) { dilate(r, shift=h) }  N (w / r + 1) / (2 r)
    segment(w) { dilate(r) }                    r times as many: every class, not one a head
    window(w) at dilation r                     N w - r w (w - 1) / 2
    offset(-w * r..w * r step r)                N (2 w + 1) - r w (w + 1)

A sum of branches of one shape is written as a sum over i. Where w and r grow by the same factor a, the sum of a
geometric series bounds it for any number of branches: equation 18.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import sympy

from attnc.analysis.formula import N, text
from attnlang.plan import FULL, Band, Branch, Lattice, Plan

Shape: TypeAlias = Literal["full", "causal", "window", "both sides", "dense", "triangle"]

W, R = sympy.symbols("w_i r_i", positive=True)
D = sympy.Symbol("d", positive=True)


@dataclass(frozen=True, slots=True)
class General:
    """Pairs of one head as a sum over branches i, with the widths w_i and dilations r_i as symbols.

    term         what branch i adds, in N, w_i and r_i; in w and r where there is one branch
    widths, dilations   their values, in the order of the branches
    assumptions  under which conditions it is exact
    unmet        which of them these widths and dilations do not meet, whatever N: then it is only near
    ratio        the factor by which both widths and dilations grow from branch to branch; None if they do not
    """

    term: sympy.Expr
    widths: tuple[int, ...]
    dilations: tuple[int, ...]
    assumptions: tuple[str, ...]
    unmet: str = ""
    ratio: int | None = None

    @property
    def leading(self) -> sympy.Expr:
        """What grows with N, of branch i."""
        return sympy.expand(sympy.expand(self.term).coeff(N, 1) * N)

    def at(self, n: int) -> Any:
        """The number of pairs at a length, as a rational number: exact where the assumptions hold."""
        pairs = zip(self.widths, self.dilations, strict=True)
        return sum((self.term.subs({N: n, W: w, R: r}) for w, r in pairs), sympy.Integer(0))

    @property
    def pairs_text(self) -> str:
        """`sum over i of N*w_i/r_i^2`; without the sum for one branch, without r where nothing is dilated."""
        return self._summed(text(self._shown))

    @property
    def pairs_latex(self) -> str:
        """The same in LaTeX."""
        return self._summed_latex(sympy.latex(self._shown))

    @property
    def flops(self) -> str:
        """FLOPs of one of the two matrix products: 2 d a pair."""
        return self._summed(text(2 * D * self._shown))

    @property
    def flops_latex(self) -> str:
        """The same in LaTeX."""
        return self._summed_latex(sympy.latex(2 * D * self._shown))

    @property
    def _shown(self) -> Any:
        shown: Any = self.term if any(r > 1 for r in self.dilations) else self.term.subs(R, 1)
        return shown if len(self.widths) > 1 else shown.subs({W: sympy.Symbol("w"), R: sympy.Symbol("r")})

    @property
    def bound(self) -> str | None:
        """The FLOPs of one matrix product of a full head, for any number of such branches."""
        if self.ratio is None:
            return None
        a, w = self.ratio, self.widths[0]
        factor = sympy.Rational(2 * a, a - 1) * w / self.dilations[0] ** 2
        return f"2*a/(a - 1) * w_1/r_1^2 * N*d = {factor}*N*d, a = {a}, for any number of branches"

    @property
    def bound_latex(self) -> str | None:
        """The same in LaTeX."""
        if self.ratio is None:
            return None
        return r"\frac{2 a}{a - 1} \frac{w_{1}}{r_{1}^{2}} N d"

    @property
    def values(self) -> str:
        """`w = [2048, 4096], r = [1, 2]`; what does not stand in the form is left out."""
        several = len(self.widths) > 1
        named = (("w", W, self.widths), ("r", R, self.dilations))
        shown = {str(symbol)[0] for symbol in self._shown.free_symbols}
        return ", ".join(f"{n} = {list(v) if several else v[0]}" for n, _, v in named if n in shown)

    def _summed(self, term: str) -> str:
        return f"sum over i of {term}" if len(self.widths) > 1 else term

    def _summed_latex(self, term: str) -> str:
        if len(self.widths) == 1:
            return term
        return rf"\sum_{{i=1}}^{{{len(self.widths)}}} \left({term}\right)"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "pairs": self.pairs_text,
            "latex": self.pairs_latex,
            "flops_of_one_product": self.flops,
            "flops_latex": self.flops_latex,
            "values": {"w": list(self.widths), "r": list(self.dilations)},
            "assumptions": list(self.assumptions),
            "unmet": self.unmet,
            "bound": self.bound,
            "bound_latex": self.bound_latex,
        }


TERMS: dict[tuple[Shape, bool], sympy.Expr] = {
    ("full", False): N * W / R**2,
    ("full", True): N * W / R,
    ("causal", False): N * (W / R + 1) / (2 * R),
    ("causal", True): N * (W / R + 1) / 2,
    ("window", True): N * W - R * W * (W - 1) / 2,
    ("both sides", True): N * (2 * W + 1) - R * W * (W + 1),
    ("dense", True): N**2,
    ("triangle", True): N * (N + 1) / 2,
}


def general(plan: Plan) -> General | None:
    """The general form of a plan's bag, if all branches hold all heads and have one of the shapes; else None."""
    if not plan.branches:
        return None
    found = [_shape(branch, plan.heads) for branch in plan.branches]
    shapes = {each[0] for each in found if each is not None}
    if None in found or len(shapes) != 1:
        return None
    (shape,) = shapes
    widths = tuple(each[1] for each in found if each is not None)
    dilations = tuple(each[2] for each in found if each is not None)
    uneven = [f"{w} by {r}" for w, r in zip(widths, dilations, strict=True) if shape[0] in ("full", "causal") and w % r]
    unmet = f"{', '.join(uneven)} leaves a rest" if uneven else ""
    assumptions = _assumptions(shape[0], len(widths) > 1, dilations)
    return General(TERMS[shape], widths, dilations, assumptions, unmet, _ratio(shape, widths, dilations))


def _shape(branch: Branch, heads: int) -> tuple[tuple[Shape, bool], int, int] | None:
    """(shape and whether every class is there, w, r) of a branch."""
    if not isinstance(branch, Lattice) or branch.heads != tuple(range(heads)):
        return None
    r, band, every = branch.dilation, branch.band, branch.phases is None
    if branch.runs is not None:
        if branch.runs.width != branch.runs.period or branch.runs.start:
            return None
        shape: Shape | None = {FULL: "full", Band(None, 0): "causal"}.get(band)  # pyright: ignore[reportAssignmentType]
        return None if shape is None else ((shape, every and r > 1), branch.runs.width, r)
    if not every:
        return None
    match band.lo, band.hi:
        case int(lo), 0:
            return ("window", True), 1 - lo // r, r
        case int(lo), int(hi) if lo == -hi:
            return ("both sides", True), hi // r, r
        case None, None if r == 1:
            return ("dense", True), 1, 1
        case None, 0 if r == 1:
            return ("triangle", True), 1, 1
        case _:
            return None


def _assumptions(shape: Shape, several: bool, dilations: tuple[int, ...]) -> tuple[str, ...]:
    w, r = ("w_i", "r_i") if several else ("w", "r")
    each = "every " if several else ""
    dilated = any(dilation > 1 for dilation in dilations)
    match shape:
        case "full" | "causal":
            return (
                f"{each}{w} divides N",
                *((f"{each}{r} divides its {w}" if several else f"{r} divides {w}",) if dilated else ()),
            )
        case "window":
            return (f"N >= {f'{r} ({w} - 1)' if dilated else f'{w} - 1'}",)
        case "both sides":
            return (f"N >= {f'{r} {w}' if dilated else w}",)
        case _:
            return ()


def _ratio(shape: tuple[Shape, bool], widths: tuple[int, ...], dilations: tuple[int, ...]) -> int | None:
    """The factor a by which both w and r grow, from branch to branch, where pairs of a branch are N w / r^2."""
    if shape != ("full", False) or len(widths) < 2:
        return None
    a = widths[1] // widths[0]
    grows = all(
        wide == a * w and large == a * r
        for w, wide, r, large in zip(widths, widths[1:], dilations, dilations[1:], strict=False)
    )
    return a if a > 1 and grows else None
