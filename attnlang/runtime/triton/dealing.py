"""Pieces of work dealt out to programs that stay on their multiprocessors: program i takes i, i + programs, ..."""

from __future__ import annotations

import heapq
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
MOST = 1.03
"""How much more than the mean the busiest program may have to do before pieces are put into another order."""


def dealt(pieces: Ints, steps: Ints, programs: int, each: int) -> npt.NDArray[np.int32]:
    """Pieces (one a row), in order, each to the program that is done first.

    `each` is what a piece takes besides its steps, in steps. Programs with fewer pieces than others get empty ones.
    """
    programs = min(programs, len(pieces))
    busy = [(0, program) for program in range(programs)]
    mine: list[list[int]] = [[] for _ in range(programs)]
    for number, count in enumerate(steps.tolist()):
        time, program = busy[0]
        mine[program].append(number)
        heapq.heapreplace(busy, (time + count + each, program))
    rounds = max(map(len, mine))
    table = np.zeros((rounds, programs, pieces.shape[1]), np.int64)
    for program, numbers in enumerate(mine):
        table[: len(numbers), program] = pieces[numbers]
    return table.reshape(-1, pieces.shape[1]).astype(np.int32)


def unbalanced(steps: Ints, programs: int, each: int) -> float:
    """How many times the mean the busiest program has to do, if pieces are dealt out as they lie."""
    rounds = -(-len(steps) // programs)
    loads = np.zeros(rounds * programs, np.int64)
    loads[: len(steps)] = steps + each
    by_program = loads.reshape(rounds, programs).sum(0)
    return float(by_program.max() / by_program.mean())
