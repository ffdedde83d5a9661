"""From a name, a file or a text to a `Pattern`: reading, parsing, checking, elaborating."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic, has_errors
from attnlang.pattern.arguments import LAYER_NAMES, Given, given_layer, given_values
from attnlang.pattern.checker import Checker
from attnlang.pattern.elaborate import Elaborator, bind
from attnlang.pattern.expr import Known, Scope
from attnlang.pattern.files import library_names, library_path, read
from attnlang.pattern.kinds import Argument
from attnlang.pattern.modules import Callable, Module, Reader, Texts, load_module, pick
from attnlang.pattern.pattern import Pattern
from attnlang.pattern.walk import subnodes, table_axes
from attnlang.source import Source
from attnlang.syntax import tree

__all__ = ["check", "library_names", "load", "loads", "read"]


def check(source: Source) -> list[Diagnostic]:
    """Everything that can be said about a text: syntax, imports, names, kinds, and the values that defaults give."""
    module, diagnostics = load_module(source)
    for each in _modules(module):
        checker = Checker(patterns=Callable(each))
        checker.file(each.file)
        diagnostics += checker.diagnostics
    if not module.file.items and not diagnostics:
        message, hint = f"{source.name} defines no pattern", "a definition reads `pattern name = causal`"
        diagnostics.append(Diagnostic(codes.NO_PATTERN, message, None, help=hint))
    if not has_errors(diagnostics):
        for item in module.file.patterns:
            if _is_complete(item):
                diagnostics += _value_errors(module, item)
    return sorted(diagnostics, key=lambda d: _order(d, source))


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


def _value_errors(module: Module, item: tree.PatternDef) -> list[Diagnostic]:
    try:
        _at_layers(module, item)
    except AttnError as error:
        return list(error.diagnostics)
    return []


def _at_layers(module: Module, item: tree.PatternDef) -> list[Pattern]:
    """A pattern with its defaults; on the first and the last of some layers, where it differs by layer."""
    if not LAYER_NAMES & {node.name for node in subnodes(item) if isinstance(node, tree.Name)}:
        return [_elaborate(module, item, {}, {})]
    return [_elaborate(module, item, {}, {"layer": layer, "L": 12}) for layer in (0, 11)]


def default_patterns(source: Source) -> list[Pattern]:
    """The patterns of a faultless text whose parameters all have defaults."""
    module, _ = load_module(source)
    complete = [item for item in module.file.patterns if _is_complete(item)]
    return [pattern for item in complete for pattern in _at_layers(module, item)]


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
    path, _, name = text.partition(":") if ".attn:" in text else (text, "", "")
    if not path.endswith(".attn") and "/" not in path:
        return _load_source(read(library_path(path)), None, params)
    return _load_source(read(Path(path)), name or None, params)


def _load_source(
    source: Source, name: str | None, params: Mapping[str, Argument], reader: Reader | None = None
) -> Pattern:
    module, diagnostics = load_module(source, reader)
    for each in _modules(module):
        checker = Checker(patterns=Callable(each))
        checker.file(each.file)
        diagnostics += checker.diagnostics
    if has_errors(diagnostics):
        raise AttnError(*(found for found in diagnostics if found.severity == "error"))
    definition = pick(module.file, name)
    own = {key: value for key, value in params.items() if key not in LAYER_NAMES}
    return _elaborate(module, definition, given_values(definition, own), given_layer(params))


def _elaborate(module: Module, definition: tree.PatternDef, given: Mapping[str, Given], fixed: Scope) -> Pattern:
    if given:
        checker = Checker(patterns=Callable(module))
        checker.definition(definition, {name: each.kind for name, each in given.items()})
        if has_errors(checker.diagnostics):
            raise AttnError(*checker.diagnostics)
    values: dict[str, Known] = {name: each.value for name, each in given.items()}
    tables = {each.name: tree.Table(each.name, span=each.span) for each in definition.params if each.kind == "table"}
    scope = bind(definition, {**values, **tables}, fixed)
    elaborator = Elaborator(module, (definition.name,), fixed)
    relation = elaborator.relation(definition.body, {**fixed, **scope})
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
