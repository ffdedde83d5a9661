"""A pattern as plain data that makes it anew: its source text, its name, its parameters, the files it imports.

What configs hold, and what a saved graph says of a pattern. The text is identified by its SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from attnlang.pattern.algebra import relation_text
from attnlang.pattern.expr import Known
from attnlang.pattern.library import loads
from attnlang.pattern.pattern import Pattern, value_text


def recipe(pattern: Pattern) -> dict[str, Any]:
    """Plain data for JSON; `from_recipe` gives the same pattern back."""
    return {
        "name": pattern.name,
        "parameters": {name: _plain(value) for name, value in pattern.parameters},
        "source": pattern.source.text,
        "files": dict(pattern.imports),
        "sha256": hashlib.sha256(pattern.source.text.encode()).hexdigest(),
        "relation": relation_text(pattern.relation),
    }


def from_recipe(data: Mapping[str, Any]) -> Pattern:
    """The pattern that `recipe` described.

    Raises ValueError where the text is not the one that was hashed, or no longer means the same; AttnError where it
    is faulty.
    """
    name, text = data["name"], data["source"]
    if hashlib.sha256(text.encode()).hexdigest() != data["sha256"]:
        raise ValueError(f"the source of pattern {name} does not have the SHA-256 that is given for it: it was changed")
    pattern = loads(text, name=name, files=data["files"], **data["parameters"])
    if relation_text(pattern.relation) != data["relation"]:
        raise ValueError(f"pattern {name} no longer means {data['relation']}: it was written by another version")
    return pattern


def _plain(value: Known) -> Any:
    """A parameter as `loads` takes it; one that depends on N, H or h as text."""
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, int) else value_text(value)
