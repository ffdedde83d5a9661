"""Texts as markup: highlighted source, and formulas as MathML."""

from __future__ import annotations

from dataclasses import dataclass

import pygments
import sympy
from markupsafe import Markup
from pygments.formatters import HtmlFormatter
from sympy.printing.mathml import mathml

from attnc.analysis.formula import Formula, text
from attnlang.pattern.highlight import AttnLexer

LIGHT, DARK = "xcode", "github-dark"
"""Pygments' styles."""


def highlighted(source: str) -> Markup:
    """A pattern's text with its words in colours."""
    formatter = HtmlFormatter(nowrap=True)
    return Markup(pygments.highlight(source.strip("\n"), AttnLexer(), formatter))


def styles() -> str:
    """The rules that `highlighted` needs, for light and dark ground."""
    light = _rules(LIGHT, ".source")
    chosen = _rules(DARK, ":root[data-theme=dark] .source")
    preferred = _rules(DARK, ":root:not([data-theme=light]) .source")
    return f"{light}\n@media screen{{{chosen}}}\n@media screen and (prefers-color-scheme:dark){{{preferred}}}"


def _rules(style: str, prefix: str) -> str:
    """A style's colours alone: its ground and its line numbers are the page's business."""
    rules = HtmlFormatter(style=style).get_style_defs(prefix).splitlines()
    return "\n".join(rule for rule in rules if rule.startswith(f"{prefix} .") and ".hll" not in rule)


@dataclass(frozen=True, slots=True)
class FormulaFacts:
    """A formula as the page shows it."""

    name: str
    math: Markup
    mean: str
    text: str
    latex: str
    complexity: str
    assumptions: tuple[str, ...]


def formula_facts(name: str, found: Formula, heads: int) -> FormulaFacts:
    """A formula for all heads, its mean over the heads in decimals, and the same to copy."""
    mean = sympy.expand(found.pairs / heads)
    decimals = text(sum(coefficient.evalf(6) * term for term, coefficient in mean.as_coefficients_dict().items()))
    return FormulaFacts(
        name,
        math(found.pairs),
        decimals.replace("*", " "),
        text(found.pairs),
        sympy.latex(found.pairs),
        found.complexity,
        tuple(found.assumptions),
    )


def math(expression: sympy.Expr) -> Markup:
    """An expression as MathML."""
    return Markup(f"<math>{mathml(expression, printer='presentation')}</math>")


def order(complexity: str) -> str:
    """A complexity class with its power raised: O(N²)."""
    return complexity.replace("^2", "²").replace("^3", "³")
