"""Forked gloo ranks: a function runs on each of them, and what it returns, or raises, comes back."""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch._dynamo  # imported before the fork: once, and not by every rank
import torch.distributed as dist
import torch.distributed.fsdp
import torch.distributed.tensor


def on_ranks(ranks: int, function: Callable[[int], Any], timeout: float = 60.0) -> list[Any]:
    """function(rank) on so many processes with a gloo group; results by rank. A failure raises AssertionError."""
    results = outcomes(ranks, function, timeout)
    failed = [f"rank {rank}: {value}" for rank, (ok, value) in enumerate(results) if not ok]
    assert not failed, "\n".join(failed)
    return [value for _, value in results]


def outcomes(ranks: int, function: Callable[[int], Any], timeout: float = 60.0) -> list[tuple[bool, Any]]:
    """(True, result) or (False, traceback) of each rank; (False, 'no answer') where none came."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        pipes = [context.Pipe(duplex=False) for _ in range(ranks)]
        processes = [
            context.Process(target=_run, args=(rank, ranks, store, function, pipe[1], timeout), daemon=True)
            for rank, pipe in enumerate(pipes)
        ]
        for process, (_, sender) in zip(processes, pipes, strict=True):
            process.start()
            sender.close()
        found: list[tuple[bool, Any]] = []
        for (receiver, _), process in zip(pipes, processes, strict=True):
            try:
                found.append(receiver.recv() if receiver.poll(timeout) else (False, "no answer"))
            except EOFError:
                found.append((False, "ended without an answer"))
            process.join(1)
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
        return found


def _run(rank: int, ranks: int, store: str, function: Callable[[int], Any], pipe: Any, timeout: float) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if hasattr(socket, "if_nameindex") else "")
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout)
    )
    try:
        pipe.send((True, function(rank)))
    except BaseException as error:
        pipe.send((False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
    finally:
        pipe.close()
        os._exit(0)
