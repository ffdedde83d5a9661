"""Compile the kernel of `hopper_lists` in every configuration, for a GPU that need not be there: a script.

Prints a line for each. Triton brings its own assembler; it must not be in the interpreter's mode.
"""

from __future__ import annotations

import sys
from pathlib import Path

import triton

sys.path.insert(0, str(Path(__file__).parent))
from compiling import compiled, matrix
from hand_over import faults

from attnlang.runtime.triton import hopper_lists
from attnlang.runtime.triton.listed import BLOCK
from attnlang.runtime.triton.specialised import LISTS, LOADER_REGISTERS, Split

SHARED, RESERVED = 233_472, 1024
"""Bytes of shared memory of a multiprocessor, and what each program has of them besides its own."""


def attend(dim: int, split: Split, under: bool) -> triton.compiler.CompiledKernel:
    """The kernel on bfloat16 tensors."""
    chosen: dict[str, object] = {
        "D": dim,
        "CONSUMERS": split.consumers,
        "STAGES": split.stages,
        "UNDER": under,
        "REGISTERS": split.consumer_registers,
        "LOADER_REGISTERS": LOADER_REGISTERS,
    }
    kinds: dict[str, object] = {"scale": "fp32"} | dict.fromkeys(("xs", "ys"), matrix(BLOCK, dim))
    kinds |= dict.fromkeys(("q", "out"), "*bf16") | dict.fromkeys(("lse", "acc0"), "*fp32")
    kinds |= dict.fromkeys(("blocks", "masks", "bits", "table"), "*i32")
    kinds |= dict.fromkeys(("q_stride", "out_stride"), ("i32",) * 3)
    return compiled(hopper_lists.attend, kinds, chosen, split.registers)


if __name__ == "__main__":
    for dim, split in LISTS.items():
        for under in (False, True):
            kernel = attend(dim, split, under)
            assert "wgmma.mma_async" in kernel.asm["ptx"]
            assert (kernel.metadata.shared + RESERVED) * split.resident <= SHARED
            assert not list(faults(kernel.asm["ptx"]))
            print(dim, "under" if under else "", kernel.metadata.shared)
