"""A schedule without tensors, for thousands of ranks: what each sends and receives, and whether it all fits together.

The recipes of ranks are derived as they are where tensors run; their messages are compared, and their pairs counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from attnlang.parallel.dense import BLOCK, Places, alike_heads, held_blocks, multiplicity_between, scope_of
from attnlang.parallel.recipe import Recipe, recipe
from attnlang.parallel.units import units
from attnlang.plan import Lattice, Tiles
from attnlang.runtime.calls import resolve
from attnlang.runtime.pairs import band_count
from attnlang.schedule import Schedule, counted


@dataclass(frozen=True, slots=True)
class RankFacts:
    """What one rank does: pairs it computes, rows it sends and receives over all heads, own copies excluded."""

    rank: int
    pairs: int
    keys_sent: int
    keys_received: int
    queries_sent: int
    queries_received: int


@dataclass(frozen=True, slots=True)
class Simulation:
    """Facts of all ranks simulated. `str()` says them in a line."""

    ranks: tuple[RankFacts, ...]

    @property
    def pairs(self) -> int:
        """Pairs computed on all ranks."""
        return sum(facts.pairs for facts in self.ranks)

    def __str__(self) -> str:
        keys, queries = (sum(getattr(f, name) for f in self.ranks) for name in ("keys_received", "queries_received"))
        moved = f"{counted(keys, 'key row')} and {counted(queries, 'query row')} moved"
        return f"{counted(len(self.ranks), 'rank')}: {counted(self.pairs, 'pair')}, {moved}"


def simulate(schedule: Schedule, ranks: Iterable[int] | None = None) -> Simulation:
    """Derive what ranks do (all, unless given) and check it.

    Raises RuntimeError where a rank expects rows that the sender's recipe does not send, where a pair of ranks does not
    agree on how many, or where a rank is sent a row that no pair of its uses.
    """
    chosen = range(schedule.ranks) if ranks is None else list(ranks)
    recipes = {rank: recipe(schedule, rank) for rank in chosen}
    for rank, mine in recipes.items():
        _check_used(mine)
        for sender, theirs in recipes.items():
            _check_match(rank, mine, sender, theirs)
    return Simulation(tuple(_facts(schedule, mine) for mine in recipes.values()))


def _check_match(rank: int, mine: Recipe, sender: int, theirs: Recipe) -> None:
    sent = len(theirs.key_sends[rank]), len(theirs.query_sends[rank])
    expected = mine.keys_from[sender], mine.queries_from[sender]
    if sent != expected:
        raise RuntimeError(f"rank {sender} sends {sent} rows of k and of q to rank {rank}, which expects {expected}")


def _check_used(mine: Recipe) -> None:
    """Every row that arrived is in some group."""
    used_keys = {int(row) for group in (*mine.foreign_keys, *mine.gathered) for row in group.k.reshape(-1)}
    used_queries = {int(row) for group in (*mine.foreign_queries, *mine.gathered) for row in group.q.reshape(-1)}
    for what, used, count in (("k", used_keys, sum(mine.keys_from)), ("q", used_queries, sum(mine.queries_from))):
        if len(used) != count:
            raise RuntimeError(
                f"rank {mine.rank} is sent {count - len(used)} rows of {what} that none of its pairs has"
            )


def _facts(schedule: Schedule, mine: Recipe) -> RankFacts:
    groups = (*mine.own, *mine.foreign_queries, *mine.gathered, *mine.foreign_keys)
    pairs = sum(group.pairs for group in groups)
    for rows, plan in mine.local:
        calls = resolve(plan, rows.count)
        pairs += sum(band_count(call.q_len, call.k_len, call.band) * call.copies for call in calls)
        for number, branch in enumerate(plan.branches):
            tables = dict(schedule.tables)
            if isinstance(branch, Tiles) and branch.part is not None:
                pairs += _pairs_within(schedule, branch, branch.part[0] + np.arange(rows.count))
            elif isinstance(branch, Tiles):  # on one rank, which runs the plan as it is
                pairs += int(multiplicity_between(plan, number, schedule.placement, mine.rank, mine.rank, tables).sum())
    keys_out, queries_out, keys_in, queries_in = row_traffic(schedule, mine.rank)
    return RankFacts(mine.rank, pairs, keys_out, keys_in, queries_out, queries_in)


def _pairs_within(schedule: Schedule, branch: Tiles, tokens: Places) -> int:
    total = 0
    for heads in alike_heads(branch):
        scope = scope_of(schedule.plan, schedule.n, heads[0], dict(schedule.tables))
        for i, j, counts in held_blocks(branch, schedule.n, scope, tokens, tokens):
            shape = len(tokens[i : i + BLOCK]), len(tokens[j : j + BLOCK])
            total += len(heads) * int(np.broadcast_to(counts, shape).sum())
    return total


def row_traffic(schedule: Schedule, rank: int) -> tuple[int, int, int, int]:
    """Rows of k sent, of q sent, of k received and of q received by a rank, from the schedule and not from a recipe."""
    keys_out = queries_out = keys_in = queries_in = 0
    for _, transfer in schedule.peers(rank):
        keys_in += transfer.key_rows
        queries_out += transfer.query_rows
    for other in range(schedule.ranks):
        transfer = schedule.transfer(other, rank)
        if transfer is not None:
            keys_out += transfer.key_rows
            queries_in += transfer.query_rows
    for number in schedule.gathered:
        branch = schedule.plan.branches[number]
        assert isinstance(branch, Lattice)
        for unit in units(schedule.placement, branch, schedule.group, rank):
            for holder, tokens in unit.key_parts:
                keys_out += tokens.count if holder == rank != unit.owner else 0
                keys_in += tokens.count if unit.owner == rank != holder else 0
            for holder, tokens in unit.query_parts:
                queries_out += tokens.count * len(unit.heads) if holder == rank != unit.owner else 0
                queries_in += tokens.count * len(unit.heads) if unit.owner == rank != holder else 0
    return keys_out, queries_out, keys_in, queries_in
