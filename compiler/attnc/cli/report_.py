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
    size_options,
    table_option,
    user_errors,
)


@click.command("report")
@pattern_options
@size_options(n=32768)
@table_option
@click.option("--head-dim", default=64, show_default=True, type=click.IntRange(1), help="Dimension of a head.")
@click.option("--gpu", default="h100", show_default=True, help="The GPU whose roofline is given.")
@click.option(
    "--dependency/--no-dependency",
    default=None,
    help="Search how information travels, or leave it out; by default it is left out where the search is long.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write a self-contained page.")
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
