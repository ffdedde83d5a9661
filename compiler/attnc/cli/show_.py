"""`attnc show PATTERN`: the picture."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

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

MAX_N = 4096


@click.command("show")
@pattern_options
@size_options(n=64)
@table_option
@click.option("--head", type=Count(0), help="Only this head; otherwise the heads that differ, up to four.")
@click.option("-o", "output", type=OutputFile(), help="A .png, .svg or .pdf file.")
@click.option(
    "--colour/--no-colour",
    "--color/--no-color",
    "colour",
    default=None,
    help="Colours in the terminal, one a branch; by default where standard output is one.",
)
def command(
    pattern: str,
    parameters: tuple[str, ...],
    n: int,
    heads: int,
    tables: tuple[str, ...],
    head: int | None,
    output: Path | None,
    colour: bool | None,
) -> None:
    """Draw a pattern: queries downwards, keys across, each pair in the colour of the branch that holds it."""
    if head is not None and head >= heads:
        raise click.BadParameter(f"--head {head}: heads are 0 to {heads - 1}")
    if n > MAX_N:
        raise click.BadParameter(f"--n {n}: a picture shows at most {MAX_N} positions; patterns repeat")
    with user_errors():
        from attnc.emit.picture import picture, save, terminal, terminal_legend

        found = load_pattern(pattern, parameters)
        shown = picture(found, n, heads, head, given_tables(found, tables))
        if output is not None:
            save(found, n, heads, shown, output)
            click.echo(f"wrote {output}")
            return
        coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ if colour is None else colour
        for panel in shown.panels:
            click.echo(f"{found.name}, N = {n}, {panel.title}\n{terminal(panel, coloured)}\n", color=coloured)
        if coloured and len(shown.labels) > 1:
            click.echo(terminal_legend(shown), color=True)
