"""What a report's plots show: cost over length, reach by layer, hops by distance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from markupsafe import Markup

from attnc.emit import figures
from attnc.emit.html.plots import Line, counting_axis, linear_axis, log_axis, plot

Named: TypeAlias = "Sequence[tuple[str, dict[str, Any]]]"
"""Names, and the dependency of each as plain data."""


def cost_plot(lines: Sequence[Line], dense: Sequence[tuple[float, float]], n: int) -> Markup:
    """FLOPs of a forward over N beside dense attention, both axes logarithmic."""
    reference = Line("dense", dense, [f"dense, N = {x:,.0f}: {figures.flops(y)}" for x, y in dense], None)
    both = (reference, *lines)
    x = log_axis("length N", (x for line in both for x, _ in line.points), _power_of_two, base=2)
    y = log_axis("FLOPs of a forward", (y for line in both for _, y in line.points), figures.short)
    positive = [Line(line.name, *_positive(line), line.style) for line in both]
    names = ", ".join(line.name for line in lines)
    return plot(positive, x, y, f"FLOPs of a forward over length N: {names}, and dense attention", mark=n)


def _positive(line: Line) -> tuple[list[tuple[float, float]], list[str]]:
    """Only what a logarithm can show."""
    kept = [(point, says) for point, says in zip(line.points, line.says, strict=True) if point[1] > 0]
    return [point for point, _ in kept], [says for _, says in kept]


def _power_of_two(value: float) -> str:
    for power, unit in ((30, "Gi"), (20, "Mi"), (10, "Ki")):
        if value >= 2**power:
            return f"{value / 2**power:.0f} {unit}"
    return f"{value:.0f}"


def reach_plot(named: Named) -> Markup | None:
    """The share of pairs that is connected after 1, 2, .. layers."""
    lines = [_reach_line(name, found["reach_by_layer"], style) for style, (name, found) in enumerate(named)]
    most = max((len(line.points) for line in lines), default=0)
    if not most:
        return None
    x = counting_axis("layers", 1, most)
    y = linear_axis("connected pairs", 1, lambda value: f"{value:.0%}")
    return plot(lines, x, y, "share of the pairs that is connected, by layers")


def _reach_line(name: str, reach: Sequence[float], style: int) -> Line:
    points = [(float(layer), share) for layer, share in enumerate(reach, 1)]
    says = [
        f"{name}, {layer} layer{'' if layer == 1 else 's'}: {figures.share(share)}"
        for layer, share in enumerate(reach, 1)
    ]
    return Line(name, points, says, style)


def hops_plot(named: Named) -> Markup | None:
    """The most layers that any connected pair needs, by the distance between query and key."""
    lines = [_hops_line(name, found["hops_by_distance"], style) for style, (name, found) in enumerate(named)]
    if not any(line.points for line in lines):
        return None
    x = log_axis("distance in tokens", _ends(lines), _power_of_two, base=2)
    y = counting_axis("most hops", 0, int(max(y for line in lines for _, y in line.points)))
    return plot(lines, x, y, "the most layers that any connected pair needs, by distance")


def _ends(lines: Sequence[Line]) -> Iterator[float]:
    """Where lines begin, and where they end."""
    for line in lines:
        yield from (x for x, _ in line.points)
        yield line.until or 1.0


def _hops_line(name: str, hops: dict[str, int], style: int) -> Line:
    """A step over each range of distances; every range is marked once, at its beginning."""
    points: list[tuple[float, float]] = []
    says: list[str] = []
    last = 1.0
    for span, count in hops.items():
        first, last = int(span.split("-")[0]), float(span.split("-")[-1])
        points.append((float(first), float(count)))
        says.append(f"{name}, distance {figures.distances(span)}: {count} hop{'' if count == 1 else 's'}")
    return Line(name, points, says, style, until=last)
