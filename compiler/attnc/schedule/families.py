"""Which meetings of ranks are alike: the same pairs in local rows, so that one of them is planned for all.

A relation between the rows of two ranks is a term (`attnc.analysis.terms`), and where two such terms are one and the
same, so are their pairs. Terms are made simple for all ranks first, and for quarters of them where that is not enough:

causal & blocks(64) { window | key(pos % 8 == 3) }   of all ranks far below the diagonal: whether k // 64 % 8 is 3
axial, of ranks without a common row                 whether q mod columns is k mod columns

A term that moving its queries by some period leaves as it is, and moving its keys, meets a rank by where it begins
within that period and by its length, whatever the number of ranks: millions of meetings are a table of some hundreds.
Along the diagonal terms look at distances alone, and a square of ranks is like the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.boxes import Counter, NoTermError
from attnc.analysis.terms import Box, Term, steps_of
from attnlang.parallel.dense import alike_heads, scope_of
from attnlang.pattern.tables import Content
from attnlang.plan import Plan, Tiles
from attnlang.rows import Rows
from attnlang.schedule import Placement

Kinds: TypeAlias = NDArray[np.int32]
"""The kind of each ordered pair of ranks (queries, keys); 0 where it has no pairs."""

MAX_LOOKED = 2**15
"""How many terms are made simple: a quarter of a minute."""
MAX_TABLE = 2**14
"""How many of them between the kinds of some ranks and the kinds of others."""
GAIN = 16
"""Where there are more than a few, each stands for so many meetings."""
FEW = 16
MANY_RANKS = 512
"""From so many ranks meetings are sorted by kind before any is looked at."""
SMALL = 2**24
"""Up to so many names, those that are used are found in a table."""


class TooUnlikeError(Exception):
    """Hardly any two meetings are alike."""


@dataclass(frozen=True, slots=True)
class _Freedom:
    """By how many tokens a term may be moved and stays as it is: queries and keys together; each alone (0: never)."""

    period: int
    together: bool
    queries: bool
    keys: bool


class Families:
    """Kinds of meetings of ascending stretches of tokens, one a rank."""

    def __init__(self, counter: Counter, chunks: Sequence[Rows]) -> None:
        self._counter = counter
        self._first = np.array([chunk.first for chunk in chunks], np.int64)
        self._count = np.array([chunk.count for chunk in chunks], np.int64)
        self._last = self._first + self._count - 1
        self._names: dict[tuple[Term, int, int], int] = {}
        self._parts: dict[tuple[Term, int, int, Box], Term] = {}
        self._free: dict[Term, _Freedom] = {}
        self._known: dict[tuple[int, int, int], tuple[list[tuple[int, int]], NDArray[np.intp]]] = {}

    @property
    def looked(self) -> int:
        """How many terms were made simple."""
        return len(self._parts)

    def kinds(self, term: Term) -> Kinds:
        """The kinds of all meetings under a term on tokens. Raises TooUnlikeError."""
        ranks = len(self._first)
        found = np.zeros((ranks, ranks), np.int32)
        whole = self._part(term, int(self._first[0]), int(self._first[0]), self._box(0, ranks - 1, 0, ranks - 1))
        waiting = [(0, ranks - 1, 0, ranks - 1, whole)]
        while waiting:
            x0, x1, y0, y1, inner = waiting.pop()
            if self._counter.terms.value(inner) == 0:
                continue
            table = self._table(inner, x0, x1, y0, y1)
            if table is not None:
                found[x0 : x1 + 1, y0 : y1 + 1] = table
                continue
            x, y = (x0 + x1) // 2, (y0 + y1) // 2
            for a, b in ((x0, x), (x + 1, x1)):
                for c, d in ((y0, y), (y + 1, y1)):
                    if a <= b and c <= d:
                        moved = int(self._first[a] - self._first[x0]), int(self._first[c] - self._first[y0])
                        waiting.append((a, b, c, d, self._part(inner, *moved, self._box(a, b, c, d))))
        return found

    def _box(self, x0: int, x1: int, y0: int, y1: int) -> Box:
        return int(self._last[x1] - self._first[x0] + 1), int(self._last[y1] - self._first[y0] + 1)

    def _table(self, term: Term, x0: int, x1: int, y0: int, y1: int) -> Kinds | None:
        """The kinds of the meetings of some ranks; None where they are too many."""
        if x0 == x1 and y0 == y1:
            return np.array([[self._name(term, int(self._count[x0]), int(self._count[y0]))]], np.int32)
        free = self._freedom(term)
        if not free.queries or not free.keys:
            return None
        q, of_q = self._residues(x0, x1, free.period if term.uses_q else 1)
        k, of_k = self._residues(y0, y1, free.period if term.uses_k else 1)
        size, meetings = len(q) * len(k), len(of_q) * len(of_k)
        if size > MAX_TABLE or (size > FEW and size * GAIN > meetings):
            return None
        names = [
            [self._name(self._part(term, dq, dk, (rows, columns)), rows, columns) for dk, columns in k]
            for dq, rows in q
        ]
        return np.array(names, np.int32)[of_q][:, of_k]

    def _residues(self, first: int, last: int, period: int) -> tuple[list[tuple[int, int]], NDArray[np.intp]]:
        """The different (tokens from the first rank, within a period; length) of some ranks, and which each has."""
        name = first, last, period
        if name not in self._known:
            moved = (self._first[first : last + 1] - self._first[first]) % period
            longest = int(self._count.max()) + 1
            distinct, of = np.unique(moved * longest + self._count[first : last + 1], return_inverse=True)
            self._known[name] = [divmod(code, longest) for code in distinct.tolist()], of.reshape(-1)
        return self._known[name]

    def _part(self, term: Term, dq: int, dk: int, box: Box) -> Term:
        """The simplest term of a part that begins so far into the term's own box."""
        free = self._freedom(term)
        if free.queries:
            dq %= free.period
        if free.keys:
            dk %= free.period
        if free.together and not (free.queries or free.keys):
            dq, dk = dq % free.period, dk - dq // free.period * free.period
        name = term, dq, dk, box
        if name not in self._parts:
            if len(self._parts) >= MAX_LOOKED:
                raise TooUnlikeError
            self._parts[name] = self._counter.within(term, dq, dk, box)
        return self._parts[name]

    def _freedom(self, term: Term) -> _Freedom:
        if term not in self._free:
            period, move = lcm(*steps_of(term).periods), self._counter.terms.shifted
            self._free[term] = _Freedom(
                period,
                move(term, period, period) is term,
                move(term, period, 0) is term,
                move(term, 0, period) is term,
            )
        return self._free[term]

    def _name(self, term: Term, rows: int, columns: int) -> int:
        if self._counter.terms.value(term) == 0:
            return 0
        return self._names.setdefault((term, rows, columns), len(self._names) + 1)


def together(one: Kinds, other: Kinds) -> Kinds:
    """Kinds that are alike in both: 0 where both are."""
    size = int(other.max(initial=0)) + 1
    code = one.astype(np.int64) * size + other
    most = int(code.max(initial=0)) + 1
    if most > SMALL:
        used, place = np.unique(code, return_inverse=True)
        return (place.reshape(code.shape) + int(used[0] != 0)).astype(np.int32)
    used = np.zeros(most, bool)
    used[code.reshape(-1)] = True
    used[0] = False
    name = np.cumsum(used).astype(np.int32)
    name[0] = 0
    return name[code]


def kinds_of(plan: Plan, branches: Sequence[int], placement: Placement, tables: Mapping[str, Any]) -> Kinds | None:
    """The kinds of all meetings under the tiled branches; None for few ranks, and where hardly any two are alike.

    Every rank holds one stretch, nothing is drawn at random and no table is asked.
    """
    chunks = [chunk for of_rank in placement.chunks for chunk in of_rank]
    if placement.ranks < MANY_RANKS or len(chunks) > placement.ranks:
        return None
    if any(chunk.step > 1 for chunk in chunks):
        return None
    counter = Counter({})
    terms = _terms(plan, branches, placement.n, tables, counter)
    if not terms:
        return None
    families, found = Families(counter, chunks), None
    try:
        for term in terms:
            kinds = families.kinds(term)
            found = kinds if found is None else together(found, kinds)
    except TooUnlikeError:
        return None
    return found


def _terms(plan: Plan, branches: Sequence[int], n: int, tables: Mapping[str, Any], counter: Counter) -> list[Term]:
    """The different terms of the tiled branches; none where one is missing, or looks at tables or at chance."""
    found: dict[Term, None] = {}
    for branch in (plan.branches[i] for i in branches):
        if not isinstance(branch, Tiles):
            continue
        for alike in alike_heads(branch):
            scope = scope_of(plan, n, alike[0], tables)
            if any(isinstance(each, Content) for each in scope.values()):
                return []
            try:
                term, _ = counter.term(branch.relation, n, alike[0], plan.heads)
            except NoTermError:
                return []
            if term.hard:
                return []
            found[term] = None
    return list(found)
