"""Pairs of every head at one length, each figure with what it is: exact, or an upper bound.

Lattices are counted in closed form (`attnc.analysis.counting`); any other pattern by boxes (`attnc.analysis.boxes`);
what has no structure by its tiles, up to a length. What is left gets a bound, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeAlias, assert_never

import numpy as np

from attnc.analysis.boxes import Counter, TooManyError
from attnc.analysis.counting import bag_count, distinct_count
from attnc.analysis.expression_terms import NoTermError
from attnc.analysis.relation_terms import term_of
from attnc.analysis.terms import Terms
from attnc.lower.lowering import head_pieces
from attnc.lower.pieces import Inexpressible, Piece
from attnlang.diagnostics import AttnError
from attnlang.pattern import Pattern, algebra
from attnlang.pattern.expr import Scope, bindings, evaluate, integer
from attnlang.pattern.tables import Content, contents
from attnlang.pattern.values import head_range, scope_integer
from attnlang.pattern.walk import free_names_of, nodes
from attnlang.plan import Tiles
from attnlang.runtime.blocks import BLOCK, FULL, block_lists
from attnlang.syntax import tree

MAX_TILED = 65_536
"""The longest sequence whose tiles are counted, where no better way is known."""
EXACT = "exact"
BOUND = "upper bound"

ByHead: TypeAlias = tuple[tuple[Piece, ...], ...]


@dataclass(frozen=True, slots=True)
class HeadPairs:
    """Pairs of one head: counted with multiplicity, and counted once; `exact`, or both are upper bounds."""

    bag: int
    distinct: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Pairs of all heads at one length, how they were counted, and why they are a bound where they are one."""

    per_head: tuple[HeadPairs, ...]
    method: str
    reason: str = ""

    @property
    def exact(self) -> bool:
        """Whether every figure is exact."""
        return all(head.exact for head in self.per_head)

    @property
    def basis(self) -> str:
        """What the figures are: `exact` or `upper bound`."""
        return EXACT if self.exact else BOUND

    @property
    def bag(self) -> int:
        """Pairs of all heads, counted with multiplicity."""
        return sum(head.bag for head in self.per_head)

    @property
    def distinct(self) -> int:
        """Pairs of all heads, each counted once."""
        return sum(head.distinct for head in self.per_head)


def pieces_by_head(pattern: Pattern, heads: int) -> ByHead | None:
    """The lattices of every head; None for a pattern that is no sum of lattices."""
    try:
        return tuple(tuple(head_pieces(pattern, head, heads)) for head in range(heads))
    except (AttnError, Inexpressible):
        return None


def looks_at_heads(relation: algebra.Relation) -> bool:
    """Whether heads may differ."""
    differs = any(isinstance(node, algebra.Heads | algebra.Random) for node in nodes(relation))
    return differs or "h" in free_names_of(relation)


def count_pairs(
    pattern: Pattern,
    n: int,
    heads: int,
    tables: Mapping[str, object] | None = None,
    by_head: ByHead | None = None,
    counter: Counter | None = None,
) -> PairCounts:
    """The pairs of a pattern at length n; `by_head` are its lattices, where they are known already.

    A `counter` made for the same tables remembers what it has counted at other lengths.

    A pattern with runtime tables whose content is not given gets the most that any content gives. Raises AttnError for
    a pattern without a meaning at this size, ValueError for tables that do not fit.
    """
    if pattern.tables and not tables:
        names = ", ".join(name for name, _ in pattern.tables)
        free = replace(pattern, relation=relaxed(pattern.relation, _mentions_table), tables=())
        found = count_pairs(free, n, heads)
        bounds = tuple(replace(head, exact=False) for head in found.per_head)
        return PairCounts(bounds, found.method, f"it depends on the content of {names}")
    if by_head is not None and (closed := _closed(by_head, n)) is not None:
        return closed
    content = contents(pattern.tables, dict(tables or {}), f"pattern {pattern.name}")
    looked_at = range(heads if looks_at_heads(pattern.relation) else 1)
    counter = counter or Counter(content)
    found, methods, reasons = list[HeadPairs](), list[str](), list[str]()
    for head in looked_at:
        each, method, reason = _count_head(counter, pattern.relation, n, head, heads, content)
        found.append(each)
        methods.append(method)
        reasons.append(reason)
    spread = found if len(found) == heads else found * heads
    return PairCounts(tuple(spread), _listed(methods), _listed(reasons))


def _listed(items: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(item for item in items if item))


def _closed(by_head: ByHead, n: int) -> PairCounts | None:
    try:
        found = tuple(HeadPairs(bag_count(pieces, n), distinct_count(pieces, n)) for pieces in by_head)
    except Inexpressible:
        return None
    return PairCounts(found, "closed forms of lattices")


def _count_head(
    counter: Counter, relation: algebra.Relation, n: int, head: int, heads: int, content: Mapping[str, Content]
) -> tuple[HeadPairs, str, str]:
    if n == 0:
        return HeadPairs(0, 0), "", ""
    try:
        found = counter.count(relation, n, head, heads)
        reason = "" if found.exact else "random keys may meet the other pairs or not"
        return HeadPairs(found.bag, found.distinct, found.exact), "boxes of equal pairs", reason
    except (TooManyError, NoTermError) as error:
        reason = str(error)
    if n <= MAX_TILED:
        return _by_tiles(relation, n, head, heads, content), "tile by tile", ""
    bound = _Bound(counter, n, head, heads, content)
    bag, distinct = bound.of(relation)
    return HeadPairs(bag, distinct, exact=False), "a bound of each part", reason


def _by_tiles(relation: algebra.Relation, n: int, head: int, heads: int, content: Mapping[str, Content]) -> HeadPairs:
    """Exact, from the tiles that would run: a pair that counts m times stands in m entries of its tile."""
    arrays = {table.name: table.array for table in content.values()}
    (lists,) = block_lists(Tiles((head,), relation), heads, n, BLOCK, BLOCK, arrays)
    held = np.bitwise_count(lists.bits).sum(axis=(1, 2), dtype=np.int64)
    pairs = np.where(lists.masks == FULL, BLOCK * BLOCK, held[lists.masks] if len(held) else 0)
    tiles = lists.rows.astype(np.int64) * (n // BLOCK + 1) + lists.blocks
    first = np.flatnonzero(np.diff(tiles, prepend=-1))
    distinct = np.maximum.reduceat(pairs, first).sum() if len(first) else 0
    return HeadPairs(int(pairs.sum()), int(distinct))


# bounds -------------------------------------------------------------------------------------------------------------


def _mentions_table(node: algebra.Relation) -> bool:
    """Whether a relation's own numbers come from a table, not only those of relations inside it."""
    inner = algebra.children(node)
    own = (part for item in fields(node) if (part := getattr(node, item.name)) is not None and part not in inner)
    return any(isinstance(part, tree.Table) for each in own if isinstance(each, tree.Node) for part in nodes(each))


def relaxed(
    relation: algebra.Relation, is_free: Callable[[algebra.Relation], bool], upper: bool = True
) -> algebra.Relation:
    """The relation with every atom for which `is_free` holds replaced by all pairs, or by none where it is taken away.

    So it holds at least the pairs of the relation, each at least as often.
    """
    if is_free(relation):
        if isinstance(relation, algebra.Choice) and upper:
            sides = (relaxed(side, is_free) for side in (relation.then, relation.otherwise))
            return algebra.Union(*sides, span=relation.span)
        return algebra.Everything(span=relation.span) if upper else algebra.Nothing(span=relation.span)
    match relation:
        case algebra.Union() | algebra.Both() | algebra.Plus():
            return replace(
                relation, left=relaxed(relation.left, is_free, upper), right=relaxed(relation.right, is_free, upper)
            )
        case algebra.Without(left, right):
            return replace(relation, left=relaxed(left, is_free, upper), right=relaxed(right, is_free, not upper))
        case algebra.Not(body):
            return replace(relation, body=relaxed(body, is_free, not upper))
        case algebra.Choice(_, then, otherwise):
            return replace(relation, then=relaxed(then, is_free, upper), otherwise=relaxed(otherwise, is_free, upper))
        case algebra.Segment() | algebra.Dilate() | algebra.Blocks() | algebra.Heads() | algebra.Fold():
            return replace(relation, body=relaxed(relation.body, is_free, upper))
        case algebra.Grid(_, bodies):
            return replace(relation, bodies=tuple(relaxed(body, is_free, upper) for body in bodies))
        case algebra.Everything() | algebra.Nothing() | algebra.Offset() | algebra.Neighborhood() | algebra.Random():
            return relation
        case algebra.Same() | algebra.Key() | algebra.Query() | algebra.Pairs():
            return relation
        case _:
            assert_never(relation)


class _Bound:
    """Upper bounds from the form: a union has at most the pairs of its sides, a product of sets at most the fewer."""

    def __init__(self, counter: Counter, n: int, head: int, heads: int, content: Mapping[str, Content]) -> None:
        self._counter = counter
        self._n = n
        self._place = head, heads
        self._content = content
        self._scope: Scope = {**content, "N": n, "n": n, "H": heads, "h": head}

    def of(self, relation: algebra.Relation) -> tuple[int, int]:
        """(bag, distinct) at most."""
        all_pairs = self._n * self._n
        try:
            free = relaxed(relation, self._is_no_term)
            found = self._counter.count(free, self._n, *self._place)
            bag, distinct = found.bag, found.distinct
        except (TooManyError, NoTermError):
            bag, distinct = self._parts(relation)
        return min(bag, all_pairs * self._most(relation)), min(distinct, all_pairs)

    def _is_no_term(self, atom: algebra.Relation) -> bool:
        if algebra.children(atom):
            return False
        try:
            term_of(Terms(), atom, self._n, self._scope)
        except NoTermError:
            return True
        except AttnError:  # it has no meaning at this length, but may have one in the frame where it stands
            return False
        return False

    def _parts(self, relation: algebra.Relation) -> tuple[int, int]:
        match relation:
            case algebra.Union(left, right) | algebra.Plus(left, right):
                (a, b), (c, d) = self.of(left), self.of(right)
                return a + c, b + d
            case algebra.Both(left, right):
                (a, b), (c, d) = self.of(left), self.of(right)
                return min(a * self._most(right), c * self._most(left)), min(b, d)
            case algebra.Without(left, _):
                return self.of(left)
            case algebra.Random(count, _, body) if body is not None:
                drawn = self._n * max(0, integer(count, self._scope))
                return min(drawn, self.of(body)[1]), min(drawn, self.of(body)[1])
            case algebra.Blocks(size, body) if "N" not in free_names_of(body):
                b = integer(size, self._scope)
                bag, distinct = self._inside(-(-self._n // b)).of(body)
                return bag * b * b, distinct * b * b
            case algebra.Heads(lo, hi, body):
                chosen = scope_integer(self._scope, "h") in head_range(lo, hi, self._scope, relation.span)
                return self.of(body) if chosen else (0, 0)
            case algebra.Choice(condition, then, otherwise):
                return self.of(then if evaluate(condition, self._scope) else otherwise)
            case _:
                return self._n * self._n * self._most(relation), self._n * self._n

    def _inside(self, n: int) -> _Bound:
        """Bounds in a frame of another length, for relations that do not ask for N."""
        return _Bound(self._counter, n, *self._place, self._content)

    def _most(self, relation: algebra.Relation) -> int:
        """The largest multiplicity that the form allows."""
        match relation:
            case algebra.Plus(left, right):
                return self._most(left) + self._most(right)
            case algebra.Union(left, right) | algebra.Choice(_, left, right):
                return max(self._most(left), self._most(right))
            case algebra.Both(left, right):
                return self._most(left) * self._most(right)
            case algebra.Without(left, _):
                return self._most(left)
            case algebra.Segment() | algebra.Dilate() | algebra.Blocks() | algebra.Heads():
                return self._most(relation.body)
            case algebra.Fold(kind, body, clauses):
                times = len(bindings(clauses, self._scope) or ()) if kind == "mix" else 1
                return self._most(body) * max(1, times)
            case algebra.Grid(_, bodies):
                result = 1
                for body in bodies:
                    result *= self._most(body)
                return result
            case _:
                return 1
