"""Rows and pairs between them, against sets and matrices."""

from __future__ import annotations

from itertools import pairwise, product
from random import Random

import numpy as np
import pytest

from attnlang.plan import FULL, Band, Columns, Lattice, Plan, Runs
from attnlang.rows import Rows
from attnlang.runtime.calls import resolve
from attnlang.runtime.pairs import branch_pairs, local_plan


def tokens(rows: Rows | None) -> set[int]:
    return set() if rows is None else set(range(rows.first, rows.last + 1, rows.step))


def some_rows(random: Random) -> Rows:
    return Rows(random.randint(-5, 20), random.randint(1, 12), random.randint(1, 6))


def test_rows_are_sets() -> None:
    random = Random(0)
    for _ in range(2000):
        a, b = some_rows(random), some_rows(random)
        assert tokens(a & b) == tokens(a) & tokens(b)
        rest = [token for part in a.minus(b) for token in tokens(part)]
        assert sorted(rest) == sorted(tokens(a) - tokens(b))
        residue, modulus = random.randint(-3, 7), random.randint(1, 7)
        assert tokens(a.congruent(residue, modulus)) == {t for t in tokens(a) if (t - residue) % modulus == 0}
        low, high = sorted((random.randint(-8, 40), random.randint(-8, 40)))
        assert tokens(a.within(low, high)) == {t for t in tokens(a) if low <= t <= high}


def matrix(plan: Plan, n: int) -> np.ndarray:
    m = np.zeros((plan.heads, n, n), int)
    for call in resolve(plan, n):
        for index in product(*(range(axis.size) for axis in call.axes)):
            at = list(zip(index, call.axes, strict=True))
            head = call.head + sum(i * axis.head for i, axis in at)
            q = call.q + sum(i * axis.token for i, axis in at)
            k = call.k + sum(i * axis.key_token for i, axis in at)
            for i, j in product(range(call.q_len), range(call.k_len)):
                if j - i in call.band:
                    m[head, q + i * call.step, k + j * call.step] += 1
    return m


def some_branch(random: Random) -> Lattice | Columns:
    heads = (0, 1, 2)
    if random.random() < 0.25:
        period = random.randint(1, 7)
        first = random.randint(0, period - 1)
        bands = [FULL, Band(None, 0), Band(None, -1), Band(-2, 0), Band(-1, 1), Band(0, None)]
        return Columns(heads, period, first, random.randint(first + 1, period), random.choice(bands))
    runs = None
    if random.random() < 0.7:
        period = random.randint(2, 14)
        runs = Runs(random.randint(1, period), period, random.randint(0, period - 1))
    r = random.randint(1, 5)
    phases = tuple(random.randrange(r) for _ in heads) if random.random() < 0.6 else None
    band = Band(random.choice([None, None, -6 * r, -2 * r]), random.choice([None, 0, 0, 3 * r]))
    return Lattice(heads, runs, r, phases, band)


@pytest.mark.parametrize("seed", range(4))
def test_pairs_between_rows_are_each_pair_of_the_branch_once(seed: int) -> None:
    random = Random(seed)
    for _ in range(60):
        branch, n, ranks = some_branch(random), random.randint(1, 40), random.randint(1, 5)
        plan = Plan(3, (branch,))
        m = matrix(plan, n)
        if random.random() < 0.5:
            cuts = sorted([0, n, *(random.randint(0, n) for _ in range(ranks - 1))])
            parts = [Rows(low, high - low) for low, high in pairwise(cuts) if high > low]
        else:
            parts = [Rows(rank, (n - 1 - rank) // ranks + 1, ranks) for rank in range(min(ranks, n))]
        found = np.zeros_like(m)
        for q_rows, k_rows in product(parts, parts):
            for pairs in branch_pairs(branch, q_rows, k_rows):
                held = 0
                for i, j in product(range(pairs.q.count), range(pairs.k.count)):
                    q, k = pairs.q.first + i * pairs.q.step, pairs.k.first + j * pairs.k.step
                    if k - q in pairs.band:
                        assert pairs.band == FULL or j - i in pairs.index_band
                        held += 1
                        found[list(pairs.heads), q, k] += 1
                assert held * len(pairs.heads) == pairs.count
        assert (found == m).all(), (branch, n, parts)
        for rows in parts:
            local = local_plan(plan, rows)
            if local is not None:
                mine = sorted(tokens(rows))
                assert (matrix(local, rows.count) == m[:, mine][:, :, mine]).all(), (branch, rows)
