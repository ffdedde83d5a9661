"""What a definition speaks of: positions, heads and sizes as arrays that broadcast to (H, N, N)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np


@dataclass(frozen=True)
class Frame:
    N: int
    H: int

    @property
    def q(self) -> Any:
        return np.arange(self.N)[None, :, None]

    @property
    def k(self) -> Any:
        return np.arange(self.N)[None, None, :]

    @property
    def h(self) -> Any:
        return np.arange(self.H)[:, None, None]

    @property
    def d(self) -> Any:
        """How far a key lies before its query."""
        return self.q - self.k

    @property
    def past(self) -> Any:
        return self.k <= self.q

    def empty(self) -> Any:
        return np.zeros((self.H, self.N, self.N), int)


Definition: TypeAlias = tuple[dict[str, Any], Callable[[Frame], Any]]
"""Parameters of the library pattern, and the array it must equal."""


def powers(frame: Frame) -> Any:
    """Distances 1, 2, 4, 8, ..."""
    return (frame.d > 0) & (frame.d & np.maximum(frame.d - 1, 0) == 0)
