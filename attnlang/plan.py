"""`Plan`: how one device computes a pattern. The contract between the compiler, which writes it, and the runtime.

A plan is an ordered tuple of branches whose sum, as multiplicities, is the pattern. It holds for every length N: what
depends on N (views, launches) is derived at the call by `attnlang.runtime.calls`. Plans are plain data: frozen,
printable, and JSON both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias, cast

from attnlang.pattern.algebra import Relation, relation_text
from attnlang.pattern.library import loads
from attnlang.pattern.walk import table_axes


@dataclass(frozen=True, slots=True)
class Band:
    """lo <= d <= hi for a distance d = k - q; an open end is None. `Band(None, 0)` is causal."""

    lo: int | None = None
    hi: int | None = None

    def __contains__(self, distance: int) -> bool:
        return (self.lo is None or self.lo <= distance) and (self.hi is None or distance <= self.hi)

    def __str__(self) -> str:
        match self.lo, self.hi:
            case None, None:
                return "full"
            case None, 0:
                return "causal"
            case lo, hi:
                return f"{'' if lo is None else lo}..{'' if hi is None else hi}"

    def __and__(self, other: Band) -> Band:
        """The distances in both."""
        los = [lo for lo in (self.lo, other.lo) if lo is not None]
        his = [hi for hi in (self.hi, other.hi) if hi is not None]
        return Band(max(los, default=None), min(his, default=None))


FULL = Band()


@dataclass(frozen=True, slots=True)
class Runs:
    """Stretches of `width` positions beginning at start + j * period for every integer j, as far as 0..N-1 goes.

    `segment(w, shift=s)` is `Runs(w, w, -s % w)`. Coordinates count from a run's beginning, even if before 0.
    """

    width: int
    period: int
    start: int = 0

    def __str__(self) -> str:
        moved = f" from {self.start}" if self.start else ""
        return (
            f"segment {self.width}{moved}"
            if self.width == self.period
            else (f"runs of {self.width} every {self.period}{moved}")
        )


@dataclass(frozen=True, slots=True)
class Lattice:
    """Pairs of one run, of one residue class, at a distance in the band: a strided view, no gather and no copy.

    runs      the runs within which pairs lie, or None for the whole sequence
    dilation  q and k are congruent modulo this, counted from the run's beginning
    phases    the residue class of each head in `heads`, or None: every class, each by itself
    band      distances in tokens (its ends are multiples of the dilation, or open)
    """

    heads: tuple[int, ...]
    runs: Runs | None = None
    dilation: int = 1
    phases: tuple[int, ...] | None = None
    band: Band = FULL

    def __str__(self) -> str:
        where = "whole sequence" if self.runs is None else str(self.runs)
        spread = "" if self.dilation == 1 else f"dilation {self.dilation} {_phases_text(self)}"
        return f"{where:<24} {spread:<28} {self.band!s:<10} heads {_ranges(self.heads)}"


@dataclass(frozen=True, slots=True)
class Columns:
    """All queries with the keys whose position mod `period` is in first..last-1; the band counts whole periods.

    A pair (q, k) belongs if k % period is in range and k // period - q // period is in the band.
    """

    heads: tuple[int, ...]
    period: int
    first: int
    last: int
    band: Band = FULL

    def __str__(self) -> str:
        keys = f"keys {self.first}..{self.last - 1} of every {self.period}"
        return f"{keys:<24} {'':<28} {f'{self.band} periods':<10} heads {_ranges(self.heads)}"


@dataclass(frozen=True, slots=True)
class Tiles:
    """Pairs of any relation on the whole sequence, as often as it says: run tile by tile, of which most are empty.

    What a tile holds is derived from the relation when N, and the content of its tables, are known
    (`attnlang.runtime.blocks`).

    part  (first, N): the branch is run on a stretch only, whose position 0 is position `first` of a sequence of N, and
          holds the pairs with both ends there. None: on the whole sequence. A compiled plan has no parts; a rank's has
    """

    heads: tuple[int, ...]
    relation: Relation
    part: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{'tiles':<24} {_shortened(relation_text(self.relation), 72):<39} heads {_ranges(self.heads)}"


Branch: TypeAlias = Lattice | Columns | Tiles


@dataclass(frozen=True, slots=True)
class Plan:
    """The branches of a pattern for a number of heads, in the order in which they run."""

    heads: int
    branches: tuple[Branch, ...]
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.heads, self.branches)))

    def __hash__(self) -> int:
        """Kept, for every call of a module looks its plan up several times."""
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the hash, which another process computes anew: it goes back to texts."""
        return Plan, (self.heads, self.branches)

    @property
    def is_dense(self) -> bool:
        """Whether it is plain full or causal attention on all heads, which every attention kernel runs in one call."""
        match self.branches:
            case (Lattice(runs=None, dilation=1, band=Band(lo=None, hi=None | 0), heads=heads),):
                return heads == tuple(range(self.heads))
            case _:
                return False

    def __str__(self) -> str:
        lines = [f"{number:>3}  {branch}" for number, branch in enumerate(self.branches, 1)]
        count = f"{len(lines)} branch{'' if len(lines) == 1 else 'es'}"
        return "\n".join((f"plan for {self.heads} heads: {count}", *(line.rstrip() for line in lines)))

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON; `from_json` gives the same plan back."""
        return {"heads": self.heads, "branches": [_branch_to_json(branch) for branch in self.branches]}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Plan:
        """The plan that `to_json` described. Raises ValueError for a kind of branch that does not exist."""
        return Plan(int(data["heads"]), tuple(_branch_from_json(branch) for branch in data["branches"]))


def relation_of(text: str, tables: Sequence[str] = ()) -> Relation:
    """The relation that a text says, of what the language has built in and of the runtime tables named.

    Raises AttnError for a text with errors.
    """
    parameters = f"({', '.join(f'{name}: table' for name in tables)})" if tables else ""
    return loads(f"pattern branch{parameters} = {text}").relation


def _branch_to_json(branch: Branch) -> dict[str, Any]:
    if isinstance(branch, Tiles):
        tables = [name for name, _ in table_axes(branch.relation)]
        text = relation_text(branch.relation)
        return {"kind": "tiles", "heads": branch.heads, "relation": text, "tables": tables}
    return {"kind": type(branch).__name__.lower(), **asdict(branch)}


def _branch_from_json(data: dict[str, Any]) -> Branch:
    if data["kind"] == "tiles":
        return Tiles(tuple(data["heads"]), relation_of(data["relation"], data["tables"]))
    fields = {key: _tuples(value) for key, value in data.items() if key not in ("kind", "band", "runs")}
    band = Band(**data["band"])
    match data["kind"]:
        case "lattice":
            runs = None if data["runs"] is None else Runs(**data["runs"])
            return Lattice(**fields, runs=runs, band=band)
        case "columns":
            return Columns(**fields, band=band)
        case kind:
            raise ValueError(f"a branch is a lattice, columns or tiles, not {kind!r}")


def _tuples(value: Any) -> Any:
    return tuple(cast("list[Any]", value)) if isinstance(value, list) else value


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _ranges(numbers: Sequence[int]) -> str:
    """0-3 for 0, 1, 2, 3; up to six numbers or ranges, then dots."""
    parts: list[str] = []
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            first, last = numbers[start], numbers[i - 1]
            parts.append(str(first) if first == last else f"{first}-{last}")
            start = i
    return " ".join(parts) if len(parts) <= 6 else f"{' '.join(parts[:6])} ..."


def _phases_text(branch: Lattice) -> str:
    phases = branch.phases
    if phases is None:
        return "each class"
    if len(set(phases)) == 1:
        return f"class {phases[0]}"
    if phases == tuple(h % branch.dilation for h in branch.heads):
        return f"class h mod {branch.dilation}"
    shown = ",".join(map(str, phases[:8]))
    return f"class {shown}{'...' if len(phases) > 8 else ''} by head"
