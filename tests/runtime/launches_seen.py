"""A GPU that only writes down what is launched on it, for tests: triton's own binder and launcher run above it.

Kernels are not compiled, so that a test takes no time: what triton would compile is numbered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia
from triton.compiler.compiler import CompiledKernel

from attnlang.runtime.triton import hopper, hopper_gradients, hopper_queries, kernels, rows, run, specialised

KERNELS = (
    kernels.attend,
    hopper.attend,
    hopper_gradients.key_gradients,
    hopper_queries.query_gradients,
    rows.collect,
    rows.row_products,
)
HOOKS = slice(10, 13)
"""Where the launcher takes hooks, and what they are told."""
ELEMENTS = {"fp16": (2, 6), "bf16": (2, 10), "fp32": (4, 7)}


class Recorder:
    """Stands for triton's driver. `seen` holds every launch: grid, stream, function, and all arguments as numbers."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.functions = 0
        self.device = 0
        self.utils = SimpleNamespace(
            load_binary=self._load,
            get_device_properties=lambda _: {"max_shared_mem": 232_448},
            fill_tma_descriptor=lambda *given: ("map", *(tuple(x) if isinstance(x, list) else x for x in given)),
        )
        self.launcher_cls = nvidia.CudaLauncher

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 100 + device

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def launch(self, *given: Any) -> None:
        arguments = list(given)
        arguments[HOOKS] = []
        self.seen.append(tuple(map(_plain, arguments)))

    def _load(self, *_: Any) -> tuple[Any, int, int, int, int]:
        self.functions += 1
        return object(), self.functions, 0, 0, 1024


def _plain(x: Any) -> Any:
    """An argument as the launcher in C reads it."""
    if isinstance(x, Tensor):
        return x.data_ptr()
    if isinstance(x, tuple) and (not x or x[0] != "map"):
        return tuple(map(_plain, x))
    return getattr(x, "value", x)


def without_addresses(launch: tuple[Any, ...]) -> tuple[Any, ...]:
    """A launch, but for where tensors are and what number its function has."""

    def one(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(one, x))
        return "address" if isinstance(x, int) and x > 2**32 else x

    return (*launch[:4], *map(one, launch[5:]))


def _compile(src: Any, target: GPUTarget, options: dict[str, Any]) -> CompiledKernel:
    found: Any = object.__new__(CompiledKernel)
    described = [kind for kind in src.signature.values() if isinstance(kind, str) and kind.startswith("tensordesc")]
    found.src, found.name, found.kernel, found.hash, found.metadata_group = src, src.fn.__name__, b"", "", {}
    found.module = found.function = found._run = None
    found.metadata = SimpleNamespace(
        target=target, shared=0, num_warps=options["num_warps"], num_ctas=1,
        tensordesc_meta=[_form(x) for x in described],
        global_scratch_size=0, global_scratch_align=1, profile_scratch_size=0, profile_scratch_align=1,
        launch_cooperative_grid=False, launch_pdl=False,
    )  # fmt: skip
    found.packed_metadata = options["num_warps"], 1, 0
    return found


def _form(kind: str) -> dict[str, Any]:
    element, block = re.findall(r"<(\w+)\[([\d, ]+)\]", kind)[0]
    size, number = ELEMENTS[element]
    block_size = [int(x) for x in block.split(",")]
    return {"swizzle": 3, "elem_size": size, "elem_type": number, "block_size": block_size, "fp4_padded": False}


@contextmanager
def recorder() -> Iterator[Recorder]:
    """The driver of this process, for as long as the context lasts; tensors may be on the cpu."""
    found = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.runtime.driver, "_active", found)
        patch.setattr(triton.compiler, "compile", _compile)
        patch.setattr(nvidia, "compile_module_from_src", lambda **_: SimpleNamespace(launch=found.launch))
        patch.setattr(nvidia, "library_dirs", list)
        patch.setattr(specialised, "available", lambda _: True)
        patch.setattr(specialised, "multiprocessors", lambda _: 132)
        patch.setattr(run, "has_tensor_maps", lambda _: True)
        forget()
        yield found
    forget()


def forget() -> None:
    """As in a new process."""
    for kernel in KERNELS:
        kernel.device_caches.clear()
    for cached in (run._forward, run._backward, run._forward_filled, run._backward_filled):
        cached.cache_clear()


def tensors(
    heads: int, kv_heads: int, n: int, dim: int, dtype: torch.dtype, batch: int = 1, side_by_side: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and d_out: (B, H, N, D) in memory, or (B, N, H, D)."""

    def one(heads: int) -> Tensor:
        shape = (batch, n, heads, dim) if side_by_side else (batch, heads, n, dim)
        x = torch.zeros(shape, dtype=dtype)
        return x.transpose(1, 2) if side_by_side else x

    return one(heads), one(kv_heads), one(kv_heads), one(heads)
