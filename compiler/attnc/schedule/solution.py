"""What is to be scheduled, and what was found: transfers, and what every rank computes and moves."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.alike import Alike
from attnc.schedule.covers import Cover
from attnc.schedule.families import Kinds, kinds_of
from attnc.schedule.residues import Held
from attnc.schedule.tiled import Tiled
from attnlang.exchanges import Exchanges
from attnlang.plan import Plan, Tiles
from attnlang.schedule import Certificate, Placement, RowBytes, Schedule, Transfer

Array = NDArray[Any]
NOTHING = Transfer((), ())


@dataclass(frozen=True)
class Problem:
    """What is to be scheduled: a plan on a placement, and what a row costs.

    queries_stay  every pair is computed where its query lives: more may move, but work stays as the placement has it
    counted       whether to count the pairs of every rank with itself, too
    known         what was found of tiled branches, for all solutions of one problem
    stand_ins     what was found of them among ranks that stand for others
    covers        least covers of pairs of ranks under lattices, by branches and by what tells these pairs apart
    classes       what is moved of classes of residues that are alike, by branch
    grids         what they are as grids with a narrow last axis (`attnc.schedule.grids`)
    """

    plan: Plan
    placement: Placement
    kv_heads: int
    row: RowBytes
    backward: bool = True
    tables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    queries_stay: bool = False
    counted: bool = True
    known: dict[tuple[int, ...], Tiled] = field(default_factory=dict[tuple[int, ...], Tiled], compare=False, repr=False)
    stand_ins: dict[tuple[int, ...], Any] = field(default_factory=dict[tuple[int, ...], Any], compare=False, repr=False)
    covers: dict[Any, Cover] = field(default_factory=dict[Any, Cover], compare=False, repr=False)
    classes: dict[int, dict[Hashable, Held]] = field(
        default_factory=dict[int, dict[Hashable, Held]], compare=False, repr=False
    )
    _alike: dict[tuple[int, ...], Alike] = field(
        default_factory=dict[tuple[int, ...], Alike], compare=False, repr=False
    )
    grids: dict[tuple[int, ...], Any] = field(default_factory=dict[tuple[int, ...], Any], compare=False, repr=False)
    _kinds: dict[tuple[int, ...], Kinds | None] = field(
        default_factory=dict[tuple[int, ...], Kinds | None], compare=False, repr=False
    )

    def tiled(self, branches: Sequence[int]) -> Tiled | None:
        """The regions of tiled branches, with others beside them; None where there are none."""
        if not any(isinstance(self.plan.branches[i], Tiles) for i in branches):
            return None
        key = tuple(branches)
        if key not in self.known:
            like = next(iter(self.known.values()), None)
            self.known[key] = Tiled(self.plan, branches, self.placement, self.group, self.tables, self.counted, like)
        return self.known[key]

    def alike(self, branches: Sequence[int]) -> Alike:
        """Which meetings of ranks are alike under branches that are lattices."""
        key = tuple(branches)
        if key not in self._alike:
            self._alike[key] = Alike(tuple(self.plan.branches[i] for i in branches), self.placement)
        return self._alike[key]

    def kinds(self, branches: Sequence[int]) -> Kinds | None:
        """Which meetings of ranks are alike under the tiled branches; None where each is looked at by itself."""
        key = tuple(branches)
        if key not in self._kinds:
            self._kinds[key] = kinds_of(self.plan, branches, self.placement, self.tables)
        return self._kinds[key]

    @property
    def group(self) -> int:
        return self.plan.heads // self.kv_heads

    @cached_property
    def weights(self) -> tuple[int, int]:
        """Bytes that a row of q costs, and a row of k and v."""
        return self.row.query(self.backward), self.row.key(self.backward)


@dataclass(frozen=True, slots=True)
class Picture:
    """One ordered pair of ranks: its transfer, what that weighs, and pairs computed at either home, by branch."""

    transfer: Transfer
    weight: int
    bound: int
    at_query: tuple[float, ...]
    at_key: tuple[float, ...]


@dataclass
class Solution:
    """Transfers for all ranks, and what every rank computes and moves. Arrays are by rank; rows are over all heads.

    later  makes the transfers that `which` names, where these are not listed: of what is chosen in the end alone
    """

    problem: Problem
    gathered: tuple[int, ...]
    transfers: list[Transfer] = field(default_factory=list[Transfer])
    which: Array = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    certificate: Certificate = field(default_factory=lambda: Certificate(0, 0))
    local: Array = field(default_factory=lambda: np.zeros(0))
    at_query: Array = field(default_factory=lambda: np.zeros(0))
    at_key: Array = field(default_factory=lambda: np.zeros(0))
    owned: Array = field(default_factory=lambda: np.zeros(0))
    keys_in: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    keys_out: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    queries_in: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    queries_out: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    kinds: list[set[str]] = field(default_factory=list[set[str]])
    later: Callable[[], Iterable[Transfer]] | None = None

    def listed(self) -> tuple[tuple[Transfer, ...], Array]:
        """The transfers, each once, and which of them each ordered pair of ranks has; -1: none."""
        if self.later is None:
            return tuple(self.transfers), self.which
        numbers: dict[Transfer, int] = {}
        of = [numbers.setdefault(transfer, len(numbers)) for transfer in self.later()]
        return tuple(numbers), np.array([*of, -1], np.int32)[self.which]

    @property
    def bytes_total(self) -> int:
        """Bytes that cross between ranks, forward and, where counted, backward, for one sequence."""
        query, key = self.problem.weights
        return int(self.keys_in.sum()) * key + int(self.queries_in.sum()) * query

    @property
    def bytes_busiest(self) -> int:
        """The most that any rank receives and sends, as the larger of the two."""
        row, backward = self.problem.row, self.problem.backward
        key_back = row.key_backward_back if backward else 0
        back = row.query_forward_back + (row.query_backward_back if backward else 0)
        there = row.query_forward + (row.query_backward if backward else 0)
        received = (
            self.keys_in * row.key_forward
            + self.queries_in * there
            + self.keys_out * key_back
            + self.queries_out * back
        )
        sent = (
            self.keys_out * row.key_forward
            + self.queries_out * there
            + self.keys_in * key_back
            + self.queries_in * back
        )
        return int(max(received.max(initial=0), sent.max(initial=0)))

    def schedule(self, **more: Any) -> Schedule:
        """The solution as plain data."""
        problem = self.problem
        transfers, which = self.listed()
        return Schedule(
            problem.plan, problem.placement, problem.kv_heads, problem.row.head_dim, backward=problem.backward,
            transfers=transfers, exchanges=Exchanges.of_matrix(which), gathered=self.gathered,
            certificate=self.certificate, **more,
        )  # fmt: skip
