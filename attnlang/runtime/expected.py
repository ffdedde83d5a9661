"""What a backend's results are compared with: the exact ones, and how far from them each may be.

In float64 results must agree to rounding. In lesser precision the rule is flash-attention's: the error against float64
may be at most twice that of the plain formula computed in the same dtype, and what rounding alone may do is added, so
that a plain formula which happens to be right (with a single key, dq is 0 and every error of it is rounding) does not
make the rule unfair.

Shape legend: B batch, H heads, Hkv heads of k and v, M queries, N keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from attnlang.pattern import Pattern
from attnlang.runtime import multiplicity, reference

EXACT = 1e-12
NAMES = ("out", "lse", "dq", "dk", "dv")

Attention: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(q, k, v) to out and lse."""


@dataclass(frozen=True, eq=False, slots=True)
class Expected:
    """Out, lse, dq, dk and dv in float64, and the largest difference from each that is allowed."""

    exact: list[Tensor]
    allowed: tuple[float, ...]

    def errors(self, found: Sequence[Tensor]) -> tuple[float, ...]:
        """The largest differences of the results that there are."""
        return _errors(found, self.exact)


def expected(pattern: Pattern, inputs: Sequence[Tensor], scale: float, tables: Sequence[Tensor] = ()) -> Expected:
    """What attention under a pattern must give for q (B, H, M, D), k and v (B, Hkv, N, D) and d_out (B, H, M, D).

    All in one dtype, which is the one that results are to be in; tables are those of `reference.attention`.
    """
    q, k = inputs[:2]
    dtype, heads, n = q.dtype, q.size(1), k.size(2)

    def formula(kind: torch.dtype) -> Attention:
        return lambda q, k, v: reference.attention(q, k, v, pattern, scale, kind, tables)

    exact = results(formula(torch.float64), [x.double() for x in inputs])
    if dtype == torch.float64:
        return Expected(exact, (EXACT,) * len(NAMES))
    plain = _errors(results(formula(dtype), inputs), exact)
    m = multiplicity.matrix(multiplicity.text(pattern), n, heads, tables)[:, :, n - q.size(2) :]
    slack = rounding(inputs, exact, m.to(q.device), dtype, scale)
    return Expected(exact, tuple(2 * error + least for error, least in zip(plain, slack, strict=True)))


def results(attention: Attention, inputs: Sequence[Tensor], backward: bool = True) -> list[Tensor]:
    """Out and lse of q, k and v, and where they are wanted the gradients under d_out."""
    q, k, v = (x.detach().clone().requires_grad_(backward) for x in inputs[:3])
    out, lse = attention(q, k, v)
    grads = torch.autograd.grad(out, (q, k, v), inputs[3].to(out.dtype)) if backward else ()
    return [out.detach(), lse.detach(), *grads]


def rounding(
    inputs: Sequence[Tensor], exact: Sequence[Tensor], m: Tensor, dtype: torch.dtype, scale: float
) -> list[float]:
    """What rounding alone may do to each result; m (1 or B, H, M, N) says how often each query sees a key.

    Storing a result, as flash-attention measures it, 2 max|(x + 0.3 - 0.3) - x|; and what float32 does on the way, to
    first order. With u for one unit of rounding and |x| taken elementwise, a sum or product of terms t is off by
    u sum|t|, so that

        s    = scale <q, k>            by  u a,                a = scale <|q|, |k|>, which is at least |s|
        lse                            by  u (sum_k p a + |lse| + 1)
        p    = m exp(s - lse)          by  u p e,              e = a + sum_k p a + |lse| + 2: the argument's own error
        out  = sum_k p v               by  u sum_k p (e + 1) |v|
        delta = <d_out, out>           by  u (<|d_out|, |out|> + sum_k p (e |<d_out, v>| + <|d_out|, |v|>))
        ds   = p (<d_out, v> - delta)  by  p (u e |<d_out, v> - delta| + u <|d_out|, |v|> + error of delta)
        dq   = scale sum_k ds k        by  scale sum_k (error of ds + u |ds|) |k|

    dk and dv are sums over queries: a key that n queries see adds up n terms, u sum|t|; but the errors *of* the terms
    come from n rows that know nothing of each other, and add up as the root of their squares, of which 4 are allowed:

        dv   = sum_q p d_out           by  u sum_q p |d_out| + 4 sqrt(sum_q (error of p)^2 d_out^2);  dk likewise

    With fewer heads of k and v, their sums are over the queries of every head that shares them.

    All that is some 1e-6 of a result, two orders below what a kernel that is wrong in its fourth digit differs by.
    """
    q, k, v, dout = (x.double() for x in inputs)
    out, lse, kv_heads = exact[0], exact[1].unsqueeze(-1), k.size(1)
    k, v = (x.repeat_interleave(q.size(1) // kv_heads, 1) for x in (k, v))
    u = torch.finfo(torch.float32).eps
    a = abs(scale) * (q.abs() @ k.abs().mT)
    p = (m * (scale * (q @ k.mT) - lse).exp()).masked_fill(m == 0, 0.0)
    row = (p * a).sum(-1, keepdim=True) + lse.abs().nan_to_num(posinf=0.0)
    off_p = u * p * (a + row + 2)
    off_out = (off_p + u * p) @ v.abs()
    dp, off_dp = dout @ v.mT, u * dout.abs() @ v.abs().mT
    inner = dp - (dout * out).sum(-1, keepdim=True)
    off_delta = (u * dout * out).abs().sum(-1, keepdim=True) + (off_p * dp.abs() + p * off_dp).sum(-1, keepdim=True)
    off_ds = off_p * inner.abs() + p * (off_dp + off_delta)
    ds = (p * inner).abs()
    way = (
        off_out,
        u * (row + 1),
        abs(scale) * (off_ds + u * ds) @ k.abs(),
        abs(scale) * _over_queries(ds, off_ds, q, u, kv_heads),
        _over_queries(p, off_p, dout, u, kv_heads),
    )
    stored = [x.to(dtype) for x in exact]
    storing = [2 * float(((x + 0.3 - 0.3) - x).nan_to_num().abs().max()) for x in stored]
    return [a + float(b.max()) for a, b in zip(storing, way, strict=True)]


def _over_queries(terms: Tensor, off: Tensor, by: Tensor, u: float, kv_heads: int) -> Tensor:
    """What a sum over queries of terms (B, H, M, N), each off by so much, times rows (B, H, M, D) is off by."""
    added, unknown = terms.mT @ by.abs(), off.square().mT @ by.square()
    added, unknown = (x.unflatten(1, (kv_heads, -1)).sum(2) for x in (added, unknown))
    return u * added + 4 * unknown.sqrt()


def _errors(found: Sequence[Tensor], exact: Sequence[Tensor]) -> tuple[float, ...]:
    """Differences of the results that there are; infinite where only one has keys for a row."""
    errors: list[float] = []
    for mine, true in zip(found, exact, strict=False):
        same = torch.equal(mine == float("-inf"), true == float("-inf"))
        off = float((_finite(mine) - _finite(true)).abs().max()) if true.numel() else 0.0
        errors.append(off if same else float("inf"))
    return tuple(errors)


def _finite(x: Tensor) -> Tensor:
    """Lse with -inf, which must be in the same places, taken as 0."""
    return x.double().masked_fill(x == float("-inf"), 0.0)
