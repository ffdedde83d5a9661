"""Random keys from a counter-based generator: a function of (seed, head, query) alone, the same everywhere.

The keys of a query are the first items of a pseudo-random permutation of 0..length-1, so they are distinct. The
permutation is a Feistel network of four rounds on the smallest power of four that holds `length`, walked along its
cycle until it lands inside (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002); the round function is the
finaliser of SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # numpy is imported where it is used: checking a text does without
    import numpy as np
    from numpy.typing import NDArray

_MASK = 2**64 - 1
_ROUNDS = 4


def keys(count: int, length: int, seed: int, head: int, query: int) -> list[int]:
    """`count` distinct keys of 0..length-1 (all of them, if there are fewer), in the order in which they are drawn."""
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    state = _mix(seed & _MASK)
    for part in (head, query):
        state = _mix(state ^ (part & _MASK))
    rounds = [_mix(state + number) for number in range(_ROUNDS)]
    return [_walk(place, length, half, rounds) for place in range(min(count, length))]


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _walk(place: int, length: int, half: int, rounds: list[int]) -> int:
    while True:
        place = _permuted(place, half, rounds)
        if place < length:
            return place


def _permuted(place: int, half: int, rounds: list[int]) -> int:
    mask = (1 << half) - 1
    left, right = place >> half, place & mask
    for key in rounds:
        left, right = right, left ^ (_mix(key ^ right) & mask)
    return left << half | right


def drawn_keys(count: int, length: int, seed: int, head: int, queries: NDArray[np.int64]) -> NDArray[np.int64]:
    """`keys` of many queries at once, by the same arithmetic on arrays: (queries, keys)."""
    import numpy as np

    half = max(1, ((length - 1).bit_length() + 1) // 2)
    start = np.uint64(_mix(_mix(seed & _MASK) ^ (head & _MASK)))
    state = _mixed(start ^ queries.astype(np.uint64))
    rounds = [_mixed(state + np.uint64(number))[:, None] for number in range(_ROUNDS)]
    places = np.broadcast_to(
        np.arange(max(0, min(count, length)), dtype=np.uint64), (len(queries), max(0, min(count, length)))
    )
    places = _shuffled(places, half, rounds)
    while (outside := places >= np.uint64(max(length, 1))).any():
        places = np.where(outside, _shuffled(places, half, rounds), places)
    return places.astype(np.int64)


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    import numpy as np

    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _shuffled(places: NDArray[np.uint64], half: int, rounds: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    import numpy as np

    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = places >> bits, places & mask
    for key in rounds:
        left, right = right, left ^ (_mixed(key ^ right) & mask)
    return left << bits | right
