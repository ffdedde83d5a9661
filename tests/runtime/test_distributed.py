"""The module under data parallelism: DDP and FSDP2 on gloo, two forked ranks against one process."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import attnc
import pytest
import torch
import torch._dynamo  # DDP needs it: once here, not once in every rank
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

RANKS = 2


class Block(nn.Module):
    """Projections around a pattern, as a model has them."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48, dtype=torch.float64)
        self.attention = attnc.compile("longnet", heads=4, segments=[8, 16], dilations=[1, 2])
        self.out = nn.Linear(16, 16, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        return x + self.out(self.attention(q, k, v).transpose(1, 2).flatten(2))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block())


def trained(wrapped: nn.Module, x: Tensor) -> list[Tensor]:
    """The parameters after two steps on a batch."""
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        wrapped(x).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in wrapped.parameters()]


def batch() -> Tensor:
    return torch.randn(4, 30, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def ddp() -> nn.Module:
    return nn.parallel.DistributedDataParallel(model())


def fsdp() -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole, mesh = model(), init_device_mesh("cpu", (RANKS,))
    for block in whole.children():
        fully_shard(block, mesh=mesh)
    return fully_shard(whole, mesh=mesh)


def _rank(rank: int, port: int, wrap: Callable[[], nn.Module], where: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    found = trained(wrap(), batch().chunk(RANKS)[rank])
    whole = [x.full_tensor() if hasattr(x, "full_tensor") else x for x in found]
    if rank == 0:
        torch.save(whole, where)
    dist.destroy_process_group()


@pytest.mark.parametrize("wrap", [ddp, fsdp])
def test_two_ranks_train_as_one(wrap: Callable[[], nn.Module], tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    where = tmp_path / "parameters.pt"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork does not take along the threads of a pool
    try:
        mp.start_processes(_rank, (port, wrap, str(where)), nprocs=RANKS, start_method="fork")
    finally:
        torch.set_num_threads(threads)
    for mine, true in zip(torch.load(where), trained(model(), batch()), strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=1e-12)
