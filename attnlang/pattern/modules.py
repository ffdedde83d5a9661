"""Files with what they import: which names they may call, and what these stand for.

A name is looked up among a file's own patterns, then among those it imports, then in the library. Imports are not
passed on: a file sees the patterns of the files it imports, not what those import in their turn.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Protocol

from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic, Label, has_errors
from attnlang.pattern.files import library_names, library_path, read
from attnlang.source import Source, Span
from attnlang.syntax import parse, tree

MAX_FILES = 200
"""How many files one file may import, directly or not."""
MAX_CHARACTERS = 2**19
"""How long all files that one file imports may be together."""
MAX_MISSING = 20
"""How many names that a file does not define are reported of one import."""
MAX_CHAIN = 40
"""How long a chain of files that import one another may be."""

NO_PATTERN_HINT = "a definition reads `pattern name = causal`"


@dataclass(frozen=True, eq=False)
class Module:
    """A parsed file. `imported` maps names to the files that define them; `path` is relative to the main file."""

    path: str
    file: tree.File
    imported: Mapping[str, Module] = field(default_factory=dict[str, "Module"])

    @cached_property
    def own(self) -> Mapping[str, tree.PatternDef]:
        """The file's own patterns by name; the first, where a name is taken twice."""
        return {item.name: item for item in reversed(self.file.patterns)}

    def find(self, name: str) -> tuple[tree.PatternDef, Module] | None:
        """The definition that a name stands for in this file, and the file in whose scope it stands."""
        if name in self.own:
            return self.own[name], self
        if name in self.imported:
            return self.imported[name].own[name], self.imported[name]
        if name not in library_names():
            return None
        found = library_module(name)
        return pick(found.file, None), found

    def files(self) -> dict[str, Source]:
        """The files that it imports, directly or not, by path."""
        found: dict[str, Source] = {}
        waiting = list(self.imported.values())
        while waiting:
            module = waiting.pop()
            if module.path not in found:
                found[module.path] = module.file.source
                waiting.extend(module.imported.values())
        return dict(sorted(found.items()))


class Callable(Mapping[str, tree.PatternDef]):
    """The names that a file may call. Files of the library are read when they are first needed."""

    def __init__(self, module: Module) -> None:
        self._module = module

    def __getitem__(self, name: str) -> tree.PatternDef:
        found = self._module.find(name)
        if found is None:
            raise KeyError(name)
        return found[0]

    def __contains__(self, name: object) -> bool:
        return name in self._module.own or name in self._module.imported or name in library_names()

    def __iter__(self) -> Iterator[str]:
        return iter({**self._module.own, **self._module.imported, **dict.fromkeys(library_names())})

    def __len__(self) -> int:
        return len(list(iter(self)))


class Reader(Protocol):
    """Where imported files come from."""

    def read(self, path: str) -> Source:
        """The text at a path relative to the main file. Raises AttnError if there is none."""
        ...

    def identity(self, path: str) -> str:
        """The same for two paths that lead to one file."""
        ...


@dataclass(frozen=True)
class Folder:
    """Files on disk, beside the main file."""

    folder: Path

    def read(self, path: str) -> Source:
        return read(self.folder / path)

    def identity(self, path: str) -> str:
        return path if "\0" in path else os.path.realpath(self.folder / path)


@dataclass(frozen=True)
class Texts:
    """Texts that were read before, as an emitted module carries them."""

    texts: Mapping[str, str]

    def read(self, path: str) -> Source:
        if path not in self.texts:
            known = ", ".join(sorted(self.texts)) or "none"
            raise AttnError(Diagnostic(codes.UNREADABLE, f"no text is given for {path}: there are {known}", None))
        return Source(path, self.texts[path])

    def identity(self, path: str) -> str:
        return path


@cache
def library_module(name: str) -> Module:
    """A file of the library."""
    file, diagnostics = parse(read(library_path(name)))
    if diagnostics:
        raise AttnError(*diagnostics)
    return Module(name, file)


def load_module(source: Source, reader: Reader | None = None) -> tuple[Module, list[Diagnostic]]:
    """Parse a text and all it imports. What is faulty is left out and reported, each file's faults at its import."""
    folder = source.path.parent if source.path else Path()
    loader = _Loader(reader or Folder(folder))
    own = str(source.path.name) if source.path else source.name
    module = loader.module(own, source, (loader.reader.identity(own),))
    return module, loader.diagnostics


@dataclass
class _Loader:
    reader: Reader
    diagnostics: list[Diagnostic] = field(default_factory=list[Diagnostic])
    loaded: dict[str, Module | None] = field(default_factory=dict[str, "Module | None"])
    characters: int = 0

    def module(self, path: str, source: Source, chain: tuple[str, ...]) -> Module:
        file, found = parse(source)
        self.diagnostics += found
        imported: dict[str, Module] = {}
        places: dict[str, Span] = {}
        for item in file.items:
            if isinstance(item, tree.Import):
                self._import(item, path, chain, imported, places)
        for item in file.patterns:
            if item.name in places:
                first = Label(places[item.name], "imported here")
                message = f"pattern `{item.name}` is imported and defined"
                self._report(codes.DUPLICATE_PATTERN, message, item.name_span, "defined again", others=(first,))
        return Module(path, file, imported)

    def _import(
        self,
        item: tree.Import,
        path: str,
        chain: tuple[str, ...],
        imported: dict[str, Module],
        places: dict[str, Span],
    ) -> None:
        target = os.path.normpath(os.path.join(os.path.dirname(path), item.path))
        module = self._load(item, target, chain)
        if module is None:
            return
        missing = 0
        for name in item.names if item.names is not None else module.own:
            if name not in module.own:
                missing += 1
                if missing <= MAX_MISSING:
                    self._no_such_pattern(item, module, name)
            elif name in places and imported[name] is not module:
                first = Label(places[name], "first imported here")
                message = f"pattern `{name}` is imported from two files"
                self._report(codes.DUPLICATE_PATTERN, message, item.span, "imported again", others=(first,))
            else:
                imported[name], places[name] = module, item.span

    def _load(self, item: tree.Import, target: str, chain: tuple[str, ...]) -> Module | None:
        identity = self.reader.identity(target)
        if identity in chain:
            what = "imports itself" if identity == chain[-1] else "is imported in a circle"
            round_ = [*chain[chain.index(identity) :], identity]
            label = " -> ".join(os.path.basename(each) for each in round_)
            self._report(codes.IMPORT, f"`{item.path}` {what}", item.span, label)
            return None
        if identity not in self.loaded:
            if len(self.loaded) >= MAX_FILES or len(chain) >= MAX_CHAIN:
                label = f"more than {MAX_FILES} files, or a chain of more than {MAX_CHAIN}"
                self._report(codes.IMPORT, "too many imports", item.span, label)
                return None
            self.loaded[identity] = self._read(item, target, (*chain, identity))
        return self.loaded[identity]

    def _read(self, item: tree.Import, target: str, chain: tuple[str, ...]) -> Module | None:
        try:
            source = self.reader.read(target)
        except AttnError as error:
            self._report(codes.IMPORT, error.diagnostics[0].message, item.span, "cannot be imported")
            return None
        self.characters += len(source.text)
        if self.characters > MAX_CHARACTERS:
            self._report(codes.IMPORT, "too many imports", item.span, f"more than {MAX_CHARACTERS:,} characters in all")
            return None
        before = len(self.diagnostics)
        module = self.module(target, source, chain)
        if not has_errors(self.diagnostics[before:]):
            return module
        message, hint = f"`{item.path}` has errors", "they follow"
        self.diagnostics.insert(before, Diagnostic(codes.IMPORT, message, item.span, "cannot be imported", help=hint))
        return None

    def _no_such_pattern(self, item: tree.Import, module: Module, name: str) -> None:
        close = get_close_matches(name, module.own, 1, 0.5)
        hint = f"did you mean `{close[0]}`?" if close else f"it defines {', '.join(module.own) or 'no pattern'}"
        self._report(codes.IMPORT, f"`{item.path}` defines no pattern `{name}`", item.span, "not found there", hint)

    def _report(
        self, code: str, message: str, span: Span, label: str, hint: str | None = None, others: tuple[Label, ...] = ()
    ) -> None:
        self.diagnostics.append(Diagnostic(code, message, span, label, others, hint))


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
        raise AttnError(
            Diagnostic(codes.NO_PATTERN, f"{file.source.name} defines no pattern", None, help=NO_PATTERN_HINT)
        )
    listed = ", ".join(by_name)
    message = f"{file.source.name} has no pattern `{name}`" if name else f"{file.source.name} holds several patterns"
    raise AttnError(
        Diagnostic(codes.WHICH_PATTERN, message, None, help=f"name one: {file.source.name}:NAME with {listed}")
    )
