"""A schedule as one screen of text, and as plain data: what moves, why, and how near it is to the least."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnc.schedule.cost import Times, balance, times
from attnc.schedule.owners import peers
from attnc.schedule.search import Found
from attnlang.schedule import Alternative, Schedule, counted

MOST_RANKS = 256
"""JSON lists transfers and single ranks up to here; above, what they sum to."""


def summary(found: Found) -> dict[str, Any]:
    """Everything `attnc plan --json` says."""
    schedule, s = found.schedule, found.solution
    row = schedule.row_bytes
    forward, backward = times(s, found.device, found.link)
    data: dict[str, Any] = {
        "pattern": schedule.pattern,
        "n": schedule.n,
        "ranks": schedule.ranks,
        "heads": schedule.heads,
        "kv_heads": schedule.kv_heads,
        "head_dim": schedule.head_dim,
        "dtype": schedule.dtype,
        "placement": {"kind": schedule.placement.kind, "tokens_a_rank": _ends(schedule.placement.sizes)},
        "branches": [
            {"branch": " ".join(str(branch).split()), "choice": choice}
            for branch, choice in zip(schedule.plan.branches, schedule.choices, strict=True)
        ],
        "bytes_moved": s.bytes_total,
        "bytes_busiest_rank": s.bytes_busiest,
        "rows_moved": {"keys": int(s.keys_in.sum()), "queries": int(s.queries_in.sum())},
        "bytes_a_row": {"key": row.key(schedule.backward), "query": row.query(schedule.backward)},
        "backward_counted": schedule.backward,
        "certificate": {
            "minimum": schedule.certificate.minimum,
            "bound": schedule.certificate.bound,
            "gap": schedule.certificate.gap,
            "says": certificate_text(schedule, s.bytes_total),
        },
        "balance": balance(s),
        "memory_bytes": {"busiest": max(memory(found))},
        "predicted": {
            "gpu": found.device.name,
            "rates": {"gpu": found.device.source, "link": found.link.source},
            "link": found.link.name,
            "forward_seconds": forward.seconds,
            "backward_seconds": backward.seconds if schedule.backward else None,
            "idle": forward.idle,
        },
        "steps": [_steps(forward), _steps(backward) if schedule.backward else []],
        "rejected": [_alternative(a) for a in schedule.rejected],
        "others": [_alternative(a) for a in schedule.others],
    }
    if schedule.ranks <= MOST_RANKS:
        met = peers(s).tolist()
        data["by_rank"] = [
            {
                "rank": rank,
                "tokens": schedule.placement.sizes[rank],
                "pairs": int(s.local[rank] + s.at_query[rank] + s.at_key[rank] + s.owned[rank]),
                "key_rows_received": int(s.keys_in[rank]),
                "query_rows_received": int(s.queries_in[rank]),
                "key_rows_sent": int(s.keys_out[rank]),
                "query_rows_sent": int(s.queries_out[rank]),
                "peers": met[rank],
            }
            for rank in range(schedule.ranks)
        ]
        data["schedule"] = schedule.to_json()
    return data


def memory(found: Found) -> list[int]:
    """Peak bytes of each rank for one sequence, forward and backward: rows it holds and rows that came."""
    schedule, s, row = found.schedule, found.solution, found.schedule.row_bytes
    dim = schedule.head_dim
    peaks: list[int] = []
    for rank, tokens in enumerate(schedule.placement.sizes):
        own = tokens * dim * (2 * schedule.heads + 2 * schedule.kv_heads)  # q, k, v, out
        partial = tokens * schedule.heads * (dim + 1) * row.partial
        came = int(2 * s.keys_in[rank] + s.queries_in[rank]) * dim
        results = int(s.queries_in[rank] + s.queries_out[rank]) * (dim + 1) * row.partial
        grads = 0
        if schedule.backward:
            grads = own * row.item + tokens * dim * (schedule.heads + 2 * schedule.kv_heads) * row.partial
            grads += came * row.partial + int(2 * s.keys_out[rank]) * dim * row.partial
        peaks.append(own * row.item + 2 * came * row.item + max(partial + results, grads))
    return peaks


def certificate_text(schedule: Schedule, moved: int) -> str:
    """What the certificate proves, in a sentence."""
    certificate = schedule.certificate
    least = f"{certificate.minimum:,} bytes" if certificate.exact else f"{certificate.bound:,} bytes or more"
    if schedule.gathered:
        how = f"owners compute {len(schedule.gathered)} of {counted(len(schedule.plan.branches), 'branch', 'es')}"
        return f"{how}; with each pair at one of its two homes {least} would move"
    if moved > certificate.minimum:
        more = moved / max(certificate.minimum, 1) - 1
        return f"{more:.1%} above the least, {certificate.minimum:,} bytes, to keep the work even"
    if moved == 0:
        return "nothing moves: no plan moves less"
    if certificate.exact:
        return "the least: on this placement no plan with each pair at one of its two homes moves fewer bytes"
    any_plan = "any plan with each pair at one of its two homes moves on this placement"
    if certificate.gap > 1:
        return f"the least that {any_plan} is between {certificate.bound:,} and {certificate.minimum:,} bytes"
    return f"within {certificate.gap:.2%} of the least that {any_plan}"


def _ends(values: tuple[int, ...]) -> list[int]:
    return [min(values), max(values)]


def _alternative(a: Alternative) -> dict[str, Any]:
    return {"name": a.name, "bytes": a.bytes_total, "bytes_busiest_rank": a.bytes_busiest, "seconds": a.seconds}


def _steps(found: Times) -> list[dict[str, Any]]:
    return [
        {"step": label, "lane": lane, "starts": float(start.max(initial=0.0)), "ends": float(end.max(initial=0.0))}
        for label, start, end, lane in found.steps
        if bool((end > start).any())
    ]


def print_schedule(found: Found, data: dict[str, Any], console: Console) -> None:
    """Print placement, branches, bytes, certificate, times and what else was considered."""
    schedule = found.schedule
    console.print(Text(schedule.pattern, style="bold"))
    what = f"N = {schedule.n:,} on {counted(schedule.ranks, 'rank')}, {counted(schedule.heads, 'head')}"
    shared = "" if schedule.group == 1 else f" ({schedule.kv_heads} of k and v)"
    console.print(f"{what}{shared}, head dimension {schedule.head_dim}, {schedule.dtype}")
    console.print(f"Placement: {schedule.placement}\n")
    console.print(_branches(schedule))
    passes = "forward and backward" if schedule.backward else "forward"
    moved, busiest = data["bytes_moved"], data["bytes_busiest_rank"]
    console.print(f"Bytes, {passes}: {size(moved)} in all, {size(busiest)} at the busiest rank")
    rows = data["rows_moved"]
    console.print(f"Rows: {rows['keys']:,} of k and v, {rows['queries']:,} of q, over all heads")
    console.print(f"Certificate: {data['certificate']['says']}")
    console.print(f"             minimum {schedule.certificate.minimum:,} bytes, bound {schedule.certificate.bound:,}")
    console.print(_times(found, data))
    if schedule.rejected or schedule.others:
        console.print(_alternatives(schedule, data))


def _branches(schedule: Schedule) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column()
    for number, (branch, choice) in enumerate(zip(schedule.plan.branches, schedule.choices, strict=True), 1):
        table.add_row(f"{number:>3}", " ".join(str(branch).split()), choice)
    return table


def _times(found: Found, data: dict[str, Any]) -> str:
    predicted = data["predicted"]
    backward = predicted["backward_seconds"]
    both = f"{seconds(predicted['forward_seconds'])} forward" + (f", {seconds(backward)} backward" if backward else "")
    even = f"balance {data['balance']:.1%}, idle {predicted['idle']:.1%}"
    peak = f"peak memory {size(data['memory_bytes']['busiest'])} a rank for one sequence"
    return f"Predicted on {found.device.name} over {found.link.name}: {both}; {even}; {peak}"


def _alternatives(schedule: Schedule, data: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "bytes", "busiest rank", "against this", "predicted"):
        table.add_column(column, justify="left" if column == "" else "right")
    moved = data["bytes_moved"]
    mine = data["predicted"]["forward_seconds"] + (data["predicted"]["backward_seconds"] or 0.0)
    table.add_row("this schedule", size(moved), size(data["bytes_busiest_rank"]), "", seconds(mine))
    for a in (*schedule.rejected, *schedule.others):
        ratio = f"{a.bytes_total / moved:,.2f}x" if moved else "-"
        time = "" if a.seconds is None else seconds(a.seconds)
        table.add_row(a.name, size(a.bytes_total), size(a.bytes_busiest), ratio, time)
    return table


def size(count: float) -> str:
    """Bytes with a unit."""
    for factor, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:,.2f} {unit}"
    return f"{int(count)} B"


def seconds(value: float) -> str:
    """Seconds with a unit."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"
