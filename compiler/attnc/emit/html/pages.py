"""The pages: facts, plots and views put into the templates of `assets/`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

import attnlang
from attnc.analysis.comparison import Comparison
from attnc.analysis.curve import Point, curve
from attnc.analysis.report import Report
from attnc.emit import figures
from attnc.emit.comparison import rows
from attnc.emit.html.cells import view_data
from attnc.emit.html.image import first_head_image
from attnc.emit.html.markup import formula_facts, general_facts, highlighted, prose
from attnc.emit.html.plots import Line
from attnc.emit.html.plotted import cost_plot, hops_plot, reach_plot
from attnc.emit.html.views import SIZE, views
from attnc.emit.picture import COLOURS
from attnlang.diagnostics import AttnError
from attnlang.pattern import Pattern

SCRIPTS = ("theme.js", "data.js", "mask.js", "explorer.js")


def report_page(report: Report, *, explorer: int = SIZE) -> str:
    """One self-contained page about a pattern: HTML text that needs nothing else, from a file or a server.

    explorer  how many positions the mask explorer shows where the whole sequence is longer
    """
    shown, missing = _views(report.pattern, report.n, report.heads, report.tables, explorer)
    formulas = [("bag", report.formula), ("distinct", report.distinct_formula)]
    points = curve(report)
    cost = Line(report.pattern.name, [(p.n, p.forward) for p in points], [_says(p) for p in points])
    dense = [(p.n, p.dense_forward) for p in points]
    facts = report.to_dict()
    dependency = facts.get("dependency")
    named = [] if dependency is None else [(report.pattern.name, dependency)]
    return _render(
        "report.html.jinja",
        title=f"{report.pattern.name} · attnlang report",
        pattern=report.pattern,
        facts=facts,
        dependency=dependency,
        source=_source(report.pattern),
        formulas=[formula_facts(name, found, report.heads) for name, found in formulas if found is not None],
        general=general_facts(report),
        plan=str(report.plan),
        cost_plot=cost_plot([cost], dense, report.n) if len(points) > 1 else None,
        points=points,
        reach_plot=reach_plot(named),
        hops_plot=hops_plot(named),
        views=shown,
        missing=missing,
    )


def compare_page(comparison: Comparison, *, explorer: int = SIZE) -> str:
    """One self-contained page about several patterns: their figures side by side, their curves in one plot.

    explorer  how many positions the mask explorer shows where the whole sequence is longer
    """
    lines: list[Line] = []
    dense: dict[float, float] = {}
    named: list[tuple[str, dict[str, Any]]] = []
    for style, entry in enumerate(comparison.entries):
        report = entry.report
        points = curve(report)
        says = [f"{entry.label}: {_says(p)}" for p in points]
        lines.append(Line(entry.label, [(p.n, p.forward) for p in points], says, style))
        dense |= {p.n: p.dense_forward for p in points}
        found = report.to_dict().get("dependency")
        if found is not None:
            named.append((entry.label, found))
    return _render(
        "compare.html.jinja",
        title=f"{', '.join(entry.label for entry in comparison.entries)} · attnlang comparison",
        comparison=comparison,
        rows=rows(comparison),
        sources=[(entry, _source(entry.report.pattern)) for entry in comparison.entries],
        facts=[entry.report.to_dict() for entry in comparison.entries],
        cost_plot=cost_plot(lines, sorted(dense.items()), comparison.n) if len(dense) > 1 else None,
        reach_plot=reach_plot(named),
        hops_plot=hops_plot(named),
        thumbnails=[_thumbnail(entry.report) for entry in comparison.entries],
        views=_first_views(comparison, explorer),
        missing="none of the patterns has a form that is short enough",
    )


def _says(point: Point) -> str:
    bound = "" if point.basis == "exact" else f" ({point.basis})"
    return f"N = {point.n:,}: {figures.flops(point.forward)}{bound}"


def _source(pattern: Pattern) -> Markup | None:
    return highlighted(pattern.source.text) if pattern.source.text.strip() else None


def _views(
    pattern: Pattern, n: int, heads: int, tables: Mapping[str, Any], size: int
) -> tuple[list[dict[str, Any]], str]:
    """The views of a pattern, and why there are none."""
    found: list[dict[str, Any]] = []
    if missing := [name for name, _ in pattern.tables if name not in tables]:
        return [], f"it depends on the content of {', '.join(missing)}, which is not given (-t {missing[0]}=...)"
    reason = f"the pattern has a meaning at N = {n:,} only, which is too long to be shown pair by pair"
    for view in views(pattern, n, tables, size):
        try:
            found.append(view_data(view, heads))
        except AttnError as error:
            reason = error.diagnostics[0].message
    return found, "" if found else ("there are no positions" if n == 0 else reason)


def _first_views(comparison: Comparison, size: int) -> list[dict[str, Any]]:
    """The most telling view of each pattern, under the pattern's label."""
    found: list[dict[str, Any]] = []
    for entry in comparison.entries:
        report = entry.report
        shown, _ = _views(report.pattern, report.n, report.heads, report.tables, size)
        found += [{**each, "title": entry.label, "note": f"{each['title']}. {each['note']}"} for each in shown[:1]]
    return found


def _thumbnail(report: Report) -> dict[str, str] | None:
    """A small picture of a pattern's first head, from the first of its views."""
    given = report.tables if all(name in report.tables for name, _ in report.pattern.tables) else None
    for view in () if given is None else views(report.pattern, report.n, given):
        try:
            return {"title": view.title, "note": view.note, "image": first_head_image(view, report.heads)}
        except AttnError:
            continue
    return None


# assembling ---------------------------------------------------------------------------------------------------------


def _render(template: str, **context: Any) -> str:
    return _environment().get_template(template).render(version=attnlang.__version__, **context) + "\n"


@cache
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("attnc.emit.html", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    formats = (
        figures.whole, figures.flops, figures.size, figures.seconds, figures.share, figures.ratio, figures.short,
        figures.distances, figures.layers_to_connect, figures.unreachable, prose,
    )  # fmt: skip
    filters: dict[str, Any] = found.filters
    filters.update({f"as_{each.__name__}": each for each in formats})
    known: dict[str, Any] = found.globals
    known.update(style=_style(), script=_script(SCRIPTS))
    return found


def _style() -> Markup:
    text = "\n".join((_palette(), _asset("page.css")))
    assert "</style" not in text
    return Markup(text)


def _script(names: Iterable[str]) -> Markup:
    text = "\n".join(_asset(name) for name in names)
    assert "</script" not in text
    return Markup(f'(() => {{\n"use strict";\n{text}\n}})();')


def _asset(name: str) -> str:
    return (files("attnc.emit.html") / "assets" / name).read_text(encoding="utf-8")


def _palette() -> str:
    """The colours of branches as variables, lighter on dark ground."""
    light = "".join(f"--b{number}:{colour};" for number, colour in enumerate(COLOURS, 1))
    dark = "".join(f"--b{number}:{_lighter(colour)};" for number, colour in enumerate(COLOURS, 1))
    return (
        f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}\n"
        f"@media screen{{:root[data-theme=dark]{{{dark}}}}}"
    )


def _lighter(colour: str, by: float = 0.28) -> str:
    parts = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * by):02x}" for part in parts)
