"""What one ordered pair of ranks moves as a transfer: rows of heads, those with the same rows together."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.schedule.meetings import Met
from attnc.schedule.progressions import grouped
from attnc.schedule.solution import Picture
from attnlang.rows import Rows
from attnlang.schedule import HeadRows, Transfer


def picture_of(met: Met) -> Picture:
    """What is known of a pair of ranks with tiles, as a picture."""
    keys, queries = (
        head_rows((head, rows) for heads, parts in side for rows in parts for head in heads)
        for side in (met.keys, met.queries)
    )
    return Picture(Transfer(keys, queries), met.weight, met.bound, met.at_query, met.at_key)


def head_rows(nodes: Iterable[tuple[int, Rows]]) -> tuple[HeadRows, ...]:
    """Rows of heads in their order, heads that have the same ones together."""
    parts = [HeadRows(heads, rows) for heads, rows in grouped(nodes)]
    return tuple(sorted(parts, key=lambda part: (part.heads, part.rows.first, part.rows.step, part.rows.count)))
