"""The operator `attnlang::multiplicity`: the oracle's matrix as a tensor, opaque to torch.compile and torch.export.

    multiplicity(tables, lengths, pattern, n, heads) -> M (1 or B, heads, n, n), int32 on the cpu

The pattern is named by a text that says all of it, so that a saved graph runs in another process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from attnlang.pattern import Pattern
from attnlang.pattern.recipe import from_recipe, recipe
from attnlang.runtime.batches import checked_lengths

_library = torch.library.Library("attnlang", "FRAGMENT")
_library.define(
    "multiplicity(Tensor[] tables, Tensor? lengths, str pattern, SymInt n, int heads) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_op = torch.ops.attnlang.multiplicity.default
_KNOWN: dict[str, Pattern] = {}


def matrix(pattern: str, n: int, heads: int, tables: Sequence[Tensor] = (), lengths: Tensor | None = None) -> Tensor:
    """M (1, heads, n, n), or (B, heads, n, n) where the batch has lengths or tables of its own.

    `pattern` is a text that `text` gave. A sequence of a length below n stands in the upper left corner; the rest, its
    padding, is 0.
    """
    return _op(list(tables), lengths, pattern, n, heads)


def text(pattern: Pattern) -> str:
    """The pattern as a text; `_pattern` gives it back."""
    found = json.dumps(recipe(pattern), separators=(",", ":"))
    _KNOWN.setdefault(found, pattern)
    return found


def _pattern(text: str) -> Pattern:
    found = _KNOWN.get(text)
    if found is None:
        found = _KNOWN[text] = from_recipe(json.loads(text))
    return found


@lru_cache(maxsize=8)
def _fixed(pattern: Pattern, n: int, heads: int) -> Tensor:
    return torch.from_numpy(pattern.multiplicity(n, heads))


def _multiplicity(tables: list[Tensor], lengths: Tensor | None, pattern: str, n: int, heads: int) -> Tensor:
    found = _pattern(pattern)
    if not tables and lengths is None:
        return _fixed(found, n, heads).clone()[None]  # an operator may not hand out a tensor that it keeps
    own = _own(found, tables)
    items = _items(found, tables, lengths)
    sizes = repeat(n) if lengths is None else checked_lengths(lengths, n)
    result = torch.zeros(items, heads, n, n, dtype=torch.int32)
    given = {name: table.cpu().numpy() for (name, _), table in zip(found.tables, tables, strict=True)}
    for item, size in zip(range(items), sizes):  # noqa: B905 - sizes may have no end
        contents = {name: table[item] if name in own else table for name, table in given.items()}
        result[item, :, :size, :size] = torch.from_numpy(found.multiplicity(size, heads, **contents))
    return result


def _own(pattern: Pattern, tables: Sequence[Tensor]) -> set[str]:
    """The tables that have one content for each item of the batch."""
    return {name for (name, axes), table in zip(pattern.tables, tables, strict=True) if table.dim() > axes}


def _items(pattern: Pattern, tables: Sequence[Tensor], lengths: Tensor | None) -> int:
    if lengths is not None:
        return lengths.size(0)
    own = [table.size(0) for (_, axes), table in zip(pattern.tables, tables, strict=True) if table.dim() > axes]
    return own[0] if own else 1


def _fake(tables: list[Tensor], lengths: Tensor | None, pattern: str, n: int, heads: int) -> Any:
    items = _items(_pattern(pattern), tables, lengths)
    return torch.empty(items, heads, n, n, dtype=torch.int32, device="cpu")


_library.impl("multiplicity", _multiplicity, "CompositeExplicitAutograd")
torch.library.register_fake("attnlang::multiplicity", _fake, lib=_library)
