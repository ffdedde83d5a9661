"""`attnc compile PATTERN`: a readable PyTorch module, or an earlier stage of it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from attnc.cli.common import load_pattern, pattern_options, size_options, user_errors
from attnlang import Pattern


@click.command("compile")
@pattern_options
@size_options(n=32768)
@click.option("-o", "output", type=click.Path(dir_okay=False, path_type=Path), help="Where to write; else print.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "sdpa", "reference"]),
    default="auto",
    show_default=True,
    help="What the module runs on unless told otherwise.",
)
@click.option(
    "--emit",
    "stage",
    type=click.Choice(["pattern", "plan", "plan-json", "python"]),
    default="python",
    show_default=True,
    help="Which stage to write.",
)
@click.option("--ranks", type=click.IntRange(1), help="Also write the schedule for so many ranks and --n tokens.")
def command(
    pattern: str,
    parameters: tuple[str, ...],
    n: int,
    heads: int,
    output: Path | None,
    backend: str,
    stage: str,
    ranks: int | None,
) -> None:
    """Write a pattern as a PyTorch module that one can read, import, and run as its own check.

    --n only chooses the length at which the module's docstring states the cost: the module runs any length. With
    --ranks it is the length of the sequences that the schedule is for.
    """
    with user_errors():
        text = _stage(load_pattern(pattern, parameters), n, heads, backend, stage, ranks)
        if output is None:
            click.echo(text.rstrip("\n"))
            return
        output.write_text(text, encoding="utf-8")
    click.echo(f"wrote {output}")


def _stage(pattern: Pattern, n: int, heads: int, backend: str, stage: str, ranks: int | None) -> str:
    from attnc.lower import lower

    if stage == "pattern":
        return f"{pattern}\n"
    plan = lower(pattern, heads)
    if stage == "plan":
        return f"{plan}\n"
    if stage == "plan-json":
        return json.dumps(plan.to_json(), indent=2) + "\n"
    from attnc.analysis.report import report
    from attnc.emit.python import emit

    schedule = None
    if ranks is not None:
        from attnc.api import plan as write_schedule

        schedule = write_schedule(pattern, n=n, ranks=ranks, heads=heads)
    return emit(report(pattern, n, heads, 64), plan, "reference" if backend == "reference" else "sdpa", schedule)
