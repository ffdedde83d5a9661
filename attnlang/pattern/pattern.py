"""`Pattern`: a relation with its name, parameters and source. What users hold, print and compile."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

from attnlang.pattern.algebra import Relation, relation_text
from attnlang.pattern.expr import Known
from attnlang.pattern.tables import Content, contents
from attnlang.source import Source
from attnlang.syntax import tree
from attnlang.syntax.printer import expression_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Pattern:
    """A multiplicity m(h, q, k) for every number of heads and every length.

    Attention under it is  out[q, h] = sum_k m e^s v_k / sum_k m e^s  with  s = scale * <q, k>.
    Made by `attnlang.load` and `attnlang.loads`.

    parameters  name and value of each; a value that depends on N, H or h is an expression
    tables      name and number of axes of each runtime table
    within      a relation that holds every pair, as the pattern claims; `attnc check` proves it
    imports     path and text of each file that the source imports, directly or not
    """

    name: str
    relation: Relation
    parameters: tuple[tuple[str, Known], ...] = ()
    tables: tuple[tuple[str, int], ...] = ()
    within: Relation | None = None
    imports: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)
    source: Source = field(default=Source("<built in>", ""), compare=False, repr=False)
    doc: str = field(default="", compare=False, repr=False)

    def multiplicity(self, n: int, heads: int, **tables: ArrayLike) -> NDArray[np.int32]:
        """How often each pair counts: an int32 array (heads, n, n), indexed [head, query, key].

        The oracle: computed straight from the definition of every form, for n of some thousands at most.

        `tables` gives the content of each runtime table by name: an array of integers with as many axes as the
        pattern gives it indices.

        Raises ValueError for n < 0, heads < 1, an array of more than 2^31 entries, or tables that are missing or do
        not fit; AttnError where the pattern has no meaning at this size.
        """
        from attnlang.pattern.oracle import multiplicity

        if not (isinstance(n, SupportsIndex) and isinstance(heads, SupportsIndex)):  # pyright: ignore[reportUnnecessaryIsInstance] - not everyone checks types
            raise ValueError(f"n and heads must be integers, not n = {n!r} and heads = {heads!r}")
        n, heads = index(n), index(heads)
        if n < 0 or heads < 1:
            raise ValueError(f"n must be at least 0 and heads at least 1, not n = {n} and heads = {heads}")
        return multiplicity(self.relation, n, heads, contents(self.tables, tables, f"pattern {self.name}"))

    @property
    def call(self) -> str:
        """Name and parameters as a call: `longnet(segments=[2048, 4096], dilations=[1, 2])`."""
        given = ", ".join(f"{name}={value_text(value)}" for name, value in self.parameters)
        return f"{self.name}({given})" if given else self.name

    @property
    def summary(self) -> str:
        """The first sentence of the documentation, without its sources: what `attnc list` shows."""
        sentence = re.split(r"(?<!\.)\. ", " ".join(self.doc.split()), maxsplit=1)[0]
        return re.sub(r" \([^()]*(?:\([^()]*\)[^()]*)*\)", _without_sources, sentence).rstrip(".")

    def __str__(self) -> str:
        body = textwrap.fill(relation_text(self.relation), 112, subsequent_indent="        ", break_long_words=False)
        return f"{self.call}\n    = {body}"


def _without_sources(parenthesis: re.Match[str]) -> str:
    """A remark in parentheses, or nothing where it names a paper or a file."""
    return "" if re.search(r"arXiv|\.py\b|/", parenthesis.group()) else parenthesis.group()


def value_text(value: Known) -> str:
    """A value as the language writes it."""
    if isinstance(value, Content):
        return value.name
    if isinstance(value, tree.Node):
        return expression_text(value)
    return f"[{', '.join(map(value_text, value))}]" if isinstance(value, tuple) else str(value)
