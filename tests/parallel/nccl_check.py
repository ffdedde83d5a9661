"""On GPUs, one process each: distributed attention against the formula, by flash-attention's rule for low precision.

    torchrun --nproc-per-node 2 tests/parallel/nccl_check.py
    torchrun --nproc-per-node 2 tests/parallel/nccl_check.py --backend triton --limit 60
    torchrun --nproc-per-node 2 tests/parallel/nccl_check.py --backend triton --first 4

After `--limit` seconds no other case is begun, and the run counts as failed.

The error against float64 may be at most twice that of the plain formula computed in the same dtype, plus rounding.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import attnc
import torch
import torch.distributed as dist
from torch import Tensor

from attnlang import loads
from attnlang.parallel import WireAudit, distribute, shard
from attnlang.parallel.audit import planned
from attnlang.runtime import reference

HEADS, HEAD_DIM, N = 8, 64, 1003
CASES = [
    ("causal & mix(segment(w) { dilate(r, shift=h) } for w, r in zip([128, 512, 1024], [1, 2, 4]))", "contiguous"),
    ("causal & window(100)", "contiguous"),
    ("causal", "zigzag"),
    ("causal", "striped"),
    ("offset(-40..40) | key(pos < 3) | query(pos < 3)", "contiguous"),
    ("segment(2000) { dilate(4, shift=h) }", "contiguous"),
    ("blocks(64) { offset(-1..1) | key(pos == 0) | query(pos == 0) | random(2, seed=0) }", "contiguous"),
    ("causal & same(doc[pos])", "contiguous"),
]


def grads(attention: object, inputs: list[Tensor], dout: Tensor) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = attention(*inputs)  # pyright: ignore[reportCallIssue]
    return [out.detach(), *torch.autograd.grad(out, inputs, dout)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--limit", type=float, default=600.0)
    parser.add_argument("--first", type=int, default=0, help="the first case to run, of those above")
    options = parser.parse_args()
    start = time.monotonic()
    rank = int(os.environ["RANK"])
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl", device_id=torch.device("cuda", torch.cuda.current_device()))
    failed = False
    for text, kind in CASES[options.first :]:
        passed = torch.tensor(time.monotonic() - start, device="cuda")
        dist.broadcast(passed, 0)
        if float(passed) > options.limit:
            failed = True
            print(f"rank {rank} LEFT OUT for want of time: {kind} {text}", flush=True)
            continue
        tabled = "doc" in text
        tables = {"doc": torch.arange(N, device="cuda") // 300} if tabled else {}
        pattern = loads(f"pattern p{'(doc: table)' if tabled else ''} = {text}")
        schedule = attnc.plan(
            pattern, n=N, ranks=dist.get_world_size(), heads=HEADS, head_dim=HEAD_DIM, placement=kind,
            tables={name: x.cpu().numpy() for name, x in tables.items()},
        )  # fmt: skip
        made = attnc.compile(pattern, heads=HEADS, backend=options.backend)
        module = distribute(made, dist.group.WORLD, schedule=schedule)
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            torch.manual_seed(0)
            whole = [torch.randn(2, HEADS, N, HEAD_DIM, device="cuda").to(dtype) for _ in range(4)]

            def formula(q: Tensor, k: Tensor, v: Tensor, low: torch.dtype | None = None) -> Tensor:
                given = list(tables.values())  # noqa: B023 - used at once, as is the pattern
                return reference.attention(q, k, v, pattern, HEAD_DIM**-0.5, low, tables=given)[0]  # noqa: B023

            exact = grads(formula, [x.double() for x in whole[:3]], whole[3].double())
            plain = grads(lambda q, k, v: formula(q, k, v, dtype), whole[:3], whole[3])  # noqa: B023
            mine = [shard(x, module, 2) for x in whole]
            with WireAudit() as seen:
                found = grads(module, mine[:3], mine[3])
            again = [grads(module, mine[:3], mine[3]) for _ in range(4)]  # (one behind the other, nobody waits)
            steady = 4 if options.backend == "triton" else 1  # (flash's gradients do not: they are added atomically)
            same = all(torch.equal(a, b) for one in again for a, b in zip(found[:steady], one, strict=False))
            wire = (seen.sent(rank), seen.received(rank)) == planned(schedule, rank, 2, dtype, HEAD_DIM, backward=True)
            errors, allowed = [], []
            for f, p, e in zip(found, plain, exact, strict=True):
                errors.append(float((f.double() - shard(e, module, 2)).abs().max()))
                allowed.append(2 * float((p.double() - e).abs().max()) + 2e-5)
            good = all(e <= a for e, a in zip(errors, allowed, strict=True)) and wire and same
            failed |= not good
            shown = " ".join(f"{e:.1e}/{a:.1e}" for e, a in zip(errors, allowed, strict=True))
            print(
                f"rank {rank} {'ok   ' if good else 'WRONG'} {dtype} {kind} {shown} wire {wire} repeats {same}  {text}",
                flush=True,
            )
    dist.destroy_process_group()
    sys.exit(failed)


if __name__ == "__main__":
    main()
