"""Cases of the triton backend against the float64 formula, and what rounding allows them: run as a script, and on CUDA.

    TRITON_INTERPRET=1 python tests/runtime/triton_cases.py NAME ...      # each as a line of JSON

The interpreter must be chosen before triton is imported, so on the cpu a process of its own runs them.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import attnc
import torch
from torch import Tensor

import attnlang
from attnlang import Pattern
from attnlang.runtime.expected import expected

SEGMENTS = {"segments": [64, 128, 256], "dilations": [1, 2, 4]}
STRICT = "pattern strict = offset(..-3)"
EACH = "pattern each = mix(segment(w) & offset(.. step r) for w, r in zip([32, 64], [1, 2]))"
GAPS = "pattern gaps = blocks(20) { offset(0..0) } & ~key(pos % 20 < 4) & ~query(pos % 20 < 4)"


@dataclass(frozen=True)
class Case:
    """A pattern of the library, or the text of one, at one shape."""

    pattern: str
    n: int
    parameters: dict[str, Any] = field(default_factory=dict)
    heads: int = 2
    kv_heads: int = 2
    dim: int = 16
    dtype: str = "float32"
    batch: int = 1
    scale: float | None = None
    descriptors: bool = False
    side_by_side: bool = True  # (B, N, H, D) in memory
    chunk: int = 0
    tile: int = 16
    repeat: bool = False


CASES = {
    "dense": Case("dense", 40),
    "causal, descriptors": Case("causal", 50, descriptors=True),
    "window": Case("sliding", 70, {"w": 20}),
    "window on both sides, descriptors": Case("sliding_bidirectional", 48, {"w": 9}, descriptors=True),
    "window, grouped heads, batch": Case("sliding", 40, {"w": 9}, kv_heads=1, batch=2, side_by_side=False),
    "segments, a short last one": Case("chunked", 50, {"b": 20}),
    "shifted segments": Case("s2attn", 44, {"g": 16}),
    "nested lattices, full": Case("longnet_bidirectional", 128, SEGMENTS),
    "nested lattices, causal, descriptors": Case("longnet", 128, SEGMENTS, descriptors=True, repeat=True),
    "nested lattices, uneven": Case("longnet", 141, SEGMENTS),
    "nested lattices, grouped heads": Case("longnet", 64, SEGMENTS, kv_heads=1),
    "each residue class of a coarser lattice": Case(EACH, 128),
    "each residue class, causal": Case(EACH.replace("offset(..", "offset(..0"), 128),
    "lattices apart": Case("longnet_torchscale", 64, {"segments": [16, 32], "dilations": [1, 2]}),
    "each residue class, descriptors": Case("strided", 48, {"l": 8}, descriptors=True),
    "columns": Case("fixed", 50, {"l": 10, "c": 3}),
    "columns, grouped heads": Case("fixed", 33, {"l": 10, "c": 3}, kv_heads=1),
    "global rows, long lists in chunks": Case("longformer", 150, {"w": 8}, chunk=1),
    "random blocks, grouped heads, descriptors": Case("bigbird", 96, {"b": 16}, kv_heads=1, descriptors=True),
    "neighborhoods": Case("natten1d", 45, {"w": 7}),
    "a grid": Case("natten2d", 48, {"rows": 6, "cols": 8, "w": 3}),
    "a grid, two words a row": Case("natten2d", 165, {"rows": 11, "cols": 15, "w": 5}, heads=1, kv_heads=1, tile=64),
    "documents by table": Case("packed", 45),
    "rows without keys": Case(STRICT, 40),
    "holes": Case(GAPS, 50),
    "float16": Case("sliding", 50, {"w": 20}, dtype="float16", descriptors=True),
    "float16 lists": Case("bigbird", 48, {"b": 16}, dtype="float16"),
    "float16 lists, a word a row": Case("packed", 187, dtype="float16", tile=32),
    "head dimension 24": Case("causal", 33, dim=24, descriptors=True),
    "a negative scale": Case("causal", 33, scale=-0.4),
    "scale 0": Case("causal", 20, scale=0.0),
    "one token": Case("longnet", 1, SEGMENTS),
}


def tables_of(case: Case, device: str) -> dict[str, Tensor]:
    """Three documents."""
    if case.pattern != "packed":
        return {}
    return {"doc": torch.arange(case.n, device=device) * 3 // case.n}


def differences(case: Case, device: str = "cpu", options: Any = None) -> tuple[list[float], list[float]]:
    """Largest errors of each result, and the largest allowed, by the rule of `attnlang.runtime.expected`."""
    from attnlang.runtime.triton import run

    pattern = pattern_of(case)
    plan = attnc.compile(pattern, heads=case.heads).plan
    assert plan is not None
    dtype = getattr(torch, case.dtype)
    scale = case.dim**-0.5 if case.scale is None else case.scale
    generator = torch.Generator().manual_seed(case.n)

    def tensor(heads: int) -> Tensor:
        shape = (case.batch, case.n, heads, case.dim) if case.side_by_side else (case.batch, heads, case.n, case.dim)
        x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)
        return x.transpose(1, 2) if case.side_by_side else x

    q, dout, k, v = (tensor(heads) for heads in (case.heads, case.heads, case.kv_heads, case.kv_heads))
    tables = tables_of(case, device)

    def ours() -> list[Tensor]:
        out, lse = run.forward(q, k, v, plan, scale, tables, options)
        return [out, lse, *run.backward(dout, q, k, v, out, lse, plan, scale, tables, options)]

    mine = ours()
    if case.repeat:
        assert all(torch.equal(a, b) for a, b in zip(mine, ours(), strict=True)), "two runs differ"
    assert mine[0].dtype == dtype
    assert mine[1].dtype == torch.float32
    true = expected(pattern, [q, k, v, dout], scale, list(tables.values()))
    return list(true.errors(mine)), list(true.allowed)


def pattern_of(case: Case) -> Pattern:
    """The pattern of a case."""
    text = case.pattern.startswith("pattern")
    return attnlang.loads(case.pattern) if text else attnlang.load(case.pattern, **case.parameters)


def interpret() -> None:
    """Triton 3.6's interpreter keeps scalars as arrays of one element, which numpy 2.4 no longer takes for indices."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


def main(names: list[str]) -> None:
    assert os.environ.get("TRITON_INTERPRET") == "1"
    interpret()
    from attnlang.runtime.triton import lists, ready
    from attnlang.runtime.triton.tuning import Config

    for name in names:
        case = CASES[name]
        lists.CHUNK = case.chunk or 32
        configs = tuple((mode, Config(case.tile, case.tile, 4, 1)) for mode in ready.MODES)
        options = ready.Options(configs, case.descriptors, max(32, case.tile))
        try:
            errors, allowed = differences(case, "cpu", options)
        except Exception as error:
            print(json.dumps({"name": name, "failure": repr(error)[-2000:]}), flush=True)
        else:
            print(json.dumps({"name": name, "errors": errors, "allowed": allowed}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
