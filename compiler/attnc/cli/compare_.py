"""`attnc compare PATTERN...`: several patterns at the same sizes, side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnc.cli.common import given_tables, load_pattern, progress_shown, report_options, user_errors

if TYPE_CHECKING:
    from attnlang.pattern import Pattern


@click.command("compare")
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@click.option(
    "-p",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter, given to every pattern that has it; for one alone write 'sliding(w=128)'.",
)
@report_options
def command(
    patterns: tuple[str, ...],
    parameters: tuple[str, ...],
    n: int,
    heads: int,
    tables: tuple[str, ...],
    head_dim: int,
    gpu: str,
    dependency: bool | None,
    as_json: bool,
    page: Path | None,
) -> None:
    """Put several patterns side by side: pairs, FLOPs, formulas, how far information travels, what runs them.

    PATTERN is a library name, a file, or one pattern of a file, and may carry its parameters: 'sliding(w=128)'.
    """
    with user_errors():
        from attnc.analysis.comparison import compare
        from attnc.analysis.report import report

        loaded = [(text, _loaded(text, parameters)) for text in patterns]
        _check_used(parameters, (found for _, found in loaded))
        _check_tables(tables, [found for _, found in loaded])
        with progress_shown() as progress:
            reports = [
                report(
                    found,
                    n,
                    heads,
                    head_dim,
                    given_tables(found, chosen) if (chosen := _tables_of(found, tables)) else {},
                    with_dependency=dependency,
                    gpu=gpu,
                    progress=lambda what, name=text: progress(f"{name}: {what}"),
                )
                for text, found in loaded
            ]
            comparison = compare(list(_labels(loaded)), reports)
            if page is not None:
                from attnc.emit.html import compare_page

                progress("drawing")
                page.write_text(compare_page(comparison), encoding="utf-8")
        if page is not None:
            click.echo(f"wrote {page}", err=as_json)
        if as_json:
            click.echo(json.dumps(comparison.to_dict(), indent=2))
        elif page is None:
            from rich.console import Console

            from attnc.emit.comparison import print_comparison

            print_comparison(comparison, Console(highlight=False))


_CALL = re.compile(r"(?P<pattern>.+?)\((?P<arguments>.*)\)\s*", re.DOTALL)


def _loaded(text: str, shared: Iterable[str]) -> Pattern:
    """The pattern of one argument, with its own parameters and those of -p that it has."""
    call = _CALL.fullmatch(text)
    if call is None:
        name, own = text, []
    else:
        name, own = call["pattern"], [item.strip() for item in _split(call["arguments"]) if item.strip()]
    has = {parameter for parameter, _ in load_pattern(name, own).parameters}
    given = {item.partition("=")[0].strip() for item in own}
    return load_pattern(name, [*own, *(each for each in shared if (key := _name(each)) in has and key not in given)])


def _name(item: str) -> str:
    return item.partition("=")[0]


def _split(text: str) -> Iterator[str]:
    """Parts between commas that stand in no bracket."""
    depth, start = 0, 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _check_used(parameters: Iterable[str], patterns: Iterable[Pattern]) -> None:
    has = {name for found in patterns for name, _ in found.parameters}
    for item in parameters:
        if "=" not in item:
            raise click.BadParameter(f"-p {item}: write -p NAME=VALUE, as in -p w=128 or -p segments=[64,128]")
        if _name(item) not in has:
            raise click.BadParameter(f"-p {item}: none of these patterns has a parameter {_name(item)}")


def _check_tables(tables: Iterable[str], patterns: Iterable[Pattern]) -> None:
    wanted = {name for found in patterns for name, _ in found.tables}
    for item in tables:
        if _name(item) not in wanted:
            raise click.BadParameter(f"-t {item}: none of these patterns has a table {_name(item)}")


def _tables_of(pattern: Pattern, tables: Iterable[str]) -> list[str]:
    wanted = {name for name, _ in pattern.tables}
    return [item for item in tables if _name(item) in wanted]


def _labels(loaded: list[tuple[str, Any]]) -> Iterator[str]:
    """A pattern's name; where two have the same one, what was typed."""
    names = [found.name for _, found in loaded]
    for text, found in loaded:
        yield found.name if names.count(found.name) == 1 else text
