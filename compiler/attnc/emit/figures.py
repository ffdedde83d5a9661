"""Numbers for people: powers of ten in words, bytes, times, shares that say 100 % only of everything."""

from __future__ import annotations

from typing import Any


def whole(value: int) -> str:
    """1,234,567"""
    return f"{value:,}"


def flops(value: float) -> str:
    """7.28 GFLOP"""
    return _scaled(value, "FLOP")


def short(value: float) -> str:
    """28.4 M, for tiles and axes."""
    for power, unit in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.3g} {unit}"
    return f"{value:.3g}"


def _scaled(value: float, unit: str) -> str:
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:,.2f} {prefix}{unit}"
    return f"{value:,.0f} {unit}"


def size(count: float) -> str:
    """1.5 GiB"""
    for power, unit in ((5, "PiB"), (4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:,.1f} {unit}"
    return f"{count:,.0f} B"


def seconds(value: float) -> str:
    """1.23 ms"""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= factor:
            return f"{value / factor:,.2f} {unit}"
    return f"{value * 1e9:,.0f} ns"


def share(value: float) -> str:
    """12.3 %; 100 % only of everything, 0 % only of nothing."""
    if value in (0, 1):
        return f"{value * 100:.0f} %"
    for digits in (1, 2, 3, 4):
        text = f"{value * 100:.{digits}f}"
        if float(text) not in (0, 100):
            return f"{text} %"
    return "under 0.0001 %" if value < 0.5 else "over 99.9999 %"


def ratio(dense: float, sparse: float) -> str:
    """2.36×"""
    return f"{dense / sparse:,.2f}×" if sparse else "∞"


def distances(span: str) -> str:
    """`2-3` as a range of distances: 2–3, with commas."""
    return "–".join(f"{int(end):,}" for end in span.split("-"))


def layers_to_connect(dependency: dict[str, Any] | None) -> str:
    """How many layers connect what ever will be; `over 64` where the search gave up."""
    if dependency is None:
        return "not searched"
    found = dependency.get("layers_to_connect")
    return f"over {len(dependency['reach_by_layer'])}" if found is None else str(found)


def unreachable(dependency: dict[str, Any] | None) -> str:
    """How many pairs never meet."""
    if dependency is None:
        return "not searched"
    found = dependency.get("unreachable_pairs")
    return "unknown" if found is None else f"{found:,}"
