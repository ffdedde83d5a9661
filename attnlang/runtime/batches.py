"""A batch as pieces that a backend can run: sequences of one length, with one content of every table.

Backends know neither padding nor tables that differ from item to item. A piece is a range of the batch and a length;
the results of all pieces, put in place, are those of the batch. Padded rows have out 0, lse -inf and no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from attnlang.runtime.program import Program

NEVER = 1e30
"""As lse: a row with which no score has a weight, exp(s - 1e30) = 0. Finite, for infinities make NaNs."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Items first..last-1 of the batch, tokens 0..n-1, with these contents of the tables."""

    first: int
    last: int
    n: int
    tables: dict[str, Tensor]

    def of(self, x: Tensor) -> Tensor:
        """The piece of a tensor (B, H, N, ..)."""
        return x[self.first : self.last, :, : self.n]


def pieces(
    program: Program, batch: int, n: int, tables: Sequence[Tensor], lengths: Sequence[int] | None
) -> Iterator[Piece]:
    """The pieces of a batch of sequences of `lengths` (n each, if None). Empty sequences have none."""
    given = {name: table for (name, _), table in zip(program.tables, tables, strict=True)}
    own = {name for name, axes in program.tables if given[name].dim() > axes}
    sizes = [n] * batch if lengths is None else list(lengths)
    for (_, size), group in groupby(range(batch), lambda item: (item if own else 0, sizes[item])):
        members = list(group)
        if size:
            contents = {name: table[members[0]] if name in own else table for name, table in given.items()}
            yield Piece(members[0], members[-1] + 1, size, contents)


def work(what: Program, batch: int, n: int, tables: Sequence[Tensor], lengths: Tensor | None) -> list[Piece]:
    """The pieces of a batch. Where padding changes nothing, sequences run at full length, and no length is read.

    Raises ValueError for a length outside of 0..n, unless only a GPU knows it and no one needs it.
    """
    if lengths is None and not tables:
        return [Piece(0, batch, n, {})]
    if lengths is None or (what.ignores_padding and lengths.device.type != "cpu"):
        return list(pieces(what, batch, n, tables, None))
    sizes = checked_lengths(lengths, n)
    return list(pieces(what, batch, n, tables, None if what.ignores_padding else sizes))


def checked_lengths(lengths: Tensor, n: int) -> list[int]:
    """Lengths as integers. Raises ValueError for one outside of 0..n."""
    found = [int(length) for length in lengths.tolist()]
    wrong = [length for length in found if not 0 <= length <= n]
    if wrong:
        raise ValueError(f"lengths must lie in 0..{n}, the length of q, but one is {wrong[0]}")
    return found


def padded_rows(lengths: Tensor, n: int, device: torch.device) -> Tensor:
    """Which rows are padding: (B, 1, N)."""
    return torch.arange(n, device=device) >= lengths.to(device)[:, None, None]
