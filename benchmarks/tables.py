"""Put the tables of benchmarks/results into README.md and docs/, between `<!-- table: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = (HERE.parent / "README.md", HERE.parent / "docs" / "kernels.md", HERE.parent / "docs" / "parallel.md")


def longnet_dense() -> str:
    """Rows of longnet_dense_*.json as Markdown."""
    lines = ["| device | N | | LongNet | dense | |", "| --- | ---: | --- | ---: | ---: | ---: |"]
    for path in sorted((HERE / "results").glob("longnet_dense_*.json")):
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        machine = result["machine"]
        threads = f", {machine['threads']} threads" if machine["threads"] else ""
        for row in result["rows"]:
            device = f"{machine['device']}{threads}, {row['dtype']}, torch {machine['torch']}"
            for what, title in (("forward", "forward"), ("forward_backward", "forward + backward")):
                mine, dense = (row["seconds"][f"{name}_{what}"] * 1e3 for name in ("longnet", "dense"))
                speedup = f"**{dense / mine:.1f}x**"
                lines.append(f"| {device} | {row['n']:,} | {title} | {mine:,.1f} ms | {dense:,.1f} ms | {speedup} |")
    return "\n".join(lines)


def longnet() -> str:
    """LongNet on our kernels and on others, from longnet.json."""
    return _longnet(_result("longnet"))


def longnet_flex() -> str:
    """The same beside FlexAttention, which takes one length that it can, from longnet_flex.json."""
    return _longnet(_result("longnet_flex"), {"flex": "FlexAttention"})


def _longnet(result: dict[str, Any], more: dict[str, str] | None = None) -> str:
    peers = {"reference": "authors' algorithm"}  # (what the key meant before there were two)
    if all("reference_fewer_copies" in times for row in result["rows"] for times in row["milliseconds"].values()):
        peers = {"reference": "authors' code", "reference_fewer_copies": "with fewer copies"}
    peers |= {"cudnn_views": "cuDNN on views", "dense": "dense cuDNN"} | (more or {})
    lines = [
        _measured(result),
        "",
        f"| | ours | {' | '.join(peers.values())} |",
        "| --- |" + " ---: |" * (len(peers) + 1),
    ]
    for row in result["rows"]:
        title = f"H{row['heads']}D{row['head_dim']} {'causal' if row['causal'] else 'full'}"
        for what, times in row["milliseconds"].items():
            mine = times["ours"]
            cells = [f"{times[peer]:.1f} ({times[peer] / mine:.1f}x)" for peer in peers]
            lines.append(f"| {title}, {_words(what)} | {mine:.2f} ms | {' | '.join(cells)} |")
    return "\n".join(lines)


def longnet_scaling() -> str:
    """Time of a token by length, from longnet_scaling.json."""
    result = _result("longnet_scaling")
    rows = result["rows"]
    lines = [_measured(result), "", "| N | forward | forward + backward |", "| ---: | ---: | ---: |"]
    lines += [f"| {row['n']:,} | {row['ns_per_token'][0]:.2f} ns | {row['ns_per_token'][1]:.2f} ns |" for row in rows]
    return "\n".join(lines)


def patterns() -> str:
    """Other patterns against FlexAttention, from patterns.json."""
    result = _result("patterns")
    lines = [_measured(result), "", "| | N | forward | | forward + backward | | measured |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for row in result["rows"]:
        cells = [
            f"{row['milliseconds'][what]['ours']:.2f} ms | {row['speedup'][what]:.2f}x"
            for what in ("forward", "forward_backward")
        ]
        aside = "" if row["head_dim"] == 64 else f", H{row['heads']}D{row['head_dim']}"
        lines.append(f"| {row['pattern']}{aside} | {row['n']:,} | {' | '.join(cells)} | {row['date']} |")
    return "\n".join(lines)


def dense() -> str:
    """Plain attention beside cuDNN and flash-attention, from dense.json, if there is one."""
    if not (HERE / "results" / "dense.json").exists():
        return "(Not measured yet: `python benchmarks/dense.py` on a GPU, then `make tables`.)"
    result = _result("dense")
    ways = list(result["rows"][0]["milliseconds"]["forward"])
    lines = [_measured(result)]
    for what in ("forward", "forward_backward"):
        lines += ["", f"| {_words(what)} | N | {' | '.join(ways)} |", "| --- |" + " ---: |" * (len(ways) + 1)]
        for row in result["rows"]:
            title = f"H{row['heads']}D{row['head_dim']} {'causal' if row['causal'] else 'full'}"
            times, rates = row["milliseconds"][what], row["tflops"][what]
            cells = " | ".join(f"{times[way]:.3f} ms ({rates[way]:.0f})" for way in ways)
            lines.append(f"| {title} | {row['n']:,} | {cells} |")
    return "\n".join(lines)


def overhead() -> str:
    """The module beside the same kernel called by hand, from overhead.json."""
    result = _result("overhead")
    lines = [
        _measured(result),
        "",
        "| batch, heads, D | | eager | | compiled | |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    shapes = list(dict.fromkeys((row["batch"], row["heads"], row["head_dim"]) for row in result["rows"]))
    ways = list(dict.fromkeys(row["way"] for row in result["rows"]))
    for shape in shapes:
        for way in ways:
            cells: list[str] = []
            for mode in ("eager", "compiled"):
                for row in result["rows"]:
                    if (row["batch"], row["heads"], row["head_dim"], row["way"], row["mode"]) == (*shape, way, mode):
                        cells += [_us(row, what) for what in ("forward", "forward_backward")]
            if len(cells) == 4:
                lines.append(f"| {', '.join(map(str, shape))} | {way} | {' | '.join(cells)} |")
    return "\n".join([*lines, *_host_note(result)])


def _us(row: dict[str, Any], what: str) -> str:
    """A time, with a star where the GPU waited for the host; older results do not say."""
    waited = "host_us" in row and row["host_us"][what] > 0.9 * row["us"][what]
    return f"{row['us'][what]:.0f} us{'*' if waited else ''}"


def _host_note(result: dict[str, Any]) -> list[str]:
    known = any("host_us" in row for row in result["rows"])
    return ["", "\\* The host took as long to launch it: the GPU waited for Python."] if known else []


def _words(what: str) -> str:
    return what.replace("_", " + ")


def _result(name: str) -> dict[str, Any]:
    return json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))


def _measured(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['device']}, torch {machine['torch']}, {machine['date']}:"


TABLES: dict[str, Callable[[], str]] = {
    "longnet_dense": longnet_dense,
    "longnet": longnet,
    "longnet_flex": longnet_flex,
    "longnet_scaling": longnet_scaling,
    "patterns": patterns,
    "dense": dense,
    "overhead": overhead,
}


def with_tables(text: str) -> str:
    """The text with every table written anew."""
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
