"""`attnc report PATTERN`: cost, formula and plan."""

from __future__ import annotations

import json
from pathlib import Path

import click

from attnc.api import MOST_RANKS
from attnc.cli.common import (
    Count,
    given_tables,
    load_pattern,
    pattern_options,
    progress_shown,
    report_options,
    user_errors,
)


@click.command("report")
@pattern_options
@report_options
@click.option(
    "--ranks",
    type=Count(1, MOST_RANKS),
    help="Also the schedule for so many ranks: what it moves, and its certificate.",
)
def command(
    pattern: str,
    parameters: tuple[str, ...],
    n: int,
    heads: int,
    tables: tuple[str, ...],
    head_dim: int,
    gpu: str,
    dependency: bool | None,
    as_json: bool,
    page: Path | None,
    ranks: int | None,
) -> None:
    """Say what a pattern costs, exactly, and how information travels through it."""
    if ranks is not None and page is not None:
        raise click.UsageError(
            "--ranks goes with the text and with --json; a schedule's page is `attnc plan PATTERN --ranks R --html OUT`"
        )
    with user_errors():
        from attnc.analysis.report import report

        loaded = load_pattern(pattern, parameters)
        given = given_tables(loaded, tables) if tables or ranks is not None else {}
        with progress_shown() as progress:
            found = report(loaded, n, heads, head_dim, given, with_dependency=dependency, gpu=gpu, progress=progress)
            if page is not None:
                from attnc.emit.html import report_page

                progress("drawing")
                page.write_text(report_page(found), encoding="utf-8")
        if page is not None:
            click.echo(f"wrote {page}", err=as_json)
        schedule, in_short = None, None
        if ranks is not None:
            from attnc.api import found_schedule
            from attnc.emit.schedule import summary

            schedule = found_schedule(
                loaded, n=n, ranks=ranks, heads=heads, head_dim=head_dim, kv_heads=None, dtype="bfloat16",
                placement="auto", gpu=gpu, link=None, backward=True, tables=dict(given),
            )  # fmt: skip
            in_short = summary(schedule)
        if as_json:
            more = {"schedule": in_short} if in_short else {}
            click.echo(json.dumps({**found.to_dict(), **more}, indent=2))
        if as_json or page is not None:
            return
        from rich.console import Console

        from attnc.emit.text import print_report

        console = Console(highlight=False)
        print_report(found, console)
        if schedule is not None and in_short is not None:
            from attnc.emit.schedule import print_schedule

            console.print()
            print_schedule(schedule, in_short, console)
