"""The compiler as Python functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex

from attnlang.pattern import Pattern, load
from attnlang.pattern.kinds import Argument

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from attnc.analysis.dependency import Dependency
    from attnc.analysis.report import Report
    from attnlang.nn import PatternAttention
    from attnlang.schedule import Schedule


def _pattern(pattern: Pattern | str | Path, params: dict[str, Argument]) -> Pattern:
    if isinstance(pattern, Pattern):
        if params:
            raise ValueError(
                f"{pattern.name} is a pattern already: give parameters ({', '.join(params)}) to attnlang.load"
            )
        return pattern
    return load(pattern, **params)


def whole_number(name: str, value: object, least: int) -> None:
    """Raise ValueError unless the value is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or index(value) < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")


def compile(  # noqa: A001 - the field's word for it
    pattern: Pattern | str | Path, *, heads: int, backend: str = "auto", **params: Argument
) -> PatternAttention:
    """A torch module that computes attention under a pattern.

    pattern  a Pattern, a library name, a file, or file:name; parameters of the pattern by keyword
    heads    the number of query heads
    backend  'auto' (chosen by the device of the inputs), or a backend by name: see `attnlang.nn.PatternAttention`

    The module is called as `module(q, k, v)` with (B, H, N, D) tensors; see `attnlang.nn.PatternAttention`.
    Raises AttnError for a faulty pattern or one that the backend cannot run, ValueError for unsuitable arguments.
    """
    from attnc.lower import lower
    from attnlang.nn import PatternAttention, backend_name

    found = _pattern(pattern, params)
    chosen = backend_name(backend)
    whole_number("heads", heads, 1)
    return PatternAttention(found, None if chosen == "reference" else lower(found, heads), heads, chosen)


def report(
    pattern: Pattern | str | Path,
    *,
    n: int,
    heads: int = 12,
    head_dim: int = 64,
    tables: Mapping[str, ArrayLike] | None = None,
    dependency: bool | None = True,
    gpu: str = "h100",
    **params: Argument,
) -> Report:
    """What a pattern costs at length n, and how information travels through it. See `attnc.analysis.report.Report`.

    `tables` gives the content of runtime tables by name; without it counts are upper bounds over all contents. `gpu`
    is the GPU whose roofline is wanted. Without `dependency` the report takes a blink; with it, seconds at tens of
    thousands of tokens; None includes it where it needs no long search. Raises AttnError for a faulty pattern,
    ValueError for sizes out of range and tables that do not fit.
    """
    from attnc.analysis.report import report as analyse

    for name, value, least in (("n", n, 0), ("heads", heads, 1), ("head_dim", head_dim, 1)):
        whole_number(name, value, least)
    return analyse(_pattern(pattern, params), n, heads, head_dim, tables, with_dependency=dependency, gpu=gpu)


def dependency(
    patterns: Pattern | str | Path | Sequence[Pattern],
    *,
    n: int,
    heads: int = 12,
    tables: Mapping[str, ArrayLike] | None = None,
    **params: Argument,
) -> Dependency:
    """How information travels through layers: reach by layer, hops by distance, pairs that never meet.

    patterns  one pattern for all layers; or one a layer, from the first to the last:
              `[attnlang.load("gemma2", layer=i, L=26) for i in range(26)]`

    Raises AttnError for a faulty pattern or one without a meaning at this length; ValueError for sizes out of range,
    tables that are missing, and sequences that are too long to be searched and have no shorter form.
    """
    from attnc.analysis.dependency import dependency as analyse

    whole_number("n", n, 0)
    whole_number("heads", heads, 1)
    if isinstance(patterns, Pattern | str | Path):
        return analyse(_pattern(patterns, params), n, heads, tables)
    return analyse([_pattern(each, params) for each in patterns], n, heads, tables)


def plan(
    pattern: Pattern | str | Path, *, n: int, ranks: int = 1, heads: int = 12, head_dim: int = 64, **params: Argument
) -> Schedule:
    """The schedule that computes a pattern on sequences of n tokens. So far on one rank.

    Raises ValueError for sizes out of range, and for more than one rank.
    """
    from attnc.schedule import single_rank

    if ranks != 1:
        raise ValueError(f"ranks = {ranks}: schedules for several ranks are not written yet; ranks = 1 works")
    for name, value, least in (("n", n, 0), ("heads", heads, 1), ("head_dim", head_dim, 1)):
        whole_number(name, value, least)
    return single_rank(_pattern(pattern, params), n, heads)
