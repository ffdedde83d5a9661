"""Put the tables of benchmarks/results into README.md, between `<!-- table: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"


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


TABLES = {"longnet_dense": longnet_dense}


def with_tables(text: str) -> str:
    """The text with every table written anew."""
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
