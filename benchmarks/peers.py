"""What we are measured against: LongNet as its authors run it, cuDNN on views without a copy, dense SDPA, Flex.

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
    """LongNet as its authors' code computes it, tensor operation by tensor operation, for (B, H, N, D) tensors.

    It follows `gathering`, `attention_ops` and `scattering` of DilatedAttention (microsoft/torchscale, commit 11e745e,
    torchscale/component/dilated_attention.py and multihead_attention.py) on one device, from the tensors that
    `gathering` takes to those that the last projection does: every reshape copies where theirs does. Their module
    makes one copy more of each of q, k and v before, to bring heads to the front, which is not counted here. As theirs,
    it clamps segments to N, fills up N and H with zeros that are not masked, and gives the weights no gradient.
    """

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, n, _ = q.shape
        k_BNHD, v_BNHD, q_BNHD = (x.transpose(1, 2) for x in (k, v, q))
        branches: list[tuple[Tensor, Tensor]] = []
        for w, r in zip(segments, dilations, strict=True):
            keys, values, queries = (_gathered(x, min(w, n), r) for x in (k_BNHD, v_BNHD, q_BNHD))
            branches.append(_attended(queries, keys, values, heads, causal))
        outs: list[Tensor] = []
        lses: list[Tensor] = []
        for r, (out, lse) in zip(dilations, branches, strict=True):
            out, lse = _spread(out.unflatten(2, (heads, -1)), lse, r)
            outs.append(_in_a_row(out, batch)[:, :n])
            lses.append(_in_a_row(lse, batch)[:, :n])
        out = _weighed(outs, lses).unflatten(0, (batch, heads)).transpose(1, 2)  # B, N, H, D
        return out.reshape(batch, n, -1).view(out.shape).transpose(1, 2)

    return run


def _gathered(x_BNHD: Tensor, w: int, r: int) -> Tensor:
    """(B, N, H, D) --> (B * segments * H, w / r, D)."""
    more = -x_BNHD.size(1) % w
    x = F.pad(x_BNHD, (0, 0, 0, 0, 0, more)) if more else x_BNHD
    x = _diagonal(x.reshape(-1, w, *x.shape[2:]), r)
    return x.transpose(1, 2).reshape(-1, x.size(1), x.size(3))


def _diagonal(x: Tensor, r: int) -> Tensor:
    """(segments, w, H, D) --> (segments, w / r, H, D): of each head group the rows of its own residue class."""
    _, w, h, _ = x.shape
    if -w % r or -h % r:
        x = F.pad(x, (0, 0, 0, -h % r, 0, -w % r))
    x = x.unflatten(2, (r, -1)).unflatten(1, (-1, r))  # segment, row, class, group, head, D
    x = x.permute(0, 1, 4, 5, 2, 3).diagonal(dim1=4, dim2=5)  # segment, row, head, D, group
    x = x.permute(0, 1, 4, 2, 3).flatten(2, 3)
    return x[:, :, :h] if -h % r else x


def _attended(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool) -> tuple[Tensor, Tensor]:
    """(X * H, rows, D) three times --> out (X, rows, H * D) and lse (X, H, rows)."""
    q, k, v = (x.unflatten(0, (-1, heads)) for x in (q, k, v))
    out, lse = flash(q, k, v, causal)
    return out.transpose(1, 2).flatten(2, 3), lse[:, :, : out.size(2)]


def _spread(out: Tensor, lse: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """(X, rows, H, D) and (X, H, rows) --> (X, H, rows * r, D) and (X, H, rows * r, 1): zero, ABSENT between rows."""
    h = out.size(2)
    if -h % r:
        out, lse = F.pad(out, (0, 0, 0, -h % r)), F.pad(lse, (0, 0, 0, -h % r), value=ABSENT)
    out = torch.diag_embed(out.unflatten(2, (r, -1)).permute(0, 1, 3, 4, 2), dim1=4, dim2=5)
    out = out.permute(0, 5, 2, 1, 4, 3).flatten(3, 4).flatten(1, 2)  # from segment, row, head, D, class, group
    full = torch.diag_embed(lse.unflatten(1, (r, -1)).permute(0, 3, 2, 1), dim1=3, dim2=4)
    full = full.masked_fill_(full == 0, ABSENT)
    full = full.permute(0, 4, 2, 1, 3).flatten(3, 4).flatten(1, 2).unsqueeze(-1)
    return (out[:, :h], full[:, :h]) if -h % r else (out, full)


def _in_a_row(x: Tensor, batch: int) -> Tensor:
    """(B * segments, H, rows, ...) --> (B * H, segments * rows, ...)."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3).flatten(0, 1)


def _weighed(outs: list[Tensor], lses: list[Tensor]) -> Tensor:
    """The sum of all branches by e^lse, one after the other."""
    with torch.no_grad():
        largest = torch.stack(lses).max(0)[0]
        weights = [(lse - largest).exp() for lse in lses]
        total = torch.stack(weights).sum(0)
        weights = [weight / total for weight in weights]
    first, *rest = zip(outs, weights, strict=True)
    out = 0 + first[0] * first[1].type_as(first[0])  # (a pass of its own: they begin with 0)
    for each, weight in rest:
        out += each * weight.type_as(each)
    return out


def longnet_fewer_copies(segments: Sequence[int], dilations: Sequence[int], causal: bool) -> Attention:
    """The same algorithm with the copies left out that it does not need, for N a multiple of every segment.

    For each branch: the diagonal of (r, head group) of each segment becomes a new contiguous tensor; flash attention;
    out and lse go back to full size by diag_embed; at the end all branches are weighed by the softmax over their lse,
    which carries no gradient.
    """

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outs: list[Tensor] = []
        lses: list[Tensor] = []
        for w, r in zip(segments, dilations, strict=True):
            rows = [_to_sparse(x.transpose(1, 2), min(w, x.size(2)), r).transpose(1, 2) for x in (q, k, v)]
            out, lse = flash(rows[0], rows[1], rows[2], causal)
            out, lse = _to_dense(out, lse, r, q.size(0))
            outs.append(out)
            lses.append(lse)
        with torch.no_grad():
            weights = torch.stack(lses).softmax(0).to(q.dtype)
        return torch.stack([out * weight for out, weight in zip(outs, weights, strict=True)]).sum(0)

    return run


def flash(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Flash-attention 2, as torch has it: out (B, H, N, D) in q's layout and lse (B, H, N), which has no gradient."""
    out, lse, *_ = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal)
    return out, lse


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
