"""A report as one screen of text."""

from __future__ import annotations

import textwrap

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from attnc.analysis.dependency import Dependency
from attnc.analysis.formula import Formula, text
from attnc.analysis.report import FORWARD_FLOPS, Report
from attnc.emit.picture import shaded
from attnlang.diagnostics import render

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
    console.print(_hardware(report))
    if report.dependency is not None:
        console.print(_dependency(report.dependency))
    for diagnostic in report.diagnostics:
        console.print(Text.from_ansi(render(diagnostic, colour=console.is_terminal)), end="\n\n")
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


def _dependency(found: Dependency) -> Group:
    """How information travels, as a small table."""
    pairs = "causal pairs" if found.causal else "pairs"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    layers = list(enumerate(found.reach_by_layer, 1))
    shown = layers if len(layers) <= REACHES_SHOWN else [*layers[: REACHES_SHOWN - 1], layers[-1]]
    table.add_column("layers")
    for number, _ in shown:
        table.add_column(str(number), justify="right")
    table.add_row(f"{pairs} connected", *(f"{_floored(share)}" for _, share in shown))
    lines = [f"layers until all is connected that ever will be: {found.layers_to_connect or f'over {len(layers)}'}"]
    if found.unreachable_pairs is not None:
        lines.append(f"{pairs} that never meet: {found.unreachable_pairs:,}")
    hops = "  ".join(f"{_span(first, last)}: {count}" for first, last, count in found.hops_by_distance)
    lines.append(textwrap.fill(f"most hops by distance: {hops}", 110, subsequent_indent="    "))
    title = f"How information travels ({found.basis}; {found.method}; heads mixed and a residual in every layer):"
    return Group(Text(title), table, Text("\n".join((*lines, ""))))


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _floored(share: float) -> str:
    """A share in percent that says 100 % only of everything."""
    return "100 %" if share == 1 else f"{int(share * 1e6) / 1e4:.4f} %"


def _plan(report: Report) -> Group:
    n = min(report.n, SKETCHED)
    where = f"The first {n:,} positions of head 0, darker where more pairs count:"
    sketch = shaded(report.pattern.multiplicity(n, 1, **report.tables)[0]) if n else ""
    plan = f"backend reference: {report.why}" if report.plan is None else f"{report.plan}\nbackend sdpa: {report.why}"
    return Group(Text(plan), Text(f"\n{where}\n{sketch}"))
