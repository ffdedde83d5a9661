"""Meetings of two stretches of tokens by classes of their rows: where many rows of either side have the same partners.

A relation between two stretches is a term (`attnc.analysis.terms`), and in its simplest form there it looks at few
features of a query and few of a key:

axial, between two ranks without a common row of the image     q mod columns; k mod columns
key(pos % 8 == 3), beyond a window                             nothing; whether k mod 8 is 3
pairs(text[q] == image[k])                                     the text of q; the image of k

Rows with equal features are one class, so one rectangle of a few thousand classes stands for millions of pairs. Where
features tell nearly all rows apart the stretches are cut, at the pattern's own steps, and each part is looked at anew.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.boxes import Counter
from attnc.analysis.evaluation import Evaluator
from attnc.analysis.terms import Term, draws, subterms
from attnc.schedule.bands import banded
from attnc.schedule.rectangles import alike, rectangles_of
from attnlang.pattern.algebra import Relation
from attnlang.rows import Rows

Array = NDArray[np.int64]

FEW_CELLS = 2**12
"""So many pairs of classes are always looked at."""
FEW_PAIRS = 2**16
"""Up to so many, pairs are counted by them."""
MANY_CELLS = 2**22
"""More of them never are."""
GAIN = 64
"""Between, where each stands for so many pairs of rows; or where they cannot be fewer, so many of a meeting."""
MAX_BOXES = 2**19
"""How many rectangles of classes two stretches have at most."""
SAMPLE = 2**10
"""So many rows are looked at first."""
KEPT = 2**24
"""Rows whose classes are kept."""
MAX_PATCHES = 64
"""How many parts two stretches are cut into at most."""
MOST_CHUNKS = 512
"""Up to so many stretches, meetings are folded one by one."""
MAX_FAILURES = 8
"""Where so many meetings, and more than half of them, do not fold, no other is tried."""


@dataclass(frozen=True, eq=False, slots=True)
class Classes:
    """The class of each row of a stretch; classes are in the order of their features. `first` is a row of each."""

    of: Array
    first: Array
    counts: Array
    values: bytes


@dataclass(frozen=True, eq=False, slots=True)
class Patch:
    """Queries q_first.. and keys k_first.. of two stretches: rectangles (q0, q1, k0, k1) of classes, ends included.

    times  how often each pair of a rectangle counts
    """

    q_first: int
    k_first: int
    q: Classes
    k: Classes
    boxes: Array
    times: Array

    @property
    def pairs(self) -> int:
        """How many pairs of rows, with multiplicity."""
        q, k = (np.concatenate(([0], np.cumsum(side.counts))) for side in (self.q, self.k))
        q0, q1, k0, k1 = self.boxes.T
        return int(((q[q1 + 1] - q[q0]) * (k[k1 + 1] - k[k0]) * self.times).sum())


class Folder:
    """The patches of a relation on one head. `steps` are good places to cut at, the longest first."""

    def __init__(
        self, relation: Relation, n: int, head: int, heads: int, tables: Mapping[str, Any], steps: tuple[int, ...]
    ) -> None:
        self._counter = Counter(tables)
        self._what = relation, n, head, heads
        self._steps = steps
        self._evaluator = Evaluator(tables, head)
        self._features: dict[Term, tuple[tuple[Term, ...], tuple[Term, ...]]] = {}
        self._classes: dict[tuple[tuple[Term, ...], int], Classes] = {}
        self._cells: dict[Hashable, tuple[Array, Array]] = {}
        self._found: dict[Hashable, tuple[Patch, ...] | None] = {}
        self._parts: dict[tuple[Term, int, int, int, int], Term] = {}
        self._failures = 0
        self._spent = self._rows = 0

    def meeting(self, q: Rows, k: Rows) -> Term:
        """The simplest term between two stretches. Raises NoTermError for what has none."""
        return self._counter.meeting(*self._what, q, k)

    def meetings(
        self, chunks: Sequence[Rows], wanted: NDArray[np.bool_]
    ) -> dict[tuple[int, int], tuple[Patch, ...] | None]:
        """`patches` of every two of ascending stretches by their numbers, but of those that have no pairs.

        wanted  which queries are to be looked at with which keys

        Terms are made simple for many stretches first: where one looks at the key alone there, it does so of all.
        """
        found: dict[tuple[int, int], tuple[Patch, ...] | None] = {}
        last = len(chunks) - 1
        waiting = [(0, last, 0, last)] if chunks else []
        while waiting:
            x0, x1, y0, y1 = waiting.pop()
            if not wanted[x0 : x1 + 1, y0 : y1 + 1].any():
                continue
            term = self.meeting(_across(chunks[x0], chunks[x1]), _across(chunks[y0], chunks[y1]))
            if self._counter.terms.value(term) == 0:
                continue
            if x0 == x1 and y0 == y1:
                found[x0, y0] = self.patches(chunks[x0], chunks[y0], term)
            elif not (term.uses_q and term.uses_k) and not term.hard:
                for x in range(x0, x1 + 1):
                    for y in range(y0, y1 + 1):
                        if not wanted[x, y]:
                            continue
                        dq, dk = (
                            (chunks[x].first - chunks[x0].first) * term.uses_q,
                            (chunks[y].first - chunks[y0].first) * term.uses_k,
                        )
                        found[x, y] = self.patches(
                            chunks[x], chunks[y], self._of_part(term, dq, dk, chunks[x].count, chunks[y].count)
                        )
            else:
                x, y = (x0 + x1) // 2, (y0 + y1) // 2
                waiting += [
                    (a, b, c, d)
                    for a, b in ((x0, x), (x + 1, x1))
                    for c, d in ((y0, y), (y + 1, y1))
                    if a <= b and c <= d
                ]
        return found

    def _of_part(self, term: Term, dq: int, dk: int, q_count: int, k_count: int) -> Term:
        """The simplest term of a part of two stretches, which begins so far into them."""
        name = term, dq, dk, q_count, k_count
        if name not in self._parts:
            self._parts[name] = self._counter.within(term, dq, dk, (q_count, k_count))
        return self._parts[name]

    def pairs(self, q: Rows, k: Rows) -> int | None:
        """The pairs between two stretches, with multiplicity; None where rows do not fall into few classes."""
        term = self.meeting(q, k)
        if draws(term):
            return None
        features = self._features_of(term)
        if any(each in ((self._counter.terms.q,), (self._counter.terms.k,)) for each in features):
            return None
        sides = tuple(zip(features, (q.count, k.count), strict=True))
        if prod(self._at_least(*side) for side in sides) > FEW_PAIRS:
            return None
        if prod(len(self._classes_of(*side).first) for side in sides) > FEW_PAIRS:
            return None
        patch = self._patch(term, q, k, (q.first, k.first))
        return None if patch is None else patch.pairs

    def patches(self, q: Rows, k: Rows, term: Term) -> tuple[Patch, ...] | None:
        """Patches that hold all pairs between two stretches, each once; None where rows do not fall into few classes.

        term  the simplest between them
        """
        name = term, q.count, k.count
        if name not in self._found:
            if self._failures >= MAX_FAILURES and 2 * self._failures > len(self._found):
                return None
            self._found[name] = self._patched(q, k)
            self._failures += self._found[name] is None
        return self._found[name]

    def _patched(self, q: Rows, k: Rows) -> tuple[Patch, ...] | None:
        found: list[Patch] = []
        boxes = self._spent = 0
        waiting = [(q, k)]
        left = MAX_PATCHES
        while waiting:
            some_q, some_k = waiting.pop()
            term = self.meeting(some_q, some_k)
            left -= 1
            if left < 0 or (term.hard and draws(term)):
                return None
            if self._counter.terms.value(term) == 0:
                continue
            patch = self._patch(term, some_q, some_k, (q.first, k.first))
            if patch is None:
                waiting += self._quarters(some_q, some_k)
            elif len(patch.boxes):
                found.append(patch)
                boxes += len(patch.boxes)
            if boxes > MAX_BOXES or self._spent > MANY_CELLS:
                return None
        return tuple(found)

    def _patch(self, term: Term, q: Rows, k: Rows, base: tuple[int, int]) -> Patch | None:
        q_features, k_features = self._features_of(term)
        of_q, of_k = self._classes_of(q_features, q.count), self._classes_of(k_features, k.count)
        matched = self._matched(term, of_q, of_k, q, k)
        if matched is not None:
            return Patch(q.first - base[0], k.first - base[1], of_q, of_k, *matched)
        cells = len(of_q.first) * len(of_k.first)
        few = cells <= FEW_CELLS or cells * GAIN <= q.count * k.count
        if cells > MANY_CELLS or not (few or self._cannot_be_fewer(cells, q, k)):
            return None
        sides = (("q", q_features), ("k", k_features))
        names: dict[Term, Hashable] = {each: (side, i) for side, part in sides for i, each in enumerate(part)}
        name = self._skeleton(term, names), of_q.values, of_k.values
        if name not in self._cells:
            self._spent += 0 if few else cells
            values = self._evaluator.at(term, of_q.first[:, None], of_k.first[None, :])
            self._cells[name] = rectangles_of(np.broadcast_to(values, (len(of_q.first), len(of_k.first))))
        boxes, times = self._cells[name]
        return Patch(q.first - base[0], k.first - base[1], of_q, of_k, boxes, times)

    def _matched(self, term: Term, of_q: Classes, of_k: Classes, q: Rows, k: Rows) -> tuple[Array, Array] | None:
        """Rectangles of a band of sums among many classes; None where parts of the stretches may have fewer."""
        sizes = len(of_q.first), len(of_k.first)
        if sizes[0] * sizes[1] <= MANY_CELLS or sizes[0] > MAX_BOXES:
            return None
        whole = self._place(q) is None and self._place(k) is None
        if not whole and max(sizes) > min(q.count, k.count):
            return None
        return banded(self._counter.terms, self._evaluator, term, of_q.first, of_k.first)

    def _cannot_be_fewer(self, cells: int, q: Rows, k: Rows) -> bool:
        """Whether parts of two stretches would hardly have fewer pairs of classes.

        Their rows have something in common already, or lie between two of the pattern's steps.
        """
        whole = self._place(q) is None and self._place(k) is None
        return bool(self._steps) and (4 * cells <= q.count * k.count or whole)

    def _features_of(self, term: Term) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
        """What a term looks at of the query alone, and of the key alone."""
        if term not in self._features:
            q: dict[Term, None] = {}
            k: dict[Term, None] = {}
            waiting = [term]
            while waiting:
                each = waiting.pop()
                if each.uses_q and each.uses_k:
                    waiting += self._sides(each)
                elif each.uses_q or each.uses_k:
                    (q if each.uses_q else k)[each] = None
            self._features[term] = tuple(q), tuple(k)
        return self._features[term]

    def _sides(self, term: Term) -> list[Term]:
        """The parts of a term; of a sum, what it adds up of the query alone, and of the key alone."""
        if term.kind != "lin":
            return subterms(term.args)
        mixed, alone = self._added(term)
        return [*(atom for atom, _ in mixed), *alone]

    def _added(self, term: Term) -> tuple[list[tuple[Term, int]], list[Term]]:
        """A sum as what looks at both, and the sums of what looks at the query alone, and at the key alone."""
        mixed = [(atom, c) for atom, c in term.args[1] if atom.uses_q and atom.uses_k]
        of_q, of_k = (
            [(atom, c) for atom, c in term.args[1] if (atom.uses_q, atom.uses_k) == side]
            for side in ((True, False), (False, True))
        )
        return mixed, [self._counter.terms.total(0, part) for part in (of_q, of_k) if part]

    def _skeleton(self, part: Any, names: dict[Term, Hashable]) -> Hashable:
        """A term with its features replaced by their numbers: equal ones of equal features have equal values."""
        if isinstance(part, tuple):
            return tuple(self._skeleton(each, names) for each in part)  # pyright: ignore[reportUnknownVariableType] - terms nest
        if not isinstance(part, Term):
            return part
        if part in names:
            return names[part]
        if part.kind == "lin":
            mixed, alone = self._added(part)
            return "lin", part.args[0], self._skeleton(tuple(mixed), names), self._skeleton(tuple(alone), names)
        return part.kind, self._skeleton(part.args, names)

    def _classes_of(self, features: tuple[Term, ...], count: int) -> Classes:
        name = features, count
        if name not in self._classes:
            self._rows += count
            if self._rows > KEPT:
                self._classes.clear()
                self._rows = count
            rows = np.arange(count)
            columns = [np.broadcast_to(self._evaluator.at(feature, rows, rows), count) for feature in features]
            self._classes[name] = _classed(columns, count)
        return self._classes[name]

    def _at_least(self, features: tuple[Term, ...], count: int) -> int:
        """How many classes some of the rows have: all have no fewer."""
        rows = np.arange(min(count, SAMPLE))
        columns = [np.broadcast_to(self._evaluator.at(feature, rows, rows), len(rows)) for feature in features]
        return len(alike(columns, len(rows))[0])

    def _quarters(self, q: Rows, k: Rows) -> list[tuple[Rows, Rows]]:
        """Parts of two stretches, cut at the pattern's steps; in the middle where there are none within."""
        q_place, k_place = self._place(q), self._place(k)
        if q_place is None and k_place is None:
            q_place, k_place = (rows.first + rows.count // 2 if rows.count > 1 else None for rows in (q, k))
        return [(x, y) for x in _cut(q, q_place) for y in _cut(k, k_place)]

    def _place(self, rows: Rows) -> int | None:
        """The multiple of the longest step within a stretch that is nearest to its middle."""
        first, last = rows.first + 1, rows.last
        for step in self._steps:
            low, high = -(-first // step), last // step
            if low <= high:
                return min(max(((first + last) // 2 + step // 2) // step, low), high) * step
        return None


def _cut(rows: Rows, place: int | None) -> list[Rows]:
    """Both parts of a stretch; one where it is not to be cut."""
    if place is None:
        return [rows]
    return [Rows(rows.first, place - rows.first), Rows(place, rows.last + 1 - place)]


def _across(first: Rows, last: Rows) -> Rows:
    """From the beginning of one stretch to the end of another."""
    return Rows(first.first, last.last + 1 - first.first)


def _classed(columns: list[Array], count: int) -> Classes:
    """Rows with equal entries in all columns as classes, in the order of the entries."""
    first, of, counts = alike(columns, count)
    values = np.stack([column[first] for column in columns]) if columns else first[:1]
    return Classes(of, first, counts, values.tobytes())
