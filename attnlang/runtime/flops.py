"""What torch.utils.flop_counter is told of the operators: the same count as `attnc report` gives as executed FLOPs.

Two products of 2 FLOPs each for a pair and head dimension forwards, five backwards, one of which computes the scores
again. Pairs are those that the plan's calls and tiles compute, edges included, whatever backend runs them;
with fewer queries than keys, those of the queries that are there.

A counter always sees the operators, also where a plan is otherwise a call of torch's own (`attnlang.runtime.direct`),
which torch would count as if causal attention were full: with a dispatch mode on, torch.compile's graphs are not run.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attnlang.runtime.batches import work
from attnlang.runtime.program import program
from attnlang.runtime.work import pairs_computed

FORWARD = 4
BACKWARD = 10


def forward_flops(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: list[Tensor],
    lengths: Tensor | None,
    backend: str,
    program_text: str,
    scale: float | None,
    **_: Any,
) -> int:
    """FLOPs of one `attnlang::forward`."""
    return FORWARD * q.size(-1) * _pairs(q, k, tables, lengths, program_text)


def backward_flops(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    tables: list[Tensor],
    lengths: Tensor | None,
    backend: str,
    program_text: str,
    scale: float | None,
    **_: Any,
) -> int:
    """FLOPs of one `attnlang::backward`."""
    return BACKWARD * q.size(-1) * _pairs(q, k, tables, lengths, program_text)


def _pairs(q: Tensor, k: Tensor, tables: list[Tensor], lengths: Tensor | None, program_text: str) -> int:
    if not q.numel():
        return 0
    what = program(program_text)
    count = 0
    for piece in work(what, q.size(0), k.size(2), tables, lengths):
        content = {name: table.cpu().numpy() for name, table in piece.tables.items()}
        count += (piece.last - piece.first) * pairs_computed(what.plan, piece.n, content, k.size(2) - q.size(2))
    return count
