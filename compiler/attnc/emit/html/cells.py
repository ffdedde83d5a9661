"""A view as data for the page: for every head and pair its multiplicity, and the members that hold it.

{n, heads, title, note, call,
 members   the labels of the branches
 cells     [multiplicity, [member, ..]] for every code; code 0 is a pair that does not count
 width     bytes a code, 1 or 2, little-endian
 head_of   for every head the number of its matrix; -1 where the page would have become too large
 matrices  n * n codes, row by row (a row is a query): deflated (RFC 1950), base64
 union     n rows of bits, each of ceil(n / 8) bytes, lowest bit first: whether any head holds the pair; packed alike}
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.members import MAX_MEMBERS, Member, members
from attnc.emit.html.views import View
from attnlang.pattern import algebra
from attnlang.pattern.oracle import on_head
from attnlang.pattern.tables import contents
from attnlang.pattern.walk import free_names_of, nodes

MAX_BYTES = 1_500_000
"""How much text the matrices of a view may take; heads beyond it are left out, and the page says so."""
MEMBER_BITS = np.uint64(MAX_MEMBERS)
Codes = NDArray[np.uint16]


def view_data(view: View, heads: int) -> dict[str, Any]:
    """A view of a pattern with `heads` heads, as the page carries it. Raises AttnError where it has no meaning."""
    table = _Table()
    parts = members(view.pattern.relation)
    head_of: list[int] = []
    packed: dict[bytes, int] = {}
    matrices: list[str] = []
    found: list[Codes] = []
    union = np.zeros((view.shown, view.shown), bool)
    for codes in _by_head(view, parts, heads, table):
        union |= codes > 0
        content = codes.tobytes()
        if content not in packed:
            packed[content] = len(found)
            found.append(codes)
        head_of.append(packed[content])
    width = 1 if len(table.cells) <= 256 else 2
    taken = 0
    for codes in found:
        text = _text(codes.astype(np.uint8 if width == 1 else "<u2").tobytes())
        taken += len(text)
        if taken > MAX_BYTES and matrices:
            break
        matrices.append(text)
    return {
        "title": view.title,
        "note": view.note,
        "call": view.pattern.call,
        "n": view.shown,
        "heads": heads,
        "members": [part.label for part in parts],
        "cells": table.cells,
        "width": width,
        "head_of": [place if place < len(matrices) else -1 for place in head_of],
        "matrices": matrices,
        "union": _text(np.packbits(union, axis=1, bitorder="little").tobytes()),
    }


def _text(content: bytes) -> str:
    return b64encode(zlib.compress(content, 9)).decode("ascii")


def unpacked(text: str) -> bytes:
    """What a text of the page holds."""
    return zlib.decompress(b64decode(text))


class _Table:
    """The different (multiplicity, members) that occur; their places are the codes."""

    def __init__(self) -> None:
        self.cells: list[list[Any]] = [[0, []]]
        self._codes: dict[tuple[int, int], int] = {(0, 0): 0}

    def code(self, m: int, held: int) -> int:
        """The code of a multiplicity and a set of members (as bits)."""
        key = (m, held)
        if key not in self._codes:
            self._codes[key] = len(self.cells)
            self.cells.append([m, [place for place in range(held.bit_length()) if held >> place & 1]])
        return self._codes[key]


def _by_head(view: View, parts: tuple[Member, ...], heads: int, table: _Table) -> Iterator[Codes]:
    """The codes of each head. Heads that cannot differ are computed once."""
    pattern, shown = view.pattern, view.shown
    content = contents(pattern.tables, dict(view.tables), f"pattern {pattern.name}")
    codes = np.zeros((shown, shown), np.uint16)
    for head in range(heads):
        if head == 0 or _differ_by_head(pattern.relation):
            m = on_head(pattern.relation, view.n, head, heads, content)[:shown, :shown]
            held = np.zeros(m.shape, np.uint64)
            for place, part in enumerate(parts):
                mine = on_head(part.relation, view.n, head, heads, content)[:shown, :shown] > 0
                held |= mine.astype(np.uint64) << np.uint64(place)
            codes = _coded(m, np.where(m > 0, held, np.uint64(0)), table)
        yield codes


def first_head(view: View, heads: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Of head 0: the multiplicities, and the first member that holds each pair, from 1; 0 where there is no pair."""
    table = _Table()
    codes = next(_by_head(view, members(view.pattern.relation), heads, table))
    m = np.array([m for m, _ in table.cells], np.int32)
    owner = np.array([held[0] + 1 if held else 0 for _, held in table.cells], np.int32)
    return m[codes], owner[codes]


def _differ_by_head(relation: algebra.Relation) -> bool:
    by_number = any(isinstance(node, algebra.Heads | algebra.Random) for node in nodes(relation))
    return by_number or "h" in free_names_of(relation)


def _coded(m: NDArray[np.int32], held: NDArray[np.uint64], table: _Table) -> Codes:
    """The code of every cell. What is seldom different is looked up, not sorted."""
    both = held | (m.astype(np.uint64) << MEMBER_BITS)
    distinct = np.unique(both)
    codes = [table.code(each >> int(MEMBER_BITS), each & (1 << int(MEMBER_BITS)) - 1) for each in distinct.tolist()]
    assert len(table.cells) <= 2**16, "a view of so few positions cannot have so many different cells"
    return np.array(codes, np.uint16)[np.searchsorted(distinct, both)]
