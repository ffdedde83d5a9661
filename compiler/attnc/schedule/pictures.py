"""What one ordered pair of ranks moves as a transfer: rows of heads, those with the same rows together."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.schedule.meetings import Met, Moved
from attnc.schedule.progressions import grouped
from attnc.schedule.solution import Picture
from attnlang.rows import Rows
from attnlang.schedule import HeadRows, Transfer


def picture_of(met: Met) -> Picture:
    """What is known of a pair of ranks with tiles, as a picture."""
    return Picture(Transfer(_moved(met.keys), _moved(met.queries)), met.weight, met.bound, met.at_query, met.at_key)


def _moved(side: Moved) -> tuple[HeadRows, ...]:
    if len(side) == 1:  # nothing to be put together
        ((heads, parts),) = side
        return _in_order(HeadRows(tuple(sorted(heads)), rows) for rows in dict.fromkeys(parts))
    return head_rows((head, rows) for heads, parts in side for rows in parts for head in heads)


def head_rows(nodes: Iterable[tuple[int, Rows]]) -> tuple[HeadRows, ...]:
    """Rows of heads in their order, heads that have the same ones together."""
    return _in_order(HeadRows(heads, rows) for heads, rows in grouped(nodes))


def _in_order(parts: Iterable[HeadRows]) -> tuple[HeadRows, ...]:
    return tuple(sorted(parts, key=lambda part: (part.heads, part.rows.first, part.rows.step, part.rows.count)))
