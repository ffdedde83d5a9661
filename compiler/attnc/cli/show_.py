"""`attnc show PATTERN`: the picture."""

from __future__ import annotations

from pathlib import Path

import click

from attnc.cli.common import load_pattern, pattern_options, size_options, user_errors

MAX_N = 4096


@click.command("show")
@pattern_options
@size_options(n=64)
@click.option("--head", type=click.IntRange(0), help="Only this head; otherwise the heads that differ, up to four.")
@click.option("-o", "output", type=click.Path(dir_okay=False, path_type=Path), help="A .png, .svg or .pdf file.")
def command(
    pattern: str, parameters: tuple[str, ...], n: int, heads: int, head: int | None, output: Path | None
) -> None:
    """Draw a pattern: queries downwards, keys across. Without -o in the terminal."""
    if head is not None and head >= heads:
        raise click.BadParameter(f"--head {head}: heads are 0 to {heads - 1}")
    if n > MAX_N:
        raise click.BadParameter(f"--n {n}: a picture shows at most {MAX_N} positions; patterns repeat")
    with user_errors():
        from attnc.emit.picture import panels, save, terminal

        found = load_pattern(pattern, parameters)
        if output is not None:
            save(found, n, heads, head, output)
            click.echo(f"wrote {output}")
            return
        for title, m in panels(found, n, heads, head):
            click.echo(f"{found.name}, N = {n}, {title}\n{terminal(m)}\n")
