"""Relations as bags of pieces, for each head; and pieces of all heads that differ by phase alone as one branch.

p + q  -->  the pieces of both                      a bag needs nothing more
p & q  -->  every piece of p with every piece of q  products distribute over sums
p | q  -->  p + (q - p)                             the larger multiplicity, where one of them is a set
p - q  -->  the pieces of p, less those of q
~p     -->  all - p
frames -->  the pieces of the body, in the coordinates of the enclosing frame
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from attnc.lower.pieces import (
    MAX_PIECES,
    ColumnsPiece,
    Inexpressible,
    LatticePiece,
    Piece,
    intersect,
    join_runs,
    normal,
    subtract,
)
from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic
from attnlang.pattern import Pattern, algebra
from attnlang.pattern.arithmetic import known
from attnlang.pattern.expr import Scope, bindings, fold, free_names
from attnlang.pattern.values import at_least_one, head_range, scope_integer
from attnlang.plan import FULL, Band, Branch, Columns, Lattice, Runs
from attnlang.syntax import tree


def head_pieces(pattern: Pattern, head: int, heads: int) -> list[Piece]:
    """The pieces whose sum is the pattern on one head. Raises AttnError (A0301) where pieces cannot say it."""
    return relation_pieces(pattern.relation, head, heads)


def relation_pieces(relation: algebra.Relation, head: int, heads: int) -> list[Piece]:
    """The pieces whose sum is a relation on one head. Raises AttnError (A0301) where pieces cannot say it."""
    return _Lowering({"h": head, "H": heads}).pieces(relation)


def is_set(pieces: list[Piece]) -> bool:
    """Whether no pair lies in two of the pieces."""
    return not any(intersect(a, b) for a, b in combinations(pieces, 2))


class _Lowering:
    """Lowers the relations of one head: everything but the lengths n and N is known."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def pieces(self, relation: algebra.Relation) -> list[Piece]:
        """The pieces of a relation; what cannot be said with pieces is reported at its place."""
        try:
            found = self._pieces(relation)
        except Inexpressible as reason:
            message = "this pattern cannot run on lattice views yet"
            text = algebra.relation_text(relation)
            label = f"{reason}" if relation.span.source.text else f"`{text}`: {reason}"
            hint = "backend `reference` runs every pattern, densely; a sum (`+`) of simpler patterns runs on all"
            raise AttnError(Diagnostic(codes.CANNOT_LOWER, message, relation.span, label, help=hint)) from None
        if len(found) > MAX_PIECES:
            raise AttnError(
                Diagnostic(codes.CANNOT_LOWER, "too many parts", relation.span, f"falls into {len(found)} lattices")
            )
        return found

    def _pieces(self, relation: algebra.Relation) -> list[Piece]:
        match relation:
            case algebra.Everything():
                return [LatticePiece()]
            case algebra.Nothing():
                return []
            case algebra.Offset():
                return self._offset(relation)
            case algebra.Key(condition):
                return _key_columns(fold(condition, self._scope))
            case algebra.Segment(width, shift, body):
                w = at_least_one(self._integer(width), "segment width", width.span)
                inner, moved = self.pieces(body), self._integer(shift) % w
                return [outer for piece in inner for outer in _in_segment(piece, w, moved)]
            case algebra.Dilate(rate, shift, body):
                r = at_least_one(self._integer(rate), "dilation", rate.span)
                residue = None if shift is None else self._integer(shift) % r
                return [outer for piece in self.pieces(body) for outer in _in_dilation(piece, r, residue)]
            case algebra.Blocks(size, body):
                b = at_least_one(self._integer(size), "block size", size.span)
                return [outer for piece in self.pieces(body) for outer in _in_blocks(piece, b)]
            case algebra.Heads(lo, hi, body):
                chosen = head_range(lo, hi, self._scope, relation.span)
                return self.pieces(body) if scope_integer(self._scope, "h") in chosen else []
            case algebra.Both(left, right):
                return [both for a in self.pieces(left) for b in self.pieces(right) for both in intersect(a, b)]
            case algebra.Plus(left, right):
                return self.pieces(left) + self.pieces(right)
            case algebra.Union(left, right):
                return union(self.pieces(left), self.pieces(right))
            case algebra.Without(left, right):
                return _without(self.pieces(left), self.pieces(right))
            case algebra.Not(body):
                return _without([LatticePiece()], self.pieces(body))
            case algebra.Choice(condition, then, otherwise):
                return self.pieces(then if self._known(condition) else otherwise)
            case algebra.Fold():
                return self._fold(relation)
            case algebra.Query():
                raise Inexpressible("chosen queries are not lowered yet")
            case algebra.Same() | algebra.Pairs() | algebra.Neighborhood() | algebra.Random() | algebra.Grid():
                form = algebra.relation_text(relation).partition("(")[0]
                raise Inexpressible(f"`{form}` is not lowered yet")

    def _known(self, expression: tree.Expr) -> int:
        folded = fold(expression, self._scope)
        value = known(folded)
        if not isinstance(value, int):
            names = " and ".join(f"`{name}`" for name in sorted(free_names(folded)))
            raise Inexpressible(f"its shape depends on {names}, which a plan leaves open")
        return value

    def _integer(self, expression: tree.Expr) -> int:
        return int(self._known(expression))

    def _offset(self, relation: algebra.Offset) -> list[Piece]:
        lo, hi = (None if end is None else self._integer(end) for end in (relation.lo, relation.hi))
        step = 1
        if relation.step is not None:
            step = at_least_one(self._integer(relation.step), "step", relation.step.span)
        piece = normal(LatticePiece(None, step, None, Band(lo, hi)))
        return [] if piece is None else [piece]

    def _fold(self, relation: algebra.Fold) -> list[Piece]:
        scopes = bindings(relation.clauses, self._scope)
        if scopes is None:
            raise Inexpressible("its list depends on the length of the sequence")
        parts = [_Lowering(scope).pieces(relation.body) for scope in scopes]
        result: list[Piece] = []
        for part in parts:
            result = result + part if relation.kind == "mix" else union(result, part)
        return result


def union(left: list[Piece], right: list[Piece]) -> list[Piece]:
    """P | q  -->  p + (q - p), in whichever order can be said; needs q to be a set."""
    attempts: tuple[tuple[list[Piece], list[Piece]], ...] = ((left, right), (right, left))
    failure: Inexpressible | None = None
    for first, second in attempts:
        try:
            if is_set(second):
                return first + _without(second, first)
        except Inexpressible as reason:
            failure = failure or reason
    raise failure or Inexpressible("a union of two bags, in each of which some pair counts more than once")


def _without(left: list[Piece], right: list[Piece]) -> list[Piece]:
    for taken in right:
        left = [rest for piece in left for rest in subtract(piece, taken)]
    return left


# frames -------------------------------------------------------------------------------------------------------------


def _in_segment(piece: Piece, w: int, shift: int) -> Iterator[Piece]:
    """A piece in the coordinates of runs of w, as pieces of the enclosing frame."""
    if isinstance(piece, ColumnsPiece):
        raise Inexpressible("keys are chosen inside a segment")
    if piece.runs is None:
        outer = normal(replace(piece, runs=Runs(w, w, -shift)))
        if outer is not None:
            yield outer
        return
    runs = piece.runs
    cut: dict[tuple[int, int], list[int]] = {}  # (width, coordinates cut off at the front): starts
    if (w // runs.period) > MAX_PIECES * 16:
        raise Inexpressible("its segments have too many parts")
    for start in range(runs.start - runs.period, w, runs.period):
        front, end = max(start, 0), min(start + runs.width, w)
        if front < end:
            cut.setdefault((end - front, front - start), []).append(front - shift)
    for (width, missing), starts in cut.items():
        phase = None if piece.phase is None else (piece.phase - missing) % piece.dilation
        for joined in join_runs(width, w, starts):
            outer = normal(replace(piece, runs=joined, phase=phase))
            if outer is not None:
                yield outer


def _in_dilation(piece: Piece, r: int, residue: int | None) -> Iterator[Piece]:
    """A piece on the quotients t // r of a residue class (of each class, if None)."""
    if r == 1:
        yield piece
        return
    if isinstance(piece, ColumnsPiece):
        raise Inexpressible("keys are chosen inside a dilation")
    runs = piece.runs and Runs(piece.runs.width * r, piece.runs.period * r, piece.runs.start * r)
    band = Band(*(None if end is None else end * r for end in (piece.band.lo, piece.band.hi)))
    dilation = r * piece.dilation
    classes: list[int | None]
    if residue is None:
        inner_free = piece.dilation == 1 or piece.phase is None
        classes = [None] if inner_free else [c + r * (piece.phase or 0) for c in range(r)]
    elif piece.phase is None:
        classes = [residue + r * c for c in range(piece.dilation)]
    else:
        classes = [residue + r * piece.phase]
    for phase in classes:
        outer = normal(LatticePiece(runs, dilation, phase, band))
        if outer is not None:
            yield outer


def _in_blocks(piece: Piece, b: int) -> Iterator[Piece]:
    """A piece on the block numbers t // b, where it is made of whole squares."""
    if b == 1:
        yield piece
    elif isinstance(piece, LatticePiece) and piece.dilation == 1 and piece.band == FULL:
        yield LatticePiece(piece.runs and Runs(piece.runs.width * b, piece.runs.period * b, piece.runs.start * b))
    elif isinstance(piece, LatticePiece) and piece.runs is None and piece.band == Band(0, 0) and piece.dilation == 1:
        yield LatticePiece(Runs(b, b))
    else:
        raise Inexpressible("a staircase of blocks is no lattice")


MAX_PERIOD = 65_536


def _key_columns(condition: tree.Expr) -> list[Piece]:
    """`key(b)` where b looks at pos through `pos % m` only: the residues for which it holds, as ranges."""
    moduli = list(_moduli(condition))
    if None in moduli or free_names(condition) - {"pos"}:
        raise Inexpressible("keys are chosen otherwise than by `pos % m`")
    period = 1
    for modulus in moduli:
        period = period * modulus // _gcd(period, modulus) if modulus else period
    if period > MAX_PERIOD:
        raise Inexpressible(f"keys are chosen with a period of {period}")
    chosen = [bool(known(fold(condition, {"pos": position}))) for position in range(period)]
    if all(chosen):
        return [LatticePiece()]
    edges = [i for i in range(period + 1) if (i > 0 and chosen[i - 1]) != (i < period and chosen[i])]
    return [ColumnsPiece(period, first, last) for first, last in zip(edges[::2], edges[1::2], strict=True)]


def _gcd(a: int, b: int) -> int:
    return a if b == 0 else _gcd(b, a % b)


def _moduli(node: tree.Expr) -> Iterator[int | None]:
    """The m of every `pos % m` in an expression; None for a `pos` that stands otherwise."""
    match node:
        case tree.Binary("%", tree.Name("pos"), tree.Int(modulus)):
            yield abs(modulus)
        case tree.Name("pos"):
            yield None
        case tree.Binary(_, left, right):
            yield from _moduli(left)
            yield from _moduli(right)
        case tree.Unary(_, operand):
            yield from _moduli(operand)
        case tree.Compare(first, _, rest):
            for part in (first, *rest):
                yield from _moduli(part)
        case tree.Conditional(condition, then, otherwise):
            for part in (condition, then, otherwise):
                yield from _moduli(part)
        case _ if "pos" in free_names(node):
            yield None
        case _:
            return


# branches -----------------------------------------------------------------------------------------------------------


def merge_heads(by_head: list[list[Piece]]) -> tuple[Branch, ...]:
    """Pieces that differ by phase alone, one a head, become one branch; order is that of first appearance."""
    groups: dict[tuple[Piece, int], list[tuple[int, Piece]]] = {}
    for head, pieces in enumerate(by_head):
        seen: dict[Piece, int] = {}
        for piece in pieces:
            shape = _shape(piece)
            count = seen[shape] = seen.get(shape, 0) + 1
            groups.setdefault((shape, count), []).append((head, piece))
    return tuple(_branch(members) for members in groups.values())


def _shape(piece: Piece) -> Piece:
    if isinstance(piece, LatticePiece) and piece.phase is not None:
        return replace(piece, phase=0)
    return piece


def _branch(members: list[tuple[int, Piece]]) -> Branch:
    heads = tuple(head for head, _ in members)
    first = members[0][1]
    if isinstance(first, ColumnsPiece):
        return Columns(heads, first.period, first.first, first.last, first.band)
    phases = tuple(piece.phase or 0 for _, piece in members if isinstance(piece, LatticePiece))
    every_class = first.phase is None or first.dilation == 1
    return Lattice(heads, first.runs, first.dilation, None if every_class else phases, first.band)
