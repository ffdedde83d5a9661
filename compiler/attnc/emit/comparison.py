"""A comparison as rows of text, and as a table in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnc.analysis.comparison import Comparison
from attnc.emit import figures

Facts: TypeAlias = "dict[str, Any]"
"""A report as plain data: what `Report.to_dict` gives."""


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity: its name, and its text for every pattern."""

    name: str
    cells: tuple[str, ...]


def rows(found: Comparison) -> list[Row]:
    """The comparison, a row a quantity. What was not computed, or has no formula, is a dash."""
    facts = [entry.report.to_dict() for entry in found.entries]
    return [Row(name, tuple(cell(each) for each in facts)) for name, cell in _ROWS]


def _bounded(write: Callable[[Facts], str]) -> Callable[[Facts], str]:
    """The text of a count, marked where it is an upper bound."""
    return lambda facts: write(facts) if facts["pairs"].get("basis", "exact") == "exact" else f"≤ {write(facts)}"


def _fewer(facts: Facts) -> str:
    ratio = figures.ratio(facts["flops"]["dense_forward"], facts["flops"]["forward"])
    return ratio if facts["pairs"].get("basis", "exact") == "exact" else f"≥ {ratio}"


def _formula(facts: Facts) -> str:
    return facts["formula"]["pairs"] if facts["formula"] else "-"


def _complexity(facts: Facts) -> str:
    return facts["formula"]["complexity"] if facts["formula"] else "-"


def _first_reach(facts: Facts) -> str:
    reach = facts.get("dependency") and facts["dependency"]["reach_by_layer"]
    return figures.share(reach[0]) if reach else "-"


def _most_hops(facts: Facts) -> str:
    hops = facts.get("dependency") and facts["dependency"]["hops_by_distance"]
    return str(max(hops.values())) if hops else "-"


def _basis(facts: Facts) -> str:
    return "-" if facts.get("dependency") is None else facts["dependency"]["basis"]


def _roofline(facts: Facts) -> str:
    hardware = facts.get("hardware")
    return f"{figures.seconds(hardware['forward']['seconds'])} on {hardware['gpu']}" if hardware else "-"


_ROWS: tuple[tuple[str, Callable[[Facts], str]], ...] = (
    ("pairs, as a bag", _bounded(lambda facts: figures.whole(facts["pairs"]["bag"]))),
    ("pairs, distinct", _bounded(lambda facts: figures.whole(facts["pairs"]["distinct"]))),
    ("density", _bounded(lambda facts: figures.share(facts["density"]))),
    ("FLOPs forward", _bounded(lambda facts: figures.flops(facts["flops"]["forward"]))),
    ("FLOPs backward", _bounded(lambda facts: figures.flops(facts["flops"]["backward"]))),
    ("dense / this", _fewer),
    ("pairs as a formula", _formula),
    ("complexity", _complexity),
    ("reach of one layer", _first_reach),
    ("layers to connect", lambda facts: figures.layers_to_connect(facts.get("dependency"))),
    ("most hops", _most_hops),
    ("pairs that never meet", lambda facts: figures.unreachable(facts.get("dependency"))),
    ("dependency is", _basis),
    ("memory of a forward", lambda facts: figures.size(facts["memory_bytes"])),
    ("roofline forward", _roofline),
    ("backend", lambda facts: facts["plan"]["backend"]),
    ("branches to run", lambda facts: str(len(facts["plan"]["branches"]) or "-")),
)

NAME_WIDTH, COLUMN_WIDTH = 24, 26


def print_comparison(found: Comparison, console: Console) -> None:
    """The comparison in the terminal: as many patterns beside one another as its width takes."""
    heads = f"{found.heads} head{'' if found.heads == 1 else 's'}"
    console.print(Text(f"N = {found.n:,}, {heads}, head dimension {found.head_dim}"))
    beside = max(1, (console.width - NAME_WIDTH) // COLUMN_WIDTH)
    lines = rows(found)
    for first in range(0, len(found.entries), beside):
        places = range(first, min(first + beside, len(found.entries)))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("", no_wrap=True)
        for place in places:
            table.add_column(Text(found.entries[place].label, style="bold"), justify="right", overflow="fold")
        for line in lines:
            table.add_row(line.name, *(Text(line.cells[place]) for place in places))
        console.print(table)
    for entry in found.entries:
        for finding in entry.report.to_dict().get("diagnostics", []):
            console.print(Text(f"{entry.label}: {finding['severity']}[{finding['code']}]: {finding['message']}"))
