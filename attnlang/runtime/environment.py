"""What is here: versions, devices, and which backend runs on which device, or why not."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import attnlang
from attnlang.plan import Band, Lattice, Plan
from attnlang.runtime.backends import FORWARD_ONLY, REFERENCE, load, names

PACKAGES = ("torch", "triton", "xformers", "nvidia-cuda-runtime-cu12", "numpy", "islpy", "lark", "transformers")
CAUSAL = Plan(1, (Lattice((0,), band=Band(None, 0)),))
HEAD_DIM = 64


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend runs causal attention on a device with D = 64; `reason` says why not, or with what limits."""

    backend: str
    device: str
    dtypes: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything that a bug report needs. `str()` is for people, `to_dict()` for JSON.

    packages  version of each package, None where it is not installed
    devices   what torch can compute on, by torch's name for it
    """

    attnlang: str
    python: str
    platform: str
    cuda: str | None
    packages: dict[str, str | None]
    devices: dict[str, str]
    backends: tuple[Availability, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"attnlang {self.attnlang}, python {self.python}, {self.platform}", "", "packages"]
        lines += [f"  {name:<26}{found or 'not installed'}" for name, found in self.packages.items()]
        lines += [f"  {'cuda of torch':<26}{self.cuda or 'none: this torch is for the cpu'}", "", "devices"]
        lines += [f"  {name:<8}{what}" for name, what in self.devices.items()]
        lines += ["", "backends"]
        for one in self.backends:
            where = f"  {one.backend:<11}{one.device:<6}"
            lines.append(where + (", ".join(filter(None, (*one.dtypes, one.reason))) if one.dtypes else one.reason))
        return "\n".join(lines)


def environment() -> Environment:
    """What is here now."""
    devices = {"cpu": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"}
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            what = torch.cuda.get_device_properties(number)
            memory = what.total_memory / 2**30
            devices[f"cuda:{number}"] = f"{what.name}, {memory:.0f} GiB, compute capability {what.major}.{what.minor}"
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    backends = tuple(_availability(name, kind) for name in names() for kind in kinds)
    return Environment(
        attnlang.__version__,
        platform.python_version(),
        platform.platform(),
        torch.version.cuda,
        {name: _version(name) for name in PACKAGES},
        devices,
        backends,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _availability(backend: str, device: str) -> Availability:
    tried = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    if backend == REFERENCE:
        return Availability(backend, device, _texts(tried), "dense, for small N")
    refusals = {dtype: load(backend).refusal(CAUSAL, torch.device(device), dtype, HEAD_DIM) for dtype in tried}
    found = [dtype for dtype, reason in refusals.items() if reason is None]
    if not found:
        return Availability(backend, device, (), refusals[torch.bfloat16] or "")
    return Availability(backend, device, _texts(found), _limits(backend, torch.device(device)))


def _limits(backend: str, device: torch.device) -> str:
    if (backend, device.type) in FORWARD_ONLY:
        return "forward only"
    remark: Callable[[torch.device], str] | None = getattr(load(backend), "remark", None)
    return remark(device) if remark else ""


def _texts(dtypes: tuple[torch.dtype, ...] | list[torch.dtype]) -> tuple[str, ...]:
    return tuple(str(dtype).removeprefix("torch.") for dtype in dtypes)


def take_share(number: int, processes: int) -> None:
    """Use the part of this machine's cores, and the one of its GPUs, that a process of several has."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
