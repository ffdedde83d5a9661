"""Calls without the queries before a position: what is left to compute for the last M rows of a sequence.

a call all of whose rows come at or after it   stays
a call all of whose rows come before it        goes
any other                                      is halved along the axis that moves it furthest, or, without such an
                                               axis, loses its first rows, its band moving along
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attnlang.plan import Band
from attnlang.runtime.calls import Axis, Call, trimmed


def last_rows(call: Call, first: int) -> Iterator[Call]:
    """The pairs of a call whose queries are tokens first.., with queries counted from there."""
    if first == 0:
        yield call
        return
    for part in _from(call, first):
        yield replace(part, q=part.q - first)


def _from(call: Call, first: int) -> Iterator[Call]:
    moves = [axis.token * (axis.size - 1) for axis in call.axes]
    lowest = call.q + sum(min(0, move) for move in moves)
    highest = call.q + sum(max(0, move) for move in moves) + (call.q_len - 1) * call.step
    if lowest >= first:
        yield call
    elif highest >= first and any(moves):
        place = max(range(len(moves)), key=lambda i: abs(moves[i]))
        for half in _halves(call, place):
            yield from _from(half, first)
    elif highest >= first:
        yield from _cut(call, -((call.q - first) // call.step))


def _halves(call: Call, place: int) -> Iterator[Call]:
    axis = call.axes[place]
    middle = axis.size // 2
    yield replace(call, axes=_with(call, place, replace(axis, size=middle)))
    yield replace(
        call,
        head=call.head + middle * axis.head,
        q=call.q + middle * axis.token,
        k=call.k + middle * axis.key_token,
        axes=_with(call, place, replace(axis, size=axis.size - middle)),
    )


def _with(call: Call, place: int, axis: Axis) -> tuple[Axis, ...]:
    """The axes of a call with another one in a place, or with none there if it has one copy."""
    return (*call.axes[:place], *((axis,) if axis.size > 1 else ()), *call.axes[place + 1 :])


def _cut(call: Call, rows: int) -> Iterator[Call]:
    """The call without its first rows."""
    lo, hi = (None if end is None else end + rows for end in (call.band.lo, call.band.hi))
    yield from trimmed(replace(call, q=call.q + rows * call.step, q_len=call.q_len - rows, band=Band(lo, hi)))
