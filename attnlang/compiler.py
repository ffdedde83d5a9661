"""How a module finds the compiler without importing it: by the entry point group `attnlang.compilers`.

`attnlang` never imports `attnc`: a model that ships needs no compiler, and gets along with a compiled pattern. Where a
pattern is given by name instead, whatever package has registered itself in the group compiles it; `attnc` does.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

GROUP = "attnlang.compilers"


def compiler() -> Callable[..., Any]:
    """The function `compile(pattern, *, heads, backend, **parameters)` of the registered compiler.

    Raises ValueError, saying what to do, where none is registered.
    """
    found = entry_points(group=GROUP)
    if not found:
        raise ValueError(
            "no compiler is installed here: compile the pattern where attnc is, with attnc.compile(pattern, heads=..), "
            "or write a module with `attnc compile -o`, and give that"
        )
    return min(found, key=lambda entry: (entry.name != "attnc", entry.name)).load()
