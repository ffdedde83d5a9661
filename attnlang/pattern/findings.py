"""What the checker reports, in words: one method a kind of fault."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice

from attnlang import codes
from attnlang.diagnostics import Diagnostic, Label
from attnlang.pattern.kinds import BOOLEAN, RELATION, Kind
from attnlang.source import Span
from attnlang.syntax import tree
from attnlang.syntax.printer import expression_text

MAX_HINTS = 30
"""How many unknown names of a file get a `did you mean`."""
MAX_CANDIDATES = 2000
"""How many names are compared with an unknown one."""


@dataclass
class Findings:
    """Collects diagnostics."""

    diagnostics: list[Diagnostic] = field(default_factory=list[Diagnostic])
    _hints: int = 0

    def did_you_mean(self, name: str, candidates: Iterable[str], least: float) -> str | None:
        """A hint at the nearest of some names, if one is near. Only so many are looked for: that takes its time."""
        self._hints += 1
        if self._hints > MAX_HINTS:
            return None
        close = get_close_matches(name, list(islice(candidates, MAX_CANDIDATES)), 1, least)
        return f"did you mean `{close[0]}`?" if close else None

    def no_position(self, name: str, span: Span, here: frozenset[str]) -> None:
        if here:
            known = " and ".join(f"`{other}`" for other in sorted(here, reverse=True))
            label = f"the position{'s are' if len(here) > 1 else ' is'} {known} here"
        else:
            label = f"`{name}` of what?"
        help_ = "`pos` has a value in `key(...)`, `query(...)` and `same(...)`; `q` and `k` have one in `pairs(...)`"
        self.report(codes.UNKNOWN_NAME, "no such position is meant here", span, label, help=help_)

    def report(
        self,
        code: str,
        message: str,
        span: Span,
        label: str,
        help: str | None = None,  # noqa: A002 - rustc's word
        others: tuple[Label, ...] = (),
    ) -> None:
        self.diagnostics.append(Diagnostic(code, message, span, label, others, help))

    def warn(self, code: str, message: str, span: Span, label: str) -> None:
        self.diagnostics.append(Diagnostic(code, message, span, label, severity="warning"))

    def built_in(self, name: str, span: Span) -> None:
        self.report(
            codes.BUILT_IN_NAME, f"`{name}` is built in", span, "cannot be defined anew", help="choose another name"
        )

    def wrong_kind(self, node: tree.Expr, found: Kind, wanted: Kind, what: str) -> None:
        hint = None
        if wanted == RELATION and found == BOOLEAN:
            text = expression_text(node)
            hint = f"`key({text})` or `query({text})` make a relation of a condition on positions"
        self.report(codes.WRONG_KIND, f"{what} must be {wanted.a}", node.span, f"is {found.a}", help=hint)

    def unknown_keyword(self, node: tree.Call, argument: tree.Keyword, names: list[str]) -> None:
        known = f"it takes {', '.join(f'`{name}`' for name in names)}" if names else "it takes no names"
        hint = self.did_you_mean(argument.name, names, 0.5) or known
        message = f"`{node.name}` has no parameter `{argument.name}`"
        self.report(codes.WRONG_ARGUMENTS, message, argument.span, "not known", help=hint)

    def too_many(self, node: tree.Call, argument: tree.Node, allowed: int) -> None:
        count = (
            "no arguments" if allowed == 0 else f"at most {allowed} argument{'s' if allowed > 1 else ''} by position"
        )
        self.report(codes.WRONG_ARGUMENTS, f"`{node.name}` takes {count}", argument.span, "one too many")

    def missing(self, node: tree.Call, names: list[str]) -> None:
        listed = " and ".join(f"`{name}`" for name in names)
        self.report(codes.WRONG_ARGUMENTS, f"`{node.name}` needs {listed}", node.span, "missing")
