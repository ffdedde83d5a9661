"""`attnc check FILE...`: every diagnostic of every file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from attnc.cli.common import print_diagnostics, user_errors
from attnlang.diagnostics import Diagnostic, has_errors, to_json
from attnlang.pattern.library import check, read


@click.command("check")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(files: tuple[str, ...], format_: str) -> None:
    """Check pattern files and print every error.

    Exit status 0 if there is none, 1 if there are some, 2 if a file cannot be read.
    """
    found: list[Diagnostic] = []
    with user_errors():
        for name in files:
            found += check(read(Path(name)))
    if format_ == "json":
        click.echo(json.dumps([to_json(diagnostic) for diagnostic in found], indent=2))
    else:
        print_diagnostics(found, err=True)
        errors = sum(diagnostic.severity == "error" for diagnostic in found)
        counted = f"{len(files)} file{'s' if len(files) > 1 else ''}"
        verdict = "clean" if not errors else f"{errors} error{'s' if errors > 1 else ''}"
        click.echo(f"{counted}: {verdict}", err=bool(errors))
    sys.exit(1 if has_errors(found) else 0)
