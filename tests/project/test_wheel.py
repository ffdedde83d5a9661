"""The wheel: what is in it, and that it works in an environment of its own, from elsewhere."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"attnlang", "attnc"}
    for path in (ROOT / "patterns").glob("*.attn"):
        assert f"attnlang/patterns/{path.name}" in names
    assert {"attnlang/syntax/grammar.lark", "attnlang/py.typed", "attnc/py.typed"} <= set(names)


def test_installs_and_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """A new environment that sees this one's dependencies, but not this checkout."""
    home = tmp_path / "env"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = home / "lib" / version / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    dependencies = Path(sys.prefix) / "lib" / version / "site-packages"
    code = (
        f"import sys; sys.path.append({str(dependencies)!r})\n"
        "import attnlang, attnc\n"
        f"assert attnlang.__file__.startswith({str(site)!r}) and attnc.__file__.startswith({str(site)!r})\n"
        "from attnlang.pattern.library import library_folder\n"
        f"assert str(library_folder()).startswith({str(site)!r})\n"
        "from attnc.cli import main\n"
        "main(['verify', 'longnet', '--n', '9', '--heads', '2'])\n"
    )
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["all agree"]), done.stderr
