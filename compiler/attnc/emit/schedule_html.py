"""A schedule as one self-contained page: what each branch does, a timeline of the ranks, who sends how much to whom."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.emit.schedule import seconds, size
from attnc.schedule.cost import Times, times
from attnc.schedule.search import Found
from attnlang.parallel.units import units
from attnlang.plan import Lattice
from attnlang.schedule import Schedule, counted

CELLS = 64
"""Ranks drawn one by one; of more, neighbours are drawn together."""

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ink: light-dark(#1a1a1a, #e8e8e8); --soft: light-dark(#666, #aaa);
        --compute: light-dark(#2f6f9f, #6fb1e0); --link: light-dark(#c4682b, #f0a060); }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid var(--line); } .n { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.compute { fill: var(--compute); } .link { fill: var(--link); } .frame { fill: none; stroke: var(--line); }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .4em 0 1em; }
p.soft { color: var(--soft); }
"""


def page(found: Found, data: dict[str, Any]) -> str:
    """The whole page."""
    schedule = found.schedule
    forward, backward = times(found.solution, found.device, found.link)
    title = f"{schedule.pattern}: n = {schedule.n:,} on {counted(schedule.ranks, 'rank')}"
    passes = [("Forward", forward)] + ([("Backward", backward)] if schedule.backward else [])
    body = [
        f"<h1>{escape(schedule.pattern)}</h1>",
        f"<p>n = {schedule.n:,} on {counted(schedule.ranks, 'rank')}, {counted(schedule.heads, 'head')} "
        f"({schedule.kv_heads} of k and v), "
        f"head dimension {schedule.head_dim}, {schedule.dtype}. Placement: {escape(str(schedule.placement))}.</p>",
        *_facts(data),
        "<h2>Branches</h2>",
        *_table(("", "branch", "how"), _branch_rows(data)),
        "<h2>Against other ways</h2>",
        *_table(("", "bytes in all", "busiest rank", "predicted"), _other_rows(data), numbers=(1, 2, 3)),
        f"<h2>Timeline</h2><p class=soft>Predicted on {escape(found.device.name)} over {escape(found.link.name)}."
        "<span class=key style='background:var(--compute)'></span>computing"
        "<span class=key style='background:var(--link)'></span>on the wire</p>",
        *(f"<h3>{name}: {seconds(t.seconds)}</h3>{_timeline(t)}" for name, t in passes),
        "<h2>Traffic</h2><p class=soft>Bytes from each rank (row) to each other (column).</p>",
        _matrix(traffic(schedule)),
    ]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{escape(title)}</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _facts(data: dict[str, Any]) -> Iterator[str]:
    certificate = data["certificate"]
    rows = data["rows_moved"]
    passes = "forward and backward" if data["backward_counted"] else "forward"
    yield "<ul>"
    yield f"<li>{size(data['bytes_moved'])} move ({passes}), {size(data['bytes_busiest_rank'])} at the busiest rank: "
    yield f"{rows['keys']:,} rows of k and v, {rows['queries']:,} of q</li>"
    yield f"<li>Certificate: {escape(certificate['says'])} (minimum {certificate['minimum']:,}, "
    yield f"bound {certificate['bound']:,} bytes)</li>"
    yield f"<li>Balance {data['balance']:.1%}, idle {data['predicted']['idle']:.1%}, peak memory "
    yield f"{size(data['memory_bytes']['busiest'])} a rank for one sequence</li></ul>"


def _branch_rows(data: dict[str, Any]) -> list[tuple[str, ...]]:
    return [(str(i), item["branch"], item["choice"]) for i, item in enumerate(data["branches"], 1)]


def _other_rows(data: dict[str, Any]) -> list[tuple[str, ...]]:
    mine = data["predicted"]["forward_seconds"] + (data["predicted"]["backward_seconds"] or 0.0)
    first = ("this schedule", size(data["bytes_moved"]), size(data["bytes_busiest_rank"]), seconds(mine))
    rest = [
        (a["name"], size(a["bytes"]), size(a["bytes_busiest_rank"]), seconds(a["seconds"]) if a["seconds"] else "")
        for a in (*data["rejected"], *data["others"])
    ]
    return [first, *rest]


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]], numbers: tuple[int, ...] = ()) -> Iterator[str]:
    def cell(tag: str, place: int, text: str) -> str:
        return f"<{tag}{' class=n' if place in numbers else ''}>{escape(text)}</{tag}>"

    yield "<div class=scroll><table><tr>" + "".join(cell("th", i, text) for i, text in enumerate(heads)) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(cell("td", i, text) for i, text in enumerate(row)) + "</tr>"
    yield "</table></div>"


def _timeline(found: Times) -> str:
    ranks = len(found.computing)
    shown = np.unique(np.linspace(0, ranks - 1, min(ranks, CELLS)).astype(int))
    lane, left, width = 20 if len(shown) <= 16 else 10, 60, 800
    total = found.seconds or 1.0
    parts: list[str] = []
    for row, rank in enumerate(shown):
        top = row * (lane + 2)
        if len(shown) <= 16 or row % 8 == 0:
            parts.append(f"<text x=0 y={top + lane * 0.7:.1f}>rank {rank}</text>")
        for label, start, end, kind in found.steps:
            if end[rank] <= start[rank]:
                continue
            x, w = left + width * start[rank] / total, max(0.5, width * (end[rank] - start[rank]) / total)
            y = top if kind == "compute" else top + lane / 2
            tip = f"rank {rank}: {label}, {seconds(float(end[rank] - start[rank]))}"
            box = f"x={x:.2f} y={y:.1f} width={w:.2f} height={lane / 2 - 0.5:.1f}"
            parts.append(f"<rect class={kind} {box}><title>{escape(tip)}</title></rect>")
    height = len(shown) * (lane + 2) + 16
    last = f"<text x={left + width} y={height - 2} text-anchor=end>{seconds(total)}</text>"
    axis = f"<text x={left} y={height - 2}>0</text>{last}"
    return f"<div class=scroll><svg width={left + width} height={height}>{''.join(parts)}{axis}</svg></div>"


def traffic(schedule: Schedule) -> NDArray[np.float64]:
    """Bytes from rank to rank, forward and, where counted, backward: (senders, receivers). Above `CELLS` ranks, of
    groups of neighbours.
    """
    cells = min(schedule.ranks, CELLS)
    group = np.arange(schedule.ranks) * cells // schedule.ranks
    row, backward = schedule.row_bytes, schedule.backward
    there = row.query_forward + (row.query_backward if backward else 0)
    back = row.query_forward_back + (row.query_backward_back if backward else 0)
    key_back = row.key_backward_back if backward else 0
    found = np.zeros((cells, cells))

    def add(queries_at: Any, keys_at: Any, key_rows: int, query_rows: int) -> None:
        np.add.at(found, (group[keys_at], group[queries_at]), key_rows * row.key_forward + query_rows * back)
        np.add.at(found, (group[queries_at], group[keys_at]), query_rows * there + key_rows * key_back)

    for a in range(schedule.ranks):
        for exchange in schedule.exchanges[a] if schedule.exchanges else ():
            transfer = schedule.transfers[exchange.transfer]
            others = np.arange(exchange.first, exchange.last + 1)
            add(np.full(len(others), a), others, transfer.key_rows, transfer.query_rows)
    for number in schedule.gathered:
        branch = schedule.plan.branches[number]
        assert isinstance(branch, Lattice)
        for unit in units(schedule.placement, branch, schedule.group):
            for rank, tokens in unit.key_parts:
                if rank != unit.owner:
                    add([unit.owner], [rank], tokens.count, 0)
            for rank, tokens in unit.query_parts:
                if rank != unit.owner:
                    add([rank], [unit.owner], 0, tokens.count * len(unit.heads))
    return found


def _matrix(found: NDArray[np.float64]) -> str:
    ranks = len(found)
    cell = max(5, min(24, 480 // ranks))
    most = float(found.max(initial=0.0)) or 1.0
    parts: list[str] = []
    for i, j in zip(*np.nonzero(found), strict=True):
        tip = f"{i} to {j}: {size(float(found[i, j]))}"
        shade = f"{0.15 + 0.85 * found[i, j] / most:.2f}"
        box = f"x={30 + j * cell} y={20 + i * cell} width={cell - 1} height={cell - 1} fill-opacity={shade}"
        parts.append(f"<rect class=link {box}><title>{tip}</title></rect>")
    side = ranks * cell
    frame = f"<rect class=frame x=29.5 y=19.5 width={side} height={side} />"
    marks = "".join(
        f"<text x={30 + i * cell} y=14>{i}</text><text x=2 y={20 + i * cell + cell * 0.8:.0f}>{i}</text>"
        for i in range(0, ranks, max(1, ranks // 8))
    )
    note = "" if found.any() else "<p>Nothing moves.</p>"
    return (
        f"{note}<div class=scroll><svg width={side + 40} height={side + 30}>{marks}{frame}{''.join(parts)}</svg></div>"
    )
