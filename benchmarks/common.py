"""What the benchmarks share: timing, the machine's description, result files."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import attnlang

RESULTS = Path(__file__).parent / "results"


def median_seconds(function: Callable[[], object], device: str, repeats: int, warmup: int = 1) -> float:
    """Median wall-clock seconds of a call, the device idle before and after."""
    for _ in range(warmup):
        function()
    samples: list[float] = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def machine(device: str) -> dict[str, Any]:
    """Device, versions and date, as every result file states them."""
    name = torch.cuda.get_device_name() if device == "cuda" else cpu_name()
    return {
        "device": name,
        "threads": torch.get_num_threads() if device == "cpu" else None,
        "torch": torch.__version__,
        "attnlang": attnlang.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def write_result(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result as JSON and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return path
