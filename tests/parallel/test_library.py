"""Every pattern of the library on several ranks, on one device: out, lse, dq, dk and dv to 1e-12 in float64.

Usual runs take one number of ranks and one placement a pattern; SWEEP=1 takes 1..8 ranks and every placement.
"""

from __future__ import annotations

import os
from typing import Any

import attnc
import numpy as np
import pytest

import attnlang
from attnlang.parallel import simulate
from attnlang.pattern.library import library_names
from tests.language import test_library_tables as tabled
from tests.language.test_library import ANY_LENGTH, DEFINITIONS, EVEN_ONLY
from tests.parallel.test_exact import HEAD_DIM, HEADS, check

SWEEP = bool(os.environ.get("SWEEP"))
NAMES = library_names()
PLACEMENTS = ("contiguous", "zigzag", "striped")


def sizes(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray], int, int]:
    """Parameters, tables, length and heads at which a library pattern has a meaning."""
    if name in tabled.DEFINITIONS:
        parameters, tables, _ = tabled.DEFINITIONS[name]
        return parameters, {key: np.asarray(value) for key, value in tables.items()}, tabled.N, tabled.H
    parameters = DEFINITIONS[name][0] if name in DEFINITIONS else {}
    return parameters, {}, 96, HEADS


def one(name: str, ranks: int, kind: str) -> None:
    parameters, tables, n, heads = sizes(name)
    pattern = attnlang.load(name, **parameters)
    if name in ANY_LENGTH and name not in EVEN_ONLY and ranks % 2:
        n = 83
    schedule = attnc.plan(
        pattern, n=n, ranks=ranks, heads=heads, head_dim=HEAD_DIM, dtype="float64", placement=kind, tables=tables
    )
    check(pattern, schedule, n, heads, tables, heads)
    assert simulate(schedule).pairs == pattern.multiplicity(n, heads, **tables).sum()


@pytest.mark.parametrize("name", NAMES)
def test_library_pattern_on_ranks(name: str) -> None:
    number = NAMES.index(name)
    if not SWEEP:
        one(name, 2 + number % 7, PLACEMENTS[number % 3])
        return
    for ranks in range(1, 9):
        for kind in PLACEMENTS:
            one(name, ranks, kind)
