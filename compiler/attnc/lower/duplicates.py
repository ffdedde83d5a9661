"""How many pairs of a plan are computed more than once, and what of it a backend can fold into weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from attnlang.plan import Lattice, Plan, Tiles
from attnlang.runtime.blocks import BLOCK, block_lists
from attnlang.runtime.triton.nesting import Shape, chains
from attnlang.runtime.work import pairs_computed

TILE = 64
"""Rows of a tile, for which nested lattices must have room."""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Pairs at one length, all heads together.

    computed  what `sdpa` computes
    chained   pairs of nested lattices, as often as they count
    nested    how many of those a finer lattice of the same chain holds already
    repeated  pairs of tiles that are there again because some of them count several times
    """

    computed: int
    chained: int
    nested: int
    repeated: int

    def pairs(self, backend: str) -> int:
        """What a backend computes: sdpa folds tiles, triton lattices, others nothing."""
        match backend:
            case "sdpa":
                return self.computed
            case "triton":
                return self.computed + self.repeated - self.nested
            case _:
                return self.computed + self.repeated


def duplicates(plan: Plan, n: int, tables: Mapping[str, Any] | None = None) -> Duplicates:
    """The pairs of a plan at length n; `tables` holds the content of its runtime tables."""
    content = {name: np.asarray(table, np.int64) for name, table in (tables or {}).items()}
    chained = nested = repeated = 0
    lattices = [branch for branch in plan.branches if isinstance(branch, Lattice)]
    for chain in chains(lattices, Shape(n, plan.heads, plan.heads, TILE, TILE)):
        if len(chain) > 1:
            chained += pairs_computed(Plan(plan.heads, chain), n)
            nested += sum(_shared(plan.heads, fine, coarse, n) for fine, coarse in pairwise(chain))
    for branch in plan.branches:
        if isinstance(branch, Tiles):
            for lists in block_lists(branch, plan.heads, n, BLOCK, BLOCK, content):
                repeated += len(lists.heads) * (lists.entries - len(lists.firsts)) * BLOCK * BLOCK
    return Duplicates(pairs_computed(plan, n, tables), chained, nested, repeated)


def _shared(heads: int, fine: Lattice, coarse: Lattice, n: int) -> int:
    """Pairs of a lattice that the one before it in its chain holds: those within a run of the finer one."""
    inner = Lattice(coarse.heads, fine.runs, coarse.dilation, coarse.phases, coarse.band)
    return pairs_computed(Plan(heads, (inner,)), n)
