"""Modules that have seen a batch, for the tests of `attnlang.runtime.seen`."""

from __future__ import annotations

from typing import Any

import attnc
from direct_inputs import tensors

from attnlang.nn import PatternAttention

PATTERNS: dict[str, dict[str, Any]] = {"causal": {}, "sliding": {"w": 8}}


def compiled(name: str, **rest: Any) -> PatternAttention:
    return attnc.compile(name, heads=4, **PATTERNS[name], **rest)


def met(name: str) -> PatternAttention:
    """A module that has seen `tensors()`."""
    module = compiled(name)
    module(*tensors())
    assert module._last is not None
    return module
