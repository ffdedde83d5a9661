"""`attnc compile PATTERN`: a readable PyTorch module, or an earlier stage of it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from attnc.api import MOST_RANKS
from attnc.cli.common import (
    Count,
    OutputFile,
    given_tables,
    load_pattern,
    pattern_options,
    size_options,
    table_option,
    user_errors,
)
from attnlang import AttnError, Diagnostic, Pattern, codes
from attnlang.plan import Plan


@click.command("compile")
@pattern_options
@size_options(n=32768)
@click.option("-o", "output", type=OutputFile(), help="Where to write; else print.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "triton", "sdpa", "flex", "xformers", "reference"]),
    default="auto",
    show_default=True,
    help="What the module runs on unless told otherwise.",
)
@click.option(
    "--emit",
    "stage",
    type=click.Choice(["tree", "pattern", "plan", "plan-json", "python"]),
    default="python",
    show_default=True,
    help="Which stage to write.",
)
@click.option("--explain", is_flag=True, help="Say which backend runs it, why, and what each would cost.")
@click.option("--gpu", default="h100", show_default=True, help="The GPU whose data sheet --explain predicts from.")
@table_option
@click.option("--ranks", type=Count(1, MOST_RANKS), help="Also write the schedule for so many ranks and --n tokens.")
def command(
    pattern: str,
    parameters: tuple[str, ...],
    n: int,
    heads: int,
    output: Path | None,
    backend: str,
    stage: str,
    explain: bool,
    gpu: str,
    tables: tuple[str, ...],
    ranks: int | None,
) -> None:
    """Write a pattern as a PyTorch module that one can read, import, and run as its own check.

    --n only chooses the length at which the module's docstring states the cost: the module runs any length. With
    --ranks it is the length of the sequences that the schedule is for.
    """
    with user_errors():
        loaded = load_pattern(pattern, parameters)
        if explain:
            click.echo(_explained(loaded, n, heads, gpu, tables))
            return
        text = _stage(loaded, n, heads, backend, stage, ranks, tables)
        if output is None:
            click.echo(text.rstrip("\n"))
            return
        output.write_text(text, encoding="utf-8")
    click.echo(f"wrote {output}")


def _explained(pattern: Pattern, n: int, heads: int, gpu: str, tables: tuple[str, ...]) -> str:
    from attnc.analysis.hardware import gpu_named
    from attnc.lower import lower
    from attnc.lower.explain import explain

    content = given_tables(pattern, tables) if tables else {}
    return explain(lower(pattern, heads), n, 64, gpu_named(gpu), content)


def _stage(
    pattern: Pattern, n: int, heads: int, backend: str, stage: str, ranks: int | None, tables: tuple[str, ...]
) -> str:  # fmt: skip
    from attnc.lower import lower

    if stage == "tree":
        return f"{_tree(pattern)}\n"
    if stage == "pattern":
        return f"{pattern}\n"
    plan = lower(pattern, heads)
    if stage == "plan":
        return f"{plan}\n"
    if backend not in ("auto", "reference"):
        _require(backend, plan, pattern)
    if stage == "plan-json":
        return json.dumps(plan.to_json(), indent=2) + "\n"
    from attnc.analysis.report import report
    from attnc.emit.python import emit

    schedule = None
    if ranks is not None:
        from attnc.api import plan as write_schedule

        content = given_tables(pattern, tables)
        schedule = write_schedule(pattern, n=n, ranks=ranks, heads=heads, tables=content)
    return emit(report(pattern, n, heads, 64), plan, backend, schedule)


def _tree(pattern: Pattern) -> str:
    from attnc.emit.tree import tree_text
    from attnlang.syntax.parser import parse

    file, _ = parse(pattern.source)
    return tree_text(next(item for item in file.patterns if item.name == pattern.name))


def _require(backend: str, plan: Plan, pattern: Pattern) -> None:
    """Raise AttnError (A0301) where a backend can run a plan neither on the cpu nor on CUDA."""
    from attnlang.runtime.backends import planned

    reasons: list[str] = []
    for device in ("cuda", "cpu"):
        try:
            planned(backend, plan, device, 64)
            return
        except ValueError as reason:
            reasons.append(str(reason))
    message = f"backend {backend} cannot run this pattern"
    raise AttnError(Diagnostic(codes.CANNOT_LOWER, message, pattern.relation.span, reasons[0]))
