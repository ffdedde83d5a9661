"""What a rank computes of a branch that is no lattice: blocks of queries, each with the keys that any of them has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from attnlang.parallel.dense import BLOCK, Places, alike_heads, held_blocks, numbers, positions, scope_of
from attnlang.parallel.groups import Work, flat
from attnlang.plan import Tiles
from attnlang.rows import Rows
from attnlang.schedule import Schedule


class TileItems:
    """Items of one rank. Queries and keys are (ascending tokens, flat rows)."""

    def __init__(self, schedule: Schedule, rank: int) -> None:
        self._schedule = schedule
        self._tables: dict[str, Any] = dict(schedule.tables)
        self._tokens = positions(schedule.placement, rank)
        self._held: dict[Any, dict[int, list[tuple[int, Any]]]] = {}

    def own(self, head: int, without: Sequence[Rows] = (), among: Rows | None = None) -> tuple[Places, Places]:
        """The rank's rows of a head, but for some tokens; or some of its rows."""
        kept = ~np.isin(self._tokens, flat(tuple(without))) if without else np.ones(len(self._tokens), bool)
        if among is not None:
            kept[: among.first] = kept[among.last + 1 :] = False
        return self._tokens[kept], np.flatnonzero(kept) + head * len(self._tokens)

    def add(self, work: Work, branch: Tiles, head: int, q: tuple[Places, Places], k: tuple[Places, Places]) -> None:
        """The pairs of a branch on one head; those of heads that have the same ones are looked for once."""
        alike = next(heads[0] for heads in alike_heads(branch) if head in heads)
        name = id(branch), alike, q[0].tobytes(), k[0].tobytes()
        if name not in self._held:
            self._held[name] = self._blocks(branch, alike, q[0], k[0])
        for i, found in self._held[name].items():
            rows = q[1][i : i + BLOCK]
            keys = [k[1][j : j + BLOCK] for j, _ in found]
            times = [
                np.broadcast_to(counts, (len(rows), len(part))) for (_, counts), part in zip(found, keys, strict=True)
            ]
            all_keys, all_times = np.concatenate(keys), np.concatenate(times, 1)
            seen = all_times.any(0)
            work.tiles.append((rows, all_keys[seen], all_times[:, seen].astype(np.int32)))

    def _blocks(self, branch: Tiles, head: int, q: Places, k: Places) -> dict[int, list[tuple[int, Any]]]:
        """Blocks of keys with pairs, by block of queries."""
        scope = scope_of(self._schedule.plan, self._schedule.n, head, self._tables)
        found: dict[int, list[tuple[int, Any]]] = {}
        for i, j, counts in held_blocks(branch, self._schedule.n, scope, q, k):
            found.setdefault(i, []).append((j, counts))
        return found


def sorted_places(arrived: Iterable[tuple[Rows, int]]) -> tuple[Places, Places] | None:
    """Tokens that arrived, ascending, with their flat rows, from stretches and where they begin; None for none."""
    parts = list(arrived)
    if not parts:
        return None
    tokens = np.concatenate([numbers(rows) for rows, _ in parts])
    places = np.concatenate([base + np.arange(rows.count) for rows, base in parts])
    order = np.argsort(tokens, kind="stable")
    return tokens[order], places[order]
