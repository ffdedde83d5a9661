"""The rules of docs/architecture.md over the import graph."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    **{p.relative_to(ROOT): p for p in (ROOT / "attnlang").rglob("*.py")},
    **{p.relative_to(ROOT / "compiler"): p for p in (ROOT / "compiler" / "attnc").rglob("*.py")},
}
# what may import what inside attnlang: later layers import earlier ones
LAYERS = [
    "source",
    "codes",
    "catalogue",
    "diagnostics",
    "machine_formats",
    "syntax",
    "pattern",
    "rows",
    "plan",
    "exchanges",
    "schedule",
    "runtime",
    "nn",
    "parallel",
]
TORCH = ("attnlang/runtime", "attnlang/parallel", "attnlang/nn/", "attnlang/integrations")
BACKENDS = ("reference", "sdpa", "flex", "xformers", "triton")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, except for type checking only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", sorted(map(str, SOURCES)))
def test_arrows(name: str) -> None:
    found = set(imports(SOURCES[Path(name)]))
    if name.startswith("attnlang"):
        assert not any(module.split(".")[0] == "attnc" for module in found), "attnlang never imports attnc"
    if any(module.split(".")[0] == "torch" for module in found):
        assert name.startswith(TORCH), "only the runtime touches tensors"
    parts = Path(name).with_suffix("").parts
    if parts[0] == "attnlang" and parts[1] in LAYERS:
        later = LAYERS[LAYERS.index(parts[1]) + 1 :]
        assert not [m for m in found if m.startswith("attnlang.") and m.split(".")[1] in later], "an arrow points back"
    if parts[:2] == ("attnlang", "runtime") and parts[2] in BACKENDS:
        others = {f"attnlang.runtime.{other}" for other in BACKENDS if other != parts[2]}
        assert not found & others, "backends never import one another"


def loaded(code: str) -> set[str]:
    text = f"import sys\n{code}\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True).stdout.split())


def test_import_attnlang_is_light() -> None:
    modules = loaded("import attnlang; attnlang.load('longnet')")
    assert not modules & {"torch", "numpy", "sympy", "matplotlib", "rich", "networkx", "attnc"}


def test_check_is_light() -> None:
    code = "from attnc.cli import main\ntry: main(['check', 'patterns/longnet.attn'])\nexcept SystemExit: pass"
    assert not loaded(code) & {"torch", "numpy", "sympy", "matplotlib", "rich", "networkx"}


def test_plan_is_without_torch() -> None:
    code = "from attnc.cli import main\ntry: main(['plan', 'sliding', '--n', '4096'])\nexcept SystemExit: pass"
    assert not loaded(code) & {"torch", "matplotlib"}


def test_files_stay_small() -> None:
    long = {name: lines for name, path in SOURCES.items() if (lines := len(path.read_text().splitlines())) > 370}
    assert not long, "a file of this length asks to be two"
