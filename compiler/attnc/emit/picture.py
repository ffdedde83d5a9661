"""Pictures of a pattern: queries downwards, keys across, one colour a multiplicity. For paper and for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnlang.pattern import Pattern

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PANELS = 4
COLOURS = ("#ffffff", "#9ecae1", "#4292c6", "#2171b5", "#08519c", "#08306b")


def panels(pattern: Pattern, n: int, heads: int, head: int | None) -> list[tuple[str, NDArray[np.int32]]]:
    """What to draw: one head if asked for, else the heads that differ, up to four, each with its title."""
    m = pattern.multiplicity(n, heads)
    if head is not None:
        return [(f"head {head}", m[head])]
    distinct: list[int] = []
    for candidate in range(heads):
        if len(distinct) < MAX_PANELS and not any(np.array_equal(m[candidate], m[other]) for other in distinct):
            distinct.append(candidate)
    if len(distinct) == 1:
        return [("every head", m[0])]
    return [(f"head {candidate}", m[candidate]) for candidate in distinct]


def save(pattern: Pattern, n: int, heads: int, head: int | None, path: Path) -> None:
    """Draw into a file; the format is that of its ending (png, svg, pdf). Raises ValueError for another one."""
    from matplotlib.figure import Figure

    shown = panels(pattern, n, heads, head)
    figure = Figure(figsize=(0.6 + 3.6 * len(shown), 4.2), dpi=150, layout="constrained")
    allowed = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in allowed:
        raise ValueError(f"cannot draw into {path.name!r}: its ending must be one of {', '.join(sorted(allowed))}")
    axes: list[Axes] = [figure.add_subplot(1, len(shown), place + 1) for place in range(len(shown))]
    largest = max(int(m.max()) if m.size else 0 for _, m in shown)
    for ax, (title, m) in zip(axes, shown, strict=True):
        _panel(ax, m, title, largest)
    axes[0].set_ylabel("query")
    figure.suptitle(f"{pattern.call}\nN = {n}, {heads} head{'s' if heads > 1 else ''}", fontsize=9, wrap=True)
    if largest > 1:
        _legend(figure, largest)
    figure.savefig(path)


def _panel(ax: Axes, m: NDArray[np.int32], title: str, largest: int) -> None:
    from matplotlib.colors import ListedColormap

    levels = max(largest, 1) + 1
    picks = np.linspace(1, len(COLOURS) - 1, levels - 1) if levels > 2 else [3]
    colours = ListedColormap([COLOURS[0], *(COLOURS[round(float(pick))] for pick in picks)])
    if m.size:
        ax.imshow(m, cmap=colours, vmin=-0.5, vmax=levels - 0.5, interpolation="nearest")
    ax.set_title(title, fontsize=9)
    ax.set_xlabel("key")
    ax.tick_params(labelsize=7)


def _legend(figure: Any, largest: int) -> None:
    picks = np.linspace(1, len(COLOURS) - 1, largest)
    from matplotlib.patches import Patch

    handles = [Patch(color=COLOURS[round(float(pick))], label=f"{i + 1}x") for i, pick in enumerate(picks)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=7, frameon=False)


def terminal(m: NDArray[np.int32], width: int = 96) -> str:
    """A matrix in half blocks, two queries a line. Wider matrices are shrunk: a cell is set if any of its pairs is."""
    n = m.shape[0]
    factor = max(1, -(-n // width))
    size = -(-n // factor)
    padded = np.zeros((size * factor, size * factor), bool)
    padded[:n, :n] = m > 0
    cells: NDArray[np.bool_] = np.asarray(padded.reshape(size, factor, size, factor).any(axis=(1, 3)))
    if size % 2:
        cells = np.vstack((cells, np.zeros((1, size), bool)))
    blocks = cells[::2].astype(int) + 2 * cells[1::2].astype(int)
    return "\n".join("".join(" ▀▄█"[block] for block in line).rstrip() for line in blocks.tolist())


def shaded(m: NDArray[np.int32], size: int = 24) -> str:
    """A matrix as at most size x size cells, two characters each, shaded by the share of pairs with m > 0."""
    n = m.shape[0]
    edges = np.unique(np.linspace(0, n, min(size, n) + 1).round().astype(int))
    sums = np.add.reduceat(np.add.reduceat((m > 0).astype(int), edges[:-1], axis=0), edges[:-1], axis=1)
    share = sums / np.outer(np.diff(edges), np.diff(edges))
    levels = np.where(share > 0, 1 + np.minimum(3, (share * 4).astype(int)), 0)
    return "\n".join("".join(" ░▒▓█"[level] * 2 for level in line).rstrip() for line in levels.tolist())
