"""What a plan makes the `sdpa` backend compute at one length: the pattern's pairs, and what its tiles hold besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attnlang.plan import Plan, Tiles
from attnlang.runtime.blocks import BLOCK, block_lists
from attnlang.runtime.calls import resolve
from attnlang.runtime.last_rows import last_rows
from attnlang.runtime.tiles import tiles


def pairs_computed(plan: Plan, n: int, tables: Mapping[str, Any] | None = None, first: int = 0) -> int:
    """Query-key products of all heads: half a square of a causal call, the whole rectangle of any other, whole tiles.

    `tables` holds the content of the runtime tables, one integer array each. Queries before `first` are left out.
    """
    content = {name: np.asarray(table, np.int64) for name, table in (tables or {}).items()}
    calls = (call for whole in resolve(plan, n) for call in last_rows(whole, first))
    count = sum(part.pairs_computed for call in calls for part in tiles(call))
    for branch in plan.branches:
        if isinstance(branch, Tiles):
            for lists in block_lists(branch, plan.heads, n, BLOCK, BLOCK, content, first):
                count += len(lists.heads) * len(lists.firsts) * BLOCK * BLOCK
    return count
