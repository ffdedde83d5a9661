"""What attnlang does, end to end, on one pattern: report, picture, compiled file, verification, training on real text.

    python examples/demo.py OUTPUT-FOLDER

Every step is a command that is printed before it runs, so that one can run it by hand.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SMALL = ("-p", "segments=[16,32,64]", "-p", "dilations=[1,2,4]")


def run(title: str, *command: str, keep: Path | None = None) -> None:
    """Print a command, run it, show what it prints and keep that in a file if asked to."""
    shown = " ".join(f"'{part}'" if "[" in part else part for part in command)
    print(f"\n=== {title}\n$ {shown.replace('-m attnc', 'attnc').replace('python attnc', 'attnc')}", flush=True)
    program = [sys.executable, *command[1:]]
    if keep is None:
        subprocess.run(program, check=True)
        return
    done = subprocess.run(program, check=True, capture_output=True, text=True)
    print(done.stdout, end="")
    keep.write_text(done.stdout, encoding="utf-8")


def main() -> None:
    """Run the tour into the folder named on the command line."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output")
    out.mkdir(parents=True, exist_ok=True)
    attnc = ("python", "-m", "attnc")
    run("What LongNet costs at 32,768 tokens", *attnc, "report", "longnet", keep=out / "report.txt")
    run("How it looks, made small", *attnc, "show", "longnet", *SMALL, "--heads", "4", "-o", str(out / "longnet.png"))
    run("LongNet as a PyTorch module that one can read", *attnc, "compile", "longnet", "-o", str(out / "longnet.py"))
    run(
        "The module checks itself against the definition",
        "python",
        str(out / "longnet.py"),
        keep=out / "self-check.txt",
    )
    run("A small LongNet against the definition", *attnc, "verify", "longnet", *SMALL, keep=out / "verify.txt")
    train = ("python", os.path.relpath(Path(__file__).with_name("train_text.py")))
    run("A byte-level GPT on Python's own source code", *train, "--steps", "120", "--out", str(out / "training"))
    print(f"\nEverything is in {out.resolve()}:")
    for path in sorted(p for p in out.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        print(f"  {path.relative_to(out)}")


if __name__ == "__main__":
    main()
