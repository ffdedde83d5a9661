"""Finding xformers' operators, and saying what is missing where they are not there.

The wheel of xformers 0.0.35 is linked to libcudart.so.12. With a torch built for CUDA 13 it imports, and has no
operators, unless that library has been loaded before; the package nvidia-cuda-runtime-cu12 holds it.
"""

from __future__ import annotations

import ctypes
import logging
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

LIBRARY = "libcudart.so.12"
PACKAGE = "nvidia-cuda-runtime-cu12"


@lru_cache(maxsize=1)
def missing() -> str | None:
    """What xformers lacks here, in words, and what to install; None where its operators are there."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if find_spec("xformers") is None:
        return "the package xformers is not installed: pip install xformers"
    if not _runtime_loaded():
        cuda = torch.version.cuda
        return f"its wheel is linked to {LIBRARY}, which torch for CUDA {cuda} does not bring: pip install {PACKAGE}"
    if not ops().flash.FwOp.is_available():
        return "the installed xformers has no flash operators for this torch: see `python -m xformers.info`"
    return None


@lru_cache(maxsize=1)
def ops() -> Any:
    """The module `xformers.ops.fmha`."""
    logging.getLogger("xformers").setLevel(logging.ERROR)  # it warns of parts that no one here asks for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from xformers.ops import fmha
    return fmha


def _runtime_loaded() -> bool:
    """Whether libcudart.so.12 is in the process: because torch has it, the system, or the package."""
    return any(_load(place) for place in (LIBRARY, *_in_packages()))


def _load(place: str) -> bool:
    try:
        ctypes.CDLL(place, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _in_packages() -> Iterator[str]:
    try:
        found = find_spec("nvidia.cuda_runtime")
    except ModuleNotFoundError:
        return
    for folder in (found.submodule_search_locations or ()) if found else ():
        yield str(Path(folder) / "lib" / LIBRARY)
