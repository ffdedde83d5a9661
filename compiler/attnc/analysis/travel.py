"""`Dependency`: what is known about how information travels through layers, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Repair:
    """What connects the pairs that never meet.

    text      to be joined to the pattern by `|`
    why       why that suffices, in words
    verified  whether the search was run again with it, and left no pair unconnected
    layers    how many layers connect everything then; None if it was not verified
    """

    text: str
    why: str
    verified: bool = False
    layers: int | None = None


@dataclass(frozen=True, slots=True)
class Dependency:
    """How information travels through layers of patterns, at length n.

    n                  the length that it speaks of; else than the length asked for, where that is too long
    method             how it was found
    causal             whether no layer lets a query see its future; then only pairs k <= q can ever meet
    reach_by_layer     after 1, 2, .. layers, the share of these pairs that is connected; some first layers of many
    layers_to_connect  after how many layers everything is connected that ever will be; None: more than were searched
    unreachable_pairs  how many of these pairs no number of layers connects; None if the search gave up
    unreachable_distances  smallest and largest |q - k| of such a pair
    examples           some of them, (q, k)
    cause              in words, where the structure explains it
    hops_by_distance   (first, last, hops): the most layers that any connected pair at these distances needs; without
                       distances at which the search gave up before all pairs were connected
    growth             how many keys a query has heard of after l layers, as a formula, where there is one
    """

    n: int
    asked_n: int
    method: str
    causal: bool
    reach_by_layer: tuple[float, ...]
    layers_to_connect: int | None
    unreachable_pairs: int | None
    unreachable_distances: tuple[int, int] | None = None
    examples: tuple[tuple[int, int], ...] = ()
    cause: str = ""
    repair: Repair | None = None
    hops_by_distance: tuple[tuple[int, int, int], ...] = ()
    growth: str = ""

    @property
    def exact(self) -> bool:
        """Whether it speaks of the length asked for."""
        return self.n == self.asked_n

    @property
    def basis(self) -> str:
        """What the figures are: exact, or measured at another length."""
        return "exact" if self.exact else f"measured at N = {self.n}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "n": self.n,
            "basis": self.basis,
            "method": self.method,
            "causal": self.causal,
            "reach_by_layer": list(self.reach_by_layer),
            "layers_to_connect": self.layers_to_connect,
            "unreachable_pairs": self.unreachable_pairs,
            "unreachable_distances": self.unreachable_distances and list(self.unreachable_distances),
            "examples": [{"query": q, "key": k} for q, k in self.examples],
            "cause": self.cause,
            "repair": self.repair and _repair_dict(self.repair),
            "hops_by_distance": {span(first, last): hops for first, last, hops in self.hops_by_distance},
            "growth": self.growth,
        }


def _repair_dict(repair: Repair) -> dict[str, Any]:
    return {"union": repair.text, "why": repair.why, "verified": repair.verified, "layers": repair.layers}


def span(first: int, last: int) -> str:
    """`8-15`, or `1`."""
    return str(first) if first == last else f"{first}-{last}"


def buckets(n: int) -> list[tuple[int, int]]:
    """The distances 1, 2..3, 4..7, .. below n."""
    found: list[tuple[int, int]] = []
    first = 1
    while first < n:
        found.append((first, min(2 * first - 1, n - 1)))
        first *= 2
    return found
