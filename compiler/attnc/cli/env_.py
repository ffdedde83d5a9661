"""`attnc env`: versions, devices and backends, for a bug report."""

from __future__ import annotations

import json

import click


@click.command("env")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool) -> None:
    """Print versions and devices, and of each backend what it computes here, or why it does not."""
    from attnlang.runtime.environment import environment

    found = environment()
    click.echo(json.dumps(found.to_dict(), indent=2) if as_json else found)
