"""What a schedule costs in time on a named device and link: a model of three numbers each, stated and easy to replace.

computing  pairs * 4 D / rate forward (two products a pair), 10 D backward (five)
talking    latency a message + bytes / bandwidth, the larger of what a rank sends and receives
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """Floating-point operations a second that attention reaches, forward and backward; bytes of memory."""

    name: str
    forward: float
    backward: float
    memory: float


@dataclass(frozen=True, slots=True)
class Link:
    """Bytes a second in each direction that a rank reaches, and seconds before a message arrives."""

    name: str
    bandwidth: float
    latency: float


DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device("h100", 400e12, 280e12, 80e9),
        Device("h200", 400e12, 280e12, 141e9),
        Device("a100", 190e12, 130e12, 80e9),
        Device("cpu", 0.1e12, 0.07e12, 64e9),
    )
}
"""bf16 FlashAttention-2-class kernels on causal segments, measured rates rounded down; a cpu of a few cores."""

LINKS: Mapping[str, Link] = {
    link.name: link
    for link in (
        Link("nvlink", 300e9, 15e-6),
        Link("infiniband", 45e9, 25e-6),
        Link("pcie", 20e9, 20e-6),
        Link("ethernet", 1e9, 100e-6),
    )
}
"""Of NVLink 4 within a host, 400 Gb/s InfiniBand a device, PCIe 4 x16, and 10 Gb/s Ethernet."""


def named(kind: Mapping[str, Device] | Mapping[str, Link], name: str, what: str) -> Device | Link:
    """A device or link by its name. Raises ValueError, naming those there are."""
    if name not in kind:
        raise ValueError(f"unknown {what} {name!r}: there are {', '.join(kind)}")
    return kind[name]
