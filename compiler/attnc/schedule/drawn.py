"""Pairs that `random` draws, listed instead of searched for: they have no outline that could be followed.

blocks(b) { p | random(r) { t } }  -->  blocks(b) { p }, and the blocks that are drawn

Where `random` stands among set operations only, within nested blocks, it decides nothing but at the pairs that it
draws: the rest is the pattern without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.regions import Regions, TooFineError
from attnlang.pattern import algebra
from attnlang.pattern.algebra import Relation
from attnlang.pattern.expr import Scope, integer
from attnlang.pattern.pointwise import drawn, multiplicity_at
from attnlang.pattern.values import at_least_one
from attnlang.pattern.walk import nodes
from attnlang.schedule import Placement

Array = NDArray[np.int64]

MAX_DRAWN = 2**22
"""How many blocks of all heads are listed: a minute."""


@dataclass(frozen=True, slots=True)
class Draws:
    """A relation that draws keys once, taken apart.

    without  the relation with nothing drawn, on tokens
    size     tokens of a block, of which `length` make the frame of these:
    body     what is asked of two blocks
    random   what draws
    """

    without: Relation
    size: int
    length: int
    body: Relation
    random: algebra.Random


def draws_of(relation: Relation, n: int, scope: Scope) -> Draws | None:
    """A relation that draws in one place taken apart; None for every other."""
    size, length, body = 1, n, relation
    while isinstance(body, algebra.Blocks):
        b = at_least_one(integer(body.size, {**scope, "n": length}), "block size", body.size.span)
        size, length, body = size * b, -(-length // b), body.body
    found = list(_randoms(body))
    if len(found) != 1 or sum(isinstance(node, algebra.Random) for node in nodes(relation)) != 1:
        return None
    return Draws(_replaced(relation, found[0], algebra.Nothing()), size, length, body, found[0])


_Joined = algebra.Union | algebra.Both | algebra.Without | algebra.Plus


def _randoms(relation: Relation) -> Iterator[algebra.Random]:
    """Every `random` among set operations."""
    match relation:
        case algebra.Random():
            yield relation
        case algebra.Union() | algebra.Both() | algebra.Without() | algebra.Plus():
            yield from _randoms(relation.left)
            yield from _randoms(relation.right)
        case _:
            return


def _replaced(relation: Relation, old: algebra.Random, new: Relation) -> Relation:
    match relation:
        case algebra.Random():
            return new if relation is old else relation
        case algebra.Union() | algebra.Both() | algebra.Without() | algebra.Plus():
            return replace(relation, left=_replaced(relation.left, old, new), right=_replaced(relation.right, old, new))
        case algebra.Blocks():
            return replace(relation, body=_replaced(relation.body, old, new))
        case _:
            return relation


def check_count(draws: Draws, heads: int, scope: Scope, ranks: int, n: int) -> None:
    """Raises TooFineError where more would be drawn than can be listed."""
    count = integer(draws.random.count, {**scope, "n": draws.length}) * draws.length * heads
    if count > MAX_DRAWN:
        what = "keys" if draws.size == 1 else f"blocks of {draws.size:,} tokens"
        raise TooFineError(
            f"this pattern draws {count:,} {what} at n = {n:,}, which have no structure for a plan on {ranks:,} ranks "
            f"to follow: at most {MAX_DRAWN:,} are listed one by one. Use larger blocks, a smaller n, or "
            "fewer heads that draw"
        )


def drawn_regions(draws: Draws, n: int, scope: Scope, placement: Placement, heads: tuple[int, ...]) -> Regions | None:
    """The regions of what is drawn, each block a rectangle; None where chunks are no stretches longer than a block.

    None, too, where less is held because of what is drawn.
    """
    chunks = sorted(
        (chunk.first, chunk.count, chunk.step, rank, base)
        for rank in range(placement.ranks)
        for base, chunk in placement.based(rank)
    )
    first, count, step, rank, base = np.array(chunks, np.int64).reshape(-1, 5).T
    if (step > 1).any() or (count < draws.size).any():
        return None
    inner = {**scope, "n": draws.length}
    queries = np.arange(draws.length)
    keys = drawn(draws.random, queries, draws.length, inner)
    row, column = (keys >= 0).nonzero()
    q, k = row, keys[row, column]
    held, other = (
        np.broadcast_to(multiplicity_at(_replaced(draws.body, draws.random, part), q, k, draws.length, scope), q.shape)
        for part in (algebra.Everything(), algebra.Nothing())
    )
    times = held - other
    if (times < 0).any():
        return None
    q, k, times = q[times > 0], k[times > 0], times[times > 0]
    x, q0, q1, of_q = _pieces(q, draws.size, n, first, count)
    y, k0, k1, of_k = _pieces(k[of_q], draws.size, n, first, count)
    x, q0, q1, times = x[of_k], q0[of_k], q1[of_k], times[of_q][of_k]
    a, b = rank[x], rank[y]
    local = np.bincount(a[a == b], ((q1 - q0 + 1) * (k1 - k0 + 1) * times)[a == b], minlength=placement.ranks)
    code = x * len(first) + y
    order = np.lexsort((k0, q0, code, a * placement.ranks + b))
    order = order[(a != b)[order]]
    code, pair, times = code[order], (a * placement.ranks + b)[order], times[order]
    boxes = np.stack([q0, q1, k0, k1], 1)[order]
    starts = np.flatnonzero(np.concatenate((np.ones(min(1, len(code)), bool), code[1:] != code[:-1])))
    ends = np.append(starts[1:], len(code))[: len(starts)]
    x, y = np.divmod(code[starts], len(first))
    places = np.stack([starts, ends, base[x], base[y]], 1)
    return Regions(heads, pair[starts], places, boxes, times, local.astype(np.int64))


def _pieces(block: Array, size: int, n: int, first: Array, count: Array) -> tuple[Array, Array, Array, Array]:
    """Blocks of tokens by the chunks they lie in, one or two: (chunk, first row, last row, number of the block)."""
    start, end = block * size, np.minimum((block + 1) * size, n) - 1
    low, high = (np.searchsorted(first, ends, side="right") - 1 for ends in (start, end))
    two = np.flatnonzero(high > low)
    of = np.concatenate([np.arange(len(block)), two])
    chunk = np.concatenate([low, high[two]])
    begin = np.maximum(start[of], first[chunk]) - first[chunk]
    until = np.minimum(end[of], first[chunk] + count[chunk] - 1) - first[chunk]
    return chunk, begin, until, of
