"""Texts as markup: highlighted source, and formulas as MathML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pygments
import sympy
from markupsafe import Markup, escape
from pygments.formatters import HtmlFormatter
from sympy.printing.mathml import mathml

from attnc.analysis.formula import Formula, text
from attnc.analysis.general import R, W
from attnc.analysis.report import Report
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


@dataclass(frozen=True, slots=True)
class GeneralFacts:
    """The form with parameters as symbols, as the page shows it."""

    math: Markup
    latex: str
    values: str
    assumptions: tuple[str, ...]
    unmet: str
    bound: str | None


def general_facts(report: Report) -> GeneralFacts | None:
    """The general form of a report, if it has one."""
    found = report.general
    if found is None:
        return None
    term = found.term if any(rate > 1 for rate in found.dilations) else found.term.subs(R, 1)
    count = len(found.widths)
    alone = {W: sympy.Symbol("w"), R: sympy.Symbol("r")}
    shown: Any = term.subs(alone) if count == 1 else sympy.Sum(term, (sympy.Symbol("i"), 1, count))
    return GeneralFacts(math(shown), found.pairs_latex, found.values, found.assumptions, found.unmet, found.bound)


def math(expression: sympy.Expr) -> Markup:
    """An expression as MathML."""
    return Markup(f'<math displaystyle="true">{mathml(expression, printer="presentation")}</math>')
