"""How information travels at any N, where the structure of a pattern decides it without a search over its pairs.

hub        a position that sees all and is seen by all: everything meets in two layers
axes       a grid whose axes all hold `self`: after l layers the product of the axes after l layers
one band   offset(-a..b) with a, b >= 0: after l layers offset(-l a..l b), since one may step straight
distances  a causal pattern that looks only at the distance: sums of distances, all between query and key
segments   nothing leaves the longest segments, and all others divide them: every segment is a sequence of its own
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.boxes import Counter, TooManyError
from attnc.analysis.counting import band_count
from attnc.analysis.expression_terms import NoTermError
from attnc.analysis.pairs import looks_at_heads
from attnc.analysis.reach import MAX_LAYERS, connected
from attnc.analysis.terms import Term, Terms
from attnc.analysis.travel import Dependency, buckets
from attnc.lower.pieces import LatticePiece, Piece
from attnlang.pattern import Pattern, algebra
from attnlang.pattern.arithmetic import known
from attnlang.pattern.expr import integer
from attnlang.pattern.walk import nodes
from attnlang.plan import Band

MAX_DISTANCES = 2**22
"""How many distances are looked at one by one, all pieces together."""
MAX_AXIS = 4096

Bools = NDArray[np.bool_]


def by_structure(pattern: Pattern, pieces: tuple[Piece, ...] | None, n: int, heads: int) -> Dependency | None:
    """What the structure of a pattern says, the same in all layers; None where none of the arguments applies."""
    if pattern.tables or n < 2:
        return None
    if isinstance(pattern.relation, algebra.Grid):
        return _axes(pattern.relation, n, heads)
    if pieces is not None:
        lattices = [piece for piece in pieces if isinstance(piece, LatticePiece)]
        if len(lattices) == len(pieces) and (found := _one_band(lattices, n) or _distances(lattices, n)) is not None:
            return found
    if any(isinstance(node, algebra.Random) for node in nodes(pattern.relation)):
        return None
    try:
        return _hub(pattern.relation, n, heads)
    except (TooManyError, NoTermError):
        return None


# a hub --------------------------------------------------------------------------------------------------------------


def _hub(relation: algebra.Relation, n: int, heads: int) -> Dependency | None:
    counter = Counter({})
    terms, any_head = counter.any_head(relation, n, heads)
    for place in (0, n - 1):
        sees = counter.over(terms.shifted(any_head, place, 0), (1, n))
        seen = counter.over(terms.shifted(any_head, 0, place), (n, 1))
        if sees == seen == n:
            return _through(counter, terms, any_head, place, n)
    return None


def _through(counter: Counter, terms: Terms, any_head: Term, place: int, n: int) -> Dependency:
    distance = terms.sub(terms.q, terms.k)
    joined = terms.larger(any_head, terms.eq(distance))  # the residual connection
    held = terms.negated(terms.eq(joined))
    direct = counter.over(held, (n, n))

    def hops(first: int, last: int) -> int:
        away = terms.larger(distance, terms.scaled(distance, -1))
        there = terms.both(terms.ge(terms.plus(away, -first)), terms.ge(terms.total(last, ((away, -1),))))
        return 1 if counter.over(terms.both(there, held), (n, n)) == counter.over(there, (n, n)) else 2

    return Dependency(
        n=n,
        asked_n=n,
        method=f"hub: position {place} sees all and is seen by all",
        causal=False,
        reach_by_layer=(1.0,) if direct == n * n else (direct / n**2, 1.0),
        layers_to_connect=1 if direct == n * n else 2,
        unreachable_pairs=0,
        hops_by_distance=tuple((first, last, hops(first, last)) for first, last in buckets(n)),
    )


# axes ---------------------------------------------------------------------------------------------------------------


def _axes(relation: algebra.Grid, n: int, heads: int) -> Dependency | None:
    """(A x B)^l = A^l x B^l, where A and B hold `self`; so does the residual connection then."""
    sizes = [integer(size, {"N": n, "n": n, "H": heads}) for size in relation.sizes]
    if heads > 1 and looks_at_heads(relation):
        return None
    if max(sizes) > MAX_AXIS or prod(sizes) != n:
        return None
    axes = [_matrix(body, size) for body, size in zip(relation.bodies, sizes, strict=True)]
    if not all(axis.diagonal().all() for axis in axes):
        return None
    reached, counts = axes, [prod(int(axis.sum()) for axis in axes)]
    causal = all((np.triu(axis, 1) == 0).all() for axis in axes)
    while len(counts) < MAX_LAYERS:
        reached = [
            (one.astype(np.float32) @ axis.astype(np.float32)) > 0 for one, axis in zip(reached, axes, strict=True)
        ]
        counts.append(prod(int(axis.sum()) for axis in reached))
        if counts[-1] == counts[-2]:
            break
    finished = counts[-1] == counts[-2]
    counts = counts[:-1] if finished else counts
    possible = n * (n + 1) // 2 if causal else n * n
    return Dependency(
        n=n,
        asked_n=n,
        method="axes: the product of the axes, each searched",
        causal=causal,
        reach_by_layer=tuple(count / possible for count in counts),
        layers_to_connect=len(counts) if finished else None,
        unreachable_pairs=possible - counts[-1] if finished else None,
        examples=_unmet(reached, sizes, causal) if finished and counts[-1] < possible else (),
    )


def _matrix(body: algebra.Relation, size: int) -> Bools:
    found = np.zeros((size, size), bool)
    found[connected(Pattern("axis", body), size, 1)] = True
    return found


def _unmet(reached: list[Bools], sizes: list[int], causal: bool) -> tuple[tuple[int, int], ...]:
    """An example of positions that never meet: on the first axis where some do not."""
    for number, axis in enumerate(reached):
        stride = prod(sizes[number + 1 :])
        places = np.argwhere(~axis & (np.tri(len(axis), dtype=bool) if causal else True))
        if len(places):
            return ((int(places[0][0]) * stride, int(places[0][1]) * stride),)
    return ()


# one band, and distances --------------------------------------------------------------------------------------------


def _one_band(pieces: list[LatticePiece], n: int) -> Dependency | None:
    bands = {piece.band for piece in pieces}
    if len(bands) != 1 or any(piece.runs is not None or piece.dilation > 1 for piece in pieces):
        return None
    (band,) = bands
    left = n - 1 if band.lo is None else min(-band.lo, n - 1)
    right = n - 1 if band.hi is None else min(band.hi, n - 1)
    if left < 0 or right < 0 or left + right == 0:
        return None
    sides = [side for side in (left, right) if side]
    layers = max(-(-(n - 1) // side) for side in sides)
    one_sided = len(sides) == 1
    never = n * (n - 1) // 2 if right and one_sided else 0
    possible = n * (n + 1) // 2 if right == 0 else n * n
    shares = (
        band_count(n, n, Band(-layer * left, layer * right)) / possible
        for layer in range(1, min(layers, MAX_LAYERS) + 1)
    )
    ends = [f"{each} l" for each in sides if each < n - 1]
    return Dependency(
        n=n,
        asked_n=n,
        method="one band: l layers see l times as far",
        causal=right == 0,
        reach_by_layer=tuple(shares),
        layers_to_connect=layers,
        unreachable_pairs=never,
        unreachable_distances=(1, n - 1) if never else None,
        examples=((1, 0),) if never else (),
        cause="no query sees an earlier key" if never else "",
        hops_by_distance=tuple((a, b, max(-(-b // side) for side in sides)) for a, b in buckets(n)),
        growth=f"1 + {' + '.join(ends)}" if len(ends) == len(sides) else "",
    )


def _distances(pieces: list[LatticePiece], n: int) -> Dependency | None:
    """Layers needed for each distance: the fewest distances of the pattern that add up to it.

    All steps go one way, so the positions between lie between the query and the key, and exist.
    """
    one_way = all(piece.band.hi is not None and piece.band.hi <= 0 for piece in pieces)
    if not one_way or any(p.runs is not None or (p.phase is not None and p.dilation > 1) for p in pieces):
        return None
    searched = min(n, MAX_DISTANCES // max(1, len(pieces)))
    needed = np.full(searched, MAX_LAYERS + 1)
    needed[0] = 0
    reached = needed == 0
    layers = 0
    for number in range(1, MAX_LAYERS + 1):
        grown = reached.copy()
        for piece in pieces:
            _add_steps(grown, reached, piece)
        if (grown == reached).all():
            break
        needed[grown & ~reached] = number
        reached, layers = grown, number
    finished = bool(reached.all()) or layers < MAX_LAYERS
    pairs = searched - np.arange(searched)
    possible = searched * (searched + 1) // 2
    shares = [int(pairs[needed <= number].sum()) / possible for number in range(1, max(1, layers) + 1)]
    never = np.flatnonzero(~reached)
    missing = int(pairs[~reached].sum())
    met = np.where(reached, needed, 0)
    return Dependency(
        n=searched,
        asked_n=n,
        method="distances: the fewest steps that add up to each",
        causal=True,
        reach_by_layer=tuple(shares),
        layers_to_connect=max(1, layers) if finished else None,
        unreachable_pairs=missing if finished else None,
        unreachable_distances=(int(never[0]), int(never[-1])) if finished and missing else None,
        examples=((int(never[0]), 0),) if finished and missing else (),
        cause="no steps of the pattern add up to these distances" if finished and missing else "",
        hops_by_distance=tuple((a, b, most) for a, b in buckets(searched) if (most := int(met[a : b + 1].max()))),
    )


def _add_steps(out: Bools, reached: Bools, piece: LatticePiece) -> None:
    """out[d] |= any reached[d - s], s in the steps of a piece."""
    r, n = piece.dilation, len(reached)
    near = -(piece.band.hi or 0) // r
    far = n if piece.band.lo is None else -piece.band.lo // r
    columns = min(r, n)  # one a residue class; where r is larger, a class is one distance
    rows = -(-n // columns)
    sums = np.zeros((rows + 1, columns), np.int64)
    sums[1:] = np.cumsum(np.pad(reached, (0, rows * columns - n)).reshape(rows, columns), axis=0)
    last = np.maximum(np.arange(rows) - near + 1, 0)
    first = np.clip(np.arange(rows) - far, 0, last)
    out |= (sums[last] > sums[first]).reshape(-1)[:n]


# segments -----------------------------------------------------------------------------------------------------------


def longest_segment(pieces: tuple[Piece, ...]) -> int | None:
    """The length W of segments that no pair leaves, and that all others divide; None if there is none."""
    periods: list[int] = []
    for piece in pieces:
        runs = piece.runs if isinstance(piece, LatticePiece) else None
        if runs is None or runs.start or runs.width > runs.period:
            return None
        periods.append(runs.period)
    longest = max(periods, default=0)
    return longest if longest and all(longest % period == 0 for period in periods) else None


def segment_of(relation: algebra.Relation) -> int | None:
    """The length of the segments that a relation as a whole stands in."""
    if not isinstance(relation, algebra.Segment) or known(relation.shift) != 0:
        return None
    width = known(relation.width)
    return width if type(width) is int else None


def by_segments(whole: Dependency, rest: Dependency | None, n: int) -> Dependency:
    """A sequence of n as copies of one segment and a rest: what is found in each, together."""
    copies, left = divmod(n, whole.n)
    parts = [(copies, whole), *([(1, rest)] if rest is not None and left else [])]
    causal = all(part.causal for _, part in parts)
    possible = n * (n + 1) // 2 if causal else n * n

    def own(part: Dependency) -> int:
        return part.n * (part.n + 1) // 2 if part.causal else part.n**2

    def reached(part: Dependency, layer: int) -> int:
        shares = part.reach_by_layer
        return round(shares[min(layer, len(shares)) - 1] * own(part)) if shares else 0

    layers = max(len(part.reach_by_layer) for _, part in parts)
    counts = [sum(times * reached(part, layer) for times, part in parts) for layer in range(1, layers + 1)]
    finished = all(part.layers_to_connect is not None for _, part in parts)
    apart = possible - counts[-1] if finished else None
    across = possible - sum(times * own(part) for times, part in parts)
    inner = sum(times * (part.unreachable_pairs or 0) for times, part in parts)
    never_inside = f"; {inner:,} more pairs within segments never meet" if inner else ""
    return replace(
        whole,
        n=n,
        asked_n=n,
        method=f"segments: nothing leaves segments of {whole.n}, one searched over all pairs stands for all",
        causal=causal,
        reach_by_layer=tuple(count / possible for count in counts),
        layers_to_connect=max(part.layers_to_connect or 0 for _, part in parts) if finished else None,
        unreachable_pairs=apart,
        hops_by_distance=tuple(sorted(_hops_of([part for _, part in parts], n))),
        unreachable_distances=(1, n - 1) if across else whole.unreachable_distances,
        examples=((whole.n, whole.n - 1), *whole.examples[:4]) if across else whole.examples,
        cause=f"segments of {whole.n} never hear of one another{never_inside}" if across else whole.cause,
        repair=None if across else whole.repair,
    )


def _hops_of(parts: list[Dependency], n: int) -> list[tuple[int, int, int]]:
    """The most hops at each distance over several sequences within one of n."""
    found: dict[int, int] = {}
    for part in parts:
        for first, _, count in part.hops_by_distance:
            found[first] = max(found.get(first, 0), count)
    return [(first, min(2 * first - 1, n - 1), count) for first, count in found.items()]
