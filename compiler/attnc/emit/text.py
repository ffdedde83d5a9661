"""A report as one screen of text."""

from __future__ import annotations

import textwrap

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from attnc.analysis.formula import Formula, text
from attnc.analysis.report import FORWARD_FLOPS, Report
from attnc.emit.picture import shaded

SKETCHED = 1024


def print_report(report: Report, console: Console) -> None:
    """Print cost, formula and plan, with the pattern drawn small."""
    pattern = report.pattern
    console.print(Text(pattern.call, style="bold"))
    if pattern.doc:
        console.print(Text(textwrap.fill(" ".join(pattern.doc.split()), console.width), style="dim"))
    sizes = f"N = {report.n:,}, {report.heads} heads, head dimension {report.head_dim}"
    console.print(f"\n{sizes}. All counts are exact.")
    console.print(_cost(report))
    console.print(_formulas(report))
    console.print(_plan(report))


def _cost(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "this pattern", "dense", "dense / this"):
        table.add_column(column, justify="left" if column == "" else "right")
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
        table.add_row(name, show(mine), show(other), f"{other / mine:,.2f}x" if mine else "-")
    per_query = report.bag / max(report.heads * report.n, 1)
    table.add_row("keys a query, mean", f"{per_query:,.2f}", f"{report.n:,}", "")
    return table


def _grouped(value: int) -> str:
    return f"{value:,}"


def scientific(value: int) -> str:
    """FLOPs with a unit: 3.21 TFLOP."""
    for factor, unit in ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M")):
        if value >= factor:
            return f"{value / factor:,.2f} {unit}FLOP"
    return f"{value:,} FLOP"


def _formulas(report: Report) -> Group:
    if report.formula is None:
        return Group(Text("Pairs as a formula: this pattern is not made of lattices; it was counted pair by pair.\n"))
    lines = [_formula("bag", report.formula, report.heads)]
    if report.distinct_formula is not None and report.distinct_formula != report.formula:
        lines.append(_formula("distinct", report.distinct_formula, report.heads))
    conditions = " and ".join(report.formula.assumptions)
    lines.append(f"    exact where {conditions}" if conditions else "    exact for every N >= 1")
    return Group(Text("\n".join(("Pairs a head as a function of N (mean over heads):", *lines, ""))))


def _formula(name: str, formula: Formula, heads: int) -> str:
    import sympy

    mean = sympy.expand(formula.pairs / heads)
    about = f"  =  {text(mean.evalf(6))}" if any(number.q > 999 for number in mean.atoms(sympy.Rational)) else ""
    return f"    {name:<9} {text(mean)}{about}   {formula.complexity}"


def _plan(report: Report) -> Group:
    n = min(report.n, SKETCHED)
    where = f"The first {n:,} positions of head 0, darker where more pairs count:"
    sketch = shaded(report.pattern.multiplicity(n, 1, **report.tables)[0]) if n else ""
    plan = f"backend reference: {report.why}" if report.plan is None else f"{report.plan}\nbackend sdpa: {report.why}"
    return Group(Text(plan), Text(f"\n{where}\n{sketch}"))
