"""What a schedule costs in time on a named device and link: a model of a few numbers each, stated and easy to replace.

computing  start of a pass + pairs * 4 D / rate forward (two products a pair), 10 D backward (five)
talking    latency a message + bytes / bandwidth, the larger of what a rank sends and receives

Rates are those of a backend's kernels on a kind of work at a head dimension, where they were measured (`KERNELS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Device:
    """Floating-point operations a second that attention reaches, forward and backward; bytes of memory; says who.

    start  seconds before a pass of many launches is under way, whatever its size
    """

    name: str
    forward: float
    backward: float
    memory: float
    source: str = ""
    start: float = 0.0


@dataclass(frozen=True, slots=True)
class Kernel:
    """Floating-point operations a second that a backend reaches on a kind of work, once under way; says who.

    work  'segments', 'causal segments' (whose tiles on the diagonal are half empty), either of them with ' apart' where
          the segments and dilations do not divide one another, so that no kernel runs them together; or 'window'
    """

    backend: str
    work: str
    head_dim: int
    forward: float
    backward: float
    source: str


@dataclass(frozen=True, slots=True)
class Link:
    """Bytes a second in each direction that a rank reaches, and seconds before a message arrives; says who."""

    name: str
    bandwidth: float
    latency: float
    source: str = ""


_LONGNET = "LongNet, N = 131072: benchmarks/results/longnet.json"
_APART = "LongNet with dilations 1, 2, 4, 6, 12, N = 262144: seconds_alone in benchmarks/results/scaling_4_triton.json"
_WINDOW = "sliding, w = 1024, N = 131072: benchmarks/results/patterns.json"
_WINDOW_4096 = "window of 4096, N = 262144: seconds_alone in benchmarks/results/scaling_4_triton.json"
_TORCH = "torch's kernels on views, N = 262144: one_gpu of benchmarks/results/scaling_2.json"
_HOPPER = (
    Kernel("triton", "causal segments", 64, 457e12, 382e12, _LONGNET),
    Kernel("triton", "segments", 64, 603e12, 500e12, _LONGNET),
    Kernel("triton", "causal segments", 128, 590e12, 469e12, _LONGNET),
    Kernel("triton", "segments", 128, 755e12, 602e12, _LONGNET),
    Kernel("triton", "causal segments apart", 64, 361e12, 306e12, _APART),
    Kernel("triton", "window", 64, 506e12, 381e12, _WINDOW_4096),
    Kernel("triton", "window", 128, 518e12, 368e12, _WINDOW),
    Kernel("sdpa", "causal segments", 64, 155e12, 145e12, _TORCH),
    Kernel("sdpa", "causal segments apart", 64, 155e12, 145e12, _TORCH),
    Kernel("sdpa", "window", 64, 175e12, 233e12, _TORCH),
)
"""4 D or 10 D operations a pair over the measured time less the start. The start is where the line through 131072 and
524288 tokens of longnet_scaling.json meets no tokens: 0.08 ms forward, 0.09 ms backward."""
KERNELS: Mapping[str, tuple[Kernel, ...]] = {"h100": _HOPPER, "h200": _HOPPER}
_START = 0.08e-3
_EXCHANGES = "exchanges of 4.7 and 18.9 MB between two H100: benchmarks/results/scaling_2.json"
"""0.102 and 0.200 ms; an all-reduce of 1 GiB reaches 329 GB/s."""
_SHEET = "not measured here: a data sheet's figure, less a fifth to a half"

DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device("h100", 457e12, 382e12, 80e9, _LONGNET, _START),
        Device("h200", 457e12, 382e12, 141e9, f"as h100, whose chip it has: {_LONGNET}", _START),
        Device("a100", 190e12, 130e12, 80e9, _SHEET),
        Device("cpu", 0.1e12, 0.07e12, 64e9, "a few cores, roughly"),
    )
}

LINKS: Mapping[str, Link] = {
    link.name: link
    for link in (
        Link("nvlink", 145e9, 70e-6, _EXCHANGES),
        Link("infiniband", 45e9, 25e-6, f"400 Gb/s a device; {_SHEET}"),
        Link("pcie", 20e9, 20e-6, f"PCIe 4 x16; {_SHEET}"),
        Link("ethernet", 1e9, 100e-6, f"10 Gb/s; {_SHEET}"),
    )
}


def rated(device: Device, backend: str, work: str, head_dim: int) -> Device:
    """The device with the rates of a backend on a kind of work, or of the nearest that was measured; says which.

    'auto' is the backend whose rates stand first. A device without measured kernels is returned as it is.
    """
    known = KERNELS.get(device.name, ())
    if not known:
        return device
    wanted = known[0].backend if backend == "auto" else backend
    of_backend = [kernel for kernel in known if kernel.backend == wanted]
    best = min(of_backend or known, key=lambda k: (k.work != work, abs(k.head_dim - head_dim)))
    source = f"{device.name}, backend {best.backend}, {best.work}, head dimension {best.head_dim}: {best.source}"
    if (best.backend, best.work) != (wanted, work):
        source += f" (the nearest to {wanted}, {work} that was measured)"
    return replace(device, forward=best.forward, backward=best.backward, source=source)


def check_backend(device: Device, backend: str) -> None:
    """Raises ValueError unless the rates of a backend, or 'auto', are known on a device; names those that are.

    A device without measured kernels has one rate, its data sheet's, for the backends that others were measured with.
    """
    measured = KERNELS.get(device.name) or tuple(kernel for kernels in KERNELS.values() for kernel in kernels)
    known = ("auto", *dict.fromkeys(kernel.backend for kernel in measured))
    if backend not in known:
        there_are = ", ".join(map(repr, known))
        raise ValueError(f"no rates of backend {backend!r} are known on {device.name}: there are those of {there_are}")


def named(kind: Mapping[str, Device] | Mapping[str, Link], name: str, what: str) -> Device | Link:
    """A device or link by its name. Raises ValueError, naming those there are."""
    if name not in kind:
        raise ValueError(f"unknown {what} {name!r}: there are {', '.join(kind)}")
    return kind[name]
