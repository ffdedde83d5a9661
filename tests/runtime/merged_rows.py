"""The kernel that merges partial results against the same in torch, in float64: one line of JSON a case.

TRITON_INTERPRET=1 python tests/runtime/merged_rows.py     # on the cpu, in a process of its own
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnlang.runtime.merge import _merge_  # pyright: ignore[reportPrivateUsage] - the formula, in torch

SHAPES = ((1, 2, 40, 16), (3, 1, 33, 24), (2, 3, 1, 64), (1, 1, 0, 16))
KINDS = ((torch.float32, torch.float32), (torch.float32, torch.float16), (torch.float16, torch.float16))


def tensors(shape: tuple[int, ...], kind: torch.dtype, part: torch.dtype, device: str, aside: bool) -> list[Tensor]:
    """out, lse, part, part_lse; some rows have no key on one side, some on neither; `aside`: rows of larger tensors."""
    x, y, n, dim = shape
    generator = torch.Generator().manual_seed(n)

    def some(*size: int) -> Tensor:
        whole = torch.randn(size[0], size[2] + 8, size[1], *size[3:], generator=generator).transpose(1, 2)
        return whole[:, :, 4:-4] if aside else whole[:, :, 4:-4].contiguous()

    out, other = some(x, y, n, dim).to(kind), some(x, y, n, dim).to(part)
    lse, other_lse = some(x, y, n), some(x, y, n)
    for vector, values, residue in ((lse, out, 0), (other_lse, other, 1), (lse, out, 2), (other_lse, other, 2)):
        vector[:, :, residue::5] = float("-inf")
        values[:, :, residue::5] = 0.0
    return [t.to(device) for t in (out, lse, other, other_lse)]


def errors(device: str) -> Iterator[dict[str, Any]]:
    """Largest differences from the formula in float64, and whether rows without keys stayed so."""
    from attnlang.runtime.triton.merging import merge_

    for shape in SHAPES:
        for kind, part in KINDS:
            for aside in (False, True):
                mine = tensors(shape, kind, part, device, aside)
                true = [x.double() for x in mine]
                _merge_(*true)
                merge_(*mine)
                found = dict(zip(("out", "lse"), zip(mine, true, strict=True), strict=False))
                none = true[1] == float("-inf")
                row: dict[str, Any] = {"case": f"{shape} {kind} {part} aside={aside}", "half": kind == torch.float16}
                row["none"] = bool((found["lse"][0].isneginf() == none).all() and (found["out"][0][none] == 0).all())
                for name, (ours, exact) in found.items():
                    off = (ours.double() - exact).masked_fill(none if name == "lse" else none[..., None], 0.0)
                    row[name] = float(off.abs().max()) if off.numel() else 0.0
                yield row


def main() -> None:
    assert os.environ.get("TRITON_INTERPRET") == "1"
    sys.path.insert(0, str(Path(__file__).parent))
    from triton_cases import interpret

    interpret()
    for row in errors("cpu"):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
