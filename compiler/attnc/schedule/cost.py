"""How long every rank computes and talks, and what the field's fixed schemes would move instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.schedule.solution import Solution
from attnlang.parallel.machines import Device, Link
from attnlang.plan import Lattice, Plan
from attnlang.schedule import Alternative, RowBytes

Array = NDArray[Any]
TILE = 64
"""Rows of a kernel's tile, after which multiplicities of nested lattices repeat."""


@dataclass(frozen=True, eq=False, slots=True)
class Times:
    """Seconds of each rank; arrays by rank. A step is (label, start, end, lane) with lane 'compute' or 'link'."""

    steps: tuple[tuple[str, Array, Array, str], ...]
    computing: Array

    @property
    def seconds(self) -> float:
        """Until the last rank is done."""
        return float(max((end.max(initial=0.0) for _, _, end, _ in self.steps), default=0.0))

    @property
    def idle(self) -> float:
        """The share of all ranks' time in which they do not compute."""
        total = self.seconds * len(self.computing)
        return 0.0 if total == 0 else 1 - float(self.computing.sum()) / total


def times(solution: Solution, device: Device, link: Link, batch: int = 1) -> tuple[Times, Times]:
    """The forward and the backward pass, as `attnlang.parallel.rank` runs them."""
    s, dim, row = solution, solution.problem.row.head_dim, solution.problem.row
    forward = 4 * dim / device.forward * batch
    backward = 10 * dim / device.backward * batch
    own, queries, keys = s.local, s.at_key + s.owned, s.at_query
    zero = np.zeros(len(own))
    talks = (s.keys_in + s.keys_out + s.queries_in + s.queries_out) > 0
    ships = (s.queries_in + s.queries_out) > 0

    def sent(out: Array, into: Array, who: Array) -> Array:
        return np.where(who, link.latency + np.maximum(out, into) * batch / link.bandwidth, 0.0)

    gather = sent(
        s.keys_out * row.key_forward + s.queries_out * row.query_forward,
        s.keys_in * row.key_forward + s.queries_in * row.query_forward, talks,
    )  # fmt: skip
    back = sent(s.queries_in * row.query_forward_back, s.queries_out * row.query_forward_back, ships)
    t_own = device.start + own * forward
    ready = np.maximum(t_own, gather)
    t_queries = ready + queries * forward
    t_keys = t_queries + keys * forward
    t_back = np.where(ships, t_queries + back, 0.0)
    fore = Times(
        (
            ("send rows", zero, gather, "link"),
            ("own rows", zero, t_own, "compute"),
            ("queries that came", ready, t_queries, "compute"),
            ("results back", np.where(ships, t_queries, 0.0), t_back, "link"),
            ("keys that came", t_queries, t_keys, "compute"),
        ),
        (own + queries + keys) * forward,
    )
    there = sent(s.queries_out * row.query_backward, s.queries_in * row.query_backward, ships)
    b_keys = device.start + keys * backward
    b_ready = np.maximum(b_keys, there)
    b_queries = b_ready + queries * backward
    grads = sent(
        s.keys_in * row.key_backward_back + s.queries_in * row.query_backward_back,
        s.keys_out * row.key_backward_back + s.queries_out * row.query_backward_back, talks,
    )  # fmt: skip
    b_own = b_queries + own * backward
    aft = Times(
        (
            ("send gradients of results", zero, there, "link"),
            ("keys that came", zero, b_keys, "compute"),
            ("queries that came", b_ready, b_queries, "compute"),
            ("gradients back", np.where(talks, b_queries, 0.0), np.where(talks, b_queries + grads, 0.0), "link"),
            ("own rows", b_queries, b_own, "compute"),
        ),
        (own + queries + keys) * backward,
    )
    return fore, aft


def work_of(plan: Plan) -> str:
    """The kind of work of most branches, of those for which rates were measured."""
    segments = [branch for branch in plan.branches if isinstance(branch, Lattice) and branch.runs is not None]
    if 2 * len(segments) <= len(plan.branches):
        return "window"
    causal = sum(branch.band.hi == 0 for branch in segments)
    return ("causal segments" if 2 * causal > len(segments) else "segments") + " apart" * (not _nested(segments))


def _nested(segments: Sequence[Lattice]) -> bool:
    """Whether widths and dilations divide one another, within a tile: then a kernel runs all of them together."""
    shapes = sorted({(branch.runs.width, branch.dilation) for branch in segments if branch.runs is not None})
    divide = all(not b % a for one, other in pairwise(shapes) for a, b in zip(one, other, strict=True))
    return divide and all(TILE % dilation == 0 for _, dilation in shapes)


def balance(solution: Solution) -> float:
    """Mean over largest work of the ranks: 1 where all compute equally many pairs."""
    work = solution.local + solution.at_query + solution.at_key + solution.owned
    most = float(work.max(initial=0))
    return 1.0 if most == 0 else float(work.mean()) / most


def dense_schemes(n: int, ranks: int, heads: int, kv_heads: int, row: RowBytes, backward: bool) -> list[Alternative]:
    """What dense ring attention, Ulysses and an all-gather of k and v move, whatever the pattern; bytes as theirs.

    ring        k and v go round, R - 1 hops; backward they go round again, with dk and dv in the partial dtype (R hops)
    ulysses     q, k, v and out change from tokens to heads and back; backward their gradients do
    all-gather  k and v to every rank; backward again, and a reduce-scatter of dk and dv in the dtype of k
    """
    if ranks == 1:
        return []
    each = n / ranks * row.head_dim
    kv = 2 * each * kv_heads
    ring = kv * (ranks - 1) * row.item
    gather = kv * (ranks - 1) * row.item
    ulysses = (2 * heads + 2 * kv_heads) * each * row.item * (ranks - 1) / ranks
    if backward:
        ring += kv * (ranks - 1) * row.item + kv * ranks * row.partial
        gather += 2 * kv * (ranks - 1) * row.item
        ulysses *= 2
    named = (("dense ring attention", ring), ("Ulysses (dense, by head)", ulysses), ("all-gather of k and v", gather))
    return [Alternative(name, round(moved * ranks), round(moved)) for name, moved in named]
