"""The five nouns are data: frozen, printable, comparable."""

from __future__ import annotations

import dataclasses

import attnc
import pytest
from attnc.lower import lower

import attnlang
from attnlang.schedule import Schedule
from attnlang.source import Source, Span
from attnlang.syntax import parse


def test_frozen_and_printable() -> None:
    source = Source("a.attn", "pattern a = causal")
    file, _ = parse(source)
    pattern = attnlang.loads(source.text)
    plan = lower(pattern, 2)
    for noun in (source, Span(source, 0, 7), file, file.patterns[0], pattern, plan, plan.branches[0]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(noun, dataclasses.fields(noun)[0].name, None)
        assert str(noun)
        assert repr(noun)


def test_spans_take_no_part_in_equality() -> None:
    assert attnlang.loads("pattern a = causal") == attnlang.loads("\n\npattern   a   =   (causal)")


def test_positions_count_from_one() -> None:
    source = Source("a.attn", "ab\ncd\n")
    assert [source.position(offset) for offset in (0, 2, 3, 6)] == [(1, 1), (1, 3), (2, 1), (3, 1)]
    assert Span(source, 3, 5).text == "cd"
    assert repr(Span(source, 3, 5)) == "<a.attn:2:1>"


def test_the_schedule_of_one_rank() -> None:
    schedule = attnc.plan("strided", n=1000, heads=4)
    assert isinstance(schedule, Schedule)
    assert (schedule.n, schedule.ranks) == (1000, 1)
    assert "nothing moves" in str(schedule)
