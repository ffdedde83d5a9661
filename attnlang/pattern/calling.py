"""Which definitions call which: what a fault, or a word like `layer`, in one of them means for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from attnlang.pattern.modules import Module
from attnlang.pattern.vocabulary import BUILT_IN
from attnlang.pattern.walk import subnodes
from attnlang.syntax import tree


@dataclass(frozen=True)
class Definition:
    """A definition, the file in whose scope it stands, and the names that it speaks of, its own parameters aside."""

    item: tree.PatternDef
    module: Module
    names: frozenset[str]


class CallGraph:
    """The definitions of a file and all that they call, directly or through others, in this file or elsewhere."""

    def __init__(self, module: Module) -> None:
        self._definitions: dict[int, Definition] = {}
        self._callers: dict[int, list[int]] = {}
        waiting = [(item, module) for item in module.file.patterns]
        while waiting:
            item, scope = waiting.pop()
            if id(item) in self._definitions:
                continue
            definition = self._definitions[id(item)] = Definition(item, scope, _names(item))
            for callee in filter(None, map(scope.find, definition.names - BUILT_IN)):
                self._callers.setdefault(id(callee[0]), []).append(id(item))
                waiting.append(callee)

    def reaching(self, wanted: Callable[[Definition], bool]) -> Reaching:
        """The definitions of that kind, and those that call one of them, however indirectly."""
        found: set[int] = set()
        waiting = [key for key, definition in self._definitions.items() if wanted(definition)]
        while waiting:
            key = waiting.pop()
            if key not in found:
                found.add(key)
                waiting.extend(self._callers.get(key, ()))
        return Reaching(found)


class Reaching:
    """A set of definitions, told apart by where they are, not by what they say."""

    def __init__(self, keys: Iterable[int]) -> None:
        self._keys = frozenset(keys)

    def __contains__(self, item: object) -> bool:
        return id(item) in self._keys


def _names(item: tree.PatternDef) -> frozenset[str]:
    own = {parameter.name for parameter in item.params}
    return frozenset(node.name for node in subnodes(item) if isinstance(node, tree.Name | tree.Call)) - own
