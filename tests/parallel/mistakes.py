"""Calls that one rank gets wrong: each must be an error on every rank, in the same words, and the next call right.

    torchrun --nproc-per-node 2 tests/parallel/mistakes.py                  # NCCL
    torchrun --nproc-per-node 2 tests/parallel/mistakes.py --last late      # and in the end a rank that comes too late
    torchrun --nproc-per-node 2 tests/parallel/mistakes.py --device cpu     # gloo

Rank 1 is the one that errs. After all mistakes it is lost, in one of the ways of `LAST`: the others must hear of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Timer
from typing import Any
from unittest import mock

import attnc
import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnlang import Pattern, loads
from attnlang.parallel import PeerLostError, RanksDisagreeError, distribute, shard
from attnlang.parallel.rank import RankWork
from attnlang.runtime import reference

HEADS, N = 4, 45
PLAIN = "p = causal & window(9)"
PACKED = "p(doc: table) = causal & same(doc[pos])"


@dataclass(frozen=True, slots=True)
class World:
    """Two layers and one with a table on all ranks of a group, and what to call them with."""

    group: dist.ProcessGroup
    device: torch.device
    dtype: torch.dtype
    timeout: timedelta
    layers: nn.ModuleList
    pattern: Pattern = field(default_factory=lambda: loads(f"pattern {PLAIN}"))

    @staticmethod
    def of(
        group: dist.ProcessGroup, device: str = "cpu", dtype: torch.dtype = torch.float64, timeout: float = 20.0,
        **options: Any,
    ) -> World:  # fmt: skip
        limit = timedelta(seconds=timeout)
        texts = (PLAIN, PLAIN, PACKED)
        layers = nn.ModuleList(attnc.compile(loads(f"pattern {text}"), heads=HEADS) for text in texts)
        kind = str(dtype).removeprefix("torch.")
        distribute(
            layers, group, n=N, placement="contiguous", head_dim=16, dtype=kind, timeout=limit, **options
        )  # fmt: skip
        return World(group, torch.device(device), dtype, limit, layers)

    @property
    def errs(self) -> bool:
        return dist.get_rank(self.group) == 1

    @property
    def plain(self) -> Any:
        return self.layers[0]

    @property
    def packed(self) -> Any:
        return self.layers[2]

    def doc(self, *, moved: bool = False) -> Tensor:
        return ((torch.arange(N) + moved) // 17).to(self.device)

    def whole(self, batch: int = 2) -> list[Tensor]:
        """Q, k, v and the gradient of out, the same on every rank."""
        generator = torch.Generator().manual_seed(batch)
        shape = batch, HEADS, N, 16
        made = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4))
        return [x.to(self.device, self.dtype) for x in made]

    def rows(self, batch: int = 2, dtype: torch.dtype | None = None, *, gradients: bool = True) -> list[Tensor]:
        mine = (shard(x, self.plain, 2).to(dtype or self.dtype) for x in self.whole(batch)[:3])
        return [x.requires_grad_(gradients) for x in mine]

    def right(self) -> bool:
        """Whether a good call gives the right out, dq, dk and dv on this rank."""
        *inputs, dout = self.whole()
        exact = self._by_formula([x.double() for x in inputs], dout.double())
        near = self._by_formula(inputs, dout)
        mine = self.rows()
        out = self.plain(*mine)
        found = [out, *torch.autograd.grad(out, mine, shard(dout, self.plain, 2))]
        least = 1e-12 if self.dtype == torch.float64 else 2e-5
        return all(
            _apart(f, shard(e, self.plain, 2)) <= 2 * _apart(x, e) + least
            for f, e, x in zip(found, exact, near, strict=True)
        )

    def _by_formula(self, inputs: list[Tensor], dout: Tensor) -> list[Tensor]:
        inputs = [x.detach().requires_grad_() for x in inputs]
        out = reference.attention(*inputs, self.pattern, 0.25, inputs[0].dtype)[0]
        return [out, *torch.autograd.grad(out, inputs, dout)]


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).detach().abs().max())


# what rank 1 gets wrong ---------------------------------------------------------------------------------------------


def other_batch(world: World) -> None:
    world.plain(*world.rows(batch=3 if world.errs else 2))


def other_dtype(world: World) -> None:
    world.plain(*world.rows(dtype=torch.bfloat16 if world.errs else None))


def other_scale(world: World) -> None:
    world.plain(*world.rows(), scale=0.5 if world.errs else None)


def gradients_wanted(world: World) -> None:
    world.plain(*world.rows(gradients=world.errs))


def gradients_off(world: World) -> None:
    with torch.set_grad_enabled(not world.errs):
        world.plain(*world.rows())


def another_layer(world: World) -> None:
    world.layers[1 if world.errs else 0](*world.rows())


def no_backward(world: World) -> None:
    """Rank 1 goes on to its next forward pass, while the others wait for its gradients."""
    out = world.plain(*world.rows())
    if world.errs:
        world.plain(*world.rows())
    else:
        out.sum().backward()


def whole_sequence(world: World) -> None:
    world.plain(*(world.whole()[:3] if world.errs else world.rows()))


def no_tensor(world: World) -> None:
    q, k, v = world.rows()
    world.plain(q.tolist() if world.errs else q, k, v)


def elsewhere(world: World) -> None:
    other = "cpu" if world.device.type == "cuda" else "meta"
    world.plain(*(x.detach().to(other if world.errs else world.device) for x in world.rows()))


def other_lengths(world: World) -> None:
    world.plain(*world.rows(), lengths=torch.tensor([N, 31 if world.errs else 30], device=world.device))


def other_table(world: World) -> None:
    world.packed(*world.rows(), doc=world.doc(moved=world.errs))


def no_table(world: World) -> None:
    world.packed(*world.rows(), **({} if world.errs else {"doc": world.doc()}))


def no_plan(world: World) -> None:
    with _failing(world, world.packed._planner, "schedule", ValueError("no room for this plan")):
        world.packed(*world.rows(), doc=world.doc())


def no_memory(world: World) -> None:
    with _failing(world, world.packed._planner, "schedule", MemoryError("out of memory")):
        world.packed(*world.rows(), doc=world.doc())


def no_kernel(world: World) -> None:
    with _failing(world, RankWork, "check", ValueError("no kernel runs this here")):
        world.packed(*world.rows(), doc=world.doc())


def no_kernel_of_a_known_kind(world: World) -> None:
    with _failing(world, world.plain, "_work", ValueError("what ran this is gone")):
        world.plain(*world.rows())


def out_of_step(world: World) -> None:
    """As if rank 1 had begun an exchange more than the others."""
    hosts = world.plain._hosts
    hosts.exchanges += world.errs
    try:
        world.plain(*world.rows())
    finally:
        hosts.exchanges -= world.errs


@contextmanager
def _failing(world: World, where: Any, name: str, error: Exception) -> Iterator[None]:
    """On rank 1 only, a method raises an error."""

    def fail(*_: Any) -> None:
        raise error

    with mock.patch.object(where, name, fail) if world.errs else nullcontext():
        yield


MISTAKES: dict[Callable[[World], None], str] = {
    other_batch: "ranks differ in batch: ",
    other_dtype: "ranks differ in dtype: ",
    other_scale: "ranks differ in scale: ",
    gradients_wanted: "ranks differ in autograd: ",
    gradients_off: "ranks differ in autograd: ",
    another_layer: "ranks differ in attention: p 0 on rank",
    no_backward: "ranks differ in pass: backward on rank",
    whole_sequence: "rank 1: q must be (batch, 4, ",
    no_tensor: "rank 1: q must be a tensor",
    elsewhere: "rank 1: q is on ",
    other_lengths: "ranks differ in lengths: [45, 30] on rank",
    other_table: "ranks differ in tables: ",
    no_table: "rank 1: ",
    no_plan: "rank 1: no room for this plan",
    no_memory: "rank 1: MemoryError: out of memory",
    no_kernel: "rank 1: no kernel runs this here",
    out_of_step: "ranks differ in exchanges so far: ",
    no_kernel_of_a_known_kind: "rank 1: what ran this is gone",
}
"""What every rank is told."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a mistake ended on a rank: what was said, after how many seconds, and whether the next call was right."""

    said: str
    seconds: float
    right: bool


def outcome(world: World, mistake: Callable[[World], None]) -> Outcome:
    start = time.monotonic()
    said = "nothing"
    try:
        mistake(world)
    except RanksDisagreeError as error:
        said = str(error)
    seconds = time.monotonic() - start
    return Outcome(said, seconds, world.right())


# how rank 1 is lost -------------------------------------------------------------------------------------------------


def dead(world: World) -> None:
    if world.errs:
        os._exit(0)


def dead_before_backward(world: World) -> None:
    out = world.plain(*world.rows())
    dead(world)
    out.sum().backward()


def late(world: World) -> None:
    if world.errs:
        time.sleep(2 * world.timeout.total_seconds())


def in_another_collective(world: World) -> None:
    if world.errs:
        alone = torch.ones(1, device=world.device)
        dist.all_reduce(alone, group=world.group)
        alone.item()  # (with NCCL it is here that the host waits)


def fails_in_between(world: World) -> None:
    """After all agreed. On gloo the others wait for its rows; with NCCL their hosts go on, and find it out of step."""
    with suppress(MemoryError), _failing(world, RankWork, "forward", MemoryError("out of memory")):
        world.plain(*world.rows())


LAST = {
    action.__name__: action for action in (dead, dead_before_backward, late, in_another_collective, fails_in_between)
}


LOST = ("not all ranks came", "an exchange of attention rows failed", "exchanges so far")
"""What the others hear of it."""


HELD: list[RuntimeError] = []
"""Errors that somebody holds, as a debugger does: that must not hold the other ranks up."""


def last(world: World, action: Callable[[World], None]) -> tuple[str, float, bool]:
    """What a rank hears of a lost one, after how many seconds, and whether a later call says so at once."""
    assert world.right()
    said, again = "nothing", False
    start = time.monotonic()
    try:
        action(world)
        world.plain(*world.rows())
    except (PeerLostError, RanksDisagreeError) as error:
        HELD.append(error)
        said = str(error)
    seconds = time.monotonic() - start
    try:
        world.plain(*world.rows())
    except (PeerLostError, RanksDisagreeError) as error:
        HELD.append(error)
        again = time.monotonic() - start - seconds < 1
    return said, seconds, again


# by torchrun --------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--last", choices=LAST, default="dead")
    options = parser.parse_args()
    rank = int(os.environ["RANK"])
    if options.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl", device_id=torch.device("cuda", torch.cuda.current_device()))
    else:
        dist.init_process_group("gloo")
    group = dist.group.WORLD
    assert group is not None
    here = torch.device("cuda", torch.cuda.current_device()) if options.device == "cuda" else torch.device("cpu")
    world = World.of(group, str(here), torch.float32, timeout=10.0)
    failed = not world.right()
    for mistake, words in MISTAKES.items():
        found = outcome(world, mistake)
        good = words in found.said and found.seconds < 5 and found.right
        failed |= not good
        report(rank, good, found.seconds, mistake.__name__, found.said)
    if world.errs and options.last == "in_another_collective":
        Timer(15.0, os._exit, (failed,)).start()  # (nobody comes to it, and what it waits for is not ours)
    said, seconds, again = last(world, LAST[options.last])
    good = any(words in said for words in LOST) and seconds < 25 and again
    report(rank, good, seconds, options.last, said)
    if options.last == "in_another_collective":
        time.sleep(10.0)  # (until rank 1 has ended: it would hear of this one's end by a failure of its backend)
    os._exit(failed or not good)  # (a group with a lost rank has no good end)


def report(rank: int, good: bool, seconds: float, name: str, said: str) -> None:
    line = f"rank {rank} {'ok   ' if good else 'WRONG'} {seconds:.3f} s {name}: {said.splitlines()[0]}\n"
    sys.stdout.write(line)  # (in one piece, since ranks write to the same place)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
