"""Calls that one rank gets wrong: each must be an error on every rank, in the same words, and the next call right.

    torchrun --nproc-per-node 2 -m tests.parallel.mistakes                  # NCCL
    torchrun --nproc-per-node 2 -m tests.parallel.mistakes --last late      # and in the end a rank that comes too late
    torchrun --nproc-per-node 2 -m tests.parallel.mistakes --device cpu     # gloo

Rank 1 is the one that errs. After all mistakes it is lost, in one of the ways of `lost`: the others must hear of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Timer

import torch
import torch.distributed as dist

from attnlang.parallel import RanksDisagreeError
from attnlang.parallel.rank import RankWork
from tests.parallel.lost import LAST, LOST, last
from tests.parallel.world import N, World, failing


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


def changed_in_place(world: World) -> None:
    """What the backward pass needs of rank 1 is gone by then, and torch says so there alone."""
    q, k, v = world.rows()
    q = 1 * q
    out = world.plain(q, k, v)
    if world.errs:
        q.mul_(2)
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
    with failing(world, world.packed._planner, "schedule", ValueError("no room for this plan")):
        world.packed(*world.rows(), doc=world.doc())


def no_memory(world: World) -> None:
    with failing(world, world.packed._planner, "schedule", MemoryError("out of memory")):
        world.packed(*world.rows(), doc=world.doc())


def no_kernel(world: World) -> None:
    with failing(world, RankWork, "check", ValueError("no kernel runs this here")):
        world.packed(*world.rows(), doc=world.doc())


def no_kernel_of_a_known_kind(world: World) -> None:
    with failing(world, world.plain, "_work", ValueError("what ran this is gone")):
        world.plain(*world.rows())


def out_of_step(world: World) -> None:
    """As if rank 1 had begun an exchange more than the others."""
    hosts = world.plain._hosts
    hosts.exchanges += world.errs
    try:
        world.plain(*world.rows())
    finally:
        hosts.exchanges -= world.errs


MISTAKES: dict[Callable[[World], None], str] = {
    other_batch: "ranks differ in batch: ",
    other_dtype: "ranks differ in dtype: ",
    other_scale: "ranks differ in scale: ",
    gradients_wanted: "ranks differ in autograd: ",
    gradients_off: "ranks differ in autograd: ",
    another_layer: "ranks differ in attention: p 0 on rank",
    no_backward: "ranks differ in pass: backward on rank",
    changed_in_place: "rank 1: RuntimeError: one of the variables needed for gradient computation has been modified",
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
