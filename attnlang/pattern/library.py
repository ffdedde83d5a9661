"""From a name, a file or a text to a `Pattern`: reading, parsing, checking, elaborating."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic, has_errors
from attnlang.pattern.arguments import LAYER_NAMES, Given, given_layer, given_values
from attnlang.pattern.budget import limited
from attnlang.pattern.calling import CallGraph, Definition
from attnlang.pattern.checker import Checker
from attnlang.pattern.elaborate import Elaborator, bind
from attnlang.pattern.expr import Known, Scope
from attnlang.pattern.files import library_names, library_path, read, unreadable
from attnlang.pattern.kinds import Argument
from attnlang.pattern.modules import NO_PATTERN_HINT, Module, Reader, Texts, load_module, pick
from attnlang.pattern.modules import Callable as CallableNames
from attnlang.pattern.pattern import Pattern
from attnlang.pattern.walk import table_axes
from attnlang.source import NOWHERE, Source
from attnlang.syntax import tree

__all__ = ["check", "library_names", "load", "loads", "read"]

STEPS = 500_000
"""How many steps a pattern may take to be written out: some seconds."""
STEPS_A_FILE = 1_500_000
"""How many steps all patterns of a file may take together."""
SOME_LAYERS: tuple[Scope, ...] = ({"layer": 0, "L": 12}, {"layer": 11, "L": 12})
"""The layers on which a pattern is checked that differs by layer and has not been given one."""


def check(source: Source) -> list[Diagnostic]:
    """Everything that can be said about a text: syntax, imports, names, kinds, and the values that defaults give."""
    return examined(source)[0]


def examined(source: Source) -> tuple[list[Diagnostic], list[Pattern]]:
    """What can be said about a text, and its faultless patterns with the values that defaults give.

    A definition with a fault hides nothing about those that do not call it. A pattern that differs by layer is taken
    on the first and the last of some layers; one that lacks a default is not taken.
    """
    module, diagnostics = load_module(source)
    for each in _modules(module):
        checker = Checker(patterns=CallableNames(each))
        checker.file(each.file)
        diagnostics += checker.diagnostics
    if not module.file.items and not diagnostics:
        message = f"{source.name} defines no pattern"
        diagnostics.append(Diagnostic(codes.NO_PATTERN, message, None, help=NO_PATTERN_HINT))
    graph = CallGraph(module)
    unsound, layered = graph.reaching(_faulty(diagnostics)), graph.reaching(_differs_by_layer)
    patterns: list[Pattern] = []
    with limited(STEPS_A_FILE) as budget:
        for item in module.file.patterns:
            if item in unsound or not _is_complete(item):
                continue
            if budget.left <= 0:
                diagnostics.append(_stopped(item))
                break
            layers = SOME_LAYERS if item in layered else ({},)
            try:
                patterns += [_elaborate(module, item, {}, fixed) for fixed in layers]
            except AttnError as error:
                diagnostics += [each for each in error.diagnostics if each not in diagnostics]
    return sorted(diagnostics, key=lambda d: _order(d, source)), patterns


def _stopped(item: tree.PatternDef) -> Diagnostic:
    message, label = "the patterns before this one take too long to write out", "not looked at, nor what follows"
    hint = "divide the file"
    return Diagnostic(codes.PATTERN_TOO_LARGE, message, item.name_span, label, help=hint)


def _faulty(diagnostics: list[Diagnostic]) -> Callable[[Definition], bool]:
    """Whether a definition has an error, or calls one that could not be read."""
    errors = [found.span for found in diagnostics if found.severity == "error" and found.span is not None]
    starts: dict[int, list[int]] = {}
    for span in sorted(errors, key=lambda span: span.start):
        starts.setdefault(id(span.source), []).append(span.start)

    def faulty(definition: Definition) -> bool:
        span = definition.item.span
        inside = starts.get(id(span.source), [])
        place = bisect_left(inside, span.start)
        has_error = place < len(inside) and inside[place] < span.end
        return has_error or not definition.names.isdisjoint(definition.module.file.faulty)

    return faulty


def _differs_by_layer(definition: Definition) -> bool:
    return not definition.names.isdisjoint(LAYER_NAMES)


def _order(diagnostic: Diagnostic, source: Source) -> tuple[bool, int]:
    """The file's own findings in text order, then those of imported files."""
    here = diagnostic.span is None or diagnostic.span.source is source
    return not here, diagnostic.span.start if diagnostic.span and here else 0


def _modules(module: Module) -> list[Module]:
    """A file and all it imports, each once."""
    found: dict[str, Module] = {}
    waiting = [module]
    while waiting:
        each = waiting.pop()
        if each.path not in found:
            found[each.path] = each
            waiting.extend(each.imported.values())
    return list(found.values())


def default_patterns(source: Source) -> list[Pattern]:
    """The faultless patterns of a text whose parameters all have defaults."""
    return examined(source)[1]


def _is_complete(item: tree.PatternDef) -> bool:
    return all(parameter.default is not None or parameter.kind == "table" for parameter in item.params)


def loads(
    text: str,
    *,
    name: str | None = None,
    source_name: str = "<text>",
    files: Mapping[str, str] | None = None,
    **params: Argument,
) -> Pattern:
    """The pattern that a text defines, with parameters given by keyword.

    `name` chooses one of several; without it a text of one pattern is that pattern, and a file of several is the one
    named like the file. Imports are read beside the text (or in the current folder), or taken from `files`, which maps
    paths to texts. Parameters are as for `load`. Raises AttnError, with all diagnostics, for whatever is wrong.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - not everyone checks types
        raise ValueError(f"loads() takes the text of a pattern, not {text!r}; load() takes a name or a file")
    return _load_source(Source(source_name, text), name, params, None if files is None else Texts(files))


def load(target: str | Path, **params: Argument) -> Pattern:
    """A pattern by library name (`longnet`), file (`my.attn`) or one pattern of a file (`my.attn:name`).

    Parameters are given by keyword: integers, booleans, lists of them, or expressions as text (`g="N // 4"`). A pattern
    that differs by layer is given `layer` and `L`. Raises AttnError if nothing of that name exists, if the file has
    errors, or if a parameter is missing, unknown or unsuitable.
    """
    text = str(target)
    if "pattern" in text.split() and "=" in text:
        raise unreadable("this is the text of a pattern, not the name of one", "`attnlang.loads(text)` reads a text")
    path, colon, name = text.rpartition(":") if ".attn:" in text else (text, "", "")
    if colon and not name:
        raise unreadable(f"`{text}` names no pattern", f"write {path}:NAME, or {path} alone")
    if not path.endswith(".attn") and "/" not in path:
        return _load_source(read(library_path(path)), None, params)
    return _load_source(read(Path(path)), name or None, params)


def _load_source(
    source: Source, name: str | None, params: Mapping[str, Argument], reader: Reader | None = None
) -> Pattern:
    module, diagnostics = load_module(source, reader)
    for each in _modules(module):
        checker = Checker(patterns=CallableNames(each))
        checker.file(each.file)
        diagnostics += checker.diagnostics
    if has_errors(diagnostics):
        raise AttnError(*(found for found in diagnostics if found.severity == "error"))
    definition = pick(module.file, name)
    own = {key: value for key, value in params.items() if key not in LAYER_NAMES}
    return _elaborate(module, definition, given_values(definition, own), given_layer(params))


def _elaborate(module: Module, definition: tree.PatternDef, given: Mapping[str, Given], fixed: Scope) -> Pattern:
    with limited(STEPS):
        return _built(module, definition, given, fixed)


def _built(module: Module, definition: tree.PatternDef, given: Mapping[str, Given], fixed: Scope) -> Pattern:
    if given:
        checker = Checker(patterns=CallableNames(module))
        checker.definition(definition, {name: each.kind for name, each in given.items()})
        if has_errors(checker.diagnostics):
            raise AttnError(*checker.diagnostics)
    values: dict[str, Known] = {name: each.value for name, each in given.items()}
    tables = {each.name: tree.Table(each.name, span=each.span) for each in definition.params if each.kind == "table"}
    scope = bind(definition, {**values, **tables}, fixed)
    elaborator = Elaborator(module, (definition.name,), fixed)
    relation = elaborator.relation(definition.body, {**fixed, **scope})
    if relation.span is NOWHERE:
        relation = replace(relation, span=definition.body.span)
    within = None if definition.within is None else elaborator.relation(definition.within, {**fixed, **scope})
    shown = [(name, value) for name, value in (*scope.items(), *fixed.items()) if not isinstance(value, tree.Table)]
    imports = tuple((path, found.text) for path, found in module.files().items())
    return Pattern(
        definition.name,
        relation,
        tuple(shown),
        tables=table_axes(relation),
        within=within,
        imports=imports,
        source=module.file.source,
        doc=definition.doc,
    )
