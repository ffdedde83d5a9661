"""Pieces of work dealt out to programs that stay on their multiprocessors: program i takes i, i + programs, ..."""

from __future__ import annotations

import heapq
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
MOST = 1.03
"""How much more than the mean the busiest program may have to do before pieces are put into another order."""


def dealt(pieces: Ints | npt.NDArray[np.int32], steps: Ints, programs: int, each: int) -> npt.NDArray[np.int32]:
    """Pieces (one a row), in order, each to the program that is done first.

    `each` is what a piece takes besides its steps, in steps. Programs with fewer pieces than others get empty ones.
    """
    programs = min(programs, len(pieces))
    busy = [(0, program) for program in range(programs)]
    had = [0] * programs
    places: list[int] = []
    for load in (steps + each).tolist():
        time, program = busy[0]
        places.append(had[program] * programs + program)
        had[program] += 1
        heapq.heapreplace(busy, (time + load, program))
    table = np.zeros((max(had) * programs, pieces.shape[1]), np.int32)
    table[places] = pieces
    return table


def unbalanced(steps: Ints, programs: int, each: int) -> float:
    """How many times the mean the busiest program has to do, if pieces are dealt out as they lie."""
    rounds = -(-len(steps) // programs)
    loads = np.zeros(rounds * programs, np.int64)
    loads[: len(steps)] = steps + each
    by_program = loads.reshape(rounds, programs).sum(0)
    return float(by_program.max() / by_program.mean())
