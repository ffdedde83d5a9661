"""`Program`: a plan and the names of its runtime tables as one text, which is how an operator is told what to run.

The text is complete: a graph that torch.export has saved runs in another process. Within a process each text is read
once, and a plan that was compiled here is not read at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from attnlang.plan import Branch, Columns, Lattice, Plan


@dataclass(frozen=True, slots=True)
class Program:
    """What an operator runs.

    plan    the branches
    tables  name and number of axes of each runtime table, in the order in which their contents are given
    """

    plan: Plan
    tables: tuple[tuple[str, int], ...] = ()
    ignores_padding: bool = field(init=False, default=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ignores_padding", _ignores_padding(self.plan))

    def text(self) -> str:
        """The program as JSON; `program` gives it back."""
        data = {"plan": self.plan.to_json(), "tables": [list(table) for table in self.tables]}
        found = json.dumps(data, separators=(",", ":"))
        _KNOWN.setdefault(found, self)
        return found


_KNOWN: dict[str, Program] = {}


def program(text: str) -> Program:
    """The program that a text describes."""
    found = _KNOWN.get(text)
    if found is None:
        data = json.loads(text)
        found = _KNOWN[text] = Program(
            Plan.from_json(data["plan"]), tuple((str(name), int(axes)) for name, axes in data["tables"])
        )
    return found


def _ignores_padding(plan: Plan) -> bool:
    """Whether the tokens after a sequence change nothing in it: no query sees a later key, and no branch knows N."""
    return all(map(_looks_back, plan.branches))


def _looks_back(branch: Branch) -> bool:
    match branch:
        case Lattice(band=band):
            return band.hi is not None and band.hi <= 0
        case Columns(band=band):
            return band.hi is not None and band.hi < 0  # the band counts periods: period 0 holds later keys too
        case _:
            return False
