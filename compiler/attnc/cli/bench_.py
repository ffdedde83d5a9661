"""`attnc bench PATTERN`: times beside dense attention and FlexAttention, on this machine, in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnc.cli.common import Count, OutputFile, load_pattern, pattern_options, progress_shown, user_errors

if TYPE_CHECKING:
    from attnlang.pattern import Pattern

PICTURES = (".png", ".svg", ".pdf")


@click.command("bench")
@pattern_options
@click.option("--n", "lengths", multiple=True, type=Count(1), help="A length, may be repeated; else 1024, 2048, 4096.")
@click.option("--heads", default=8, show_default=True, type=Count(1), help="Number of heads.")
@click.option("--head-dim", default=64, show_default=True, type=Count(1), help="Dimension of a head.")
@click.option("--batch", default=1, show_default=True, type=Count(1), help="Sequences at once.")
@click.option(
    "--dtype",
    type=click.Choice(["float64", "float32", "bfloat16", "float16"]),
    help="bfloat16 on cuda and float32 on cpu, unless given.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="cuda where there is a GPU, else cpu.")
@click.option("--backend", "backends", multiple=True, help="Only this backend of ours; may be repeated.")
@click.option("--forward", is_flag=True, help="The forward alone; else forward and backward.")
@click.option("-o", "output", type=OutputFile(), help="A picture: .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    pattern: str,
    parameters: tuple[str, ...],
    lengths: tuple[int, ...],
    heads: int,
    head_dim: int,
    batch: int,
    dtype: str | None,
    device: str | None,
    backends: tuple[str, ...],
    forward: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Time a pattern on every backend, dense scaled_dot_product_attention, and FlexAttention in the order of tokens.

    Medians and quartiles of runs after a warm-up, in microseconds, all in one process on the same inputs. Runtime
    tables are filled.
    """
    if output is not None and output.suffix not in PICTURES:
        raise click.BadParameter(f"-o {output}: a picture ends in {', '.join(PICTURES)}")
    with user_errors(), progress_shown() as progress:
        from attnc.lower import lower
        from attnlang.nn import backend_name
        from attnlang.runtime.bench import bench

        for backend in backends:
            backend_name(backend)
        found = load_pattern(pattern, parameters)
        result = bench(
            found,
            lower(found, heads),
            lengths=lengths or (1024, 2048, 4096),
            causal=_causal(found, heads),
            backends=backends,
            batch=batch,
            head_dim=head_dim,
            dtype=dtype,
            device=device,
            backward=not forward,
            progress=progress,
        )
        if output is not None:
            from attnc.emit.bench_picture import save

            save(result, output)
    click.echo(json.dumps(result.to_dict(), indent=2) if as_json else result)
    if output is not None:
        click.echo(f"wrote {output}", err=as_json)


def _causal(pattern: Pattern, heads: int) -> bool:
    """Whether it is proved that no query sees a later key."""
    from attnc.analysis.proofs import outside
    from attnlang.pattern.algebra import Offset
    from attnlang.syntax.tree import Int

    found = outside(pattern.relation, Offset(None, Int(0)), [(heads, head) for head in range(heads)])
    return found.example is None and not found.unproved
