"""`Report`: what a pattern costs at a length, exactly, and what the compiler will run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from attnc.analysis.counting import bag_count, distinct_count, inclusion_exclusion
from attnc.analysis.dependency import Dependency, dependency
from attnc.analysis.formula import Formula, formula, text
from attnc.analysis.hardware import GPUS, Gpu, Roofline, gpu_named, roofline
from attnc.analysis.lints import lints
from attnc.lower.lowering import head_pieces, lower
from attnc.lower.pieces import Inexpressible, Piece
from attnlang.diagnostics import AttnError, Diagnostic, to_json
from attnlang.pattern import Pattern
from attnlang.pattern.expr import Known
from attnlang.pattern.pattern import value_text
from attnlang.pattern.tables import check_names
from attnlang.pattern.walk import require_layer
from attnlang.plan import Plan
from attnlang.runtime.calls import resolve
from attnlang.runtime.tiles import tiles

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
    dependency   how information travels through layers of it; None where it was not asked for
    diagnostics  what is legal and hardly meant, at these sizes
    gpu      whose roofline is given
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
    dependency: Dependency | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    gpu: Gpu = GPUS["h100"]

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
        computed = sum(part.pairs_computed for call in resolve(self.plan, self.n) for part in tiles(call))
        return FORWARD_FLOPS * self.head_dim * computed

    @property
    def memory_bytes(self) -> int:
        """Bytes that a forward in bfloat16 holds: q, k, v and out, and the float32 accumulators of out and lse."""
        return self.heads * self.n * (4 * 2 * self.head_dim + 4 * self.head_dim + 4)

    @property
    def backward_memory_bytes(self) -> int:
        """Bytes that a backward in bfloat16 holds: those of q, k, v, out, d_out and lse, and float32 dq, dk, dv."""
        return self.heads * self.n * (5 * 2 * self.head_dim + 4 + 3 * 4 * self.head_dim)

    @property
    def forward_roofline(self) -> Roofline:
        """The least time of a forward in bfloat16: q, k and v read once, out and lse written once."""
        return roofline(self.forward_flops, self.heads * self.n * (4 * 2 * self.head_dim + 4), self.gpu)

    @property
    def backward_roofline(self) -> Roofline:
        """The least time of a backward: q, k, v, out, d_out and lse read once, dq, dk and dv written once."""
        return roofline(self.backward_flops, self.heads * self.n * (8 * 2 * self.head_dim + 4), self.gpu)

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
            "dependency": None if self.dependency is None else self.dependency.to_dict(),
            "diagnostics": [to_json(each) for each in self.diagnostics],
            "plan": {
                "backend": "reference" if self.plan is None else "sdpa",
                "branches": [] if self.plan is None else self.plan.to_json()["branches"],
                "why": self.why,
            },
            "memory_bytes": self.memory_bytes,
            "backward_memory_bytes": self.backward_memory_bytes,
            "hardware": {
                "gpu": self.gpu.name,
                "source": self.gpu.source,
                "forward": self.forward_roofline.to_dict(),
                "backward": self.backward_roofline.to_dict(),
            },
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


def report(
    pattern: Pattern,
    n: int,
    heads: int,
    head_dim: int,
    tables: Mapping[str, Any] | None = None,
    *,
    with_dependency: bool = False,
    gpu: str = "h100",
    progress: Callable[[str], None] = lambda what: None,
) -> Report:
    """Everything about a pattern at these sizes; `tables` gives the content of runtime tables.

    Raises AttnError for a pattern that fails at these sizes, or that cannot be counted.
    """
    chosen = gpu_named(gpu)
    progress("counting pairs")
    found = _cost(pattern, n, heads, head_dim, tables)
    how = dependency(pattern, n, heads, tables, progress) if with_dependency else None
    findings = lints(pattern, found.plan, found.bag, found.distinct, how)
    return replace(found, dependency=how, diagnostics=tuple(findings), gpu=chosen)


def _cost(pattern: Pattern, n: int, heads: int, head_dim: int, tables: Mapping[str, Any] | None) -> Report:
    """Count, put into a formula, and plan.

    Raises AttnError for a pattern that fails at these sizes, or that is made of
    no lattices and too large to count pair by pair.
    """
    require_layer(pattern.relation)
    given = dict(tables or {})
    check_names(pattern.tables, given, f"pattern {pattern.name}")
    try:
        plan = lower(pattern, heads)
    except AttnError as reason:
        return _enumerated(pattern, n, heads, head_dim, given, reason)
    by_head = [tuple(head_pieces(pattern, head, heads)) for head in range(heads)]
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
    pattern: Pattern, n: int, heads: int, head_dim: int, tables: dict[str, Any], reason: AttnError
) -> Report:
    """The report of a pattern that is no sum of lattices: counted pair by pair, run by `reference`."""
    per_head = _count_one_by_one(pattern, n, heads, tables)
    if per_head is None:
        raise reason
    why = "it is not made of lattices, so only backend reference runs it, densely; counted pair by pair"
    return Report(pattern, n, heads, head_dim, per_head, None, None, None, why, tables)


def _count_one_by_one(pattern: Pattern, n: int, heads: int, tables: dict[str, Any]) -> tuple[HeadPairs, ...] | None:
    if heads * n * n > MAX_ENUMERATED:
        return None
    m = pattern.multiplicity(n, heads, **tables)
    return tuple(HeadPairs(int(head.sum()), int((head > 0).sum())) for head in m)
