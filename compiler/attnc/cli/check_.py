"""`attnc check FILE...`: every diagnostic of every file."""

from __future__ import annotations

import json
import sys

import click

from attnc.cli.common import given_source, print_diagnostics, user_errors
from attnlang import AttnError, __version__, codes
from attnlang.diagnostics import Diagnostic, has_errors
from attnlang.machine_formats import github, json_list, sarif


@click.command("check")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json", "sarif", "github"]),
    default="text",
    show_default=True,
    help="text on standard error; json, sarif (2.1.0) and github (annotations) on standard output.",
)
def command(files: tuple[str, ...], format_: str) -> None:
    """Check pattern files and print every error; - is standard input.

    Exit status 0 if there is none, 1 if there are some, 2 if a file cannot be read.
    """
    found: list[Diagnostic] = []
    with user_errors():
        for name in files:
            found += _checked(name)
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
    unreadable = any(diagnostic.code == codes.UNREADABLE for diagnostic in found)
    sys.exit(2 if unreadable else 1 if has_errors(found) else 0)


def _checked(name: str) -> list[Diagnostic]:
    """What there is to say about a file; that it cannot be read, if need be: the others are checked all the same."""
    from attnc.analysis.properties import check

    try:
        source = given_source(name)
    except AttnError as error:
        return list(error.diagnostics)
    return check(source)


def _print_text(found: list[Diagnostic], files: int) -> None:
    print_diagnostics(found, err=True)
    errors = sum(diagnostic.severity == "error" for diagnostic in found)
    counted = f"{files} file{'s' if files > 1 else ''}"
    warnings = len(found) - errors
    verdict = "clean" if not errors else f"{errors} error{'s' if errors > 1 else ''}"
    if warnings:
        verdict += f", {warnings} warning{'s' if warnings > 1 else ''}"
    click.echo(f"{counted}: {verdict}", err=bool(errors))
