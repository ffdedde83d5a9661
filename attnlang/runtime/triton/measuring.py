"""Choosing configurations on a GPU that has no table: a few are timed once, and the best is kept on disk.

The problem is small (2^17 rows in all) and its kernel the plainest there is, so that this takes seconds: one launch of
2048-token segments, with the masks of the kind that is asked for.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
import triton

from attnlang.plan import FULL, Band, Lattice, Plan, Runs
from attnlang.runtime.triton.launches import Mode
from attnlang.runtime.triton.tuning import Config, Kind, candidates, table

Timed = Callable[[Plan, Mode, Config, int, torch.dtype, torch.device], Callable[[], object]]
BANDS: dict[Kind, Band] = {
    "full": FULL,
    "causal": Band(None, 0),
    "window": Band(-511, 0),
    "lists": Band(-511, 0),
}
MEASURED_ON = (9, 0)
"""The compute capability that the table in `tuning` is for."""


@lru_cache(maxsize=256)
def config(mode: Mode, head_dim: int, dtype: torch.dtype, kind: Kind, device: torch.device, prepare: Timed) -> Config:
    """The configuration for a device: from the table, from disk, or timed now. `prepare` gives a function to time."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) == MEASURED_ON:
        return table(mode, head_dim, dtype, kind)
    path = _path(device)
    known = _read(path)
    key = f"{mode}, {kind}, head dimension {head_dim}, {str(dtype).removeprefix('torch.')}"
    if key not in known:
        known = {**_read(path), key: list(_best(mode, head_dim, dtype, kind, device, prepare))}
        _write(path, known)
    return Config(*known[key])


def _best(
    mode: Mode, head_dim: int, dtype: torch.dtype, kind: Kind, device: torch.device, prepare: Timed
) -> tuple[int, ...]:
    runs = Runs(2048, 2048) if kind in ("full", "causal") else None
    plan = Plan(1, (Lattice((0,), runs, 1, None, BANDS[kind]),))
    shared = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    times: dict[Config, float] = {}
    for candidate in candidates(mode, head_dim, dtype, kind, shared):
        try:
            times[candidate] = _milliseconds(prepare(plan, mode, candidate, head_dim, dtype, device))
        except triton.runtime.errors.OutOfResources:
            continue
    if not times:
        raise ValueError(f"no tile shape fits the shared memory of {torch.cuda.get_device_name(device)}")
    best = min(times, key=times.__getitem__)
    return best.fixed, best.streamed, best.warps, best.stages


def _milliseconds(function: Callable[[], object]) -> float:
    """Median of ten runs, after one that compiles."""
    function()
    times: list[float] = []
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def _path(device: torch.device) -> Path:
    """One file a GPU and version of triton."""
    folder = Path(os.environ.get("ATTNLANG_CACHE") or Path.home() / ".cache" / "attnlang")
    name = torch.cuda.get_device_name(device).replace(" ", "-").replace("/", "-")
    return folder / f"triton-{triton.__version__}-{name}.json"


def _read(path: Path) -> dict[str, list[int]]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # nothing kept yet, or a file that another process is just writing: measured again


def _write(path: Path, known: dict[str, list[int]]) -> None:
    """Keep it if it can be kept: a folder that cannot be written costs a measurement in every process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rest = path.with_suffix(f".{os.getpid()}")
        rest.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
        rest.replace(path)
    except OSError:
        return
