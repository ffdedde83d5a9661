"""How information travels: which keys a query has heard of after 1, 2, 3, .. layers, and which it never hears of.

A layer connects q to k if any head holds the pair, since heads are mixed after attention; and q to itself, since a
residual connection goes around it. What is connected after l layers is the product of l such relations.

Up to some ten thousand tokens it is searched, exactly, with every pair accounted for (`attnc.analysis.reach`). Beyond,
the structure of a pattern gives it at any N (`attnc.analysis.structure`): a hub, axes, one band, distances, segments
that nothing leaves. Where there is none, a shorter length is searched, and every figure says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from attnc.analysis.members import members
from attnc.analysis.pairs import pieces_by_head
from attnc.analysis.reach import Progress, layer_of, search
from attnc.analysis.structure import by_segments, by_structure, longest_segment, segment_of
from attnc.analysis.travel import Dependency, Repair
from attnc.lower.pieces import Piece
from attnlang.pattern import Pattern, algebra
from attnlang.pattern.walk import nodes, require_layer

MAX_LATTICE_N = 32_768
"""The longest sequence that is searched along lattices."""
MAX_ANY_N = 4_096
"""The longest that is searched pair by pair, where a shorter one will do."""
MAX_FIXED_N = 16_384
"""The longest that is searched pair by pair where no other length has a meaning."""

__all__ = ["Dependency", "Repair", "dependency", "is_quick"]


def dependency(
    patterns: Pattern | Sequence[Pattern],
    n: int,
    heads: int,
    tables: Mapping[str, Any] | None = None,
    progress: Progress = lambda what: None,
) -> Dependency:
    """How information travels through a pattern, the same in all layers, or through one pattern a layer.

    Several patterns are the layers from the first to the last, and begin anew after it. A sequence that is too long to
    be searched, and whose pattern has no structure that decides, is searched at a shorter length, which the result
    names. `progress` is told what is being done.

    Raises AttnError where a pattern has no meaning at this size; ValueError for runtime tables that are missing, and
    for a sequence that is too long and has no shorter form.
    """
    layers = [patterns] if isinstance(patterns, Pattern) else list(patterns)
    if not layers:
        raise ValueError("dependency needs at least one pattern")
    for pattern in layers:
        require_layer(pattern.relation)
    pieces = [_pieces(pattern, heads) for pattern in layers]
    longest = _longest(layers, pieces, n)
    if n > longest and len({pattern.relation for pattern in layers}) == 1:
        structured = by_structure(layers[0], pieces[0], n, heads)
        if structured is not None:
            return structured

    def searched(length: int) -> Dependency:
        pairs = zip(layers, pieces, strict=True)
        return search([layer_of(p, found, length, heads, tables) for p, found in pairs], length, length, progress)

    if n > longest and (segment := _segment(layers, pieces)) is not None:
        return by_segments(searched(segment), searched(n % segment) if n % segment else None, n)
    if n > longest and _is_fixed(layers):
        raise ValueError(f"dependency is searched up to N = {longest:,}; this pattern has no shorter form")
    return replace(searched(min(n, longest)), asked_n=n)


def is_quick(pattern: Pattern, n: int, heads: int) -> bool:
    """Whether `dependency` answers without a long search."""
    pieces = [_pieces(pattern, heads)]
    return n <= _longest([pattern], pieces, n) or (n > MAX_LATTICE_N and _segment([pattern], pieces) is None)


def _pieces(pattern: Pattern, heads: int) -> tuple[Piece, ...] | None:
    """The different pieces of all heads; None where a pattern is not made of pieces.

    Only which pairs there are counts here, not how often: so the pieces of a union are those of its parts, even where
    what one adds to another is no sum of lattices.
    """
    found: dict[Piece, None] = {}
    parts = [pattern.relation] if pieces_by_head(pattern, heads) is not None else _parts(pattern)
    for part in parts:
        by_head = pieces_by_head(replace(pattern, relation=part), heads)
        if by_head is None:
            return None
        found.update(dict.fromkeys(piece for head in by_head for piece in head))
    return tuple(found)


def _parts(pattern: Pattern) -> list[algebra.Relation]:
    return [member.relation for member in members(pattern.relation)]


def _is_fixed(patterns: Sequence[Pattern]) -> bool:
    """Whether a pattern has a meaning at no other length, or its tables have."""
    grids = any(isinstance(node, algebra.Grid) for pattern in patterns for node in nodes(pattern.relation))
    return grids or any(pattern.tables for pattern in patterns)


def _longest(patterns: Sequence[Pattern], pieces: Sequence[tuple[Piece, ...] | None], n: int) -> int:
    if all(found is not None for found in pieces):
        return MAX_LATTICE_N
    if _is_fixed(patterns):
        small = all(isinstance(pattern.relation, algebra.Grid) for pattern in patterns) and n > MAX_ANY_N
        return MAX_ANY_N if small else MAX_FIXED_N
    return MAX_ANY_N


def _segment(patterns: Sequence[Pattern], pieces: Sequence[tuple[Piece, ...] | None]) -> int | None:
    """The length of segments that no layer's pairs leave, if it can be searched."""
    every: list[int] = []
    for pattern, found in zip(patterns, pieces, strict=True):
        segment = longest_segment(found) if found else segment_of(pattern.relation)
        if segment is None:
            return None
        every.append(segment)
    longest = max(every)
    most = MAX_LATTICE_N if all(found is not None for found in pieces) else MAX_ANY_N
    return longest if longest <= most and all(longest % each == 0 for each in every) else None
