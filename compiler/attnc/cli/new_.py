"""`attnc new NAME`: a file to start from."""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote

import click

from attnc.cli.common import user_errors
from attnlang.pattern.files import library_path, read
from attnlang.pattern.library import check
from attnlang.pattern.modules import pick
from attnlang.pattern.vocabulary import BUILT_IN
from attnlang.source import Source
from attnlang.syntax import parse
from attnlang.syntax.spelling import reserved_words

STARTER = """\
# A pattern says which keys each query sees. Look at this one, change it, look again:
#     attnc check {name}.attn     finds every mistake
#     attnc show {name}.attn      draws it; -p w=16 sets its parameter
#     attnc report {name}.attn    counts what it costs

## The w latest keys and, further back, every w-th key.
pattern {name}(w = 8) = causal & (window(w) | offset(..0 step w))

# Lines that begin with ## describe the pattern below them. `&` keeps the pairs that both sides have, `|` those that
# either side has, `-` takes pairs away, and `+` counts a pair of both sides twice.
#
# More to build with: segment(64) {{ causal }}, dilate(4) {{ window(w) }}, blocks(16) {{ causal }}, key(pos < 4).
# `h` is the head: dilate(4, shift=h) {{ causal }} gives every head keys of its own.
# `attnc list` shows whole patterns, `attnc new NAME --like longnet` starts from the text of one.
"""


@click.command("new")
@click.argument("name")
@click.option("--like", metavar="PATTERN", help="Start from the text of this library pattern, as in --like longnet.")
def command(name: str, like: str | None) -> None:
    """Write NAME.attn, a pattern called NAME to start from; NAME may be a path, as in folder/mine.attn.

    A file that exists is never overwritten.
    """
    path = _path(name)
    with user_errors():
        text = STARTER.format(name=path.stem) if like is None else _copy(like, path.stem)
        _write(path, text)
    file = quote(str(path))
    click.echo(f"wrote {path}\nnext: attnc check {file}, attnc show {file}, attnc report {file}")


def _path(name: str) -> Path:
    """The file that is meant, its stem being the pattern's name. Raises click.BadParameter for what cannot be one."""
    path = Path(name)
    stem = path.name.removesuffix(".attn")
    if not (stem.isascii() and stem.isidentifier()):
        allowed = "a name is letters, digits and `_`, and does not begin with a digit"
        raise click.BadParameter(f"`{stem}` cannot name a pattern: {allowed}, as in {_suggestion(stem)}")
    if stem in reserved_words():
        raise click.BadParameter(f"`{stem}` is a word of the language: choose another name, as in {_suggestion(stem)}")
    if stem in BUILT_IN:
        raise click.BadParameter(f"`{stem}` is built in: choose another name, as in {_suggestion(stem)}")
    return path.with_name(f"{stem}.attn")


def _suggestion(stem: str) -> str:
    """A name like this one that may be given."""
    letters = re.sub(r"[^A-Za-z_0-9]+", "_", stem).strip("_")
    free = letters.isidentifier() and letters not in {*reserved_words(), *BUILT_IN}
    return f"`{letters}`" if free else f"`my_{letters or 'pattern'}`"


def _copy(like: str, name: str) -> str:
    """The text of a library pattern under another name. Its body, which may use the old name, stays as it is."""
    source = read(library_path(like))
    definition = pick(parse(source)[0], None)
    text, start, old = source.text, definition.span.start, definition.name_span
    made_from = f"## Made from `{like}` of attnlang's library.\n"
    copied = f"{text[:start]}{made_from}{text[start : old.start]}{name}{text[old.end :]}"
    if check(Source("<copy>", copied)):
        raise click.BadParameter(f"`{like}` itself makes use of `{name}`: choose another name for the copy")
    return copied


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise ValueError(f"{path} exists, and is not overwritten: choose another name, or remove it first") from None
    except FileNotFoundError:
        raise ValueError(f"cannot write {path}: make the folder {path.parent} first") from None
