"""Exact search for what is connected: rows of bits, one a query, multiplied by a layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import cycle
from math import gcd
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.bits import Bits, add_gathered, add_piece, below_diagonal, counted, distances, identity, unpacked
from attnc.analysis.boxes import without_blocks
from attnc.analysis.evaluation import Evaluator
from attnc.analysis.expression_terms import NoTermError
from attnc.analysis.pairs import looks_at_heads
from attnc.analysis.relation_terms import term_of
from attnc.analysis.terms import Terms
from attnc.analysis.travel import Dependency, Repair, buckets
from attnc.lower.pieces import LatticePiece, Piece
from attnlang.pattern import Pattern
from attnlang.pattern.oracle import on_head
from attnlang.pattern.tables import Content, contents
from attnlang.plan import Band

MAX_LAYERS = 64
"""After how many layers the search gives up."""
EXAMPLES = 5
SAMPLED = 20_000

Progress: TypeAlias = Callable[[str], None]
Step: TypeAlias = Callable[[Bits, Bits, bool], None]
"""out |= A rows, for a part of one layer; and whether all layers are causal."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer at one length: its steps, its pieces where it is made of lattices, whether it looks ahead."""

    steps: tuple[Step, ...]
    pieces: tuple[Piece, ...] | None
    causal: bool


def layer_of(
    pattern: Pattern, pieces: tuple[Piece, ...] | None, n: int, heads: int, tables: Mapping[str, Any] | None
) -> Layer:
    """A pattern as a layer at length n. Raises ValueError for tables that are missing, AttnError for a wrong size."""
    if pieces is not None:
        return Layer(tuple(_step_of(piece) for piece in pieces), pieces, all(map(is_causal, pieces)))
    queries, keys = connected(pattern, n, heads, tables)
    starts = np.searchsorted(queries, np.arange(n + 1))

    def by_gathering(out: Bits, rows: Bits, causal: bool) -> None:
        add_gathered(out, rows, keys, starts)

    return Layer((by_gathering,), None, not bool((keys > queries).any()))


def _step_of(piece: Piece) -> Step:
    return lambda out, rows, causal: add_piece(out, rows, piece, causal=causal)


def is_causal(piece: Piece) -> bool:
    """Whether a piece looks at no later key."""
    return isinstance(piece, LatticePiece) and piece.band.hi is not None and piece.band.hi <= 0


def connected(
    pattern: Pattern, n: int, heads: int, tables: Mapping[str, Any] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs (queries, keys) that any head holds, in order. Heads that cannot differ are looked at once."""
    content = contents(pattern.tables, dict(tables or {}), f"pattern {pattern.name}")
    looked_at = range(heads if looks_at_heads(pattern.relation) else 1)
    found: NDArray[np.bool_] | None = None
    for head in looked_at:
        held = _held(pattern, n, head, heads, content)
        found = held if found is None else found | held
    assert found is not None
    queries, keys = found.nonzero()
    return queries, keys


def _held(pattern: Pattern, n: int, head: int, heads: int, content: Mapping[str, Content]) -> NDArray[np.bool_]:
    terms, scope = Terms(), {**content, "N": n, "H": heads, "h": head}
    size, inner, blocks = without_blocks(pattern.relation, n, {**scope, "n": n})
    try:
        term = term_of(terms, inner, blocks, scope)
    except NoTermError:
        return on_head(pattern.relation, n, head, heads, content) > 0
    evaluator, result = Evaluator(content, head), np.empty((blocks, blocks), bool)
    step = max(1, 2**18 // max(1, blocks))
    for first in range(0, blocks, step):
        queries = np.arange(first, min(blocks, first + step))
        values = evaluator.at(term, queries[:, None], np.arange(blocks)[None, :])
        result[first : first + step] = np.broadcast_to(values > 0, (len(queries), blocks))
    return result if size == 1 else result.repeat(size, 0)[:n].repeat(size, 1)[:, :n]


def search(layers: Sequence[Layer], n: int, asked_n: int, progress: Progress) -> Dependency:
    """Search until nothing new is connected; explain what never is, and try the repair."""
    found = _Search(layers, n, progress)
    found.run()
    result = found.result(asked_n)
    if result.repair is None:
        return result
    progress(f"trying the repair {result.repair.text}")
    band = _band_of(result.repair)
    repaired = [replace(layer, steps=(*layer.steps, _step_of(LatticePiece(None, 1, 0, band)))) for layer in layers]
    again = _Search(repaired, n, progress)
    again.run()
    verified = again.finished and again.missing == 0
    return replace(result, repair=replace(result.repair, verified=verified, layers=again.layers if verified else None))


def _band_of(repair: Repair) -> Band:
    inside = repair.text[repair.text.index("(") + 1 : -1]
    if repair.text.startswith("window"):
        return Band(1 - int(inside), 0)
    low, high = inside.split("..")
    return Band(int(low), int(high))


class _Search:
    def __init__(self, layers: Sequence[Layer], n: int, progress: Progress) -> None:
        self._layers = layers
        self._n = n
        self._progress = progress
        self._causal = all(layer.causal for layer in layers)
        self._possible = n * (n + 1) // 2 if self._causal else n * n
        self._rows = identity(n)
        self._counts: list[int] = []
        self._new: list[NDArray[np.bool_]] = []
        self.finished = n == 0

    @property
    def layers(self) -> int:
        """How many layers added something."""
        return len(self._counts)

    @property
    def missing(self) -> int:
        """How many pairs that could meet are not connected."""
        return self._possible - counted(self._rows)

    def run(self) -> None:
        """Multiply until a whole turn of the layers adds nothing, or all is connected."""
        unchanged = 0
        limit = MAX_LAYERS + len(self._layers)
        for number, layer in zip(range(1, limit + 1), cycle(self._layers), strict=False):
            if self.finished:
                break
            self._progress(f"layer {number}: {len(self._rows):,} queries")
            reached = self._rows.copy()
            for step in layer.steps:
                step(reached, self._rows, self._causal)
            new = reached & ~self._rows
            self._rows = reached
            grown = bool(new.any())
            unchanged = 0 if grown or not self._counts else unchanged + 1
            self._counts.append(counted(reached))
            self._new.append(distances(new, self._n) if grown else np.zeros(2 * self._n - 1, bool))
            self.finished = unchanged >= len(self._layers) or self._counts[-1] == self._possible
        while len(self._counts) > 1 and self._counts[-2] == self._counts[-1]:
            self._counts.pop()  # layers that added nothing, before the search could tell
            self._new.pop()

    def result(self, asked_n: int) -> Dependency:
        """What was found."""
        missing = self.missing if self.finished else None
        never = self._never() if missing else np.zeros(0, np.int64)
        pairs = list(self._missing_pairs()) if missing else []
        cause, repair = self._explained(never, pairs) if missing else ("", None)
        lattices = all(layer.pieces is not None for layer in self._layers)
        return Dependency(
            n=self._n,
            asked_n=asked_n,
            method="unions along lattices, all pairs" if lattices else "search over all pairs",
            causal=self._causal,
            reach_by_layer=tuple(count / max(1, self._possible) for count in self._counts),
            layers_to_connect=len(self._counts) if self.finished else None,
            unreachable_pairs=missing,
            unreachable_distances=(int(never[0]), int(never[-1])) if missing else None,
            examples=tuple(pairs[:EXAMPLES]),
            cause=cause,
            repair=repair,
            hops_by_distance=tuple(self._hops()),
        )

    def _never(self) -> NDArray[np.int64]:
        """The distances |q - k| at which some pair that could meet does not, in order."""
        n = self._n
        if self._causal:
            possible = below_diagonal(n)
        else:
            possible = np.full_like(self._rows, 2**64 - 1)
            if n % 64:
                possible[:, -1] = np.uint64(2 ** (n % 64) - 1)
        found = distances(possible & ~self._rows, n)
        return np.flatnonzero(found[n - 1 :] | found[n - 1 :: -1])

    def _explained(self, never: NDArray[np.int64], pairs: list[tuple[int, int]]) -> tuple[str, Repair | None]:
        n = self._n
        met = np.abs(np.flatnonzero(distances(self._rows, n)) - (n - 1))
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
        lattices = [p for layer in self._layers for p in layer.pieces or () if isinstance(p, LatticePiece)]
        for run in sorted({p.runs for p in lattices if p.runs is not None}, key=lambda each: -each.period):
            if ((q - run.start) // run.period != (k - run.start) // run.period).all():
                wider = {p.dilation for p in lattices if p.runs is None or p.runs.period > run.period}
                dilated = f"what reaches across is dilated by {', '.join(map(str, sorted(wider)))}"
                across = dilated if wider else "nothing reaches across"
                return f"all of them lie on two sides of a border between segments of {run.period}, and {across}"
        return ""

    def _missing_pairs(self) -> Iterator[tuple[int, int]]:
        """Pairs (q, k) that are not connected, up to `SAMPLED`, of no more rows than needed."""
        n, found = self._n, 0
        heard = np.bitwise_count(self._rows).sum(axis=1, dtype=np.int64)
        expected = np.arange(1, n + 1) if self._causal else np.full(n, n)
        for q in np.flatnonzero(heard < expected):
            row = unpacked(self._rows[q : q + 1], n)[0]
            missing = np.flatnonzero(row[: q + 1 if self._causal else n] == 0)
            yield from ((int(q), int(k)) for k in missing)
            found += len(missing)
            if found > SAMPLED:
                return

    def _hops(self) -> Iterator[tuple[int, int, int]]:
        """(first, last, hops) for the distances 1, 2..3, 4..7, ..: the most layers that any pair there needs.

        Where the search gave up, those at which it left pairs open are left out: they may need more.
        """
        n = self._n
        open_ = np.zeros(0, np.int64) if self.finished else self._never()
        needed = np.zeros(2 * n - 1 if n else 0, np.int64)
        for number, new in enumerate(self._new, 1):
            needed[new] = number
        most = np.maximum(needed[n - 1 :], needed[n - 1 :: -1]) if n else needed
        for first, last in buckets(n):
            hops = int(most[first : last + 1].max())
            if hops > 0 and not ((first <= open_) & (open_ <= last)).any():
                yield first, last, hops


__all__ = ["Layer", "Progress", "connected", "is_causal", "layer_of", "search"]
