"""Work beside a rank's own rows: small kernels on a stream of their own, where multiprocessors are free.

What a rank computes at its edges keeps few of a GPU's multiprocessors busy, and the kernel of its own rows leaves some
idle at its end. On one stream the one waits for the other; on two, each takes what is free.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


class Lane:
    """A stream beside the current one, for what depends on nothing launched after this was made.

    Devices without streams have one lane, and what is run there simply runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None

    def run(self, function: Callable[..., tuple[Tensor, ...]], *arguments: Any) -> tuple[Tensor, ...]:
        """What a function returns, whose launches run in the lane; what the current stream is given next waits."""
        if self._before is None:
            return function(*arguments)
        side, here = _side(self._device), torch.cuda.current_stream(self._device)
        side.wait_event(self._before)
        with torch.cuda.stream(side):
            results = function(*arguments)
        here.wait_stream(side)
        for result in results:
            result.record_stream(here)  # (else its memory goes to the lane's next work while it is still read here)
        return results


@lru_cache
def _side(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
