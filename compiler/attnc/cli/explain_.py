"""`attnc explain CODE`: what a diagnostic means."""

from __future__ import annotations

from difflib import get_close_matches

import click

from attnlang.codes import CODES


@click.command("explain")
@click.argument("code")
def command(code: str) -> None:
    """Say what the diagnostic CODE means, as in `attnc explain A0104`."""
    known = code.upper()
    if known not in CODES:
        close = get_close_matches(known, CODES, 1)
        hint = f"did you mean {close[0]}?" if close else f"codes are {min(CODES)} to {max(CODES)}"
        raise click.BadParameter(f"there is no diagnostic {code}: {hint}")
    click.echo(f"{known}: {CODES[known]}")
