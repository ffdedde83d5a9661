"""A report as one screen of text."""

from __future__ import annotations

import textwrap

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from attnc.analysis.formula import Formula, text
from attnc.analysis.general import General
from attnc.analysis.report import FORWARD_FLOPS, Report
from attnc.analysis.travel import Dependency, Repair, span
from attnc.emit.picture import shaded
from attnlang.diagnostics import AttnError, render

SKETCHED = 1024


def print_report(report: Report, console: Console) -> None:
    """Print cost, formula and plan, with the pattern drawn small."""
    pattern = report.pattern
    console.print(Text(pattern.call, style="bold"))
    if pattern.doc:
        console.print(Text(textwrap.fill(" ".join(pattern.doc.split()), console.width), style="dim"))
    sizes = f"N = {report.n:,}, {report.heads} heads, head dimension {report.head_dim}"
    console.print(f"\n{sizes}.\n{_basis(report)}", soft_wrap=True)
    console.print(_cost(report))
    console.print(_formulas(report), soft_wrap=True)
    console.print(_hardware(report), soft_wrap=True)
    console.print(_travels(report), soft_wrap=True)
    for diagnostic in report.diagnostics:
        shown = Text.from_ansi(render(diagnostic, colour=console.is_terminal))
        console.print(shown, end="\n\n", soft_wrap=True)
    console.print(_plan(report), soft_wrap=True)


def _basis(report: Report) -> str:
    if report.pairs.exact:
        return f"All counts are exact ({report.pairs.method})."
    given = ": give -t NAME=LIST" if report.pattern.tables and not report.tables else ""
    return f"Counts are upper bounds: {report.pairs.reason}{given}."


def _cost(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "this pattern", "dense", "dense / this"):
        table.add_column(column, justify="left" if column == "" else "right", overflow="fold")
    dense = report.dense
    rows: list[tuple[str, int, int]] = [
        ("pairs, as a bag", report.bag, dense),
        ("pairs, distinct", report.distinct, dense),
        ("FLOPs forward", report.forward_flops, FORWARD_FLOPS * report.head_dim * dense),
        ("FLOPs backward", report.backward_flops, report.backward_flops * dense // max(report.bag, 1)),
    ]
    executed = report.executed_forward_flops
    if executed is not None:
        rows.append(("FLOPs forward, as run on cpu", executed, FORWARD_FLOPS * report.head_dim * dense))
    for name, mine, other in rows:
        show = _grouped if name.startswith("pairs") else scientific
        table.add_row(
            name,
            show(mine),
            _short(other) if name.startswith("pairs") else show(other),
            f"{other / mine:,.2f}x" if mine else "-",
        )
    per_query = report.bag / max(report.heads * report.n, 1)
    table.add_row("keys a query, mean", f"{per_query:,.2f}", f"{report.n:,}", "")
    return table


def _grouped(value: int) -> str:
    return f"{value:,}"


def _short(value: int) -> str:
    return _grouped(value) if value < 10**15 else f"{value:.4g}"


def scientific(value: int) -> str:
    """FLOPs with a unit: 3.21 TFLOP."""
    for factor, unit in ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M")):
        if value >= factor:
            return f"{value / factor:,.2f} {unit}FLOP"
    return f"{value:,} FLOP"


def _formulas(report: Report) -> Text:
    if report.formula is None:
        return Text(f"Pairs as a function of N: no formula: {report.no_formula}.\n")
    lines = ["Pairs a head as a function of N (mean over heads):", *_formula("bag", report.formula, report.heads)]
    if report.distinct_formula is not None and report.distinct_formula.pairs != report.formula.pairs:
        lines += _formula("distinct", report.distinct_formula, report.heads)
    if report.general is not None:
        lines += ["With the parameters as symbols, for a head:", *_general(report.general)]
    return Text("\n".join((*lines, "")))


def _formula(name: str, formula: Formula, heads: int) -> list[str]:
    import sympy

    mean = sympy.expand(formula.pairs / heads)
    about = f"  =  {text(mean.evalf(6))}" if any(number.q > 999 for number in mean.atoms(sympy.Rational)) else ""
    where = " and ".join(formula.assumptions) or "N >= 1"
    basis = "exact" if not formula.checked else _fitted(formula)
    leads = sympy.expand(formula.leading_term / heads)
    grows = "" if leads == mean else f", led by {text(leads.evalf(6) if about else leads)}"
    return [f"    {name:<9} {text(mean)}{about}   {formula.complexity}{grows}", f"    {'':<9} {basis} where {where}"]


def _fitted(formula: Formula) -> str:
    checked = formula.checked
    return (
        f"measured: fitted to exact counts, and equal to {len(checked)} of them from N = {checked[0]} to {checked[-1]},"
    )


def _general(found: General) -> list[str]:
    values = f", {found.values}" if found.values else ""
    conditions = " and ".join(found.assumptions)
    lines = [
        f"    pairs     {found.pairs_text}{values}",
        f"    FLOPs     {found.flops} for one matrix product; twice that for both",
    ]
    if conditions:
        lines.append(f"    {'':<9} exact where {conditions}{f'; here {found.unmet}' if found.unmet else ''}")
    if found.bound is not None:
        lines.append(f"    bound     {found.bound}")
    return lines


def _hardware(report: Report) -> Text:
    """The roofline, in one line a pass."""
    lines = [f"On {report.gpu.name} in bfloat16 ({report.gpu.source}), at best:"]
    passes = (
        ("forward", report.forward_roofline, report.memory_bytes),
        ("backward", report.backward_roofline, report.backward_memory_bytes),
    )
    for name, found, memory in passes:
        limits = f"{found.intensity:,.0f} FLOPs a byte, {found.bound} bound"
        lines.append(f"    {name:<9} {_time(found.seconds):>10}   {limits}, {_bytes(memory)} held")
    return Text("\n".join((*lines, "")))


def _time(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= factor:
            return f"{seconds / factor:,.2f} {unit}"
    return f"{seconds * 1e9:,.0f} ns"


def _bytes(count: int) -> str:
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:,.1f} {unit}"
    return f"{count} B"


REACHES_SHOWN = 6


def _travels(report: Report) -> Group:
    """How information travels, as a small table."""
    if report.dependency is None:
        waits = "the content of its tables" if report.pattern.tables and not report.tables else "--dependency"
        return Group(Text(f"How information travels: not searched; give {waits}.\n"))
    found = report.dependency
    title = f"How information travels ({found.basis}; {found.method}; heads mixed and a residual in every layer):"
    return Group(Text(title), _reach(found), Text("\n".join((*_facts(found), ""))))


def _reach(found: Dependency) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    layers = list(enumerate(found.reach_by_layer, 1))
    shown = layers if len(layers) <= REACHES_SHOWN else [*layers[: REACHES_SHOWN - 1], layers[-1]]
    table.add_column("layers", no_wrap=True)
    for number, _ in shown:
        table.add_column(str(number), justify="right", no_wrap=True)
    table.add_row(f"{_pairs(found)} connected", *(_floored(share) for _, share in shown))
    return table


def _pairs(found: Dependency) -> str:
    return "causal pairs" if found.causal else "pairs"


def _facts(found: Dependency) -> list[str]:
    needed = f"over {len(found.reach_by_layer)}" if found.layers_to_connect is None else f"{found.layers_to_connect:,}"
    lines = [f"layers until all is connected that ever will be: {needed}"]
    if found.unreachable_pairs is not None:
        lines.append(f"{_pairs(found)} that never meet: {found.unreachable_pairs:,}{_examples(found)}")
    if found.cause:
        lines.append(f"    because {found.cause}")
    if found.repair is not None:
        lines.append(f"    {_repair(found.repair)}")
    if found.growth:
        lines.append(f"keys that a query has heard of after l layers, at most: {found.growth}")
    hops = "  ".join(f"{span(first, last)}: {count:,}" for first, last, count in found.hops_by_distance)
    if hops:
        lines.append(
            textwrap.fill(f"most hops by distance: {hops}", 98, subsequent_indent="    ", break_on_hyphens=False)
        )
    return lines


def _examples(found: Dependency) -> str:
    if not found.examples:
        return ""
    shown = ", ".join(f"key {key} and query {query}" for query, key in found.examples[:2])
    return f", as {shown}"


def _repair(repair: Repair) -> str:
    if not repair.verified:
        return f"`... | {repair.text}` may connect them: not verified"
    return f"`... | {repair.text}` connects them all, in {repair.layers} layers: searched again with it"


def _floored(share: float) -> str:
    """A share in percent that says 100 % only of everything."""
    return "100 %" if share == 1 else f"{int(share * 1e6) / 1e4:.4f} %"


def _plan(report: Report) -> Group:
    plan = f"{report.plan}\nbackend sdpa: {report.why}"
    n = min(report.n, SKETCHED)
    if n == 0 or len(report.tables) < len(report.pattern.tables):
        return Group(Text(plan))
    try:
        sketch = shaded(report.pattern.multiplicity(n, 1, **report.tables)[0])
    except AttnError:  # it has no meaning at a shorter length
        return Group(Text(plan))
    where = f"The first {n:,} positions of head 0, darker where more pairs count:"
    return Group(Text(plan), Text(f"\n{where}\n{sketch}"))
