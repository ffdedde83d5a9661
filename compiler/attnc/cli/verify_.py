"""`attnc verify PATTERN`: the compiled pattern against its definition."""

from __future__ import annotations

import sys

import click

from attnc.cli.common import load_pattern, pattern_options, user_errors


@click.command("verify")
@pattern_options
@click.option("--n", "lengths", multiple=True, type=click.IntRange(1, 4096), help="A length to try; may be repeated.")
@click.option("--heads", default=12, show_default=True, type=click.IntRange(1), help="Number of heads.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
def command(pattern: str, parameters: tuple[str, ...], lengths: tuple[int, ...], heads: int, device: str) -> None:
    """Compare the compiled pattern with its definition: out, lse and gradients, in several dtypes.

    Exit status 1 if any of them differs by more than rounding.
    """
    with user_errors():
        import torch

        import attnc
        from attnlang.runtime.verify import verify

        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch finds no CUDA device here")
        module = attnc.compile(load_pattern(pattern, parameters), heads=heads)
        found = verify(module, lengths=lengths or None, device=device)
    click.echo(found)
    sys.exit(0 if found.passed else 1)
