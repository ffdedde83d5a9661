"""The wheel: what is in it, and that it works in an environment of its own, from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
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
    for path in (ROOT / "compiler" / "attnc" / "emit" / "html" / "assets").iterdir():
        assert f"attnc/emit/html/assets/{path.name}" in names
    assert "attnc/analysis/report.schema.json" in names


def test_installs_and_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """pip installs it into a new environment, which sees this one's dependencies but nothing of this checkout."""
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    offline = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*offline, str(wheel)], check=True, cwd=tmp_path)
    site = Path(next(iter(home.glob("lib/*/site-packages"))))
    dependencies = sysconfig.get_paths()["purelib"]
    (site / "zz_dependencies.py").write_text(f"import sys\nsys.path.append({dependencies!r})\n")
    (site / "zz_dependencies.pth").write_text("import zz_dependencies\n")
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [home / "bin" / "attnc", "verify", "longnet", "--n", "9", "--heads", "2"],
        cwd=tmp_path, capture_output=True, text=True, env=elsewhere,
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["all agree"]), done.stderr
    code = (
        "import attnlang, attnc; from attnlang.pattern.files import library_folder; "
        "print(attnlang.__file__, attnc.__file__, library_folder(), sep='\\n')"
    )
    where = subprocess.run(
        [python, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True, env=elsewhere
    )
    assert all(line.startswith(str(site)) for line in where.stdout.splitlines()), where.stdout
