"""`Report`: what a pattern costs at a length, exactly, and what the compiler will run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnc.analysis.counting import bag_count, distinct_count, inclusion_exclusion
from attnc.analysis.formula import Formula, formula, text
from attnc.lower import lower
from attnc.lower.lowering import head_pieces
from attnc.lower.pieces import Inexpressible, Piece
from attnlang.diagnostics import AttnError
from attnlang.pattern import Pattern
from attnlang.pattern.expr import Known
from attnlang.pattern.pattern import value_text
from attnlang.pattern.tables import check_names
from attnlang.pattern.walk import require_layer
from attnlang.plan import Plan
from attnlang.runtime.work import pairs_computed

FORWARD_FLOPS = 4
"""Per pair and head dimension: two products of 2 FLOPs each, q k and p v."""
BACKWARD_FLOPS = 10
"""The same for the backward: five products, one of which computes the scores again."""
MAX_ENUMERATED = 2**27
"""How many entries of a multiplicity are counted one by one, where no better way is known."""


@dataclass(frozen=True, slots=True)
class HeadPairs:
    """Pairs of one head: counted with multiplicity, and counted once."""

    bag: int
    distinct: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about a pattern at length n with `heads` heads of `head_dim`. Counts are exact.

    formula  bag pairs of all heads as a function of N; None where the pattern is not made of lattices
    plan     what backend sdpa runs; None where it cannot
    why      one sentence on the choice of backend
    tables   the content of runtime tables that was counted
    """

    pattern: Pattern
    n: int
    heads: int
    head_dim: int
    per_head: tuple[HeadPairs, ...]
    formula: Formula | None
    distinct_formula: Formula | None
    plan: Plan | None
    why: str
    tables: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    @property
    def bag(self) -> int:
        """Pairs of all heads, with multiplicity."""
        return sum(pairs.bag for pairs in self.per_head)

    @property
    def distinct(self) -> int:
        """Pairs of all heads, each once."""
        return sum(pairs.distinct for pairs in self.per_head)

    @property
    def dense(self) -> int:
        """Pairs of dense attention: N^2 for every head."""
        return self.heads * self.n**2

    @property
    def forward_flops(self) -> int:
        """FLOPs of a forward over the bag."""
        return FORWARD_FLOPS * self.head_dim * self.bag

    @property
    def backward_flops(self) -> int:
        """FLOPs of a backward over the bag, one recomputation counted."""
        return BACKWARD_FLOPS * self.head_dim * self.bag

    @property
    def executed_forward_flops(self) -> int | None:
        """FLOPs that the sdpa backend's launches compute on cpu, edge tiles included."""
        if self.plan is None:
            return None
        return FORWARD_FLOPS * self.head_dim * pairs_computed(self.plan, self.n, self.tables)

    @property
    def memory_bytes(self) -> int:
        """Bytes that a forward in bfloat16 holds: q, k, v and out, and the float32 accumulators of out and lse."""
        return self.heads * self.n * (4 * 2 * self.head_dim + 4 * self.head_dim + 4)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        return {
            "pattern": self.pattern.name,
            "parameters": {name: _plain(value) for name, value in self.pattern.parameters},
            "n": self.n,
            "heads": self.heads,
            "head_dim": self.head_dim,
            "pairs": {
                "bag": self.bag,
                "distinct": self.distinct,
                "dense": self.dense,
                "per_head": [{"bag": pairs.bag, "distinct": pairs.distinct} for pairs in self.per_head],
            },
            "flops": {
                "forward": self.forward_flops,
                "backward": self.backward_flops,
                "executed_forward": self.executed_forward_flops,
                "dense_forward": FORWARD_FLOPS * self.head_dim * self.dense,
            },
            "density": self.distinct / self.dense if self.dense else 0.0,
            "formula": None if self.formula is None else _formula_dict(self.formula),
            "distinct_formula": None if self.distinct_formula is None else _formula_dict(self.distinct_formula),
            "diagnostics": [],
            "plan": {
                "backend": "reference" if self.plan is None else "sdpa",
                "branches": [] if self.plan is None else self.plan.to_json()["branches"],
                "why": self.why,
            },
            "memory_bytes": self.memory_bytes,
        }


def _plain(value: Known) -> Any:
    """A parameter for JSON; one that depends on N, H or h as text."""
    return value if isinstance(value, int | tuple) else value_text(value)


def _formula_dict(found: Formula) -> dict[str, Any]:
    import sympy

    return {
        "pairs": text(found.pairs),
        "latex": sympy.latex(found.pairs),
        "complexity": found.complexity,
        "assumptions": list(found.assumptions),
    }


def report(pattern: Pattern, n: int, heads: int, head_dim: int, tables: Mapping[str, Any] | None = None) -> Report:
    """Count, put into a formula, and plan; `tables` gives the content of runtime tables.

    Raises AttnError for a pattern that fails at these sizes, or that is made of
    no lattices and too large to count pair by pair.
    """
    require_layer(pattern.relation)
    given = dict(tables or {})
    check_names(pattern.tables, given, f"pattern {pattern.name}")
    plan = lower(pattern, heads)
    try:
        by_head = [tuple(head_pieces(pattern, head, heads)) for head in range(heads)]
    except AttnError as reason:
        return _enumerated(pattern, n, heads, head_dim, given, plan, reason)
    try:
        per_head = tuple(HeadPairs(bag_count(pieces, n), distinct_count(pieces, n)) for pieces in by_head)
        distinct = _distinct_formula(by_head)
    except Inexpressible:
        enumerated = _count_one_by_one(pattern, n, heads, given)
        if enumerated is None:
            raise
        per_head, distinct = enumerated, None
    bag = formula([piece for pieces in by_head for piece in pieces], lambda n: sum(bag_count(p, n) for p in by_head))
    why = "every branch is a strided view, so torch's own attention kernels run it without a mask or a copy"
    return Report(pattern, n, heads, head_dim, per_head, bag, distinct, plan, why)


def _distinct_formula(by_head: list[tuple[Piece, ...]]) -> Formula:
    pieces = [piece for head in by_head for _, piece in inclusion_exclusion(head)]
    return formula(pieces, lambda n: sum(distinct_count(head, n) for head in by_head))


def _enumerated(
    pattern: Pattern, n: int, heads: int, head_dim: int, tables: dict[str, Any], plan: Plan, reason: AttnError
) -> Report:
    """The report of a pattern that is no sum of lattices: counted pair by pair."""
    per_head = _count_one_by_one(pattern, n, heads, tables)
    if per_head is None:
        raise reason
    why = "what is no strided view runs tile by tile, and tiles without pairs are skipped; counted pair by pair"
    return Report(pattern, n, heads, head_dim, per_head, None, None, plan, why, tables)


def _count_one_by_one(pattern: Pattern, n: int, heads: int, tables: dict[str, Any]) -> tuple[HeadPairs, ...] | None:
    if heads * n * n > MAX_ENUMERATED:
        return None
    m = pattern.multiplicity(n, heads, **tables)
    return tuple(HeadPairs(int(head.sum()), int((head > 0).sum())) for head in m)
