"""From a name, a file or a text to a `Pattern`: reading, parsing, checking, elaborating."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from operator import index
from pathlib import Path
from typing import SupportsIndex, cast

from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic
from attnlang.pattern.checker import Checker
from attnlang.pattern.elaborate import Definitions, Elaborator, bind
from attnlang.pattern.expr import MAX_INT, evaluate
from attnlang.pattern.kinds import TABLE, Argument, Value, kind_of
from attnlang.pattern.pattern import Pattern
from attnlang.pattern.signatures import declared_kind
from attnlang.source import Source
from attnlang.syntax import parse, parse_expression, tree

MAX_BYTES = 1_000_000
"""The largest file that is read."""


def library_folder() -> Path:
    """Where the library's .attn files are: inside an installed package, or beside it in a checkout."""
    installed = Path(str(files("attnlang"))) / "patterns"
    return installed if installed.is_dir() else installed.parent.parent / "patterns"


@cache
def library_names() -> tuple[str, ...]:
    """The names of all library patterns, sorted."""
    return tuple(sorted(path.stem for path in library_folder().glob("*.attn")))


@dataclass(frozen=True)
class FileDefinitions:
    """The patterns of one file, then those of the library."""

    patterns: Mapping[str, tree.PatternDef]

    def find(self, name: str) -> tuple[tree.PatternDef, Definitions] | None:
        if name in self.patterns:
            return self.patterns[name], self
        if name not in library_names():
            return None
        file = _library_file(name)
        return pick(file, None), FileDefinitions({item.name: item for item in file.patterns})


@cache
def _library_file(name: str) -> tree.File:
    file, diagnostics = parse(library_source(name))
    if diagnostics:
        raise AttnError(*diagnostics)
    return file


class _Callable(Mapping[str, tree.PatternDef]):
    """The names that a file may call: its own, and the library's, whose files are read when they are first needed."""

    def __init__(self, own: Mapping[str, tree.PatternDef]) -> None:
        self._own = own

    def __getitem__(self, name: str) -> tree.PatternDef:
        if name in self._own:
            return self._own[name]
        if name in library_names():
            return pick(_library_file(name), None)
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in library_names()

    def __iter__(self) -> Iterator[str]:
        return iter({*self._own, *library_names()})

    def __len__(self) -> int:
        return len({*self._own, *library_names()})


def _unreadable(message: str, hint: str | None = None) -> AttnError:
    return AttnError(Diagnostic(codes.UNREADABLE, message, None, help=hint))


def read(path: Path) -> Source:
    """Read a file. Raises AttnError (A0005) if it is missing, too large, or not UTF-8 text."""
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise _unreadable(f"{path} is larger than {MAX_BYTES:,} bytes: no pattern file is")
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from None
    except OSError as error:
        raise _unreadable(f"cannot read {path}: {error.strerror or error}") from None
    return Source(str(path), text.removeprefix("\ufeff").replace("\r\n", "\n"))


def check(source: Source) -> list[Diagnostic]:
    """Everything that can be said about a text: syntax, names, kinds, and the values that defaults give."""
    file, diagnostics = parse(source)
    checker = Checker(patterns=_Callable({item.name: item for item in file.patterns}))
    checker.file(file)
    diagnostics += checker.diagnostics
    if not file.items and not diagnostics:
        message, hint = f"{source.name} defines no pattern", "a definition reads `pattern name = causal`"
        diagnostics.append(Diagnostic(codes.NO_PATTERN, message, None, help=hint))
    if not diagnostics:
        for item in file.patterns:
            if all(parameter.default is not None for parameter in item.params):
                diagnostics += _value_errors(file, item)
    return sorted(diagnostics, key=lambda d: d.span.start if d.span and d.span.source is source else 0)


def _value_errors(file: tree.File, item: tree.PatternDef) -> list[Diagnostic]:
    try:
        _elaborate(file, item, {})
    except AttnError as error:
        return list(error.diagnostics)
    return []


def loads(text: str, *, name: str | None = None, source_name: str = "<text>", **params: Argument) -> Pattern:
    """The pattern that a text defines, with parameters given by keyword.

    `name` chooses one of several; without it a text of one pattern is that pattern, and a file of several is the one
    named like the file. Raises AttnError, with all diagnostics, for whatever is wrong.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - not everyone checks types
        raise ValueError(f"loads() takes the text of a pattern, not {text!r}; load() takes a name or a file")
    return _load_source(Source(source_name, text), name, params)


def load(target: str | Path, **params: Argument) -> Pattern:
    """A pattern by library name (`longnet`), file (`my.attn`) or one pattern of a file (`my.attn:name`).

    Parameters are given by keyword: integers, booleans, or lists of them. Raises AttnError if nothing of that name
    exists, if the file has errors, or if a parameter is missing, unknown or unsuitable.
    """
    text = str(target)
    path, _, name = text.partition(":") if ".attn:" in text else (text, "", "")
    if not path.endswith(".attn") and "/" not in path:
        return _load_source(library_source(path), None, params)
    return _load_source(read(Path(path)), name or None, params)


def library_source(name: str) -> Source:
    """The text of a library pattern. Raises AttnError (A0005) if the library has none of that name."""
    if name in library_names():
        return read(library_folder() / f"{name}.attn")
    close = get_close_matches(name, library_names(), 1, 0.5)
    hint = f"did you mean `{close[0]}`?" if close else "`attnc list` shows the library; files end in .attn"
    raise _unreadable(f"no library pattern is called `{name}`", hint)


def _load_source(source: Source, name: str | None, params: Mapping[str, Argument]) -> Pattern:
    file, diagnostics = parse(source)
    checker = Checker(patterns=_Callable({item.name: item for item in file.patterns}))
    checker.file(file)
    if diagnostics or checker.diagnostics:
        raise AttnError(*diagnostics, *checker.diagnostics)
    return _elaborate(file, pick(file, name), given_values(pick(file, name), params))


def pick(file: tree.File, name: str | None) -> tree.PatternDef:
    """The pattern a file stands for: the one of that name; or its only one; or the one named like the file."""
    by_name = {item.name: item for item in file.patterns}
    stem = file.source.path.stem if file.source.path else None
    if name is None and len(by_name) == 1:
        return next(iter(by_name.values()))
    wanted = name or stem
    if wanted in by_name:
        return by_name[wanted]
    if not by_name:
        raise AttnError(Diagnostic(codes.NO_PATTERN, f"{file.source.name} defines no pattern", None))
    listed = ", ".join(by_name)
    message = f"{file.source.name} has no pattern `{name}`" if name else f"{file.source.name} holds several patterns"
    raise AttnError(
        Diagnostic(codes.WHICH_PATTERN, message, None, help=f"name one: {file.source.name}:NAME with {listed}")
    )


def given_values(definition: tree.PatternDef, params: Mapping[str, Argument]) -> dict[str, Value]:
    """Check and convert parameters that come from Python."""
    by_name = {parameter.name: parameter for parameter in definition.params}
    values: dict[str, Value] = {}
    for name, argument in params.items():
        if name not in by_name:
            close = get_close_matches(name, by_name, 1, 0.5)
            takes = f"it takes {', '.join(by_name)}" if by_name else "it takes none"
            message = f"pattern `{definition.name}` has no parameter `{name}`"
            hint = f"did you mean `{close[0]}`?" if close else takes
            raise AttnError(Diagnostic(codes.PARAMETER, message, definition.name_span, takes, help=hint))
        values[name] = _value(definition, by_name[name], argument)
    return values


def _value(definition: tree.PatternDef, parameter: tree.Param, argument: Argument) -> Value:
    value = _plain(argument)
    if value is None:
        wanted = "an integer, a boolean, or a list of them"
        message = f"`{parameter.name}` of `{definition.name}` must be {wanted}, not {argument!r}"
        raise AttnError(Diagnostic(codes.PARAMETER, message, parameter.span, "given from outside"))
    wanted = declared_kind(parameter)
    if wanted == TABLE or not kind_of(value).fits(wanted):
        message = f"`{parameter.name}` of `{definition.name}` must be {wanted.a}, not {argument!r}"
        raise AttnError(Diagnostic(codes.PARAMETER, message, parameter.span, f"is {wanted.a}"))
    return value


def _plain(argument: object) -> Value | None:
    """Python's integers, booleans and (nested) lists; numpy's integers too. None for anything else."""
    if isinstance(argument, bool):
        return argument
    if isinstance(argument, Sequence) and not isinstance(argument, str | bytes):
        items = [_plain(item) for item in cast("Sequence[object]", argument)]
        return None if None in items else tuple(item for item in items if item is not None)
    if not isinstance(argument, SupportsIndex):
        return None
    value = index(argument)
    return value if abs(value) <= MAX_INT else None


def parameter_value(name: str, text: str) -> Value:
    """The value written in a text, as in `-p segments=[64, 128]`."""
    node, diagnostics = parse_expression(Source(f"<parameter {name}>", text))
    if node is None or diagnostics:
        raise AttnError(*diagnostics)
    checker = Checker()
    checker.definition(
        tree.PatternDef(name, (tree.Param(name, None, node, span=node.span),), None, tree.Name("all"), "")
    )
    if checker.diagnostics:
        raise AttnError(*checker.diagnostics)
    return evaluate(node, {})


def _elaborate(file: tree.File, definition: tree.PatternDef, given: Mapping[str, Value]) -> Pattern:
    own = {item.name: item for item in file.patterns}
    if given:
        checker = Checker(patterns=_Callable(own))
        checker.definition(definition, {name: kind_of(value) for name, value in given.items()})
        if checker.diagnostics:
            raise AttnError(*checker.diagnostics)
    scope = bind(definition, given)
    relation = Elaborator(FileDefinitions(own), (definition.name,)).relation(definition.body, scope)
    return Pattern(definition.name, relation, tuple(scope.items()), file.source, definition.doc)
