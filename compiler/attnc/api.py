"""The compiler as Python functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex

from attnlang.parallel.machines import Device
from attnlang.pattern import Pattern, load
from attnlang.pattern.kinds import Argument

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from attnc.analysis.dependency import Dependency
    from attnc.analysis.report import Report
    from attnc.schedule.search import Found
    from attnlang.nn import PatternAttention
    from attnlang.schedule import Placement, Schedule


MOST_HEADS = 2**16
MOST_RANKS = 2**14
"""Of a plan: meetings of ranks are looked up in tables of ranks x ranks."""
MOST_TOKENS = 2**35
"""Of a plan: beyond, what single ranks exchange does not fit what it is counted in."""


def _pattern(pattern: Pattern | str | Path, params: dict[str, Argument]) -> Pattern:
    if isinstance(pattern, Pattern):
        if params:
            tables = [name for name, _ in pattern.tables if name in params]
            content = f", and tables by tables={{'{tables[0]}': ...}}" if tables else ""
            raise ValueError(
                f"{pattern.name} is a pattern already: give parameters ({', '.join(params)}) to attnlang.load{content}"
            )
        return pattern
    return load(pattern, **params)


def whole_number(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise ValueError unless the value is an integer of at least `least`, and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or index(value) < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    if most is not None and index(value) > most:
        raise ValueError(f"{name} must be at most {most:,}, not {index(value):,}")


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
    whole_number("heads", heads, 1, MOST_HEADS)
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

    whole_number("n", n, 0)
    whole_number("heads", heads, 1, MOST_HEADS)
    whole_number("head_dim", head_dim, 1)
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
    pattern: Pattern | str | Path,
    *,
    n: int,
    ranks: int = 1,
    heads: int = 12,
    head_dim: int = 64,
    kv_heads: int | None = None,
    dtype: str = "bfloat16",
    placement: str | Placement = "auto",
    gpu: str = "h100",
    link: str | None = None,
    backward: bool = True,
    objective: str = "",
    backend: str = "auto",
    tables: Mapping[str, ArrayLike] | None = None,
    **params: Argument,
) -> Schedule:
    """The sequence-parallel schedule of a pattern for sequences of n tokens.

    n, ranks   how many tokens, at most 2^35, and how many ranks hold them; 1 <= ranks <= n, and at most 2^14
    kv_heads   heads of k and v, as many as of q unless given
    dtype      'bfloat16', 'float16', 'float32' or 'float64': what a row weighs when bytes are counted
    placement  'contiguous', 'zigzag', 'striped', or 'auto': the one with the least predicted time; or that of another
               schedule, for tokens to lie as they do there
    gpu, link  what times are predicted for: 'h100', 'h200', 'a100', 'cpu'; 'nvlink' (to 8 ranks, unless given),
               'infiniband' (above), 'pcie', 'ethernet'
    backward   whether to weigh the backward pass too
    objective  'time' or 'bytes': what is made least; unless given, time where the placement is 'auto', else bytes
    backend    whose measured rates times are predicted with: 'triton', 'sdpa', or 'auto', the one that runs by default
    tables     content of runtime tables by name: the schedule is for these

    Raises ValueError for sizes out of range and names that do not exist, AttnError for a faulty pattern.
    """
    return found_schedule(
        _pattern(pattern, params), n=n, ranks=ranks, heads=heads, head_dim=head_dim, kv_heads=kv_heads, dtype=dtype,
        placement=placement, gpu=gpu, link=link, backward=backward, tables=tables, objective=objective, backend=backend,
    ).schedule  # fmt: skip


def found_schedule(
    pattern: Pattern, *, n: int, ranks: int, heads: int, head_dim: int, kv_heads: int | None, dtype: str,
    placement: str | Placement, gpu: str, link: str | None, backward: bool, tables: Mapping[str, ArrayLike] | None,
    objective: str = "", backend: str = "auto",
) -> Found:  # fmt: skip
    """What `plan` finds, with the solution and the machine that times are predicted for, on kernels of a backend."""
    from attnc.schedule.search import search
    from attnlang.parallel.machines import DEVICES, LINKS, check_backend, named
    from attnlang.pattern.tables import check_names
    from attnlang.schedule import ITEM_SIZES, counted

    limits = (
        ("n", n, MOST_TOKENS),
        ("ranks", ranks, MOST_RANKS),
        ("heads", heads, MOST_HEADS),
        ("head_dim", head_dim, None),
    )
    for name, value, most in (*limits, ("kv_heads", heads if kv_heads is None else kv_heads, None)):
        whole_number(name, value, 1, most)
    if ranks > n:
        raise ValueError(
            f"{counted(ranks, 'rank')} for {counted(n, 'token')}: every rank needs a token; use at most {n} ranks"
        )
    if dtype not in ITEM_SIZES:
        raise ValueError(f"unknown dtype {dtype!r}: there are {', '.join(ITEM_SIZES)}")
    _check_bytes(n, ranks, heads, head_dim)
    device = named(DEVICES, gpu, "gpu")
    chosen_link = None if link is None else named(LINKS, link, "link")
    assert isinstance(device, Device)
    check_backend(device, backend)
    assert not isinstance(chosen_link, Device)
    check_names(pattern.tables, tables or {}, f"pattern {pattern.name}")
    try:
        return search(
            pattern,
            n,
            ranks,
            heads,
            kv_heads or heads,
            head_dim,
            dtype,
            placement,
            device,
            chosen_link,
            backward,
            tables or {},
            objective,
            backend,
        )
    except MemoryError:
        raise ValueError(
            f"there is not the memory to plan {pattern.call} for {n:,} tokens on {counted(ranks, 'rank')}, which meet "
            "in too many ways: plan a shorter sequence, fewer ranks, or lengths that the ranks divide"
        ) from None


def _check_bytes(n: int, ranks: int, heads: int, head_dim: int) -> None:
    """Raise ValueError where what moves may be more bytes than 64-bit integers count: a query to every rank and back.

    A row is k and v, or q, out and their gradients in float64: at most 8 (head_dim + 1) numbers of 8 bytes.
    """
    from attnlang.schedule import counted

    most = 2**63 // (ranks * heads * (head_dim + 1) * 64)
    if n > most:
        raise ValueError(
            f"{n:,} tokens on {counted(ranks, 'rank')} with {counted(heads, 'head')} of {head_dim} are too many: what "
            f"all of them exchange at most is counted in bytes, in 64 bits; n is to be at most {most:,} with these"
        )
