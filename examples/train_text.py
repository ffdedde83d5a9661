"""Train a small byte-level GPT whose attention is a compiled pattern, on the source code of Python itself.

    python examples/train_text.py                                   # LongNet, a few minutes on a laptop's CPU
    python examples/train_text.py --pattern strided -p l=16
    python examples/train_text.py --pattern my.attn --steps 1000
    python examples/train_text.py --resume runs/longnet/checkpoint.pt --steps 600
    torchrun --nproc-per-node 4 examples/train_text.py --mesh cp=4            # a sequence on 4 ranks: the same losses
    torchrun --nproc-per-node 4 examples/train_text.py --mesh dp=2,cp=2       # and the batch on 2 times as many

Prints the loss, writes a checkpoint that --resume continues exactly, and ends with a generated sample. Uses a GPU if
torch finds one.

The model is in byte_gpt.py; here is what trains it. Shape legend: B batch, T tokens.
"""

from __future__ import annotations

import math
import os
import sys
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from byte_gpt import ByteGPT, Config, generate
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

import attnlang
import attnlang.parallel
from attnlang import Pattern


@dataclass(frozen=True)
class OneDevice:
    """Everything on this device: what a step needs to know, and what `Mesh` says otherwise."""

    model: nn.Module
    first: bool = True

    def loss(self, batch: Tensor) -> Tensor:
        """The mean loss of a batch (B, T + 1) of bytes."""
        logits = self.model(batch[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


class Mesh:
    """A mesh of ranks: `cp` of them share each sequence, by the schedule of the pattern; `dp` share the batch."""

    def __init__(self, text: str, where: str) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        sizes = dict(part.split("=") for part in text.split(",")) if "=" in text else {}
        if not sizes or set(sizes) - {"dp", "cp"} or not all(value.isdigit() for value in sizes.values()):
            raise click.ClickException(f"--mesh {text}: write --mesh cp=2, or --mesh dp=2,cp=2")
        if "RANK" not in os.environ:
            raise click.ClickException("start a mesh with torchrun, as in torchrun --nproc-per-node 2 ... --mesh cp=2")
        if where == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        shape = int(sizes.get("dp", 1)), int(sizes.get("cp", 1))
        if shape[0] * shape[1] != int(os.environ["WORLD_SIZE"]):
            raise click.ClickException(
                f"--mesh {text} is {shape[0] * shape[1]} ranks, torchrun has {os.environ['WORLD_SIZE']}"
            )
        self.mesh = init_device_mesh(where, shape, mesh_dim_names=("dp", "cp"))
        self.first = self.mesh.get_rank() == 0

    def spread(self, model: ByteGPT, config: Config) -> None:
        """Let the model's attention run on the ranks that share a sequence."""
        self.whole = attnlang.parallel.distribute(model, self.mesh["cp"], n=config.context, dtype="float32")
        self.model = nn.parallel.DistributedDataParallel(self.whole)
        self.places = attnlang.parallel.positions(self.whole, next(model.parameters()).device)

    def loss(self, batch: Tensor) -> Tensor:
        """The mean loss of the whole batch, of which this rank computes its rows and its tokens."""
        mine = batch[self.mesh["dp"].get_local_rank() :: self.mesh["dp"].size()]
        labels = attnlang.parallel.shard(mine[:, 1:], self.whole, 1)  # shifted first, then cut
        logits = self.model(attnlang.parallel.shard(mine[:, :-1], self.whole, 1), self.places)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        return attnlang.parallel.mean_loss(losses, None)


def python_source(limit: int = 8_000_000) -> Tensor:
    """The source code of the installed Python's standard library, file after file, as bytes."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(p for p in folder.rglob("*.py") if "site-packages" not in p.parts and "test" not in p.parts)
    text = bytearray()
    for path in paths:
        text += path.read_bytes()
        if len(text) >= limit:
            break
    if not text:
        raise click.ClickException(f"no Python source code below {folder}: give a text by --text")
    return torch.frombuffer(text, dtype=torch.uint8)


def batch_at(text: Tensor, config: Config, step: int) -> Tensor:
    """The batch of a step: it depends on the seed and the step alone, so a resumed run sees what it would have seen."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    starts = torch.randint(len(text) - config.context - 1, (config.batch,), generator=generator)
    return torch.stack([text[start : start + config.context + 1] for start in starts.tolist()]).long()


def refuse_the_future(pattern: Pattern, config: Config) -> None:
    """A language model may not look ahead; say where a pattern does."""
    m = pattern.multiplicity(config.context, config.heads)
    for h, q, k in zip(*m.nonzero(), strict=True):
        if k > q:
            raise click.ClickException(
                f"pattern {pattern.call} lets query {q} of head {h} see key {k}, which lies in its future; "
                f"a language model needs `causal & {pattern.name}(...)`"
            )


def learning_rate(step: int, peak: float) -> float:
    """A linear warm-up over 20 steps, then a slow decay.

    It does not depend on how many steps are to come: a run resumed from a checkpoint is the run that never stopped.
    """
    return peak * min((step + 1) / 20, (200 / (step + 200)) ** 0.5)


def train(
    ranks: OneDevice | Mesh, config: Config, text: Tensor, first: int, steps: int, optimizer: torch.optim.Optimizer
) -> None:
    """Steps first..steps-1, with a progress bar; the loss is printed every so often."""
    device = next(ranks.model.parameters()).device
    every = max(1, (steps - first) // 12)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not ranks.first) as progress:
        task = progress.add_task("training", total=steps, completed=first)
        for step in range(first, steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config.learning_rate)
            batch = batch_at(text, config, step).to(device)
            loss = ranks.loss(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(ranks.model.parameters(), 1.0)
            optimizer.step()
            progress.advance(task)
            if ranks.first and (step % every == 0 or step == steps - 1):
                bits = loss.item() / math.log(2)
                progress.console.print(
                    f"step {step:>6}  loss {loss.item():.4f}  ({bits:.3f} bits a byte)", highlight=False
                )


@click.command()
@click.option("--pattern", default="longnet", show_default=True, help="A library name, a file, or file:name.")
@click.option("-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of the pattern.")
@click.option(
    "--text", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A text instead of Python's."
)
@click.option("--steps", default=300, show_default=True, type=click.IntRange(1), help="How many steps in all.")
@click.option("--context", default=512, show_default=True, type=click.IntRange(2), help="Bytes the model sees at once.")
@click.option("--layers", default=4, show_default=True, type=click.IntRange(1))
@click.option("--heads", default=4, show_default=True, type=click.IntRange(1))
@click.option("--channels", default=128, show_default=True, type=click.IntRange(1))
@click.option("--batch", default=8, show_default=True, type=click.IntRange(1))
@click.option("--learning-rate", "rate", default=2e-3, show_default=True, type=float)
@click.option("--seed", default=0, show_default=True, type=int)
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for checkpoint and sample.")
@click.option(
    "--resume", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A checkpoint to go on from."
)
@click.option("--mesh", metavar="cp=R", help="Ranks of torchrun: cp share a sequence, dp the batch (dp=2,cp=2).")
def main(
    pattern: str,
    parameters: tuple[str, ...],
    text: Path | None,
    steps: int,
    context: int,
    layers: int,
    heads: int,
    channels: int,
    batch: int,
    rate: float,
    seed: int,
    device: str,
    out: Path | None,
    resume: Path | None,
    mesh: str | None,
) -> None:
    """Train a byte-level GPT whose attention is PATTERN."""
    saved: dict[str, Any] = torch.load(resume, weights_only=True) if resume else {}
    if saved:
        config = Config(**saved["config"])
    else:
        if channels % (2 * heads):
            raise click.ClickException(f"--channels {channels} must be a multiple of twice --heads {heads}")
        values = given_parameters(pattern, parameters, context)
        config = Config(pattern, values, context, layers, heads, channels, batch, rate, seed)
    try:
        loaded = attnlang.load(config.pattern, **config.parameters)
    except attnlang.AttnError as error:
        raise click.ClickException(f"the pattern is faulty\n\n{error}") from None
    refuse_the_future(loaded, config)
    source = torch.frombuffer(bytearray(text.read_bytes()), dtype=torch.uint8) if text else python_source()
    if len(source) < config.context + 2:
        raise click.ClickException(
            f"the text has {len(source)} bytes; it must have more than --context {config.context} + 1"
        )

    torch.manual_seed(config.seed)
    where = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    spread = Mesh(mesh, where) if mesh else None
    model = ByteGPT(config, loaded).to(where)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    first = int(saved.get("step", 0))
    size = sum(p.numel() for p in model.parameters())
    ranks = OneDevice(model)
    if spread is not None:
        spread.spread(model, config)
        ranks = spread
    if ranks.first:
        about = f"{size:,} parameters on {where}, {len(source):,} bytes of text, steps {first}..{steps - 1}"
        click.echo(f"{loaded.call}\n{about}")
    if first >= steps:
        raise click.ClickException(f"the checkpoint stands at step {first}: ask for more --steps")
    train(ranks, config, source, first, steps, optimizer)
    if spread is not None:
        torch.distributed.destroy_process_group()
        if not ranks.first:
            return

    folder = out or Path("runs") / loaded.name
    folder.mkdir(parents=True, exist_ok=True)
    state = {"config": asdict(config), "step": steps, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, folder / "checkpoint.pt")
    whole = ByteGPT(config, loaded).to(where)
    whole.load_state_dict(model.state_dict())
    sample = generate(whole, b"def ", 200, config.context, config.seed)
    (folder / "sample.txt").write_text(sample, encoding="utf-8")
    click.echo(
        f"\n--- a sample ---\n{sample}\n----------------\nwrote {folder / 'checkpoint.pt'} and {folder / 'sample.txt'}"
    )


def given_parameters(pattern: str, parameters: tuple[str, ...], context: int) -> dict[str, Any]:
    """Parameters from -p; LongNet, asked for by name alone, gets segments that suit the context."""
    values: dict[str, Any] = {}
    for item in parameters:
        name, _, value = item.partition("=")
        values[name] = value
    if pattern.startswith("longnet") and not values:
        values = {"segments": [context // 8, context // 4, context], "dilations": [1, 2, 4]}
    return values


if __name__ == "__main__":
    sys.exit(main())
