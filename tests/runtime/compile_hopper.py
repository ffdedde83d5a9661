"""Compile the kernel of `hopper` in every configuration of its table, for a GPU that need not be there: a script.

Prints a line for each. Triton brings its own assembler; it must not be in the interpreter's mode.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import triton

sys.path.insert(0, str(Path(__file__).parent))
from compiling import compiled, matrix, vector
from hand_over import faults, weakened

from attnlang.runtime.triton import hopper
from attnlang.runtime.triton.specialised import LOADER_REGISTERS, TABLE, Split
from attnlang.runtime.triton.tuning import Kind

SHARED, RESERVED = 233_472, 1024
"""Bytes of shared memory of a multiprocessor, and what each program has of them besides its own."""


def attend(dim: int, kind: Kind, split: Split, nested: bool) -> triton.compiler.CompiledKernel:
    """The kernel for three nested lattices and weights, or for a single one."""
    parts = 3 if nested else 1
    chosen: dict[str, object] = {
        "D": dim,
        "CONSUMERS": split.consumers,
        "S": split.streamed,
        "STAGES": split.stages,
        "PARTS": parts,
        "BIASED": nested,
        "HAS_LO": kind == "window",
        "HAS_HI": kind != "full",
        "WIDE": True,
        "Q_SHARED": split.q_shared,
        "UNDER": bool(split.under),
        "REGISTERS": split.consumer_registers,
        "LOADER_REGISTERS": LOADER_REGISTERS,
    }
    kinds: dict[str, object] = {"log_m": vector(split.streamed), "table": "*i32", "scale": "fp32"}
    kinds |= dict.fromkeys(("q", "out"), "*bf16") | dict.fromkeys(("lse", "acc0"), "*fp32")
    kinds |= dict.fromkeys(("q_stride", "out_stride"), ("i32",) * 3)
    seen = [name for name in hopper.attend.arg_names if re.fullmatch(r"[xy]s\d", name)]
    chosen |= {name: None for name in seen if int(name[2]) >= parts}  # as the launch leaves them out
    kinds |= dict.fromkeys(seen, matrix(split.streamed, dim))
    return compiled(hopper.attend, kinds, chosen, split.registers)


if __name__ == "__main__":
    for (dim, way), split in TABLE.items():
        kind: Kind = "causal" if way == "nested" else "window" if way == "short" else way
        for under in (False, True) if way == "nested" else (bool(split.under),):
            nested = way == "nested"
            kernel = attend(dim, kind, replace(split, under=under), nested)
            assert "wgmma.mma_async" in kernel.asm["ptx"]
            assert ("vote.sync.any" in kernel.asm["ptx"]) == under
            assert (kernel.metadata.shared + RESERVED) * split.resident <= SHARED
            assert not list(faults(kernel.asm["ptx"]))
            assert all(any(faults(ptx)) for ptx in weakened(kernel.asm["ptx"]))
            print(dim, way, "under" if under else "", kernel.metadata.shared)
