"""`attnc fmt FILE...`: the one way to lay out a text."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from attnc.cli.common import fail, given_text, user_errors
from attnlang import AttnError
from attnlang.diagnostics import Diagnostic
from attnlang.syntax import parse
from attnlang.syntax.formatter import format_text


@click.command("fmt")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit with 1 if a file would change.")
@click.option("--diff", "show_diff", is_flag=True, help="Change nothing; show what would change.")
def command(files: tuple[str, ...], only_check: bool, show_diff: bool) -> None:
    """Format pattern files in place; - formats standard input to standard output.

    There are no options of style. Files with syntax errors are left alone, and the errors printed. Line ends become
    those of Unix. Exit status 0, or 1 for syntax errors (and, with --check, for files that would change), or 2 if a
    file cannot be read.
    """
    changed, faults = False, list[Diagnostic]()
    with user_errors():
        for name in files:
            try:
                source, old = given_text(name)
            except AttnError as error:
                faults += error.diagnostics
                continue
            _, found = parse(source)
            faults += found
            changed |= not found and _handle(name, old, format_text(source), only_check, show_diff)
    if faults:
        fail(faults)
    sys.exit(1 if changed and only_check else 0)


def _handle(name: str, old: str, new: str, only_check: bool, show_diff: bool) -> bool:
    """Do with a formatted text what was asked for; whether it differs from what is there."""
    if name == "-" and not only_check and not show_diff:
        click.echo(new, nl=False)
        return False
    if show_diff:
        click.echo("".join(_difference(old, new, name)), nl=False)
    elif only_check:
        if old != new:
            click.echo(f"{name} would be formatted", err=True)
    elif old != new:
        Path(name).write_text(new, encoding="utf-8", newline="\n")
        click.echo(f"formatted {name}")
    return old != new


def _difference(old: str, new: str, name: str) -> Iterator[str]:
    """A unified diff; a last line without an end says so, as diff does."""
    before, after = (text.splitlines(keepends=True) for text in (old, new))
    for line in difflib.unified_diff(before, after, name, f"{name} (formatted)"):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
