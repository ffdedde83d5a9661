"""A compiled pattern against the formula of the language: out, lse and all gradients, at awkward lengths.

In float64 backends must agree to rounding. In lesser precision the rule is flash-attention's: the error against
float64 may be at most twice that of the plain formula computed in the same dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnlang.runtime import reference

if TYPE_CHECKING:
    from attnlang.nn import PatternAttention

LENGTHS = (1, 7, 64, 129, 384)
HEAD_DIM = 16
EXACT = 1e-12
NAMES = ("out", "lse", "dq", "dk", "dv")


@dataclass(frozen=True, slots=True)
class Finding:
    """The largest error of each result at one length, and what is allowed."""

    dtype: str
    n: int
    errors: tuple[float, ...]
    allowed: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether every error is allowed; a NaN is not."""
        return all(error <= most for error, most in zip(self.errors, self.allowed, strict=True))


@dataclass(frozen=True, slots=True)
class Verification:
    """All findings about one module. `str()` is a table."""

    title: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every finding passed."""
        return all(finding.passed for finding in self.findings)

    def __str__(self) -> str:
        lines = [self.title, f"{'dtype':<10}{'N':>6}  " + "".join(f"{name:>10}" for name in NAMES) + "  verdict"]
        for finding in self.findings:
            errors = "".join(f"{error:>10.1e}" for error in finding.errors)
            lines.append(f"{finding.dtype:<10}{finding.n:>6}  {errors}  {'ok' if finding.passed else 'WRONG'}")
        return "\n".join((*lines, "all agree" if self.passed else "NOT all agree"))


def verify(
    module: PatternAttention,
    *,
    lengths: Sequence[int] = LENGTHS,
    dtypes: Sequence[torch.dtype] | None = None,
    device: str | torch.device = "cpu",
    batch: int = 2,
) -> Verification:
    """Compare a module with the formula on random inputs; errors are largest absolute differences.

    dtypes defaults to float64, float32 and bfloat16 on cpu, and to float32, bfloat16 and float16 on cuda.
    """
    device = torch.device(device)
    kinds = dtypes or (
        (torch.float64, torch.float32, torch.bfloat16)
        if device.type == "cpu"
        else (torch.float32, torch.bfloat16, torch.float16)
    )
    findings = [_finding(module, n, dtype, device, batch) for dtype in kinds for n in lengths]
    title = (
        f"{module.pattern.call}, {module.heads} heads, backend {module.backend} on {device.type}, against the formula"
    )
    return Verification(title, tuple(findings))


def _finding(module: PatternAttention, n: int, dtype: torch.dtype, device: torch.device, batch: int) -> Finding:
    generator = torch.Generator().manual_seed(n)
    shape = (batch, module.heads, n, HEAD_DIM)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device) for _ in range(4)]
    scale = HEAD_DIM**-0.5

    def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        result = module(q, k, v, scale=scale, return_lse=True)
        return result[0], result[1]

    exact = _results(lambda q, k, v: reference.attention(q, k, v, module.pattern, scale), [x.double() for x in inputs])
    errors = _errors(_results(run, inputs), exact)
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float64:
        return Finding(name, n, errors, (EXACT,) * len(NAMES))
    plain = _errors(_results(lambda q, k, v: reference.attention(q, k, v, module.pattern, scale, dtype), inputs), exact)
    slack = _rounding(inputs, exact, dtype, scale)
    return Finding(name, n, errors, tuple(2 * error + least for error, least in zip(plain, slack, strict=True)))


def _rounding(inputs: Sequence[Tensor], exact: Sequence[Tensor], dtype: torch.dtype, scale: float) -> list[float]:
    """What rounding alone may do to each result, so that a lucky plain formula does not make the rule unfair.

    Storing a result, as flash-attention measures it, 2 max|(x + 0.3 - 0.3) - x|; and four units of float32 rounding of
    what is added up: values, scores, d_out, and the products <d_out, v> that cancel in dq and dk.
    """
    q, k, v, dout = (x.double() for x in inputs)
    eps = 4 * torch.finfo(torch.float32).eps
    score = eps * scale * float((q @ k.mT).abs().max())
    inner = eps * scale * float((dout @ v.mT).abs().max())
    extra = (
        eps * float(v.abs().max()),
        score,
        inner * float(k.abs().max()),
        inner * float(q.abs().max()),
        eps * float(dout.abs().max()),
    )
    stored = [x.to(dtype) for x in exact]
    return [2 * float(((x + 0.3 - 0.3) - x).nan_to_num().abs().max()) + e for x, e in zip(stored, extra, strict=True)]


def _results(
    attention: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]], inputs: Sequence[Tensor]
) -> list[Tensor]:
    q, k, v = (x.detach().clone().requires_grad_() for x in inputs[:3])
    out, lse = attention(q, k, v)
    return [out.detach(), lse.detach(), *torch.autograd.grad(out, (q, k, v), inputs[3].to(out.dtype))]


def _finite(results: Sequence[Tensor]) -> list[Tensor]:
    """Results with lse = -inf, which must agree exactly, taken as a large number."""
    lse = results[1].double()
    return [results[0], lse.masked_fill(lse == float("-inf"), -1e6), *results[2:]]


def _errors(results: Sequence[Tensor], exact: Sequence[Tensor]) -> tuple[float, ...]:
    return tuple(
        float((mine.double() - true.double()).abs().max()) if true.numel() else 0.0
        for mine, true in zip(_finite(results), _finite(exact), strict=True)
    )
