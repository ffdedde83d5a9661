"""Plans that are one call of a kernel that torch differentiates by itself: full and causal attention on all heads.

Where a batch needs nothing else (no padding, no tables, no copy), that call is the module: torch's own autograd, and
no Python between the launches. `attnlang.runtime.ops` makes it so in eager mode where no one observes the operator, and
in the graphs that torch.compile traces; whatever is not taken here runs by the operator, with the same results.

Shape legend: B batch, H heads, Hkv heads of k and v, M queries, N keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from attnlang.plan import FULL, Lattice, Plan
from attnlang.runtime import cudnn
from attnlang.runtime.backends import choose
from attnlang.runtime.layouts import readable
from attnlang.runtime.program import program
from attnlang.runtime.scales import above_zero, gradient_of_q

_forward_on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward_on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
ALIGNMENT = 16
"""Bytes to which a GPU wants every row."""


@dataclass(frozen=True, slots=True)
class Direct:
    """A plan as one call: causal or full, of cuDNN on a GPU or of torch's flash-attention on the cpu."""

    causal: bool
    on_gpu: bool

    @property
    def any_gradient(self) -> bool:
        """Whether the backward pass takes a d_out of any layout, so that a compiler may call it by itself."""
        return not self.on_gpu

    def takes(self, q: Tensor, k: Tensor, v: Tensor) -> bool:
        """Whether tensors (B, H, M, D), (B, Hkv, N, D) go to the kernel as they are."""
        rows, keys = q.size(2), k.size(2)
        if rows < 2 or keys < 2 or not q.size(0) or (self.causal and rows != keys):
            return False
        if not self.on_gpu:
            return k.size(1) == q.size(1) and _is_dense(q, 1) and _is_dense(k, 1) and _is_dense(v, 1)
        if max(q.size(0), q.size(1)) > cudnn.LARGEST_GRID or cudnn.must_repeat():
            return False
        unit = ALIGNMENT // q.element_size()
        return all(_is_dense(x, unit) and _is_aligned(x) for x in (q, k, v))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
        """Out (B, H, M, D), which torch differentiates, and lse (B, H, M), which it does not."""
        if self.on_gpu:
            return cudnn.forward(q, k, v, self.causal, scale)
        q, positive, _ = above_zero(q, scale)
        return _forward_on_cpu(q, k, v, 0.0, self.causal, scale=positive)

    def output(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """Out alone: a GPU writes no lse then, unless there are gradients to come."""
        if self.on_gpu:
            return cudnn.output(q, k, v, self.causal, scale)
        return self.forward(q, k, v, scale)[0]

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Dq, dk and dv."""
        dout, out = readable(dout), readable(out)
        if self.on_gpu:
            return cudnn.backward(dout, q, k, v, out, lse, self.causal, scale)
        q, positive, factor = above_zero(q, scale)
        dq, dk, dv = _backward_on_cpu(dout, q, k, v, out, lse, 0.0, self.causal, scale=positive)
        return gradient_of_q(dq, factor), dk, dv


def call_for(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: Sequence[Tensor],
    lengths: Tensor | None,
    backend: str,
    program_text: str,
) -> Direct | None:
    """The one call of torch's that a batch under a program is; None where there is more to do.

    Raises ValueError where no backend can run the program there.
    """
    head_dim = q.size(3)
    if lengths is not None or tables or q.size(2) < 2 or type(head_dim) is not int:  # (a compiler's may be a symbol)
        return None
    call = direct_program(program_text, backend, q.device, q.dtype, head_dim)
    return call if call is not None and call.takes(q, k, v) else None


def direct(plan: Plan, backend: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> Direct | None:
    """The one call that a plan is on a device; None where the operator runs it.

    Raises ValueError where no backend can run the plan there.
    """
    if not plan.is_dense or choose(backend, plan, device, dtype, head_dim).name != "sdpa":
        return None
    if device.type != "cpu" and cudnn.refusal_here(device, dtype, head_dim) is not None:
        return None
    return Direct(plan.branches != (Lattice(tuple(range(plan.heads)), band=FULL),), device.type != "cpu")


@lru_cache(maxsize=1024)
def direct_program(text: str, backend: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> Direct | None:
    """The same for a program's text."""
    what = program(text)
    return None if what.tables else direct(what.plan, backend, device, dtype, head_dim)


def _is_dense(x: Tensor, unit: int) -> bool:
    """Whether rows lie whole at multiples of so many elements, and no view repeats one."""
    if x.is_contiguous():
        return x.size(3) % unit == 0
    *outer, last = x.stride()
    return last == 1 and all(stride and stride % unit == 0 for stride in outer)


def _is_aligned(x: Tensor) -> bool:
    """Whether the data begins where a GPU wants it; while a compiler traces it, within its storage."""
    start = x.data_ptr() if type(x) is Tensor else x.storage_offset() * x.element_size()
    return start % ALIGNMENT == 0
