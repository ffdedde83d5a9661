"""`Report`: what a pattern costs at a length, exactly, and what the compiler will run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from attnc.analysis.boxes import Counter, TooManyError
from attnc.analysis.counting import bag_count, distinct_count, inclusion_exclusion
from attnc.analysis.dependency import Dependency, dependency, is_quick
from attnc.analysis.formula import Formula, fitted, formula, text, unfit
from attnc.analysis.general import General, general
from attnc.analysis.hardware import GPUS, Gpu, Roofline, gpu_named, roofline
from attnc.analysis.lints import lints
from attnc.analysis.pairs import ByHead, HeadPairs, PairCounts, count_pairs, pieces_by_head
from attnc.lower import lower
from attnc.lower.pieces import Inexpressible
from attnlang.diagnostics import Diagnostic, to_json
from attnlang.pattern import Pattern
from attnlang.pattern.expr import Known
from attnlang.pattern.pattern import value_text
from attnlang.pattern.tables import check_names
from attnlang.pattern.walk import require_layer
from attnlang.plan import Plan, Tiles
from attnlang.runtime.work import pairs_computed

MOST_TILED = 65_536
"""The longest sequence whose tiles a report looks at."""
FORWARD_FLOPS = 4
"""Per pair and head dimension: two products of 2 FLOPs each, q k and p v."""
BACKWARD_FLOPS = 10
"""The same for the backward: five products, one of which computes the scores again."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about a pattern at length n with `heads` heads of `head_dim`.

    pairs    the pairs of every head; exact, or upper bounds, as `pairs.basis` says
    formula  bag pairs of all heads as a function of N; None where they are none, and `no_formula` says why
    distinct_formula  the same for pairs counted once
    general  the bag of one head with widths and dilations as symbols, where the structure allows it
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
    pairs: PairCounts
    formula: Formula | None
    distinct_formula: Formula | None
    no_formula: str
    general: General | None
    plan: Plan
    why: str
    tables: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    dependency: Dependency | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    gpu: Gpu = GPUS["h100"]

    @property
    def per_head(self) -> tuple[HeadPairs, ...]:
        """The pairs of every head."""
        return self.pairs.per_head

    @property
    def bag(self) -> int:
        """Pairs of all heads, with multiplicity."""
        return self.pairs.bag

    @property
    def distinct(self) -> int:
        """Pairs of all heads, each once."""
        return self.pairs.distinct

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
        """FLOPs that the sdpa backend's launches compute on cpu, edge tiles included.

        None where it runs tiles and these are not known (tables that are not given) or too many to look at here.
        """
        tiled = any(isinstance(branch, Tiles) for branch in self.plan.branches)
        if tiled and (self.n > MOST_TILED or (self.pattern.tables and not self.tables)):
            return None
        return FORWARD_FLOPS * self.head_dim * pairs_computed(self.plan, self.n, self.tables)

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
                "basis": self.pairs.basis,
                "method": self.pairs.method,
                "reason": self.pairs.reason,
                "per_head": [
                    {"bag": head.bag, "distinct": head.distinct, "exact": head.exact} for head in self.per_head
                ],
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
            "no_formula": self.no_formula,
            "general": None if self.general is None else self.general.to_dict(),
            "dependency": None if self.dependency is None else self.dependency.to_dict(),
            "diagnostics": [to_json(each) for each in self.diagnostics],
            "plan": {
                "backend": "sdpa",
                "branches": self.plan.to_json()["branches"],
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
        "leading": text(found.leading_term),
        "assumptions": list(found.assumptions),
        "basis": found.basis,
    }


def report(
    pattern: Pattern,
    n: int,
    heads: int,
    head_dim: int,
    tables: Mapping[str, Any] | None = None,
    *,
    with_dependency: bool | None = False,
    gpu: str = "h100",
    progress: Callable[[str], None] = lambda what: None,
) -> Report:
    """Everything about a pattern at these sizes; `tables` gives the content of runtime tables.

    A pattern whose tables are not given is counted whatever they hold: an upper bound. `with_dependency=None` leaves
    the dependency out where it would need a long search, or the content of tables that are not given.

    Raises AttnError for a pattern that fails at these sizes, ValueError for tables that do not fit.
    """
    chosen = gpu_named(gpu)
    require_layer(pattern.relation)
    given = dict(tables or {})
    if given:
        check_names(pattern.tables, given, f"pattern {pattern.name}")
    progress("counting pairs")
    found = replace(_cost(pattern, n, heads, head_dim, given), gpu=chosen)
    if with_dependency is None:
        with_dependency = bool(given or not pattern.tables) and is_quick(pattern, n, heads)
    how = dependency(pattern, n, heads, given, progress) if with_dependency else None
    progress("looking for what is hardly meant")
    distinct = found.distinct if found.pairs.exact else None
    findings = lints(pattern, n, heads, found.bag, distinct, how)
    return replace(found, dependency=how, diagnostics=tuple(findings))


def _cost(pattern: Pattern, n: int, heads: int, head_dim: int, tables: dict[str, Any]) -> Report:
    """Count, put into a formula, and plan."""
    by_head = pieces_by_head(pattern, heads)
    pairs = count_pairs(pattern, n, heads, tables, by_head)
    bag, distinct = _formulas(pattern, n, heads, by_head)
    none = "" if bag is not None else unfit(pattern) or "its counts follow none of the forms that are tried"
    plan = lower(pattern, heads)
    return Report(pattern, n, heads, head_dim, pairs, bag, distinct, none, general(plan), plan, _why(plan), tables)


def _why(plan: Plan) -> str:
    """One sentence on what the plan makes the sdpa backend do."""
    tiled = [isinstance(branch, Tiles) for branch in plan.branches]
    if not any(tiled):
        return "every branch is a strided view, so torch's own attention kernels run it without a mask or a copy"
    rest = "the rest runs" if not all(tiled) else "it runs"
    views = "strided views run in torch's own attention kernels; " if not all(tiled) else ""
    return f"{views}{rest} tile by tile, where tiles without pairs are skipped and masks are kept for edge tiles only"


def _formulas(pattern: Pattern, n: int, heads: int, by_head: ByHead | None) -> tuple[Formula | None, Formula | None]:
    """Of the bag, and of the pairs counted once."""
    if by_head is not None and (found := _of_pieces(by_head)) is not None:
        if found[0].least <= max(n, 4 * found[0].multiple):
            return found
        near = _fitted(pattern, n, heads, by_head)  # it only holds far beyond n: what holds at n says more
        return near if None not in near else found
    return _fitted(pattern, n, heads, by_head)


def _of_pieces(by_head: ByHead) -> tuple[Formula, Formula] | None:
    try:
        signed = [piece for head in by_head for _, piece in inclusion_exclusion(head)]
    except Inexpressible:
        return None
    pieces = [piece for head in by_head for piece in head]
    bag = formula(pieces, lambda n: sum(bag_count(head, n) for head in by_head))
    return bag, formula(signed, lambda n: sum(distinct_count(head, n) for head in by_head))


def _fitted(pattern: Pattern, n: int, heads: int, by_head: ByHead | None) -> tuple[Formula | None, Formula | None]:
    if unfit(pattern):
        return None, None
    counter, known = Counter({}), dict[int, PairCounts]()

    def counted(length: int) -> PairCounts:
        if length not in known:
            known[length] = count_pairs(pattern, length, heads, None, by_head, counter)
        if not known[length].exact:
            raise TooManyError(known[length].reason)
        return known[length]

    bag = fitted(pattern, heads, lambda length: counted(length).bag, n)
    return bag, fitted(pattern, heads, lambda length: counted(length).distinct, n)
