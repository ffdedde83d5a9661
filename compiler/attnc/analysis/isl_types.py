"""islpy has no complete type stubs: its classes under names of their own, so that one file says so for all."""

from __future__ import annotations

from typing import Any, TypeAlias

Set: TypeAlias = Any
Map: TypeAlias = Any
PwAff: TypeAlias = Any
Space: TypeAlias = Any
