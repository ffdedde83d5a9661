"""How long plans take: every pattern of the library that needs no tables, each in a process of its own.

    python benchmarks/plans.py --n 1000000000 --ranks 4096 --limit 120
    python benchmarks/plans.py --n 1000000 --ranks 64 axial natten2d

Prints the CPU seconds of `attnc.plan` (imports left out), the most memory the process held, bytes moved, whether the
certificate is exact, and a digest of the plan: equal digests are equal plans. Grids get sides whose product is n.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from typing import Any

import attnc
import numpy as np

import attnlang
from attnlang.exchanges import Exchanges
from attnlang.pattern.library import library_names
from attnlang.schedule import Schedule

CUBES = ("natten3d", "natten_video", "sta")


def sides(n: int, dimensions: int) -> tuple[int, ...]:
    """The most equal sides of a product that is n."""
    found: list[int] = []
    for left in range(dimensions, 1, -1):
        root = round(n ** (1 / left))
        side = next(side for side in range(root, 0, -1) if n % side == 0)
        found.append(side)
        n //= side
    return (*found, n)


def tiled_sides(n: int) -> tuple[int, int, int]:
    """Frames, rows and columns of near n tokens that tiles of 6 x 8 x 8 fill: 960 x 1024 x 1024 of 10^9."""
    side = max(8, 2 ** round(np.log2(n) / 3))
    frames = n / side**2
    unit = 60 if frames >= 60 else 6
    return max(1, round(frames / unit)) * unit, side, side


def at_length(name: str, n: int) -> tuple[dict[str, Any], int]:
    """Parameters of a pattern at a length, and the length, for grids whose sides are parameters."""
    if name in CUBES:
        shape = tiled_sides(n) if name == "sta" else sides(n, 3)
        return dict(zip(("frames", "rows", "cols"), shape, strict=True)), int(np.prod(shape))
    if "rows" in dict(attnlang.load(name).parameters):
        rows, cols = sorted(sides(n, 2), reverse=True)
        return {"rows": rows, "cols": cols}, n
    return {}, n


def digest(schedule: Schedule) -> str:
    """The same of equal schedules, without JSON of millions of exchanges."""
    found = hashlib.sha256()
    data = replace(schedule, exchanges=Exchanges())
    found.update(json.dumps(data.to_json(), sort_keys=True).encode())
    for of_rank in schedule.exchanges:
        found.update(np.fromiter(chain.from_iterable(of_rank), np.int64).tobytes() + b"|")
    return found.hexdigest()[:16]


def one(name: str, n: int, ranks: int, heads: int) -> dict[str, Any]:
    """What a plan of one pattern takes, in this process."""
    parameters, length = at_length(name, n)
    pattern = attnlang.load(name, **parameters)
    cpu, wall = time.process_time(), time.perf_counter()
    result: dict[str, Any] = {"name": name, "n": length}
    try:
        schedule = attnc.plan(pattern, n=length, ranks=ranks, heads=heads)
    except ValueError as error:
        result["error"] = str(error)
        schedule = None
    result |= {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    result["gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if schedule is not None:
        result |= {
            "minimum": schedule.certificate.minimum,
            "exact": schedule.certificate.exact,
            "transfers": len(schedule.transfers),
            "digest": digest(schedule),
        }
    return result


def line(result: dict[str, Any]) -> str:
    """One result for people."""
    if "cpu" not in result:
        return f"{result['name']:<24} {result['error'][:160]}"
    took = f"{result['name']:<24} {result['cpu']:7.1f} s of CPU {result['gb']:6.2f} GB"
    if "error" in result:
        return f"{took}  refused: {result['error'][:160]}"
    tight = "exact" if result["exact"] else "NOT EXACT"
    return f"{took}  {result['transfers']:>7} transfers  {tight}  {result['minimum']}  {result['digest']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--n", type=int, default=10**9)
    parser.add_argument("--ranks", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--limit", type=float, default=120, help="seconds for each pattern")
    parser.add_argument("--json", help="a file to add results to, one a line")
    parser.add_argument("--here", action="store_true", help="in this process")
    given = parser.parse_args()
    names = given.patterns or [name for name in library_names() if not attnlang.load(name).tables]
    for name in names:
        if given.here:
            print(json.dumps(one(name, given.n, given.ranks, given.heads)))
            continue
        sizes = [f"--n={given.n}", f"--ranks={given.ranks}", f"--heads={given.heads}"]
        command = [sys.executable, __file__, name, *sizes, "--here"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=given.limit)
            last = done.stdout.strip().splitlines()[-1:] or ["{}"]
            result = json.loads(last[0]) if not done.returncode else {"error": done.stderr.strip().splitlines()[-1]}
        except subprocess.TimeoutExpired:
            result = {"error": f"more than {given.limit:g} s"}
        result = {"name": name, **result}
        print(line(result), flush=True)
        if given.json:
            with open(given.json, "a") as file:
                file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
