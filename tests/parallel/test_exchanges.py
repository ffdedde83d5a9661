"""Exchanges in arrays read as the tuples that they stand for."""

from __future__ import annotations

import json
from itertools import pairwise
from random import Random

import attnc
import numpy as np
import pytest

from attnlang.exchanges import Exchange, Exchanges
from attnlang.schedule import Schedule


def test_a_matrix_is_its_runs() -> None:
    random = Random(5)
    for _ in range(50):
        ranks = random.randint(1, 9)
        which = np.array([[random.choice((-1, -1, 0, 0, 1, 2)) for _ in range(ranks)] for _ in range(ranks)], np.int32)
        found = Exchanges.of_matrix(which)
        assert len(found) == ranks
        for a, of_rank in enumerate(found):
            assert of_rank == found[a] == found[a - ranks]
            assert all(isinstance(each, Exchange) for each in of_rank)
            seen = [-1] * ranks
            for first, last, transfer in of_rank:
                assert transfer >= 0
                seen[first : last + 1] = [transfer] * (last + 1 - first)
            assert seen == which[a].tolist()
            assert [found.transfer(a, b) for b in range(ranks)] == [None if x < 0 else x for x in which[a].tolist()]
            assert all(one.last + 1 < two.first or one[2] != two[2] for one, two in pairwise(of_rank))
        again = Exchanges.of([[(first, last, number) for first, last, number in of_rank] for of_rank in found])
        assert again == found
        assert hash(again) == hash(found)
        assert eval(repr(found), {"Exchanges": Exchanges}) == found


def test_idle_ranks_exchange_nothing() -> None:
    found = Exchanges.of([[(1, 1, 0)], [(0, 0, 1)]])
    more = found.and_idle(2)
    assert list(more) == [*found, (), ()]
    assert more != found
    assert more.transfer(3, 0) is None
    assert more[1:3] == (found[1], ())
    assert not Exchanges()
    with pytest.raises(IndexError, match="exchanges are of 4 ranks, not of rank 4"):
        more[4]


def test_schedules_keep_them_in_json() -> None:
    schedule = attnc.plan("sliding", w=9, n=100, ranks=7, heads=2)
    again = Schedule.from_json(json.loads(json.dumps(schedule.to_json())))
    assert again == schedule
    assert again.exchanges == schedule.exchanges
    assert again.digest == schedule.digest
    assert hash(again) == hash(schedule)
    for a in range(7):
        for b, transfer in schedule.peers(a):
            assert schedule.transfer(a, b) == transfer
