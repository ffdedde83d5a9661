"""Which kernel runs a little attention on rows that travelled: torch's, or our own where it is a band of a square.

And whether the kernel of a rank's own rows leaves room for messages beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from attnlang.plan import Band, Lattice, Plan
from attnlang.runtime.backends import AUTO, load
from attnlang.runtime.calls import Call
from attnlang.runtime.kernels import Kernel, kernel_for

OURS = "triton"


@dataclass(frozen=True, slots=True)
class Squares:
    """Our kernels on calls with as many queries as keys: then a band is a plan on a sequence of that length.

    The halo of a window is one: of w - 1 queries and as many keys before them, query i meets the keys from i on.
    """

    windows: bool = True
    grouped: bool = True

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
        return load(OURS).forward(q, k, v, _plan(q.size(1), call.band), scale, {})

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return load(OURS).backward(dout, q, k, v, out, lse, _plan(q.size(1), call.band), scale, {})


@lru_cache(maxsize=64)
def _plan(heads: int, band: Band) -> Plan:
    return Plan(heads, (Lattice(tuple(range(heads)), band=band),))


@lru_cache(maxsize=256)
def kernel_of(call: Call, backend: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> Kernel:
    """The kernel for a call, where `backend` runs a rank's own rows.

    Raises ValueError, naming what can, where torch has none.
    """
    square = call.q_len == call.k_len and not (call.full or call.causal)
    if device.type == "cuda" and dtype == torch.float32:
        square = False  # (without tensor cores torch's kernel is as good, and ours take a minute to compile)
    if square and backend in (AUTO, OURS):
        refusal = load(OURS).refusal(_plan(1, call.band), device, dtype, head_dim)
        if refusal is None:
            return Squares()
    return kernel_for(device, dtype, head_dim)


def fills_the_gpu(backend: str, q: Tensor) -> bool:
    """Whether a backend's kernels stay on every multiprocessor of q's GPU until they are done.

    Those for Hopper do, and no copy of NCCL's fits beside one of their programs. A message that is still on its way
    when such a kernel begins holds some multiprocessors until its peer comes, and the kernel, whose work is dealt out
    beforehand, waits for those: it took 16 ms in place of 12. So messages arrive first.
    """
    if backend != OURS or q.device.type != "cuda" or q.dtype == torch.float32:
        return False
    from attnlang.runtime.triton import specialised

    return specialised.available(q.device) and q.size(-1) in specialised.HEAD_DIMS
