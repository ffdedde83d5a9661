"""What the benchmarks share: timing, the machine's description, result files."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

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


SORTED = {"cuda": "device", "cpu": "cpu"}
"""What torch's tables call the time of a device."""


def what_runs(function: Callable[[], object], device: str) -> Iterator[str]:
    """What a call runs: the device's kernels in their order, since the host began, and torch's own table."""
    for _ in range(3):
        function()
    synchronize(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities, acc_events=True) as seen:
        function()
        synchronize(device)
    events = list(seen.events() or ())
    first = min((event.time_range.start for event in events), default=0.0)
    found = sorted(_kernels(events, device))
    yield from (f"{start - first:>10.1f} {us:>10.1f} us  {kernel[:150]}" for start, us, kernel in found)
    yield f"{'':>10} {sum(us for _, us, _ in found):>10.1f} us  in all"
    yield seen.key_averages().table(sort_by=f"self_{SORTED[device]}_time_total", row_limit=20)


def _kernels(events: Iterable[Any], device: str) -> Iterator[tuple[float, float, str]]:
    """Begin and length in microseconds, and name, of what a GPU ran; on the cpu, of outermost operators."""
    for event in events:
        wanted = event.device_type.name == "CUDA" if device == "cuda" else event.cpu_parent is None
        if wanted and not event.is_user_annotation:  # (the compiler's own marks are on the GPU's time line too)
            yield event.time_range.start, event.time_range.elapsed_us(), event.name


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
