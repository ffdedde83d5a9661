"""A compiled pattern against the formula of the language: out, lse and all gradients, at awkward lengths.

What each result may be off by is the rule of `attnlang.runtime.expected`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from attnlang.plan import Plan
from attnlang.runtime import ops
from attnlang.runtime.backends import AUTO, FORWARD_ONLY, REFERENCE, load, names
from attnlang.runtime.expected import NAMES, Expected, expected, results
from attnlang.runtime.program import Program
from attnlang.runtime.specimens import Specimen, specimen

if TYPE_CHECKING:
    from attnlang.nn import PatternAttention

HEAD_DIMS = {"cpu": 16, "cuda": 64}
"""What is tried where nothing else is asked for: small, and on a GPU of a size that its fastest kernels are for."""

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
    """Inputs of one length and dtype, and what they must give."""

    inputs: list[Tensor]
    tables: list[Tensor]
    expected: Expected

    def findings(self, runs: Sequence[tuple[str, Attention, bool]]) -> Iterator[Finding]:
        """Of each (backend, attention, whether it has a backward)."""
        n, dtype = self.inputs[0].size(2), str(self.inputs[0].dtype).removeprefix("torch.")
        for backend, run, backward in runs:
            try:
                errors = self._errors(run, backward)
            except Exception as error:
                error.add_note(f"backend {backend}, {dtype}, N = {n}")
                raise
            yield Finding(backend, dtype, n, errors, self.expected.allowed[: len(errors)])

    def _errors(self, run: Attention, backward: bool) -> tuple[float, ...]:
        return self.expected.errors(results(lambda q, k, v: run(q, k, v, self.tables), self.inputs, backward))


def _case(what: Specimen, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> _Case:
    """The case of q, k, v and d_out in one shape (batch, heads, N, head_dim)."""
    _, heads, n, dim = shape
    generator = torch.Generator().manual_seed(n)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device) for _ in range(4)]
    filled = what.tables(n, heads)
    tables = [torch.from_numpy(filled[name]).to(device) for name, _ in what.pattern.tables]
    return _Case(inputs, tables, expected(what.pattern, inputs, dim**-0.5, tables))
