"""Runtime tables: integers whose shape is known when a pattern is compiled, and whose content comes with each call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic
from attnlang.pattern.functions import fail
from attnlang.source import NOWHERE, Span

if TYPE_CHECKING:  # numpy is imported where it is used: checking a text does without
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

HINT = "indices count from 0; guard one that may leave the table: `k <= q and t[q - k] == 1`"


@dataclass(frozen=True, eq=False, slots=True)
class Content:
    """What a table holds: an int64 array with one axis an index."""

    name: str
    array: NDArray[np.int64]

    def entry(self, places: Sequence[int], span: Span) -> int:
        """One entry. An index outside of 0..size-1 is a diagnostic."""
        for axis, (place, size) in enumerate(zip(places, self.array.shape, strict=True)):
            if not 0 <= place < size:
                self._outside(place, axis, span)
        return int(self.array[tuple(places)])

    def entries(self, indices: Sequence[NDArray[np.int64]], span: Span) -> NDArray[np.int64]:
        """The entries at arrays of indices, one array an axis."""
        for axis, (index, size) in enumerate(zip(indices, self.array.shape, strict=True)):
            outside = (index < 0) | (index >= size)
            if outside.any():
                self._outside(int(index[outside][0]), axis, span)
        return self.array[tuple(indices)]

    def _outside(self, place: int, axis: int, span: Span) -> NoReturn:
        label = f"index {place}, but axis {axis} of `{self.name}` has {self.array.shape[axis]} entries"
        if span is NOWHERE:  # a count of many pairs at once knows no place in the text
            raise AttnError(Diagnostic(codes.TABLE, f"index outside of the table: {label}", None, help=HINT))
        fail(codes.TABLE, "index outside of the table", span, label, HINT)


def key(name: str) -> str:
    """The name under which a scope holds a table's content; no name of the language looks like it."""
    return f"{name}[]"


def contents(wanted: tuple[tuple[str, int], ...], given: Mapping[str, Any], what: str) -> dict[str, Content]:
    """Check and convert tables: `wanted` are (name, number of axes). Keys are those of a scope.

    Raises ValueError for a table that is missing, unknown, of another number of axes, or not of integers.
    """
    check_names(wanted, given, what)
    return {key(name): Content(name, integers(name, given[name], axes)) for name, axes in wanted}


def check_names(wanted: tuple[tuple[str, int], ...], given: Mapping[str, Any], what: str) -> None:
    """Raise ValueError unless exactly the wanted tables are given."""
    names = [name for name, _ in wanted]
    unknown = [name for name in given if name not in names]
    if unknown:
        takes = f"it takes {', '.join(names)}" if names else "it takes none"
        raise ValueError(f"{what} has no table {', '.join(map(repr, unknown))}: {takes}")
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"{what} needs the content of {', '.join(missing)}: give {missing[0]}=an array of integers")


def integers(name: str, value: ArrayLike, axes: int) -> NDArray[np.int64]:
    """The content of a table as int64; booleans count as 0 and 1."""
    import numpy as np

    array = np.asarray(value)
    if not array.size and array.dtype == float:  # what numpy makes of a list without numbers
        array = array.astype(np.int64)
    if array.dtype == np.uint64 and (array >= 2**63).any():
        raise ValueError(f"table {name} must hold integers below 2^63, but one is {array.max()}")
    if array.dtype.kind not in "iub":
        raise ValueError(f"table {name} must hold integers, not {array.dtype}")
    if array.ndim != axes:
        shape = tuple(array.shape)
        raise ValueError(f"table {name} must have {axes} ax{'es' if axes > 1 else 'is'}, but has shape {shape}")
    return array.astype(np.int64)
