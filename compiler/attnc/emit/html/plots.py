"""Plots as inline SVG: no script, colours from the page's style, a title on every point.

Lines are told apart by colour, dashes, the shape of their points and a label at their end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log2, log10

from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 340
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 16, 48
DASHES = ("", "7 4", "2 4", "9 3 2 3", "12 5")
SHAPES = ("circle", "square", "triangle", "diamond")
LABEL_HEIGHT = 15


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its name, its points (x, y), what each point says, and its style: a number, or None for the reference.

    With `until`, a point's value holds until the next one, and the last one's until there.
    """

    name: str
    points: Sequence[tuple[float, float]]
    says: Sequence[str]
    style: int | None = 0
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale: from data to 0..1, and its ticks with their labels."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value is, 0 at the lower end and 1 at the upper."""
        low, high = (log10(self.low), log10(self.high)) if self.log else (self.low, self.high)
        place = log10(value) if self.log else value
        return (place - low) / (high - low) if high > low else 0.5


def log_axis(label: str, values: Iterable[float], tick: Callable[[float], str], base: int = 10) -> Axis:
    """A logarithmic axis around positive values, with at most seven ticks at powers of the base."""
    positive = [value for value in values if value > 0] or [1.0]
    by = log2 if base == 2 else log10
    first, last = floor(by(min(positive)) + 1e-9), ceil(by(max(positive)) - 1e-9)
    last = max(last, first + 1)
    step = max(1, ceil((last - first) / 6))
    ticks = [(float(base) ** power, tick(float(base) ** power)) for power in range(first, last + 1, step)]
    return Axis(label, float(base) ** first, float(base) ** last, ticks, log=True)


def linear_axis(label: str, high: float, tick: Callable[[float], str], parts: int = 4, low: float = 0) -> Axis:
    """A linear axis with so many equal parts."""
    marks = [low + (high - low) * part / parts for part in range(parts + 1)]
    return Axis(label, low, high, [(mark, tick(mark)) for mark in marks])


def counting_axis(label: str, low: int, high: int) -> Axis:
    """An axis of whole numbers, all named if they are few."""
    step = max(1, ceil((high - low) / 8))
    return Axis(label, low, max(high, low + 1), [(float(i), str(i)) for i in range(low, max(high, low + 1) + 1, step)])


def plot(lines: Sequence[Line], x: Axis, y: Axis, title: str, mark: float | None = None) -> Markup:
    """A plot. `mark` is an x that a vertical rule shows; the title is what a screen reader says."""
    drawn = [each for each in lines if each.points]
    body = [_grid(x, y), *(_line(each, x, y) for each in drawn), *_end_labels(drawn, x, y)]
    if mark is not None and x.low <= mark <= x.high:
        place = _x(x, mark)
        body.insert(1, Markup('<line class="mark" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(place, TOP, _bottom()))
    head = Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title)
    return head + Markup("").join(body) + Markup("</svg>")


def _bottom() -> int:
    return HEIGHT - BOTTOM


def _x(axis: Axis, value: float) -> float:
    return round(LEFT + axis.at(value) * (WIDTH - LEFT - RIGHT), 1)


def _y(axis: Axis, value: float) -> float:
    return round(_bottom() - axis.at(value) * (_bottom() - TOP), 1)


def _grid(x: Axis, y: Axis) -> Markup:
    lines: list[Markup] = []
    for value, text in y.ticks:
        place = _y(y, value)
        lines.append(
            Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(LEFT, WIDTH - RIGHT, place)
        )
        lines.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 8, place + 4, text)
        )
    for value, text in x.ticks:
        place = _x(x, value)
        lines.append(
            Markup('<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(place, _bottom(), _bottom() + 4)
        )
        lines.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                place, _bottom() + 19, text
            )
        )
    lines.append(
        Markup('<line class="axis" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(LEFT, WIDTH - RIGHT, _bottom())
    )
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(
        Markup('<text class="name" x="{}" y="{}" text-anchor="middle">{}</text>').format(middle, HEIGHT - 8, x.label)
    )
    side = (TOP + _bottom()) / 2
    turned = '<text class="name" transform="translate(14 {}) rotate(-90)" text-anchor="middle">{}</text>'
    lines.append(Markup(turned).format(side, y.label))
    return Markup("").join(lines)


def _line(line: Line, x: Axis, y: Axis) -> Markup:
    places = [(_x(x, px), _y(y, py)) for px, py in line.points]
    path = (
        _stepped(places, _x(x, line.until))
        if line.until is not None
        else "M" + "L".join(f"{px} {py}" for px, py in places)
    )
    dash = "4 4" if line.style is None else DASHES[line.style % len(DASHES)]
    kind = "reference" if line.style is None else f"series s{line.style % 8 + 1}"
    points = [
        Markup("<g><title>{}</title>{}</g>").format(says, _point(place, line.style))
        for place, says in zip(places, line.says, strict=True)
    ]
    drawn = Markup('<path class="line" d="{}" stroke-dasharray="{}"/>').format(path, dash or "none")
    return Markup('<g class="{}">').format(kind) + drawn + Markup("").join(points) + Markup("</g>")


def _stepped(places: Sequence[tuple[float, float]], end: float) -> str:
    first, *others = places
    return f"M{first[0]} {first[1]}" + "".join(f"H{px}V{py}" for px, py in others) + f"H{end}"


def _point(place: tuple[float, float], style: int | None) -> Markup:
    """A point, with room around it for a finger or a mouse."""
    px, py = place
    target = Markup('<circle class="target" cx="{}" cy="{}" r="11"/>').format(px, py)
    match None if style is None else SHAPES[style % len(SHAPES)]:
        case "circle":
            shape = Markup('<circle class="point" cx="{}" cy="{}" r="3.4"/>').format(px, py)
        case "square":
            shape = Markup('<rect class="point" x="{:.1f}" y="{:.1f}" width="6.4" height="6.4"/>').format(
                px - 3.2, py - 3.2
            )
        case "triangle":
            shape = Markup('<path class="point" d="M{0} {1:.1f}l4 7h-8z"/>').format(px, py - 4.4)
        case "diamond":
            shape = Markup('<path class="point" d="M{0} {1:.1f}l4.4 4.4l-4.4 4.4l-4.4 -4.4z"/>').format(px, py - 4.4)
        case _:
            return target
    return target + shape


def _end_labels(lines: Sequence[Line], x: Axis, y: Axis) -> Iterable[Markup]:
    """The names of lines at their ends, moved apart where they would overlap."""
    if len(lines) < 2:
        return
    ends = sorted(((_y(y, line.points[-1][1]), line) for line in lines), key=lambda end: end[0])
    places: list[float] = []
    for place, _ in ends:
        above = place - 8
        places.append(max(above, places[-1] + LABEL_HEIGHT) if places else max(above, TOP + 8))
    overflow = places[-1] - (_bottom() - 6)
    if overflow > 0:
        places = [place - overflow for place in places]
    for place, (_, line) in zip(places, ends, strict=True):
        kind = "reference" if line.style is None else f"s{line.style % 8 + 1}"
        at = min(_x(x, line.points[-1][0]) - 8, WIDTH - RIGHT - 4)
        text = Markup('<text class="label {}" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>')
        yield text.format(kind, at, place, escape(line.name))
