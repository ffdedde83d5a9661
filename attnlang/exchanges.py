"""Which transfer stands between which two ranks: ranges of ranks with one transfer, by rank, a few bytes each.

A schedule of thousands of ranks that all meet one another holds millions; as objects of their own they would fill a
machine. Read, they are tuples of `Exchange`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray


class Exchange(NamedTuple):
    """One transfer, by its number, for all ranks b from first to last."""

    first: int
    last: int
    transfer: int


def _none() -> NDArray[np.int32]:
    return np.zeros((0, 3), np.int32)


def _from_zero() -> NDArray[np.int64]:
    return np.zeros(1, np.int64)


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Exchanges(Sequence[tuple[Exchange, ...]]):
    """The exchanges of each rank, by ranges of ranks in their order.

    runs  (first, last, transfer) of all, (count, 3)
    ends  how many runs come before those of each rank, and how many there are, (ranks + 1)
    """

    runs: NDArray[np.int32] = field(default_factory=_none)
    ends: NDArray[np.int64] = field(default_factory=_from_zero)

    @staticmethod
    def of(ranks: Iterable[Iterable[tuple[int, int, int]]]) -> Exchanges:
        """Those of each rank, given as tuples."""
        rows = [list(of_rank) for of_rank in ranks]
        ends = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        return Exchanges(np.array([run for row in rows for run in row], np.int32).reshape(-1, 3), ends)

    @staticmethod
    def of_matrix(which: NDArray[np.int32]) -> Exchanges:
        """Those of (ranks, ranks) numbers of transfers, queries at the row and keys at the column; -1: none."""
        runs: list[NDArray[np.int32]] = []
        for row in which:
            first = np.flatnonzero(np.concatenate(([True], row[1:] != row[:-1])))
            some = row[first] >= 0
            last = np.append(first[1:], len(row)) - 1
            runs.append(np.stack([first[some], last[some], row[first][some]], 1).astype(np.int32))
        ends = np.cumsum([0, *map(len, runs)], dtype=np.int64)
        return Exchanges(np.concatenate([_none(), *runs]), ends)

    def and_idle(self, ranks: int) -> Exchanges:
        """With so many more ranks that exchange nothing."""
        return Exchanges(self.runs, np.append(self.ends, np.full(ranks, self.ends[-1])))

    def transfer(self, a: int, b: int) -> int | None:
        """The number of the transfer for queries at a and keys at b; None where nothing moves between them."""
        mine = self._runs_of(a)
        place = int(np.searchsorted(mine[:, 0], b, side="right")) - 1
        if place < 0 or b > mine[place, 1]:
            return None
        return int(mine[place, 2])

    def _runs_of(self, rank: int) -> NDArray[np.int32]:
        if not -len(self) <= rank < len(self):
            raise IndexError(f"exchanges are of {len(self)} ranks, not of rank {rank}")
        rank %= len(self)
        return self.runs[self.ends[rank] : self.ends[rank + 1]]

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, index: int) -> tuple[Exchange, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[Exchange, ...], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[Exchange, ...] | tuple[tuple[Exchange, ...], ...]:
        if isinstance(index, slice):
            return tuple(self[rank] for rank in range(*index.indices(len(self))))
        return tuple(map(Exchange._make, self._runs_of(index).tolist()))

    def __iter__(self) -> Iterator[tuple[Exchange, ...]]:
        return (self[rank] for rank in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Exchanges):
            return NotImplemented
        return np.array_equal(self.ends, other.ends) and np.array_equal(self.runs, other.runs)

    def __hash__(self) -> int:
        return hash((self.ends.tobytes(), self.runs.tobytes()))

    def __repr__(self) -> str:
        return f"Exchanges.of({tuple(tuple(map(tuple, of_rank)) for of_rank in self)})"
