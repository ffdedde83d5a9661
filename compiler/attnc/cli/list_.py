"""`attnc list`: the library."""

from __future__ import annotations

import re

import click

from attnc.cli.common import user_errors


@click.command("list")
def command() -> None:
    """List the patterns of the library, with their parameters and a line on each."""
    from attnlang.pattern.library import library_names, load

    with user_errors():
        patterns = [load(name) for name in library_names()]
    width = max(len(pattern.name) for pattern in patterns)
    for pattern in patterns:
        sentence = re.sub(r" \([^)]*arXiv[^)]*\)", "", " ".join(pattern.doc.split())).split(". ")[0].rstrip(".")
        parameters = ", ".join(name for name, _ in pattern.parameters)
        click.echo(f"{pattern.name:<{width}}  {sentence}{f'  [{parameters}]' if parameters else ''}")
