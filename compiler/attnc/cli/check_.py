"""`attnc check FILE...`: every diagnostic of every file."""

from __future__ import annotations

import json
import sys

import click

from attnc.cli.common import given_source, print_diagnostics, user_errors
from attnlang import __version__
from attnlang.diagnostics import Diagnostic, has_errors
from attnlang.machine_formats import github, json_list, sarif


@click.command("check")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--format", "format_", type=click.Choice(["text", "json", "sarif", "github"]), default="text", show_default=True
)
def command(files: tuple[str, ...], format_: str) -> None:
    """Check pattern files and print every error; - is standard input.

    Exit status 0 if there is none, 1 if there are some, 2 if a file cannot be read.
    """
    from attnc.analysis.properties import check

    found: list[Diagnostic] = []
    with user_errors():
        for name in files:
            found += check(given_source(name))
    match format_:
        case "json":
            click.echo(json.dumps(json_list(found), indent=2))
        case "sarif":
            click.echo(json.dumps(sarif(found, __version__), indent=2))
        case "github":
            for diagnostic in found:
                click.echo(github(diagnostic))
        case _:
            _print_text(found, len(files))
    sys.exit(1 if has_errors(found) else 0)


def _print_text(found: list[Diagnostic], files: int) -> None:
    print_diagnostics(found, err=True)
    errors = sum(diagnostic.severity == "error" for diagnostic in found)
    counted = f"{files} file{'s' if files > 1 else ''}"
    warnings = len(found) - errors
    verdict = "clean" if not errors else f"{errors} error{'s' if errors > 1 else ''}"
    if warnings:
        verdict += f", {warnings} warning{'s' if warnings > 1 else ''}"
    click.echo(f"{counted}: {verdict}", err=bool(errors))
