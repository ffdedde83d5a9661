"""What the commands share: the PATTERN argument, parameters by -p, sizes, and how errors leave the program."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from attnc.api import MOST_HEADS
from attnlang import AttnError, Pattern, codes
from attnlang.diagnostics import Diagnostic, render
from attnlang.pattern.arguments import evaluated
from attnlang.pattern.expr import free_names
from attnlang.pattern.files import MAX_BYTES, decode, read, unreadable
from attnlang.pattern.tables import check_names
from attnlang.source import Source
from attnlang.syntax import tree

F = TypeVar("F", bound=Callable[..., Any])


class Count(click.IntRange):
    """An integer in a range; what is none is told so, and which are allowed."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            whole = int(value)
        except ValueError:
            self.fail(f"{value!r} is no integer; allowed is {self._describe_range()}", param, ctx)
        return super().convert(whole, param, ctx)


_ARGUMENTS_AT_FAULT = frozenset({codes.UNREADABLE, codes.PARAMETER, codes.WHICH_PATTERN})


def pattern_options(function: F) -> F:
    """PATTERN and -p NAME=VALUE."""
    parameter = click.option(
        "-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter, as in -p segments=[64,128]."
    )
    return click.argument("pattern")(parameter(function))


def size_options(n: int, least: int = 0, most: int | None = None) -> Callable[[F], F]:
    """--n, in these limits, and --heads."""

    def add(function: F) -> F:
        length = click.option(
            "--n", default=n, show_default=True, type=Count(least, most), help="Length of the sequence."
        )
        heads = click.option(
            "--heads", default=12, show_default=True, type=Count(1, MOST_HEADS), help="Number of heads."
        )
        return length(heads(function))

    return add


class OutputFile(click.Path):
    """A file to write, as a Path: refused before any work is done where its folder does not exist.

    No command that takes one writes patterns: a name that ends in .attn is that of a pattern file, given by mistake.
    """

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path: Path = super().convert(value, param, ctx)  # pyright: ignore[reportAssignmentType] - by path_type
        if not path.parent.is_dir():
            self.fail(f"cannot write {path}: make the folder {path.parent} first", param, ctx)
        if path.suffix == ".attn":
            self.fail(f"will not write over {path}: names in .attn are those of pattern files", param, ctx)
        return path


def report_options(function: F) -> F:
    """What shapes a report: sizes, tables, the GPU, whether dependency is searched, and the form of the answer."""
    options = (
        size_options(n=32768),
        table_option,
        click.option("--head-dim", default=64, show_default=True, type=Count(1), help="Dimension of a head."),
        click.option("--gpu", default="h100", show_default=True, help="The GPU whose roofline is given."),
        click.option(
            "--dependency/--no-dependency",
            default=None,
            help="Search how information travels, or leave it out; by default it is left out where the search is long.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
        click.option("--html", "page", type=OutputFile(), help="Write a self-contained page."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def given_source(name: str) -> Source:
    """The text of a file, or of standard input for `-`. Raises AttnError (A0005) if it cannot be read."""
    return given_text(name)[0]


def given_text(name: str) -> tuple[Source, str]:
    """The same, and the text to the letter: with its byte order mark and the line ends that it has."""
    if name == "-":
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
        return decode("<stdin>", data), data.decode("utf-8")
    if not name:
        raise unreadable("a file has no name: the argument is empty")
    return read(Path(name)), Path(name).read_bytes().decode("utf-8")


def load_pattern(pattern: str, parameters: Iterable[str]) -> Pattern:
    """The pattern of the command line, with its parameters. Where these are at fault, it exits with status 2."""
    from attnlang.pattern.library import load

    values: dict[str, Any] = {}
    for item in parameters:
        name, equals, text = item.partition("=")
        if not equals or not name.isidentifier() or not text.strip():
            raise click.BadParameter(f"-p {item}: write -p NAME=VALUE, as in -p w=128 or -p segments=[64,128]")
        if name in values:
            raise click.BadParameter(f"-p {item}: {name} is given twice")
        values[name] = text
    try:
        return load(pattern, **values)
    except AttnError as error:
        if values and _loads(pattern):
            fail(error.diagnostics, status=2)
        raise


def _loads(pattern: str) -> bool:
    """Whether nothing is wrong with a pattern as it stands, so that its parameters must be at fault."""
    from attnlang.pattern.library import load

    try:
        load(pattern)
    except AttnError as error:
        return all(diagnostic.code == codes.PARAMETER for diagnostic in error.diagnostics)  # one that must be given
    return True


def table_option(function: F) -> F:
    """-t NAME=LIST."""
    return click.option(
        "-t",
        "--table",
        "tables",
        multiple=True,
        metavar="NAME=LIST",
        help="The content of a runtime table, as in -t 'doc=[i // 16 for i in range(64)]', or NAME=FILE.npy.",
    )(function)


def given_tables(pattern: Pattern, items: Iterable[str]) -> dict[str, Any]:
    """The tables of the command line."""
    found: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals:
            raise click.BadParameter(f"-t {item}: write -t NAME=LIST, as in -t doc=[0,0,1,1], or -t NAME=FILE.npy")
        if name in found:
            raise click.BadParameter(f"-t {item}: {name} is given twice")
        found[name] = _array(text) if text.endswith(".npy") else _content(name, text)
    wanted = [name for name, _ in pattern.tables]
    check_names(pattern.tables, {**dict.fromkeys(wanted), **found}, f"pattern {pattern.name}")
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(f"pattern {pattern.name} needs the content of {', '.join(missing)}: give -t {missing[0]}=LIST")
    return found


def _content(name: str, text: str) -> Any:
    value = evaluated(name, text).value
    if isinstance(value, tree.Node):
        names = " and ".join(f"`{each}`" for each in sorted(free_names(value)))
        raise ValueError(f"-t {name}={text}: the content of a table is numbers, and cannot depend on {names}")
    return value


def _array(file: str) -> Any:
    import numpy as np

    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no .npy file of numbers"
        raise ValueError(f"cannot read {file}: {reason}") from None


@contextmanager
def progress_shown() -> Generator[Callable[[str], None]]:
    """A function that is told what is being done, and shows it on a terminal's standard error."""
    if not sys.stderr.isatty():
        yield lambda what: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda what: bar.update(task, description=what)


@contextmanager
def user_errors() -> Any:
    """Turn errors of the user's into messages on standard error and an exit status."""
    try:
        yield
    except AttnError as error:
        fail(error.diagnostics)
    except BrokenPipeError:
        raise  # the reader has left: click ends quietly
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {about}{error.strerror or error}", err=True)
        sys.exit(2)
    except ValueError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def fail(diagnostics: Iterable[Diagnostic], status: int | None = None) -> NoReturn:
    """Print diagnostics and exit: with 2 where the arguments are at fault, else with 1."""
    found = tuple(diagnostics)
    print_diagnostics(found, err=True)
    sys.exit(status or (2 if any(diagnostic.code in _ARGUMENTS_AT_FAULT for diagnostic in found) else 1))


def print_diagnostics(diagnostics: Iterable[Diagnostic], *, err: bool) -> None:
    """Print diagnostics with a blank line between them, in colour on a terminal."""
    stream = sys.stderr if err else sys.stdout
    texts = [render(diagnostic, colour=stream.isatty()) for diagnostic in diagnostics]
    if texts:
        click.echo("\n\n".join(texts), err=err)
