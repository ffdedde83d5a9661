"""`attnc fmt FILE...`: the one way to lay out a text."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import click

from attnc.cli.common import fail, given_source, user_errors
from attnlang.syntax import parse
from attnlang.syntax.formatter import format_text


@click.command("fmt")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit with 1 if a file would change.")
@click.option("--diff", "show_diff", is_flag=True, help="Change nothing; show what would change.")
def command(files: tuple[str, ...], only_check: bool, show_diff: bool) -> None:
    """Format pattern files in place; - formats standard input to standard output.

    There are no options of style. Files with syntax errors are left alone, and the errors printed.
    """
    changed = False
    with user_errors():
        for name in files:
            source = given_source(name)
            _, diagnostics = parse(source)
            if diagnostics:
                fail(diagnostics)
            changed |= _handle(name, source.text, format_text(source), only_check, show_diff)
    sys.exit(1 if changed and only_check else 0)


def _handle(name: str, old: str, new: str, only_check: bool, show_diff: bool) -> bool:
    """Do with a formatted text what was asked for; whether it differs."""
    if show_diff:
        lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), name, f"{name} (formatted)")
        click.echo("".join(lines), nl=False)
    elif only_check:
        if old != new:
            click.echo(f"{name} would be formatted", err=True)
    elif name == "-":
        click.echo(new, nl=False)
    elif old != new:
        Path(name).write_text(new, encoding="utf-8")
        click.echo(f"formatted {name}")
    return old != new
