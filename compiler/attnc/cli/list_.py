"""`attnc list`: the library."""

from __future__ import annotations

import click

from attnc.cli.common import user_errors
from attnlang import Pattern


@click.command("list")
@click.argument("words", nargs=-1, metavar="[WORD]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list: name, summary, doc, parameters, tables.")
def command(words: tuple[str, ...], as_json: bool) -> None:
    """List the patterns of the library, with their parameters and a line on each; with WORDs, those that speak of them.

    `attnc new mine --like NAME` writes a copy of one.
    """
    from attnlang.pattern.library import library_names, load

    with user_errors():
        patterns = [pattern for name in library_names() if _speaks_of(pattern := load(name), words)]
        if not patterns:
            raise ValueError(
                f"no pattern of the library speaks of {' and '.join(map(repr, words))}: `attnc list` shows all"
            )
    if as_json:
        import json

        click.echo(json.dumps([_described(pattern) for pattern in patterns], indent=2))
        return
    width = max(len(pattern.name) for pattern in patterns)
    for pattern in patterns:
        names = [*(name for name, _ in pattern.parameters), *(f"{name}: table" for name, _ in pattern.tables)]
        takes = f"  [{', '.join(names)}]" if names else ""
        click.echo(f"{pattern.name:<{width}}  {pattern.summary}{takes}")


def _speaks_of(pattern: Pattern, words: tuple[str, ...]) -> bool:
    text = f"{pattern.name} {pattern.doc}".lower()
    return all(word.lower() in text for word in words)


def _described(pattern: Pattern) -> dict[str, object]:
    from attnlang.pattern.pattern import value_text

    return {
        "name": pattern.name,
        "summary": pattern.summary,
        "doc": " ".join(pattern.doc.split()),
        "parameters": {name: value_text(value) for name, value in pattern.parameters},
        "tables": [name for name, _ in pattern.tables],
    }
