"""The picture of `attnc bench`: time over length, a line for each way, both axes logarithmic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attnc.emit.picture import COLOURS

if TYPE_CHECKING:
    from attnlang.runtime.bench import Bench


def save(found: Bench, path: Path) -> None:
    """Write a .png, .svg or .pdf."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    names = list(dict.fromkeys(timing.name for timing in found.timings if timing.median is not None))
    for place, name in enumerate(names):
        own = [timing for timing in found.timings if timing.name == name and timing.median is not None]
        lengths, medians = [timing.n for timing in own], [(timing.median or 0) / 1e3 for timing in own]
        lower, upper = ([(getattr(timing, end) or 0) / 1e3 for timing in own] for end in ("lower", "upper"))
        colour = "#777777" if name == "dense" else COLOURS[place % len(COLOURS)]
        axes.plot(lengths, medians, marker="o", color=colour, label=name, linestyle="--" if name == "dense" else "-")
        axes.fill_between(lengths, lower, upper, color=colour, alpha=0.2, linewidth=0)
        axes.annotate(
            f"{medians[-1]:,.3g}", (lengths[-1], medians[-1]), (6, 0), textcoords="offset points", va="center"
        )
    axes.set(xlabel="N, tokens", ylabel="milliseconds (median, quartiles)", xscale="log", yscale="log")
    lengths = sorted({timing.n for timing in found.timings})
    axes.set_xticks(lengths, [f"{n:,}" for n in lengths])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.margins(x=0.12)
    axes.grid(alpha=0.3)
    if names:
        axes.legend(frameon=False)
    shape = f"batch {found.batch}, {found.heads} heads of {found.head_dim}, {found.dtype}, {found.device}"
    axes.set_title(f"{found.pattern}: {found.what}\n{shape}", fontsize=9, loc="left")
    figure.savefig(path, dpi=150)
    plt.close(figure)
