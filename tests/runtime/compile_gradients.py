"""Compile the kernels of `hopper_gradients` in every build of their table, for a GPU that need not be there: a script.

Prints a line for each. Triton brings its own assembler; it must not be in the interpreter's mode.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

sys.path.insert(0, str(Path(__file__).parent))
from hand_over import faults

from attnlang.runtime.triton import hopper_gradients, hopper_queries
from attnlang.runtime.triton.gradients import MOST_RATES, TABLE, Build
from attnlang.runtime.triton.specialised import LOADER_REGISTERS
from attnlang.runtime.triton.squares import SQUARE, TILE

SHARED = 232_448
"""Bytes of shared memory that a program may have."""
SCALES = ("scale", "gradient_scale")


def matrix(rows: int, columns: int) -> str:
    layout = gl.NVMMASharedLayout.get_default_for([rows, columns], gl.bfloat16)
    return f"tensordesc<bf16[{rows}, {columns}],{layout!r}>"


def compiled(
    kernel: Any, rows: dict[str, int], dim: int, rates: int, build: Build, chosen: dict[str, object]
) -> triton.compiler.CompiledKernel:
    """A kernel whose matrices, by the letter of their name, have tiles of so many rows."""
    names: list[str] = kernel.arg_names
    chosen |= {"D": dim, "RATES": rates, "REGISTERS": build.consumer_registers, "LOADER_REGISTERS": LOADER_REGISTERS}
    vector = f"tensordesc<fp32[{SQUARE}],{gl.NVMMASharedLayout(0, 32, 1)!r}>"
    kinds: dict[str, object] = {"lses": vector, "deltas": vector, "table": "*i32", "entries": "*i32"}
    kinds |= {"bits": "*i32", "apart": ("i32",) * 6}
    kinds |= dict.fromkeys(SCALES, "fp32") | {"squares": matrix(SQUARE, SQUARE)}
    kinds |= {name: "*bf16" for name in names if re.fullmatch(r"d[qkv]_out", name)}
    kinds |= {name: ("i32",) * 3 for name in names if re.fullmatch(r"d[qkv]_stride", name)}
    for letter, number in ((letter, number) for letter in rows for number in range(MOST_RATES)):
        if number < rates:
            kinds[f"{letter}{number}"] = matrix(rows[letter], dim)
        else:
            chosen[f"{letter}{number}"] = None  # as the launch leaves it out
    kinds |= dict.fromkeys(chosen, "constexpr")
    aligned: list[tuple[int, ...]] = [(names.index(x),) for x in names if str(kinds.get(x, "")).startswith("*")]
    aligned += [(names.index(x), axis) for x in names if isinstance(kinds.get(x), tuple) for axis in range(3)]
    source = GluonASTSource(
        kernel,
        {name: kinds.get(name, "i32") for name in names},
        {(names.index(name),): value for name, value in chosen.items()},
        {place: [["tt.divisibility", 16]] for place in aligned},
    )
    options = {"num_warps": 4, "maxnreg": build.registers}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def keys(
    dim: int, build: Build, rates: int, lo: bool, hi: bool, listed: bool, group: int
) -> triton.compiler.CompiledKernel:
    chosen: dict[str, object] = {"STAGES": build.stages, "HAS_LO": lo, "HAS_HI": hi, "LISTED": listed}
    chosen |= {"STORE": build.store, "GROUP": group}
    chosen |= {"AHEAD": build.ahead, "OWN": build.own} | ({} if build.store else {"squares": None})
    rows = {"k": TILE, "v": TILE, "q": SQUARE, "d": SQUARE}
    return compiled(hopper_gradients.key_gradients, rows, dim, rates, build, chosen)


def queries(dim: int, build: Build, rates: int) -> triton.compiler.CompiledKernel:
    return compiled(hopper_queries.query_gradients, {"k": SQUARE}, dim, rates, build, {"STAGES": build.loads})


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
