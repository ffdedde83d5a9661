"""islpy, typed and bounded: its classes under names of their own, and a limit on how long it may think.

islpy has no complete type stubs; one file says so for all.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

import islpy as isl

Set: TypeAlias = Any
Map: TypeAlias = Any
PwAff: TypeAlias = Any
Space: TypeAlias = Any

OPERATIONS = 200_000
"""Steps that one question to islpy may take: some tenths of a second."""


class TooHardError(Exception):
    """A question took more than `OPERATIONS` steps."""


@contextmanager
def bounded() -> Generator[None, None, None]:
    """Questions to islpy inside end with `TooHardError` rather than take for ever."""
    context: Any = isl.DEFAULT_CONTEXT
    context.reset_operations()
    context.set_max_operations(OPERATIONS)
    try:
        yield
    except isl.Error as error:
        if "maximal number of operations exceeded" not in str(error):
            raise
        raise TooHardError("it takes too many cases to tell") from None
    finally:
        context.set_max_operations(0)
        context.reset_operations()
