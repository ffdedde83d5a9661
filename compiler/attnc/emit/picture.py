"""Pictures of a pattern: queries downwards, keys across, one colour a branch. For paper and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.members import members
from attnlang.pattern import Pattern

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PANELS = 4
MAX_COLOURS = 9
COLOURS = (
    "#3b75af", "#ef8636", "#519e3e", "#8d69b8", "#c53a32", "#84584e", "#d57ebe", "#b8a62d", "#57bccc",
)  # fmt: skip
"""One a branch, told apart by the colour-blind too; the last one also stands for all further branches."""
Counts = NDArray[np.int32]


@dataclass(frozen=True)
class Panel:
    """One head: `m` how often each pair counts, `owner` the branch that holds it: 0 for none, else 1, 2, .."""

    title: str
    m: Counts
    owner: Counts


@dataclass(frozen=True)
class Picture:
    """The heads that are shown, and what each branch is called."""

    panels: tuple[Panel, ...]
    labels: tuple[str, ...]


def picture(
    pattern: Pattern, n: int, heads: int, head: int | None = None, tables: Mapping[str, Any] | None = None
) -> Picture:
    """What to draw: one head if asked for, else the heads that differ, up to four."""
    m = pattern.multiplicity(n, heads, **(tables or {}))
    owner, labels = owners(pattern, m, tables or {})
    chosen = [head] if head is not None else _differing(m)
    alone = "every head" if head is None and len(chosen) == 1 else None
    panels = (Panel(alone or f"head {each}", m[each], owner[each]) for each in chosen)
    return Picture(tuple(panels), labels)


def _differing(m: Counts) -> list[int]:
    distinct: list[int] = []
    for candidate in range(len(m)):
        if len(distinct) < MAX_PANELS and not any(np.array_equal(m[candidate], m[other]) for other in distinct):
            distinct.append(candidate)
    return distinct


def owners(pattern: Pattern, m: Counts, tables: Mapping[str, Any]) -> tuple[Counts, tuple[str, ...]]:
    """For every pair the first branch that holds it, counted from 1, or 0 where none does; and the branches' labels."""
    owner = np.zeros_like(m)
    parts = members(pattern.relation)
    for number, part in reversed(list(enumerate(parts, 1))):
        named = Pattern("part", part.relation, tables=_mentioned(pattern, part.relation))
        given = {name: tables[name] for name, _ in named.tables}
        held = named.multiplicity(m.shape[1], m.shape[0], **given)
        owner[held > 0] = min(number, MAX_COLOURS)
    labels = [part.label for part in parts[:MAX_COLOURS]]
    if len(parts) > MAX_COLOURS:
        labels[-1] = f"{len(parts) - MAX_COLOURS + 1} more"
    return owner * (m > 0), tuple(labels)


def _mentioned(pattern: Pattern, relation: Any) -> tuple[tuple[str, int], ...]:
    from attnlang.pattern.walk import table_axes

    names = {name for name, _ in table_axes(relation)}
    return tuple((name, axes) for name, axes in pattern.tables if name in names)


# for paper ------------------------------------------------------------------------------------------------------------


def save(pattern: Pattern, n: int, heads: int, shown: Picture, path: Path) -> None:
    """Draw into a file; the format is that of its ending (png, svg, pdf). Raises ValueError for another one."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.fonttype"] = "none"  # words stay words
    count = len(shown.panels)
    figure = Figure(figsize=(max(4.4, 0.6 + 3.6 * count), 4.9), dpi=150, layout="constrained")
    allowed = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in allowed:
        raise ValueError(f"cannot draw into {path.name!r}: its ending must be one of {', '.join(sorted(allowed))}")
    axes: list[Axes] = [figure.add_subplot(1, count, place + 1) for place in range(count)]
    largest = max(int(panel.m.max()) if panel.m.size else 0 for panel in shown.panels)
    for ax, panel in zip(axes, shown.panels, strict=True):
        _draw(ax, panel, largest)
    axes[0].set_ylabel("query", fontsize=8)
    width = 58 * max(1, count)
    title = pattern.call if len(pattern.call) <= 2 * width else f"{pattern.call[: 2 * width - 3]}..."
    figure.suptitle(f"{title}\nN = {n}, {heads} head{'s' if heads > 1 else ''}", fontsize=9, wrap=True)
    _legend(figure, shown, largest)
    figure.savefig(path)


def _draw(ax: Axes, panel: Panel, largest: int) -> None:
    if panel.m.size:
        ax.imshow(_colours(panel, largest), interpolation="nearest")
    ax.set_title(panel.title, fontsize=9)
    ax.set_xlabel("key", fontsize=8)
    ax.tick_params(labelsize=7)


def _colours(panel: Panel, largest: int) -> NDArray[np.float64]:
    """White where no pair is; else the branch's colour, the darker the more often the pair counts."""
    palette = np.array([[1.0, 1.0, 1.0], *(_rgb(colour) for colour in COLOURS)])
    shade = 1 - 0.6 * np.clip(panel.m - 1, 0, None) / max(largest - 1, 1)
    return palette[panel.owner] * shade[..., None]


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))


def _legend(figure: Any, shown: Picture, largest: int) -> None:
    from matplotlib.patches import Patch

    used = sorted({int(number) for panel in shown.panels for number in np.unique(panel.owner)} - {0})
    handles = [Patch(color=COLOURS[number - 1], label=shown.labels[number - 1]) for number in used]
    if len(handles) < 2 and largest < 2:
        return
    if largest > 1:
        handles.append(Patch(color="#444444", label=f"darker: counts up to {largest} times"))
    columns = min(len(handles), 2 * len(shown.panels))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=7, frameon=False)


# for the terminal -----------------------------------------------------------------------------------------------------


def terminal(panel: Panel, colour: bool, width: int = 96) -> str:
    """A head in half blocks, two queries a line, in the colours of the branches if asked for.

    Wider matrices are shrunk: a cell is set if any of its pairs is, and has the colour of most of them.
    """
    cells = _shrunk(panel.owner, width)
    if len(cells) % 2:
        cells = np.vstack((cells, np.zeros((1, cells.shape[1]), cells.dtype)))
    pairs = zip(cells[::2].tolist(), cells[1::2].tolist(), strict=True)
    return "\n".join(_line(upper, lower, colour) for upper, lower in pairs)


def _shrunk(owner: Counts, width: int) -> Counts:
    n = len(owner)
    factor = max(1, -(-n // width))
    size = -(-n // factor)
    padded = np.zeros((size * factor, size * factor), owner.dtype)
    padded[:n, :n] = owner
    tiles = padded.reshape(size, factor, size, factor)
    votes = [(tiles == number).sum((1, 3)) for number in range(1, int(owner.max(initial=0)) + 1)]
    if not votes:
        return np.zeros((size, size), owner.dtype)
    stacked = np.stack(votes)
    return np.where(stacked.any(0), stacked.argmax(0) + 1, 0)


def _line(upper: Sequence[int], lower: Sequence[int], colour: bool) -> str:
    if not colour:
        return "".join(" ▀▄█"[(a > 0) + 2 * (b > 0)] for a, b in zip(upper, lower, strict=True)).rstrip()
    return "".join(_cell(a, b) for a, b in zip(upper, lower, strict=True))


def _cell(upper: int, lower: int) -> str:
    """An upper half block: the upper query is its foreground, the lower one its background."""
    if not upper and not lower:
        return " "
    if not upper:
        return f"{_escape(38, lower)}▄\x1b[0m"
    background = _escape(48, lower) if lower else ""
    return f"{_escape(38, upper)}{background}▀\x1b[0m"


def _escape(ground: int, number: int) -> str:
    red, green, blue = (round(255 * part) for part in _rgb(COLOURS[number - 1]))
    return f"\x1b[{ground};2;{red};{green};{blue}m"


def terminal_legend(shown: Picture) -> str:
    """The branches in their colours, a line each."""
    used = sorted({int(number) for panel in shown.panels for number in np.unique(panel.owner)} - {0})
    return "\n".join(f"{_escape(38, number)}██\x1b[0m {shown.labels[number - 1]}" for number in used)


def shaded(m: Counts, size: int = 24) -> str:
    """A matrix as at most size x size cells, two characters each, shaded by the share of pairs with m > 0."""
    n = m.shape[0]
    edges = np.unique(np.linspace(0, n, min(size, n) + 1).round().astype(int))
    sums = np.add.reduceat(np.add.reduceat((m > 0).astype(int), edges[:-1], axis=0), edges[:-1], axis=1)
    share = sums / np.outer(np.diff(edges), np.diff(edges))
    levels = np.where(share > 0, 1 + np.minimum(3, (share * 4).astype(int)), 0)
    return "\n".join("".join(" ░▒▓█"[level] * 2 for level in line).rstrip() for line in levels.tolist())
