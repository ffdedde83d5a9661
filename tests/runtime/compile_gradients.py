"""Compile the kernels of `hopper_gradients` in every build of their table, for a GPU that need not be there: a script.

Prints a line for each. Triton brings its own assembler; it must not be in the interpreter's mode.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import triton

sys.path.insert(0, str(Path(__file__).parent))
from compiling import compiled, matrix, vector
from hand_over import faults

from attnlang.runtime.triton import hopper_gradients, hopper_queries
from attnlang.runtime.triton.gradients import MOST_RATES, TABLE, Build
from attnlang.runtime.triton.specialised import LOADER_REGISTERS
from attnlang.runtime.triton.squares import SQUARE, TILE

SHARED = 232_448
"""Bytes of shared memory that a program may have."""
SCALES = ("scale", "gradient_scale")


def gradient(
    kernel: Any, rows: dict[str, int], dim: int, rates: int, build: Build, chosen: dict[str, object]
) -> triton.compiler.CompiledKernel:
    """A kernel whose matrices, by the letter of their name, have tiles of so many rows."""
    names: list[str] = kernel.arg_names
    chosen |= {"D": dim, "RATES": rates, "REGISTERS": build.consumer_registers, "LOADER_REGISTERS": LOADER_REGISTERS}
    kinds: dict[str, object] = {"table": "*i32", "entries": "*i32", "bits": "*i32", "apart": ("i32",) * 6}
    kinds |= dict.fromkeys(("lses", "deltas"), vector(SQUARE)) | dict.fromkeys(SCALES, "fp32")
    kinds |= {"squares": matrix(SQUARE, SQUARE)}
    kinds |= {name: "*bf16" for name in names if re.fullmatch(r"d[qkv]_out", name)}
    kinds |= {name: ("i32",) * 3 for name in names if re.fullmatch(r"d[qkv]_stride", name)}
    for letter, number in ((letter, number) for letter in rows for number in range(MOST_RATES)):
        if number < rates:
            kinds[f"{letter}{number}"] = matrix(rows[letter], dim)
        else:
            chosen[f"{letter}{number}"] = None  # as the launch leaves it out
    return compiled(kernel, kinds, chosen, build.registers)


def keys(
    dim: int, build: Build, rates: int, lo: bool, hi: bool, listed: bool, group: int
) -> triton.compiler.CompiledKernel:
    chosen: dict[str, object] = {"STAGES": build.stages, "HAS_LO": lo, "HAS_HI": hi, "LISTED": listed}
    chosen |= {"STORE": build.store, "GROUP": group}
    chosen |= {"AHEAD": build.ahead, "OWN": build.own} | ({} if build.store else {"squares": None})
    rows = {"k": TILE, "v": TILE, "q": SQUARE, "d": SQUARE}
    return gradient(hopper_gradients.key_gradients, rows, dim, rates, build, chosen)


def queries(dim: int, build: Build, rates: int) -> triton.compiler.CompiledKernel:
    return gradient(hopper_queries.query_gradients, {"k": SQUARE}, dim, rates, build, {"STAGES": build.loads})


if __name__ == "__main__":
    for dim, build in TABLE.items():
        shapes = (
            (4, False, False, False, 1),
            (4, False, True, False, 1),
            (1, True, True, False, 4),
            (1, False, False, True, 1),
        )
        made = [keys(dim, build, *shape) for shape in shapes]
        if build.store:
            made.append(queries(dim, build, 4))
        for kernel in made:
            assert "wgmma.mma_async" in kernel.asm["ptx"]
            assert kernel.metadata.shared <= SHARED
            assert not list(faults(kernel.asm["ptx"]))
            print(dim, kernel.metadata.name, kernel.metadata.shared)
