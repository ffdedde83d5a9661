"""`Schedule`: how R ranks compute a pattern on a sequence of n tokens. The contract between compiler and runtime.

A placement says which tokens each rank holds. Every pair of the pattern is computed at one of its two homes: where its
query lives, with the key's row sent there, or where its key lives, with the query's row sent there and its partial
result sent back. A `Transfer` says which for one ordered pair of ranks. Branches that are `gathered` are computed by
owners instead: each unit (a head, a residue class, a run) moves to one rank, and its result back.

Rows are local: numbers 0..count-1 of what a rank holds. Schedules are plain data: frozen, printable, JSON both ways.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from attnlang.exchanges import Exchanges
from attnlang.plan import Plan
from attnlang.rows import Rows

ITEM_SIZES: Mapping[str, int] = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Placement:
    """Which tokens each rank holds: `chunks[r]` one after another are the rows 0, 1, .. of rank r."""

    kind: str
    n: int
    chunks: tuple[tuple[Rows, ...], ...]

    @property
    def ranks(self) -> int:
        return len(self.chunks)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many rows each rank holds."""
        return tuple(sum(chunk.count for chunk in chunks) for chunks in self.chunks)

    def based(self, rank: int) -> Iterator[tuple[int, Rows]]:
        """Each chunk of a rank, with the number of its first row."""
        base = 0
        for chunk in self.chunks[rank]:
            yield base, chunk
            base += chunk.count

    def tokens(self, rank: int, rows: Rows) -> Iterator[Rows]:
        """Local rows of a rank as tokens, a progression for each chunk that they touch."""
        for base, chunk in self.based(rank):
            part = rows.within(base, base + chunk.count - 1)
            if part is not None:
                yield Rows(chunk.first + (part.first - base) * chunk.step, part.count, part.step * chunk.step)

    def local(self, rank: int, tokens: Rows) -> Rows:
        """Tokens that lie in one chunk of a rank as local rows."""
        for base, chunk in self.based(rank):
            if tokens.first in chunk and tokens.last in chunk:
                return chunk.numbered(tokens, base)
        raise ValueError(f"tokens {tokens} do not lie in one chunk of rank {rank}")

    def __str__(self) -> str:
        sizes = sorted(set(self.sizes))
        each = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        return f"{self.kind}, {each} token{'' if sizes == [1] else 's'} a rank"


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Local rows of a rank, the same of every one of these heads."""

    heads: tuple[int, ...]
    rows: Rows

    @property
    def count(self) -> int:
        """Rows over all heads."""
        return len(self.heads) * self.rows.count

    def __str__(self) -> str:
        heads = ",".join(map(str, self.heads[:8])) + ("..." if len(self.heads) > 8 else "")
        return f"rows {self.rows} of heads {heads}"


@dataclass(frozen=True, slots=True)
class Transfer:
    """How the pairs with queries at rank a and keys at rank b are computed.

    keys     rows of k and v that b sends to a: their pairs are computed at a
    queries  rows of q that a sends to b: their pairs with all other keys are computed at b
    """

    keys: tuple[HeadRows, ...]
    queries: tuple[HeadRows, ...]

    @property
    def key_rows(self) -> int:
        return sum(part.count for part in self.keys)

    @property
    def query_rows(self) -> int:
        return sum(part.count for part in self.queries)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What computing every pair at one of its two homes must move, in bytes, for this placement.

    minimum  the sum over ordered rank pairs of a vertex cover's weight: what the plan of this class moves
    bound    the sum of flows that no cover can undercut; minimum = bound proves the plan minimal
    """

    minimum: int
    bound: int

    @property
    def exact(self) -> bool:
        return self.minimum == self.bound

    @property
    def gap(self) -> float:
        """How far the cover may be above the least possible, as a fraction."""
        return 0.0 if self.exact else self.minimum / max(self.bound, 1) - 1


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to compute the same, with what it moves: in all, and at the busiest rank; and its predicted time."""

    name: str
    bytes_total: int
    bytes_busiest: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RowBytes:
    """What one row costs on the wire, in bytes for each sequence of the batch: forward and backward, there and back."""

    head_dim: int
    item: int

    @property
    def partial(self) -> int:
        """Size of a number in which partial results travel: float32, float64 for float64."""
        return 8 if self.item == 8 else 4

    @property
    def key_forward(self) -> int:
        """K and v."""
        return 2 * self.head_dim * self.item

    @property
    def query_forward(self) -> int:
        """Q."""
        return self.head_dim * self.item

    @property
    def query_forward_back(self) -> int:
        """Out and lse, partial."""
        return (self.head_dim + 1) * self.partial

    @property
    def key_backward_back(self) -> int:
        """Dk and dv, partial. k and v were kept."""
        return 2 * self.head_dim * self.partial

    @property
    def query_backward(self) -> int:
        """d_out and out, and lse. q was kept."""
        return 2 * self.head_dim * self.item + self.partial

    @property
    def query_backward_back(self) -> int:
        """dq, partial."""
        return self.head_dim * self.partial

    def key(self, backward: bool) -> int:
        """A row of k and v, in all."""
        return self.key_forward + (self.key_backward_back if backward else 0)

    def query(self, backward: bool) -> int:
        """A row of q, in all."""
        there = self.query_forward + self.query_forward_back
        return there + (self.query_backward + self.query_backward_back if backward else 0)


@dataclass(frozen=True)
class Schedule:
    """How the ranks of a placement compute a plan.

    exchanges[a]  the transfers for queries at rank a, by ranges of ranks b that hold the keys
    gathered      numbers of the branches that owners compute
    backward      whether the backward pass was counted where bytes were weighed
    tables        content of the pattern's runtime tables, as nested tuples: the schedule is for these
    """

    plan: Plan
    placement: Placement
    kv_heads: int
    head_dim: int = 64
    dtype: str = "bfloat16"
    backward: bool = True
    transfers: tuple[Transfer, ...] = ()
    exchanges: Exchanges = field(default_factory=Exchanges)
    gathered: tuple[int, ...] = ()
    tables: tuple[tuple[str, Any], ...] = ()
    pattern: str = ""
    certificate: Certificate = Certificate(0, 0)
    choices: tuple[str, ...] = field(default=(), compare=False)
    rejected: tuple[Alternative, ...] = field(default=(), compare=False)
    others: tuple[Alternative, ...] = field(default=(), compare=False)

    @property
    def n(self) -> int:
        return self.placement.n

    @property
    def ranks(self) -> int:
        return self.placement.ranks

    @property
    def heads(self) -> int:
        return self.plan.heads

    @property
    def group(self) -> int:
        """How many heads of q share one of k and v."""
        return self.plan.heads // self.kv_heads

    @property
    def row_bytes(self) -> RowBytes:
        return RowBytes(self.head_dim, ITEM_SIZES[self.dtype])

    def transfer(self, a: int, b: int) -> Transfer | None:
        """The transfer for queries at a and keys at b; None where nothing moves between them."""
        number = self.exchanges.transfer(a, b) if self.exchanges else None
        return None if number is None else self.transfers[number]

    def peers(self, a: int) -> Iterator[tuple[int, Transfer]]:
        """Every rank b, in order, with which queries of a have something to do, and the transfer."""
        for exchange in self.exchanges[a] if self.exchanges else ():
            for b in range(exchange.first, exchange.last + 1):
                yield b, self.transfers[exchange.transfer]

    @cached_property
    def digest(self) -> str:
        """A fingerprint of everything that ranks must agree on."""
        return hashlib.sha256(json.dumps(self._essence(), sort_keys=True).encode()).hexdigest()[:16]

    def _essence(self) -> dict[str, Any]:
        return {
            "plan": self.plan.to_json(),
            "placement": {
                "kind": self.placement.kind,
                "n": self.n,
                "chunks": [[_rows_json(chunk) for chunk in chunks] for chunks in self.placement.chunks],
            },
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "dtype": self.dtype,
            "backward": self.backward,
            "transfers": [
                {"keys": _head_rows_json(t.keys), "queries": _head_rows_json(t.queries)} for t in self.transfers
            ],
            "exchanges": [list(map(list, of_rank)) for of_rank in self.exchanges],
            "gathered": list(self.gathered),
            "tables": dict(self.tables),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON; `from_json` gives the same schedule back."""
        return {
            "pattern": self.pattern,
            **self._essence(),
            "certificate": {"minimum": self.certificate.minimum, "bound": self.certificate.bound},
            "choices": list(self.choices),
            "rejected": [asdict(a) for a in self.rejected],
            "others": [asdict(a) for a in self.others],
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Schedule:
        """The schedule that `to_json` described."""
        placement = data["placement"]
        chunks = tuple(tuple(Rows(*rows) for rows in of_rank) for of_rank in placement["chunks"])
        return Schedule(
            Plan.from_json(data["plan"]),
            Placement(placement["kind"], placement["n"], chunks),
            data["kv_heads"],
            data["head_dim"],
            data["dtype"],
            data["backward"],
            tuple(Transfer(_head_rows(t["keys"]), _head_rows(t["queries"])) for t in data["transfers"]),
            Exchanges.of(data["exchanges"]),
            tuple(data["gathered"]),
            tuple((name, _tuples(content)) for name, content in data["tables"].items()),
            data["pattern"],
            Certificate(**data["certificate"]),
            tuple(data["choices"]),
            tuple(Alternative(**a) for a in data["rejected"]),
            tuple(Alternative(**a) for a in data["others"]),
        )

    def __str__(self) -> str:
        where = f"on {counted(self.ranks, 'rank')}: {self.placement}"
        lines = [f"schedule of {self.pattern or 'a plan'} for n = {self.n:,} {where}"]
        for number, branch in enumerate(self.plan.branches):
            choice = self.choices[number] if number < len(self.choices) else ""
            lines.append(f"{number + 1:>3}  {' '.join(str(branch).split())}: {choice}".rstrip(": "))
        return "\n".join(lines)


def counted(number: int, what: str, ending: str = "s") -> str:
    """A number of things: `1 rank`, `4,096 ranks`."""
    return f"{number:,} {what}{'' if number == 1 else ending}"


def _rows_json(rows: Rows) -> list[int]:
    return [rows.first, rows.count, rows.step]


def _head_rows_json(parts: tuple[HeadRows, ...]) -> list[Any]:
    return [[list(part.heads), _rows_json(part.rows)] for part in parts]


def _head_rows(data: list[Any]) -> tuple[HeadRows, ...]:
    return tuple(HeadRows(tuple(heads), Rows(*rows)) for heads, rows in data)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value
