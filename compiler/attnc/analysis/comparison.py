"""Several patterns at the same sizes, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attnc.analysis.report import Report


@dataclass(frozen=True, slots=True)
class Entry:
    """One pattern: what it is called here, and its report."""

    label: str
    report: Report


@dataclass(frozen=True, slots=True)
class Comparison:
    """Reports of several patterns at the same length, number of heads and head dimension."""

    entries: tuple[Entry, ...]

    @property
    def n(self) -> int:
        """The length that all are compared at."""
        return self.entries[0].report.n

    @property
    def heads(self) -> int:
        """The number of heads."""
        return self.entries[0].report.heads

    @property
    def head_dim(self) -> int:
        """The dimension of a head."""
        return self.entries[0].report.head_dim

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the sizes, and for every pattern its label and its report (`compare.schema.json`)."""
        return {
            "n": self.n,
            "heads": self.heads,
            "head_dim": self.head_dim,
            "patterns": [{"label": entry.label, "report": entry.report.to_dict()} for entry in self.entries],
        }


def compare(labels: Sequence[str], reports: Sequence[Report]) -> Comparison:
    """Reports side by side, under labels that differ.

    Raises ValueError if there are none, or if they are of different sizes.
    """
    sizes = {(each.n, each.heads, each.head_dim) for each in reports}
    if len(sizes) != 1:
        raise ValueError(f"reports are compared at one length, number of heads and head dimension, not at {len(sizes)}")
    if len(set(labels)) != len(labels):
        raise ValueError(f"the same pattern is given twice: {', '.join(sorted(labels))}")
    return Comparison(tuple(Entry(label, each) for label, each in zip(labels, reports, strict=True)))
