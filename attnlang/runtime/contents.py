"""The content of runtime tables as a key: what is made for tables is kept for the next call that brings the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Contents:
    """Tables by name, equal and hashed by what they hold. What they hold is copied, tensors to the CPU."""

    __slots__ = ("arrays", "hash")

    def __init__(self, tables: Mapping[str, NDArray[Any] | Tensor]) -> None:
        self.arrays: dict[str, NDArray[Any]] = {
            name: np.array(table.cpu().numpy() if isinstance(table, Tensor) else table, order="C")
            for name, table in tables.items()
        }
        self.hash = hash(tuple((name, array.shape, array.tobytes()) for name, array in self.arrays.items()))

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Contents) or self.arrays.keys() != other.arrays.keys():
            return False
        return all(np.array_equal(array, other.arrays[name]) for name, array in self.arrays.items())

    @property
    def digest(self) -> str:
        """A fingerprint, the same in every process: names in order, shapes, and what is held."""
        found = hashlib.sha256()
        for name in sorted(self.arrays):
            found.update(f"{name} {self.arrays[name].shape}".encode())
            found.update(self.arrays[name].tobytes())
        return found.hexdigest()[:16]
