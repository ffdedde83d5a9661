"""`attnc` for tests: as a process, and within this one."""

from __future__ import annotations

import subprocess
import sys
from contextlib import chdir
from pathlib import Path

from attnc.cli import main
from click.testing import CliRunner


def process(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "attnc", *arguments], capture_output=True, text=True, cwd=cwd)


def attnc(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same within this process, which needs no second to start: what escapes the program is raised."""
    with chdir(cwd or Path()):
        done = CliRunner().invoke(main, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(list(arguments), done.exit_code, done.stdout, done.stderr)
