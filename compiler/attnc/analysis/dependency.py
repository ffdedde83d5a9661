"""How information travels: which keys a query has heard of after 1, 2, 3, .. layers, and which it never hears of.

A layer connects q to k if any head holds the pair, since heads are mixed after attention; and q to itself, since a
residual connection goes around it. What is connected after l layers is the product of l such relations, searched
exactly at the length that the result names, with every pair accounted for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import cycle
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.bits import Bits, add_gathered, add_piece, counted, counted_by_distance, identity, unpacked
from attnc.lower.lowering import head_pieces
from attnc.lower.pieces import LatticePiece, Piece
from attnlang.diagnostics import AttnError
from attnlang.pattern import Pattern, algebra
from attnlang.pattern.oracle import on_head
from attnlang.pattern.tables import contents
from attnlang.pattern.walk import free_names_of, nodes, require_layer

MAX_LATTICE_N = 32_768
"""The longest sequence that is searched along lattices."""
MAX_ANY_N = 2_048
"""The longest that is searched pair by pair, where a shorter one will do."""
MAX_GRID_N = 16_384
"""The longest that is searched pair by pair where no other length has a meaning."""
MAX_LAYERS = 64
"""After how many layers the search gives up."""
EXAMPLES = 5
SAMPLED = 20_000

Step = Callable[[Bits, Bits], None]
"""out |= A rows, for one layer."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What would connect the pairs that never meet: `text`, to be joined by `|`, and why that suffices."""

    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Dependency:
    """How information travels through layers of patterns, at length n.

    exact              whether n is the length asked for; else it is measured at n, the longest that is searched
    causal             whether no layer lets a query see its future; then only pairs k <= q can ever meet
    reach_by_layer     after 1, 2, .. layers, the share of these pairs that is connected
    layers_to_connect  after how many layers everything is connected that ever will be; None: more than were searched
    unreachable_pairs  how many of these pairs no number of layers connects; None if the search gave up
    unreachable_distances  smallest and largest |q - k| of such a pair
    examples           some of them, (q, k)
    cause              in words, where the structure explains it
    hops_by_distance   (first, last, hops): the most layers that any connected pair at these distances needs
    """

    n: int
    asked_n: int
    method: str
    causal: bool
    reach_by_layer: tuple[float, ...]
    layers_to_connect: int | None
    unreachable_pairs: int | None
    unreachable_distances: tuple[int, int] | None
    examples: tuple[tuple[int, int], ...]
    cause: str
    repair: Repair | None
    hops_by_distance: tuple[tuple[int, int, int], ...]

    @property
    def exact(self) -> bool:
        """Whether it speaks of the length asked for."""
        return self.n == self.asked_n

    @property
    def basis(self) -> str:
        """What the figures are: exact, or measured at another length."""
        return "exact" if self.exact else f"measured at N = {self.n:,}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "n": self.n,
            "basis": self.basis,
            "method": self.method,
            "causal": self.causal,
            "reach_by_layer": list(self.reach_by_layer),
            "layers_to_connect": self.layers_to_connect,
            "unreachable_pairs": self.unreachable_pairs,
            "unreachable_distances": self.unreachable_distances and list(self.unreachable_distances),
            "examples": [{"query": q, "key": k} for q, k in self.examples],
            "cause": self.cause,
            "repair": None if self.repair is None else {"union": self.repair.text, "why": self.repair.why},
            "hops_by_distance": {_span(first, last): hops for first, last, hops in self.hops_by_distance},
        }


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer at one length: its step, its pieces where it is made of lattices, whether it looks ahead."""

    step: Step
    pieces: tuple[Piece, ...] | None
    causal: bool


def dependency(
    patterns: Pattern | Sequence[Pattern],
    n: int,
    heads: int,
    tables: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> Dependency:
    """Search how information travels through a pattern, the same in all layers, or through one pattern a layer.

    Several patterns are the layers from the first to the last, and begin anew after it. Longer sequences than can be
    searched are searched at a shorter length, which the result names. `progress` is told what is being done.

    Raises AttnError where a pattern has no meaning at this size, ValueError for runtime tables that are missing.
    """
    layers = [patterns] if isinstance(patterns, Pattern) else list(patterns)
    for pattern in layers:
        require_layer(pattern.relation)
    pieces = [_pieces(pattern, heads) for pattern in layers]
    searched = _searched_length(layers, pieces, n)
    given = [_layer(p, found, searched, heads, tables) for p, found in zip(layers, pieces, strict=True)]
    return _Search(given, searched, n, progress).run()


def _pieces(pattern: Pattern, heads: int) -> tuple[Piece, ...] | None:
    """The different pieces of all heads; None where a pattern is not made of pieces."""
    try:
        return tuple(dict.fromkeys(piece for head in range(heads) for piece in head_pieces(pattern, head, heads)))
    except AttnError:
        return None


def _searched_length(patterns: Sequence[Pattern], pieces: Sequence[tuple[Piece, ...] | None], n: int) -> int:
    if all(found is not None for found in pieces):
        return min(n, MAX_LATTICE_N)
    fixed = any(isinstance(node, algebra.Grid) for pattern in patterns for node in nodes(pattern.relation))
    if fixed or any(pattern.tables for pattern in patterns):
        if n > MAX_GRID_N:
            raise ValueError(f"dependency is searched up to N = {MAX_GRID_N:,}; this pattern has no shorter form")
        return n
    return min(n, MAX_ANY_N)


def _layer(
    pattern: Pattern, pieces: tuple[Piece, ...] | None, n: int, heads: int, tables: Mapping[str, Any] | None
) -> _Layer:
    if pieces is not None:

        def along_lattices(out: Bits, rows: Bits) -> None:
            for piece in pieces:
                add_piece(out, rows, piece)

        return _Layer(along_lattices, pieces, all(_is_causal(piece) for piece in pieces))
    held = connected(pattern, n, heads, tables)
    queries, keys = held.nonzero()
    starts = np.searchsorted(queries, np.arange(n + 1))

    def by_gathering(out: Bits, rows: Bits) -> None:
        add_gathered(out, rows, keys, starts)

    return _Layer(by_gathering, None, not bool((keys > queries).any()))


def _is_causal(piece: Piece) -> bool:
    return isinstance(piece, LatticePiece) and piece.band.hi is not None and piece.band.hi <= 0


def connected(pattern: Pattern, n: int, heads: int, tables: Mapping[str, Any] | None = None) -> NDArray[np.bool_]:
    """(n, n): whether any head holds the pair [q, k]. Heads that cannot differ are looked at once."""
    content = contents(pattern.tables, dict(tables or {}), f"pattern {pattern.name}")
    by_head = free_names_of(pattern.relation) & {"h"} or any(
        isinstance(node, algebra.Heads | algebra.Random) for node in nodes(pattern.relation)
    )
    found = np.zeros((n, n), bool)
    for head in range(heads if by_head else 1):
        found |= on_head(pattern.relation, n, head, heads, content) > 0
    return found


class _Search:
    def __init__(self, layers: Sequence[_Layer], n: int, asked_n: int, progress: Callable[[str], None]) -> None:
        self._layers = layers
        self._n = n
        self._asked_n = asked_n
        self._progress = progress
        self._causal = all(layer.causal for layer in layers)
        n_pairs = n * (n + 1) // 2 if self._causal else n * n
        self._possible = n_pairs

    def run(self) -> Dependency:
        counts: list[int] = []
        by_distance: list[NDArray[np.int64]] = []
        rows = identity(self._n)
        unchanged = 0
        for number, layer in zip(range(1, MAX_LAYERS + len(self._layers) + 1), cycle(self._layers), strict=False):
            self._progress(f"layer {number}")
            reached = rows.copy()
            layer.step(reached, rows)
            unchanged = unchanged + 1 if counts and counted(reached) == counts[-1] else 0
            if unchanged == len(self._layers):
                break
            rows = reached
            counts.append(counted(rows))
            by_distance.append(counted_by_distance(rows, self._n))
            if counts[-1] == self._possible:
                unchanged = len(self._layers)
                break
        finished = unchanged >= len(self._layers)
        while len(counts) > 1 and counts[-2] == counts[-1]:  # layers that added nothing before the search could tell
            counts.pop()
            by_distance.pop()
        return self._result(rows, counts, by_distance, finished)

    def _result(
        self, rows: Bits, counts: list[int], by_distance: list[NDArray[np.int64]], finished: bool
    ) -> Dependency:
        missing = self._possible - counts[-1] if finished and counts else None
        never = self._never(by_distance[-1]) if missing else np.zeros(0, np.int64)
        pairs = list(_missing_pairs(rows, self._n, self._causal)) if missing else []
        cause, repair = self._explained(by_distance[-1], never, pairs) if missing else ("", None)
        lattices = all(layer.pieces is not None for layer in self._layers)
        return Dependency(
            n=self._n,
            asked_n=self._asked_n,
            method="unions along lattices, all pairs" if lattices else "search over all pairs",
            causal=self._causal,
            reach_by_layer=tuple(count / max(1, self._possible) for count in counts),
            layers_to_connect=len(counts) if finished else None,
            unreachable_pairs=missing if counts else 0,
            unreachable_distances=(int(never[0]), int(never[-1])) if missing else None,
            examples=tuple(pairs[:EXAMPLES]),
            cause=cause,
            repair=repair,
            hops_by_distance=tuple(_hops(by_distance, self._n)),
        )

    def _never(self, reached: NDArray[np.int64]) -> NDArray[np.int64]:
        """The distances |q - k| at which some pair that could meet does not, in order."""
        n = self._n
        past, future = reached[n - 1 :], reached[n - 1 :: -1]
        there = n - np.arange(n)
        short = past < there
        if not self._causal:
            short |= future < there
        return np.flatnonzero(short)

    def _explained(
        self, reached: NDArray[np.int64], never: NDArray[np.int64], pairs: list[tuple[int, int]]
    ) -> tuple[str, Repair | None]:
        n = self._n
        met = np.abs(np.flatnonzero(reached) - (n - 1))
        common = reduce(gcd, met.tolist(), 0)
        side = "window(2)" if self._causal else "offset(-1..1)"
        if common != 1:
            what = f"only positions that are equal mod {common} ever meet" if common else "no position meets another"
            return what, Repair(side, "with a step of one, every position is reached in the end")
        return self._borders(pairs), self._window(int(never[-1]), side)

    def _window(self, farthest: int, side: str) -> Repair:
        if farthest > max(64, self._n // 16):
            return Repair(side, "with a step of one across every border, every position is reached in the end")
        text = f"window({farthest + 1})" if self._causal else f"offset({-farthest}..{farthest})"
        return Repair(text, f"no such pair is farther apart than {farthest}, so each becomes one hop")

    def _borders(self, pairs: list[tuple[int, int]]) -> str:
        """Whether all pairs that never meet lie on two sides of a border between segments; of the widest that fits."""
        q, k = np.array(pairs).T
        runs = {
            piece.runs
            for layer in self._layers
            for piece in layer.pieces or ()
            if isinstance(piece, LatticePiece) and piece.runs is not None
        }
        for run in sorted(runs, key=lambda each: -each.period):
            if ((q - run.start) // run.period != (k - run.start) // run.period).all():
                wider = {
                    piece.dilation
                    for layer in self._layers
                    for piece in layer.pieces or ()
                    if isinstance(piece, LatticePiece) and (piece.runs is None or piece.runs.period > run.period)
                }
                across = (
                    f"what reaches across is dilated by {', '.join(map(str, sorted(wider)))}"
                    if wider
                    else "nothing reaches across"
                )
                return f"all of them lie on two sides of a border between segments of {run.period}, and {across}"
        return ""


def _missing_pairs(rows: Bits, n: int, causal: bool) -> Iterator[tuple[int, int]]:
    """Pairs (q, k) that are not connected, up to `SAMPLED`, spread over no more rows than needed."""
    found = 0
    heard = np.bitwise_count(rows).sum(axis=1, dtype=np.int64)
    expected = np.arange(1, n + 1) if causal else np.full(n, n)
    for q in np.flatnonzero(heard < expected):
        missing = np.flatnonzero(unpacked(rows[q : q + 1], n)[0][: q + 1 if causal else n] == 0)
        yield from ((int(q), int(k)) for k in missing)
        found += len(missing)
        if found > SAMPLED:
            return


def _hops(by_distance: Sequence[NDArray[np.int64]], n: int) -> Iterator[tuple[int, int, int]]:
    """(first, last, hops) for the distances 1, 2..3, 4..7, ..: the most layers that any pair there needs."""
    if not by_distance:
        return
    final = by_distance[-1]
    needed = np.zeros(2 * n - 1, np.int64)
    for number, count in reversed(list(enumerate(by_distance, 1))):
        needed[count == final] = number
    needed[final == 0] = 0
    most = np.maximum(needed[n - 1 :], needed[n - 1 :: -1])
    first = 1
    while first < n:
        last = min(2 * first - 1, n - 1)
        if (hops := int(most[first : last + 1].max())) > 0:
            yield first, last, hops
        first *= 2
