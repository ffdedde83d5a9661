"""What we are measured against: LongNet's own algorithm, cuDNN on views without a copy, dense SDPA, FlexAttention.

Shape legend: B batch, H heads, N tokens, D head dimension; r dilation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from attnlang.plan import Plan
from attnlang.runtime import sdpa
from attnlang.runtime.cudnn import CudaCudnn
from attnlang.runtime.kernels import CudaFlash

Attention: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
aten = torch.ops.aten
ABSENT = -1e8
"""The lse of rows that a branch does not have, as the reference implementation writes it."""


def dense(causal: bool) -> Attention:
    """Dense attention in cuDNN, by torch."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return run


# LongNet as its authors run it ---------------------------------------------------------------------------------------


def longnet_reference(segments: Sequence[int], dilations: Sequence[int], causal: bool) -> Attention:
    """LongNet by its authors' algorithm, for (B, H, N, D) tensors with N a multiple of every segment.

    For each branch: the diagonal of (r, head group) of each segment becomes a new contiguous tensor; flash attention;
    out and lse go back to full size by diag_embed; at the end all branches are weighed by the softmax over their lse,
    which carries no gradient. (Its head groups give other phases than h mod r, but the same work.)
    """

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outs: list[Tensor] = []
        lses: list[Tensor] = []
        for w, r in zip(segments, dilations, strict=True):
            rows = [_to_sparse(x.transpose(1, 2), min(w, x.size(2)), r) for x in (q, k, v)]
            out, lse, *_ = aten._scaled_dot_product_flash_attention(*(x.transpose(1, 2) for x in rows), 0.0, causal)
            out, lse = _to_dense(out, lse, r, q.size(0))
            outs.append(out)
            lses.append(lse)
        with torch.no_grad():
            weights = torch.stack(lses).softmax(0).to(q.dtype)
        return torch.stack([out * weight for out, weight in zip(outs, weights, strict=True)]).sum(0)

    return run


def _to_sparse(x_BNHD: Tensor, w: int, r: int) -> Tensor:
    """(B, N, H, D) --> (B * segments, w / r, H, D), each head group with its own residue class, copied."""
    _, _, h, d = x_BNHD.shape
    more = -h % r
    x = F.pad(x_BNHD, (0, 0, 0, more)) if more else x_BNHD
    x = x.reshape(-1, w // r, r, r, (h + more) // r, d)  # segment, row, class, group, head, D
    x = x.diagonal(dim1=2, dim2=3)  # segment, row, head, D, group
    x = x.permute(0, 1, 4, 2, 3).reshape(-1, w // r, h + more, d)
    return x[:, :, :h].contiguous()


def _to_dense(out: Tensor, lse: Tensor, r: int, batch: int) -> tuple[Tensor, Tensor]:
    """(segments, H, rows, D) --> (B, H, N, D), zero where the branch has no row; lse likewise, as (B, H, N, 1)."""
    _, h, rows, d = out.shape
    more = -h % r
    lse = lse[:, :, :rows]
    if more:
        out, lse = F.pad(out, (0, 0, 0, 0, 0, more)), F.pad(lse, (0, 0, 0, more), value=ABSENT)
    group = (h + more) // r
    out = torch.diag_embed(out.reshape(-1, r, group, rows, d).permute(0, 2, 3, 4, 1))  # segment, head, row, D, r, r
    out = out.permute(0, 2, 4, 5, 1, 3).reshape(batch, -1, h + more, d)  # segment, row, class, group, head, D
    full = torch.diag_embed(lse.reshape(-1, r, group, rows).permute(0, 2, 3, 1))  # segment, head, row, class, group
    full = full.masked_fill(full == 0, ABSENT).permute(0, 2, 3, 4, 1).reshape(batch, -1, h + more, 1)
    return out[:, :, :h].transpose(1, 2), full[:, :, :h].transpose(1, 2)


# cuDNN on strided views ----------------------------------------------------------------------------------------------


class cudnn_views:  # noqa: N801 - used as a function is
    """A plan on cuDNN views: forward(q, k, v) and backward(...) as a backend has them."""

    def __init__(self, plan: Plan, scale: float) -> None:
        self.plan, self.scale, self.kernel = plan, scale, CudaCudnn(CudaFlash())

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return sdpa.forward(q, k, v, self.plan, self.scale, {}, self.kernel)

    def backward(self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Any:
        return sdpa.backward(dout, q, k, v, out, lse, self.plan, self.scale, {}, self.kernel)


# FlexAttention -------------------------------------------------------------------------------------------------------

compiled_flex: Any = torch.compile(flex_attention, dynamic=False)
compiled_mask: Any = torch.compile(create_block_mask, dynamic=False)


def flex(mask_mod: Any, n: int, heads: int | None, score_mod: Any = None) -> Attention:
    """FlexAttention under a mask, its block mask made once, outside of what is timed."""
    torch.compiler.reset()  # (each mask is a kernel of its own, and dynamo gives up after some)
    mask = compiled_mask(mask_mod, None, heads, n, n, device="cuda")
    return lambda q, k, v: compiled_flex(q, k, v, block_mask=mask, score_mod=score_mod)
