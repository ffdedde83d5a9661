"""islpy, typed and bounded: its classes under names of their own, and a limit on how long it may think.

islpy has no complete type stubs; one file says so for all.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, TypeAlias

import islpy as isl

Set: TypeAlias = Any
Map: TypeAlias = Any
PwAff: TypeAlias = Any
Space: TypeAlias = Any

OPERATIONS = 60_000
"""Steps that one question to islpy may take: some tenths of a second."""
OVERHEAD = 500
"""What asking a question costs by itself, in the same steps."""


@lru_cache(maxsize=4096)
def read_set(text: str) -> Set:
    """The set that a text of islpy's notation says. Reading is not bounded: it would end in a false syntax error."""
    return _read(isl.Set, text)


@lru_cache(maxsize=4096)
def read_map(text: str) -> Map:
    """The map that a text of islpy's notation says."""
    return _read(isl.Map, text)


def _read(kind: Any, text: str) -> Any:
    context: Any = isl.DEFAULT_CONTEXT
    limit = context.get_max_operations()
    context.set_max_operations(0)
    try:
        return kind(text)
    finally:
        context.set_max_operations(limit)


TOO_MANY = "it takes too many cases to tell"


class TooHardError(Exception):
    """A question took more than `OPERATIONS` steps."""


_left: ContextVar[list[int] | None] = ContextVar("left", default=None)


@contextmanager
def effort(operations: int) -> Generator[None, None, None]:
    """All questions inside take so many steps together, at most; those that come later are too hard."""
    token = _left.set([operations])
    try:
        yield
    finally:
        _left.reset(token)


@contextmanager
def bounded() -> Generator[None, None, None]:
    """Questions to islpy inside end with `TooHardError` rather than take for ever."""
    context: Any = isl.DEFAULT_CONTEXT
    left = _left.get()
    if left is not None and left[0] <= 0:
        raise TooHardError(TOO_MANY)
    context.reset_operations()
    context.set_max_operations(OPERATIONS if left is None else min(OPERATIONS, left[0]))
    try:
        yield
    except isl.Error as error:
        if "maximal number of operations exceeded" not in str(error):
            raise
        if left is not None:
            left[0] -= OPERATIONS
        raise TooHardError(TOO_MANY) from None
    finally:
        if left is not None:
            left[0] -= OVERHEAD
        context.set_max_operations(0)
        context.reset_operations()
