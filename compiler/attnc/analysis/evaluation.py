"""Values of terms at arrays of positions, and the keys that `random` draws for many queries at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.terms import Range, Term
from attnlang.pattern.tables import Content
from attnlang.source import NOWHERE

Values: TypeAlias = NDArray[np.int64]


class Evaluator:
    """Values of terms on one head, with the content of tables."""

    def __init__(self, tables: Mapping[str, Content], head: int) -> None:
        self._tables = {content.name: content for content in tables.values()}
        self._head = head

    def at(self, term: Term, q: Values, k: Values) -> Values:
        """The values at q and k, arrays that broadcast together."""
        return _Pass(self._tables, self._head, q, k).value(term)

    def extremes(self, name: str, ranges: list[Range]) -> Range:
        """The least and largest entry of a table at indices within these ranges."""
        array = self._tables[name].array
        inside = all(low >= 0 and high < size for (low, high), size in zip(ranges, array.shape, strict=True))
        if not inside:  # some of these entries do not exist: whether they are asked for is seen point by point
            return -(2**63), 2**63
        chosen = array[tuple(slice(low, high + 1) for low, high in ranges)]
        return int(chosen.min()), int(chosen.max())


class _Pass:
    def __init__(self, tables: Mapping[str, Content], head: int, q: Values, k: Values) -> None:
        self._tables = tables
        self._head = head
        self._q = q
        self._k = k
        self._done: dict[Term, Values] = {}

    def value(self, term: Term) -> Values:
        found = self._done.get(term)
        if found is None:
            found = self._done[term] = self._value(term)
        return found

    def _value(self, term: Term) -> Values:
        args: Any = term.args
        match term.kind:
            case "q":
                return self._q
            case "k":
                return self._k
            case "lin":
                result = np.int64(args[0])
                for atom, factor in args[1]:
                    result = result + factor * self.value(atom)
                return np.asarray(result)
            case "floor":
                return self.value(args[0]) // args[1]
            case "mod":
                return self.value(args[0]) % args[1]
            case "ge":
                return (self.value(args[0]) >= 0).astype(np.int64)
            case "eq":
                return (self.value(args[0]) == 0).astype(np.int64)
            case "mul":
                return self.value(args[0]) * self.value(args[1])
            case "max":
                return np.maximum(self.value(args[0]), self.value(args[1]))
            case "and":
                return self._both(args[0], args[1])
            case "if":
                return self._choice(*args)
            case "table":
                indices = np.broadcast_arrays(*(self.value(index) for index in args[1]))
                return self._tables[args[0]].entries(indices, NOWHERE)
            case _:
                return self._drawn(args[0], args[1], args[2])

    def _both(self, first: Term, second: Term) -> Values:
        if not second.hard:
            return self.value(first) * self.value(second)
        return self._where(self.value(first) != 0, second, np.zeros((), np.int64))

    def _choice(self, test: Term, then: Term, otherwise: Term) -> Values:
        if not (then.hard or otherwise.hard):
            return np.where(self.value(test), self.value(then), self.value(otherwise))
        chosen = self.value(test) != 0
        return self._where(chosen, then, self._where(~chosen, otherwise, np.zeros((), np.int64)))

    def _where(self, mask: NDArray[np.bool_], term: Term, otherwise: Values) -> Values:
        """The term where the mask holds, looked at nowhere else."""
        mask, q, k, rest = np.broadcast_arrays(mask, self._q, self._k, otherwise)
        result = rest.copy()
        if mask.any():
            result[mask] = _Pass(self._tables, self._head, q[mask], k[mask]).value(term)
        return result

    def _drawn(self, query: Term, key: Term, drawn: tuple[int, int, int]) -> Values:
        queries, keys = np.broadcast_arrays(self.value(query), self.value(key))
        distinct, place = np.unique(queries, return_inverse=True)
        rows = random_keys(drawn, self._head, distinct)
        chosen = rows[place.reshape(-1)]
        return (chosen == keys.reshape(-1, 1)).any(axis=1).astype(np.int64).reshape(queries.shape)


def random_keys(drawn: tuple[int, int, int], head: int, queries: Values) -> Values:
    """(queries, count): the keys of `attnlang.pattern.random_keys.keys`, for drawn = (count, length, seed)."""
    count, length, seed = drawn
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    state = _mixed(np.uint64(seed % 2**64))
    state = _mixed(state ^ np.uint64(head))
    state = _mixed(np.asarray(state) ^ queries.astype(np.uint64))
    rounds = [_mixed(state + np.uint64(number))[:, None] for number in range(4)]
    places = np.broadcast_to(np.arange(min(count, length), dtype=np.uint64), (len(queries), min(count, length))).copy()
    waiting = np.ones(places.shape, bool)
    while waiting.any():
        walked = _permuted(places, half, rounds)
        places[waiting] = walked[waiting]
        waiting &= places >= length
    return places.astype(np.int64)


def _mixed(value: Any) -> Any:
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _permuted(places: Any, half: int, rounds: list[Any]) -> Any:
    mask, by = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = places >> by, places & mask
    for key in rounds:
        left, right = right, left ^ (_mixed(key ^ right) & mask)
    return (left << by) | right
