"""Compile the kernel for block lists in the configurations of its table, for a GPU that need not be there: a script.

    python tests/runtime/compile_lists.py [forward-64 ...]

Prints a line for each: shared memory, and how a masked pair is tested. Triton must not be in the interpreter's mode.
"""

from __future__ import annotations

import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from attnlang.runtime.triton import kernels, tuning
from attnlang.runtime.triton.tuning import LIST_BLOCK, Config

MODES = {"forward": 0, "query gradient": 1, "key gradient": 2}
SHARED = 232_448
"""Bytes of shared memory that a program may have."""


def compiled(mode: str, dim: int, config: Config) -> triton.compiler.CompiledKernel:
    """Tiles alone, in bfloat16, by tensor descriptors, for sm_90."""
    by_key = mode == "key gradient"
    chosen: dict[str, object] = dict.fromkeys(
        ("BAND", "NESTED", "HAS_LO", "HAS_HI", "COLUMNS_LO", "COLUMNS_HI", "CHUNKED", "GROUPED"), False
    )
    chosen |= {"MODE": MODES[mode], "D": dim, "PADDED": dim, "F": config.fixed, "S": config.streamed, "PARTS": 1}
    chosen |= {"RESIDUES": 0, "COLUMNS": 0, "LISTS": True, "BLOCK": LIST_BLOCK, "EVEN": True, "TMA": True}
    chosen |= {"VECTORS": by_key, "PRECISION": "tf32"}
    names = kernels.attend.arg_names
    rows, line = f"tensordesc<bf16[{config.streamed}, {dim}]>", f"tensordesc<fp32[{config.streamed}]>"
    kinds: dict[str, object] = dict.fromkeys(("f0", "f1", "x", "y", "out0", "out1"), "*bf16")
    kinds |= dict.fromkeys(("lse", "delta"), line if by_key else "*fp32")
    kinds |= dict.fromkeys(("acc0", "acc1", "log_m"), "*fp32")
    kinds |= dict.fromkeys(("heads", "members", "tiles", "ranges", "blocks", "masks", "bits", "chunks"), "*i32")
    kinds |= dict.fromkeys(("scale", "sign", "gradient_scale"), "fp32")
    kinds |= {"x_place": ("i32",) * 4, "y_place": ("i32",) * 4, "chain": ("i32",) * 2}
    kinds |= dict.fromkeys([name for name in names if re.fullmatch(r"[xy]s\d", name)], rows)
    kinds |= dict.fromkeys(chosen, "constexpr")
    aligned = [place for place, name in enumerate(names) if str(kinds.get(name, "")).startswith("*")]
    aligned += [place for place, name in enumerate(names) if re.fullmatch(r"(f0|f1|x|y|out0|out1)_[bhn]", name)]
    source = ASTSource(
        kernels.attend,
        {name: kinds.get(name, "i32") for name in names},
        {(names.index(name),): value for name, value in chosen.items()},
        {(place,): [["tt.divisibility", 16]] for place in aligned},
    )
    options = {"num_warps": config.warps, "num_stages": config.stages, "maxnreg": config.registers}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def pairs_a_thread(config: Config) -> int:
    return config.fixed * config.streamed // (32 * config.warps)


if __name__ == "__main__":
    for (mode, dim), kinds in tuning.HALF.items():
        if sys.argv[1:] and f"{mode}-{dim}" not in sys.argv[1:]:
            continue
        kernel = compiled(mode, dim, kinds["lists"])
        assert kinds["lists"].fixed < 64 or "wgmma.mma_async" in kernel.asm["ptx"]
        assert kernel.metadata.shared <= SHARED
        tested = kernel.asm["ptx"].count("and.b32 bit,")
        assert tested == pairs_a_thread(kinds["lists"]), "every pair once, in the one loop that has masks"
        print(mode, dim, kernel.metadata.shared, tested)
