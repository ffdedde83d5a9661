"""A compiled pattern against the formula of the language: out, lse and all gradients, at awkward lengths.

In float64 backends must agree to rounding. In lesser precision the rule is flash-attention's: the error against
float64 may be at most twice that of the plain formula computed in the same dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from attnlang.plan import Plan
from attnlang.runtime import ops, reference
from attnlang.runtime.backends import AUTO, FORWARD_ONLY, REFERENCE, load, names
from attnlang.runtime.program import Program
from attnlang.runtime.specimens import Specimen, specimen

if TYPE_CHECKING:
    from attnlang.nn import PatternAttention

HEAD_DIMS = {"cpu": 16, "cuda": 64}
"""What is tried where nothing else is asked for: small, and on a GPU of a size that its fastest kernels are for."""
EXACT = 1e-12
NAMES = ("out", "lse", "dq", "dk", "dv")

Attention: TypeAlias = Callable[[Tensor, Tensor, Tensor, list[Tensor]], tuple[Tensor, Tensor]]
"""(q, k, v, tables) to out and lse."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The largest error of each result at one length, and what is allowed; gradients only where there are some."""

    backend: str
    dtype: str
    n: int
    errors: tuple[float, ...]
    allowed: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether every error is allowed; a NaN is not."""
        return all(error <= most for error, most in zip(self.errors, self.allowed, strict=True))

    @property
    def worst(self) -> float:
        """The largest error as a part of what is allowed."""
        return max(error / most if error else 0.0 for error, most in zip(self.errors, self.allowed, strict=True))


@dataclass(frozen=True, slots=True)
class Verification:
    """All findings about a pattern, and why backends that were not tried refused. `str()` is a table.

    `crash` says what ended the comparison before it was through, where something did.
    """

    title: str
    findings: tuple[Finding, ...]
    refusals: tuple[tuple[str, str], ...] = ()
    crash: str = ""

    @property
    def passed(self) -> bool:
        """Whether every finding passed, there is one, and nothing crashed."""
        return not self.crash and bool(self.findings) and all(finding.passed for finding in self.findings)

    def __str__(self) -> str:
        head = f"{'backend':<10}{'dtype':<10}{'N':>6}  " + "".join(f"{name:>10}" for name in NAMES) + "  verdict"
        lines = [self.title, head]
        for finding in self.findings:
            errors = "".join(f"{error:>10.1e}" for error in finding.errors).ljust(10 * len(NAMES))
            verdict = "ok" if finding.passed else "WRONG"
            lines.append(f"{finding.backend:<10}{finding.dtype:<10}{finding.n:>6}  {errors}  {verdict}")
        lines += [f"{backend:<10}refused: {reason}" for backend, reason in self.refusals]
        lines += [f"CRASHED: {self.crash}"] if self.crash else []
        return "\n".join((*lines, "all agree" if self.passed else "NOT all agree"))


def verify(
    module: PatternAttention,
    *,
    lengths: Sequence[int] | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
    device: str | torch.device = "cpu",
    batch: int = 2,
    head_dim: int | None = None,
) -> Verification:
    """Compare a module with the formula on random inputs; errors are largest absolute differences.

    Without lengths, those at which the pattern has a meaning; runtime tables are filled. dtypes defaults to float64,
    float32 and bfloat16 on cpu, and to float32, bfloat16 and float16 on cuda; head_dim to 16 and to 64.
    """
    device = torch.device(device)
    dim = _head_dim(head_dim, device)
    what = Specimen(module.pattern, tuple(lengths)) if lengths else specimen(module.pattern)
    kinds = dtypes or _dtypes(device)
    backend = module.backend if module.backend != AUTO else module.choice(device, kinds[-1], dim).name

    def run(q: Tensor, k: Tensor, v: Tensor, tables: list[Tensor]) -> tuple[Tensor, Tensor]:
        given = dict(zip((name for name, _ in module.pattern.tables), tables, strict=True))
        result = module(q, k, v, return_lse=True, **given)
        return result[0], result[1]

    runs = [(backend, run, (backend, device.type) not in FORWARD_ONLY)]
    findings = [
        found
        for dtype in kinds
        for n in what.lengths
        for found in _case(what, (batch, module.heads, n, dim), dtype, device).findings(runs)
    ]
    title = f"{module.pattern.call}, {module.heads} heads, backend {backend} on {device.type}, against the formula"
    return Verification(title, tuple(findings))


def verify_backends(
    what: Specimen,
    plan: Plan,
    *,
    backends: Sequence[str] = (),
    dtypes: Sequence[torch.dtype | str] = (),
    device: str | torch.device | None = None,
    batch: int = 2,
    head_dim: int | None = None,
) -> Verification:
    """Compare a plan on several backends with the formula; on all that this version has, unless some are named.

    device is cuda where there is a GPU, and else cpu, unless given; dtypes and head_dim as for `verify`, dtypes also by
    name. Raises ValueError for a device, dtype or backend that does not exist.
    """
    device = _device(device)
    dim = _head_dim(head_dim, device)
    wanted = tuple(map(_dtype, dtypes)) or _dtypes(device)
    program = Program(plan, what.pattern.tables).text()
    chosen = [(name, load(name)) for name in backends or names() if name != REFERENCE]
    refusals: dict[str, str] = {}
    findings: list[Finding] = []
    for dtype in wanted:
        runs: list[tuple[str, Attention, bool]] = []
        for name, backend in chosen:
            reason = backend.refusal(plan, device, dtype, dim)
            if reason is None:
                runs.append((name, _on(name, program), (name, device.type) not in FORWARD_ONLY))
            else:
                refusals.setdefault(name, reason)
        for n in what.lengths if runs else ():
            findings += _case(what, (batch, plan.heads, n, dim), dtype, device).findings(runs)
    order = {name: place for place, (name, _) in enumerate(chosen)}
    findings.sort(key=lambda finding: order[finding.backend])
    title = f"{what.pattern.call}, {plan.heads} heads, on {device.type}, against the formula"
    return Verification(title, tuple(findings), tuple(refusals.items()))


def check_choices(
    backends: Sequence[str] = (), dtypes: Sequence[torch.dtype | str] = (), device: str | torch.device | None = None
) -> None:
    """Raise ValueError, as `verify_backends` would, for a device, dtype or backend that does not exist."""
    _device(device)
    for dtype in dtypes:
        _dtype(dtype)
    for name in backends:
        load(name)


def _device(device: str | torch.device | None) -> torch.device:
    there = torch.cuda.is_available()
    found = torch.device(device or ("cuda" if there else "cpu"))
    if found.type == "cuda" and not there:
        raise ValueError("device cuda: torch finds no CUDA device here")
    return found


def _head_dim(head_dim: int | None, device: torch.device) -> int:
    return HEAD_DIMS.get(device.type, HEAD_DIMS["cpu"]) if head_dim is None else head_dim


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    kinds = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in kinds:
        raise ValueError(f"dtype {dtype!r}: there are {', '.join(kinds)}")
    return kinds[dtype]


def _dtypes(device: torch.device) -> tuple[torch.dtype, ...]:
    if device.type == "cpu":
        return torch.float64, torch.float32, torch.bfloat16
    return torch.float32, torch.bfloat16, torch.float16


def _on(backend: str, program: str) -> Attention:
    return lambda q, k, v, tables: ops.attention(q, k, v, program, backend=backend, tables=tables)


@dataclass(frozen=True, eq=False, slots=True)
class _Case:
    """Inputs of one length and dtype, the exact results, and the errors that each may have."""

    inputs: list[Tensor]
    tables: list[Tensor]
    exact: list[Tensor]
    allowed: tuple[float, ...]

    def findings(self, runs: Sequence[tuple[str, Attention, bool]]) -> Iterator[Finding]:
        """Of each (backend, attention, whether it has a backward)."""
        n, dtype = self.inputs[0].size(2), str(self.inputs[0].dtype).removeprefix("torch.")
        for backend, run, backward in runs:
            try:
                errors = _errors(_results(run, self.inputs, self.tables, backward), self.exact)
            except Exception as error:
                error.add_note(f"backend {backend}, {dtype}, N = {n}")
                raise
            yield Finding(backend, dtype, n, errors, self.allowed[: len(errors)])


def _case(what: Specimen, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> _Case:
    """The case of q, k, v and d_out in one shape (batch, heads, N, head_dim)."""
    _, heads, n, dim = shape
    generator = torch.Generator().manual_seed(n)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device) for _ in range(4)]
    scale = dim**-0.5
    filled = what.tables(n, heads)
    tables = [torch.from_numpy(filled[name]).to(device) for name, _ in what.pattern.tables]

    def formula(kind: torch.dtype) -> Attention:
        return lambda q, k, v, tables: reference.attention(q, k, v, what.pattern, scale, kind, tables)

    exact = _results(formula(torch.float64), [x.double() for x in inputs], tables, True)
    if dtype == torch.float64:
        return _Case(inputs, tables, exact, (EXACT,) * len(NAMES))
    plain = _errors(_results(formula(dtype), inputs, tables, True), exact)
    m = torch.from_numpy(what.pattern.multiplicity(n, heads, **filled)).to(device)
    slack = _rounding(inputs, exact, m, dtype, scale)
    return _Case(inputs, tables, exact, tuple(2 * error + least for error, least in zip(plain, slack, strict=True)))


def _rounding(
    inputs: Sequence[Tensor], exact: Sequence[Tensor], m: Tensor, dtype: torch.dtype, scale: float
) -> list[float]:
    """What rounding alone may do to each result, so that a lucky plain formula does not make the rule unfair.

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

    All that is some 1e-6 of a result, two orders below what a kernel that is wrong in its fourth digit differs by.
    """
    q, k, v, dout = (x.double() for x in inputs)
    out, lse = exact[0], exact[1].unsqueeze(-1)
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
        abs(scale) * (u * ds.mT @ q.abs() + 4 * (off_ds.square().mT @ q.square()).sqrt()),
        u * p.mT @ dout.abs() + 4 * (off_p.square().mT @ dout.square()).sqrt(),
    )
    stored = [x.to(dtype) for x in exact]
    storing = [2 * float(((x + 0.3 - 0.3) - x).nan_to_num().abs().max()) for x in stored]
    return [a + float(b.max()) for a, b in zip(storing, way, strict=True)]


def _results(attention: Attention, inputs: Sequence[Tensor], tables: list[Tensor], backward: bool) -> list[Tensor]:
    q, k, v = (x.detach().clone().requires_grad_(backward) for x in inputs[:3])
    out, lse = attention(q, k, v, tables)
    grads = torch.autograd.grad(out, (q, k, v), inputs[3].to(out.dtype)) if backward else ()
    return [out.detach(), lse.detach(), *grads]


def _finite(lse: Tensor) -> Tensor:
    """Lse with -inf, which must agree exactly, taken as a large number."""
    return lse.double().masked_fill(lse == float("-inf"), -1e6)


def _errors(results: Sequence[Tensor], exact: Sequence[Tensor]) -> tuple[float, ...]:
    """The largest differences of the results that there are."""
    found: list[float] = []
    for place, (mine, true) in enumerate(zip(results, exact, strict=False)):
        a, b = (_finite(mine), _finite(true)) if NAMES[place] == "lse" else (mine.double(), true.double())
        found.append(float((a - b).abs().max()) if true.numel() else 0.0)
    return tuple(found)
