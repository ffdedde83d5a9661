"""`attnc explain CODE`: what a diagnostic means, with a wrong and a right example."""

from __future__ import annotations

import sys

import click

from attnlang.catalogue import pages
from attnlang.codes import CODES


@click.command("explain")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Explain the diagnostic CODE, as in `attnc explain A0104`; without CODE, list them all."""
    if code is None:
        for known, sentence in CODES.items():
            click.echo(f"{known}  {sentence}")
        return
    text = pages()[_known(code)].text.rstrip("\n")
    if not sys.stdout.isatty():
        click.echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def _known(code: str) -> str:
    """`a0104` and `104`  -->  `A0104`"""
    known = f"A{code.zfill(4)}" if code.isdecimal() else code.upper()
    if known in CODES:
        return known
    hint = f"codes are {min(CODES)} to {max(CODES)}"
    if known[1:].isdecimal():
        hint = f"did you mean {min(CODES, key=lambda other: abs(int(other[1:]) - int(known[1:])))}?"
    raise click.BadParameter(f"there is no diagnostic {code}: {hint}")
