"""Kernels in Gluon compiled for a Hopper GPU that need not be there: what the scripts compile_*.py have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource


def matrix(rows: int, columns: int) -> str:
    """The kind of a tensor descriptor of bfloat16 tiles."""
    layout = gl.NVMMASharedLayout.get_default_for([rows, columns], gl.bfloat16)
    return f"tensordesc<bf16[{rows}, {columns}],{layout!r}>"


def vector(size: int) -> str:
    """The kind of a tensor descriptor of stretches of a float32 vector."""
    return f"tensordesc<fp32[{size}],{gl.NVMMASharedLayout(0, 32, 1)!r}>"


def compiled(
    kernel: Any, kinds: Mapping[str, object], chosen: Mapping[str, object], registers: int
) -> triton.compiler.CompiledKernel:
    """A kernel for arguments of these kinds (integers where there is none), with what is compiled in by name.

    Addresses are multiples of 16 bytes, and all numbers of a tuple multiples of 16.
    """
    names: list[str] = kernel.arg_names
    of = {name: "constexpr" if name in chosen else kinds.get(name, "i32") for name in names}
    aligned: list[tuple[int, ...]] = [(names.index(name),) for name, kind in of.items() if str(kind).startswith("*")]
    aligned += [
        (names.index(name), axis)
        for name, kind in of.items()
        if isinstance(kind, tuple)
        for axis, _ in enumerate(kind)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - kinds
    ]
    source = GluonASTSource(
        kernel,
        of,
        {(names.index(name),): value for name, value in chosen.items()},
        {place: [["tt.divisibility", 16]] for place in aligned},
    )
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "maxnreg": registers})
