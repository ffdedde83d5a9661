"""Compile the kernel of `hopper_lists` in every configuration, for a GPU that need not be there: a script.

Prints a line for each. Triton brings its own assembler; it must not be in the interpreter's mode.
"""

from __future__ import annotations

import sys
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

sys.path.insert(0, str(Path(__file__).parent))
from hand_over import faults

from attnlang.runtime.triton import hopper_lists
from attnlang.runtime.triton.listed import BLOCK
from attnlang.runtime.triton.specialised import LISTS, LOADER_REGISTERS, Split

SHARED, RESERVED = 233_472, 1024
"""Bytes of shared memory of a multiprocessor, and what each program has of them besides its own."""


def compiled(dim: int, split: Split, under: bool) -> triton.compiler.CompiledKernel:
    """The kernel on bfloat16 tensors."""
    chosen: dict[str, object] = {
        "D": dim,
        "CONSUMERS": split.consumers,
        "STAGES": split.stages,
        "UNDER": under,
        "REGISTERS": split.consumer_registers,
        "LOADER_REGISTERS": LOADER_REGISTERS,
    }
    matrix = f"tensordesc<bf16[{BLOCK}, {dim}],{gl.NVMMASharedLayout.get_default_for([BLOCK, dim], gl.bfloat16)!r}>"
    pointers = {"q": "*bf16", "out": "*bf16", "lse": "*fp32", "acc0": "*fp32"}
    pointers |= dict.fromkeys(("blocks", "masks", "bits", "table"), "*i32")
    kinds: dict[str, object] = {"scale": "fp32", "xs": matrix, "ys": matrix, **pointers}
    kinds |= dict.fromkeys(("q_stride", "out_stride"), ("i32",) * 3) | dict.fromkeys(chosen, "constexpr")
    names: list[str] = hopper_lists.attend.arg_names
    aligned: list[tuple[int, ...]] = [(names.index(name),) for name in pointers]
    aligned += [(names.index("q_stride"), axis) for axis in range(3)]
    source = GluonASTSource(
        hopper_lists.attend,
        {name: kinds.get(name, "i32") for name in names},
        {(names.index(name),): value for name, value in chosen.items()},
        {place: [["tt.divisibility", 16]] for place in aligned},
    )
    options = {"num_warps": 4, "maxnreg": split.registers}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


if __name__ == "__main__":
    for dim, split in LISTS.items():
        for under in (False, True):
            kernel = compiled(dim, split, under)
            assert "wgmma.mma_async" in kernel.asm["ptx"]
            assert (kernel.metadata.shared + RESERVED) * split.resident <= SHARED
            assert not list(faults(kernel.asm["ptx"]))
            print(dim, "under" if under else "", kernel.metadata.shared)
