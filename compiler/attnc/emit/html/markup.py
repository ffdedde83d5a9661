"""Texts as markup: highlighted source, and formulas as MathML."""

from __future__ import annotations

from dataclasses import dataclass

import pygments
import sympy
from markupsafe import Markup, escape
from pygments.formatters import HtmlFormatter
from sympy.printing.mathml import mathml

from attnc.analysis.formula import Formula, text
from attnlang.pattern.highlight import AttnLexer


def highlighted(source: str) -> Markup:
    """A pattern's text with its words in classes, which the page's style colours."""
    formatter = HtmlFormatter(nowrap=True)
    return Markup(pygments.highlight(source.strip("\n"), AttnLexer(), formatter))


def prose(text: str) -> Markup:
    """A sentence with what stands in backquotes as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


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
    basis: str


def formula_facts(name: str, found: Formula, heads: int) -> FormulaFacts:
    """A formula for all heads, its mean over the heads in decimals, and the same to copy."""
    mean = sympy.expand(found.pairs / heads)
    decimals = text(sympy.Add(*(value.evalf(6) * term for term, value in mean.as_coefficients_dict().items())))
    return FormulaFacts(
        name,
        math(found.pairs),
        decimals.replace("*", " "),
        text(found.pairs),
        sympy.latex(found.pairs),
        found.complexity,
        found.assumptions,
        found.basis,
    )


def math(expression: sympy.Expr) -> Markup:
    """An expression as MathML."""
    return Markup(f'<math displaystyle="true">{mathml(expression, printer="presentation")}</math>')
