"""`attnc verify PATTERN`: the compiled pattern against its definition, on every backend that is here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from attnc.cli.common import Count, load_pattern, progress_shown, user_errors
from attnc.cli.workers import Crash, InProcesses, crash_text

if TYPE_CHECKING:
    from attnlang.runtime.specimens import Specimen
    from attnlang.runtime.verify import Verification


@click.command("verify")
@click.argument("pattern", required=False)
@click.option("-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter, as in -p segments=[64,128].")
@click.option("--all", "library", is_flag=True, help="The whole library, with small parameters.")
@click.option("--n", "lengths", multiple=True, type=Count(1, 4096), help="A length to try; may be repeated.")
@click.option("--heads", default=6, show_default=True, type=Count(1), help="Number of heads.")
@click.option("--head-dim", type=Count(2), help="Dimension of a head; 16 on cpu, 64 on cuda.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where to run; cuda where there is a GPU, else cpu.")
@click.option("--backend", "backends", multiple=True, help="Only this backend; may be repeated.")
@click.option("--dtype", "dtypes", multiple=True, help="Only this dtype, as float64; may be repeated.")
@click.option("--jobs", default=1, show_default=True, type=Count(1), help="Patterns of --all to try at once.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    pattern: str | None,
    parameters: tuple[str, ...],
    library: bool,
    lengths: tuple[int, ...],
    heads: int,
    head_dim: int | None,
    device: str | None,
    backends: tuple[str, ...],
    dtypes: tuple[str, ...],
    jobs: int,
    as_json: bool,
) -> None:
    """Compare the compiled pattern with its definition: out, lse and gradients, in several dtypes, on every backend.

    In float64 results must agree to rounding; in lesser precision the error may be twice that of the plain formula in
    the same dtype, as flash-attention's own tests have it. Runtime tables are filled. Exit status 1 if a result differs
    by more.

    With --jobs, each pattern is tried in one of so many processes (which share the GPUs, if there are several), and one
    that takes its process down fails by itself.
    """
    if library == (pattern is not None):
        raise click.UsageError("give a PATTERN, or --all for the whole library")
    if library and (parameters or lengths):
        raise click.UsageError("--all chooses parameters and lengths itself: give no -p and no --n")
    if jobs > 1 and not library:
        raise click.UsageError("--jobs is for --all: one pattern is tried in one process")
    with user_errors():
        from attnlang.runtime.specimens import Specimen, library_specimens, specimen
        from attnlang.runtime.verify import check_choices

        check_choices(backends, dtypes, device)

        if pattern is None:
            chosen = library_specimens()
        else:
            found = load_pattern(pattern, parameters)
            chosen = iter([Specimen(found, lengths) if lengths else specimen(found)])
        results: list[Verification] = []
        trial = _Trial(heads, head_dim, device, backends, dtypes)
        for result in _at_once(chosen, trial, jobs) if jobs > 1 else _results(chosen, trial, library):
            results.append(result)
            if not as_json:
                click.echo(_line(result) if library else result)
    refused = [result for result in results if not result.findings and not result.crash]
    passed = all(result.passed or result in refused for result in results) and len(refused) < len(results)
    if as_json:
        click.echo(json.dumps({"passed": passed, "patterns": list(map(_plain, results))}, indent=2))
    elif library:
        click.echo(f"{len(results)} patterns: {'all agree' if passed else 'NOT all agree'}")
    sys.exit(0 if passed else 1)


@dataclass(frozen=True, slots=True)
class _Trial:
    """What is done with each pattern; a process can be told it."""

    heads: int
    head_dim: int | None
    device: str | None
    backends: tuple[str, ...]
    dtypes: tuple[str, ...]

    def __call__(self, what: Specimen) -> Verification:
        from attnc.lower import lower
        from attnlang.runtime.verify import verify_backends

        plan = lower(what.pattern, self.heads)
        return verify_backends(
            what, plan, backends=self.backends, dtypes=self.dtypes, device=self.device, head_dim=self.head_dim
        )


def _results(chosen: Iterable[Specimen], trial: _Trial, library: bool) -> Iterator[Verification]:
    """One pattern after the other. In the library, one that cannot be tried does not keep the others from it."""
    with progress_shown() as progress:
        for what in chosen:
            progress(what.pattern.call)
            try:
                yield trial(what)
            except Exception as error:
                if not library:
                    raise
                yield _crashed(what, trial, Crash(crash_text(error)))


def _at_once(chosen: Iterable[Specimen], trial: _Trial, jobs: int) -> Iterator[Verification]:
    with progress_shown() as progress:
        for what, result in InProcesses(trial, jobs).results(chosen):
            progress(f"{what.pattern.call} is through")
            yield _crashed(what, trial, result) if isinstance(result, Crash) else result


def _crashed(what: Specimen, trial: _Trial, crash: Crash) -> Verification:
    from attnlang.runtime.verify import Verification

    return Verification(f"{what.pattern.call}, {trial.heads} heads", (), crash=crash.what)


def _line(result: Verification) -> str:
    """One line a pattern: for each backend its largest error, as a part of what is allowed."""
    parts: list[str] = []
    for backend in dict.fromkeys(finding.backend for finding in result.findings):
        own = [finding for finding in result.findings if finding.backend == backend]
        verdict = "ok" if all(finding.passed for finding in own) else "WRONG"
        parts.append(f"{backend} {verdict} {max(finding.worst for finding in own):.2f}")
    ran = {finding.backend for finding in result.findings}
    parts += [f"{backend} refuses" for backend, _ in result.refusals if backend not in ran]
    parts += [f"CRASHED: {result.crash}"] if result.crash else []
    name = result.title.partition(", ")[0] if "(" not in result.title else result.title.partition("), ")[0] + ")"
    return f"{name if len(name) <= 56 else name[:53] + '...':<58}{'; '.join(parts)}"


def _plain(result: Verification) -> dict[str, Any]:
    findings = [
        {
            "backend": finding.backend,
            "dtype": finding.dtype,
            "n": finding.n,
            "passed": finding.passed,
            "errors": dict(zip(("out", "lse", "dq", "dk", "dv"), finding.errors, strict=False)),
            "allowed": dict(zip(("out", "lse", "dq", "dk", "dv"), finding.allowed, strict=False)),
        }
        for finding in result.findings
    ]
    return {
        "title": result.title,
        "passed": result.passed,
        "findings": findings,
        "refusals": dict(result.refusals),
        "crash": result.crash or None,
    }
