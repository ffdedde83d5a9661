"""`attnc report PATTERN`: cost, formula and plan."""

from __future__ import annotations

import json
from pathlib import Path

import click

from attnc.cli.common import (
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
) -> None:
    """Say what a pattern costs, exactly, and how information travels through it."""
    with user_errors():
        from attnc.analysis.report import report

        loaded = load_pattern(pattern, parameters)
        given = given_tables(loaded, tables) if tables else {}
        with progress_shown() as progress:
            found = report(loaded, n, heads, head_dim, given, with_dependency=dependency, gpu=gpu, progress=progress)
            if page is not None:
                from attnc.emit.html import report_page

                progress("drawing")
                page.write_text(report_page(found), encoding="utf-8")
        if page is not None:
            click.echo(f"wrote {page}", err=as_json)
        if as_json:
            click.echo(json.dumps(found.to_dict(), indent=2))
        if as_json or page is not None:
            return
        from rich.console import Console

        from attnc.emit.text import print_report

        print_report(found, Console(highlight=False))
