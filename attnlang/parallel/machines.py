"""What a schedule costs in time on a named device and link: a model of three numbers each, stated and easy to replace.

computing  pairs * 4 D / rate forward (two products a pair), 10 D backward (five)
talking    latency a message + bytes / bandwidth, the larger of what a rank sends and receives
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """Floating-point operations a second that attention reaches, forward and backward; bytes of memory; says who."""

    name: str
    forward: float
    backward: float
    memory: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """Bytes a second in each direction that a rank reaches, and seconds before a message arrives; says who."""

    name: str
    bandwidth: float
    latency: float
    source: str = ""


_TRITON = "backend triton, LongNet, causal, 12 heads of 64, bfloat16: benchmarks/results/longnet.json"
"""2.50 ms forward and 7.96 ms with the backward for 3,122,085,888 pairs. Torch's kernels on views reach less:
154 and 145 TFLOP/s on LongNet, 174 and 233 on a window of 4096 (scaling_2.json)."""
_EXCHANGES = "exchanges of 4.7 and 18.9 MB between two H100: benchmarks/results/scaling_2.json"
"""0.102 and 0.200 ms; an all-reduce of 1 GiB reaches 329 GB/s."""
_SHEET = "not measured here: a data sheet's figure, less a fifth to a half"

DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device("h100", 319e12, 366e12, 80e9, _TRITON),
        Device("h200", 319e12, 366e12, 141e9, f"as h100, whose chip it has: {_TRITON}"),
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


def named(kind: Mapping[str, Device] | Mapping[str, Link], name: str, what: str) -> Device | Link:
    """A device or link by its name. Raises ValueError, naming those there are."""
    if name not in kind:
        raise ValueError(f"unknown {what} {name!r}: there are {', '.join(kind)}")
    return kind[name]
