"""`attnc plan PATTERN --n N --ranks R`: the sequence-parallel schedule, what it moves, and its certificate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from attnc.api import MOST_RANKS, MOST_TOKENS
from attnc.cli.common import (
    Count,
    OutputFile,
    given_tables,
    load_pattern,
    pattern_options,
    size_options,
    table_option,
    user_errors,
)


@click.command("plan")
@pattern_options
@size_options(n=1_048_576, least=1, most=MOST_TOKENS)
@table_option
@click.option("--ranks", default=8, show_default=True, type=Count(1, MOST_RANKS), help="Ranks that hold the sequence.")
@click.option("--kv-heads", type=Count(1), help="Heads of k and v, if fewer than of q.")
@click.option("--head-dim", default=64, show_default=True, type=Count(1), help="Dimension of a head.")
@click.option("--dtype", default="bfloat16", show_default=True, help="What rows travel in.")
@click.option("--placement", default="auto", show_default=True, help="contiguous, zigzag, striped or auto.")
@click.option("--gpu", default="h100", show_default=True, help="Device that times are predicted for.")
@click.option(
    "--backend", default="auto", show_default=True, help="auto, triton or sdpa: whose measured rates are taken."
)
@click.option("--link", help="nvlink, infiniband, pcie or ethernet; by the number of ranks unless given.")
@click.option("--objective", default="", help="time or bytes; by default bytes where a placement is given.")
@click.option("--forward-only", is_flag=True, help="Weigh the forward pass alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--html", type=OutputFile(), help="Write a page to look at.")
def command(
    pattern: str, parameters: tuple[str, ...], n: int, heads: int, tables: tuple[str, ...], ranks: int,
    kv_heads: int | None, head_dim: int, dtype: str, placement: str, gpu: str, backend: str, link: str | None,
    objective: str, forward_only: bool, as_json: bool, html: Path | None,
) -> None:  # fmt: skip
    """Write the sequence-parallel schedule: who computes what, who sends what to whom, provably near the least.

    Bytes are for one sequence and one layer, forward and backward together unless --forward-only.
    """
    with user_errors():
        from attnc.api import found_schedule
        from attnc.emit.schedule import summary

        loaded = load_pattern(pattern, parameters)
        given: dict[str, Any] = given_tables(loaded, tables)
        found = found_schedule(
            loaded, n=n, ranks=ranks, heads=heads, head_dim=head_dim, kv_heads=kv_heads, dtype=dtype,
            placement=placement, gpu=gpu, link=link, backward=not forward_only, tables=given,
            objective=objective, backend=backend,
        )  # fmt: skip
        data = summary(found)
        if html is not None:
            from attnc.emit.schedule_html import page

            html.write_text(page(found, data), encoding="utf-8")
        if as_json:
            click.echo(json.dumps(data, indent=2))
            return
        from rich.console import Console

        from attnc.emit.schedule import print_schedule

        print_schedule(found, data, Console(highlight=False))
    if html is not None:
        click.echo(f"wrote {html}")
