"""What a GPU's data sheet allows: the roofline of a pattern's attention.

Peaks are dense bf16 tensor-core rates (no structured sparsity) and memory bandwidths as their makers state them. A
roofline is a bound from below: no kernel is faster, and few come within a factor of 1.3 of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: peak bf16 FLOP/s, memory bandwidth in bytes/s, memory in bytes, and where the figures are from."""

    name: str
    flops: float
    bandwidth: float
    memory: float
    source: str


GPUS: dict[str, Gpu] = {
    gpu.name.split()[0].lower().replace("-", ""): gpu
    for gpu in (
        Gpu("A100 SXM 80GB", 312e12, 2.039e12, 80e9, "NVIDIA A100 data sheet, June 2021"),
        Gpu("H100 SXM", 989.4e12, 3.35e12, 80e9, "NVIDIA H100 data sheet (1,979 TFLOPS with sparsity)"),
        Gpu("H200 SXM", 989.4e12, 4.8e12, 141e9, "NVIDIA H200 data sheet (1,979 TFLOPS with sparsity)"),
        Gpu("B200 HGX", 2250e12, 8e12, 180e9, "NVIDIA HGX B200 data sheet (36 PFLOPS with sparsity for eight)"),
        Gpu("L40S PCIe", 362.05e12, 0.864e12, 48e9, "NVIDIA L40S data sheet"),
        Gpu("RTX4090 24GB", 165.2e12, 1.008e12, 24e9, "NVIDIA Ada architecture white paper, fp32 accumulation"),
        Gpu("MI300X OAM", 1307.4e12, 5.3e12, 192e9, "AMD Instinct MI300X data sheet"),
    )
}


@dataclass(frozen=True, slots=True)
class Roofline:
    """The least time of one pass on a GPU: seconds of arithmetic, seconds of memory traffic, FLOPs a byte."""

    flops: int
    bytes: int
    compute_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        """The larger of the two: what the roofline allows."""
        return max(self.compute_s, self.memory_s)

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: FLOPs a byte of compulsory traffic."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def bound(self) -> str:
        """What limits it."""
        return "compute" if self.compute_s >= self.memory_s else "memory"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; times in seconds."""
        return {
            "bytes": self.bytes,
            "intensity": self.intensity,
            "seconds": self.seconds,
            "bound": self.bound,
        }


def roofline(flops: int, bytes_: int, gpu: Gpu) -> Roofline:
    """The roofline of so many FLOPs over so many bytes."""
    return Roofline(flops, bytes_, flops / gpu.flops, bytes_ / gpu.bandwidth)


def gpu_named(name: str) -> Gpu:
    """A GPU of the table, in any spelling. Raises ValueError with what there is."""
    key = name.lower().replace("-", "").replace(" ", "")
    if key not in GPUS:
        raise ValueError(f"no figures for GPU {name!r}: there are {', '.join(GPUS)}")
    return GPUS[key]
