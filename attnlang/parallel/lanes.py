"""Work beside a rank's own rows: small kernels on a stream of their own, where multiprocessors are free.

What a rank computes at its edges keeps few of a GPU's multiprocessors busy, and the kernel of its own rows leaves some
idle at its end. On one stream the one waits for the other; on two, each takes what is free.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor


class Lane:
    """A stream beside the current one, for what depends on nothing launched after this was made.

    Where there are no streams, what runs in a lane simply runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._side = _side(device) if device.type == "cuda" else None
        self._before = None if self._side is None else torch.cuda.current_stream(device).record_event()
        self._used = False

    def running(self) -> AbstractContextManager[object]:
        """What is launched within runs in the lane, and what is allocated there belongs to it: see `join`."""
        if self._side is None or self._before is None:
            return nullcontext()
        if not self._used:
            self._side.wait_event(self._before)
            self._used = True
        return torch.cuda.stream(self._side)

    def join(self, *results: Tensor) -> None:
        """Have the current stream wait for what runs in the lane. Results from there may be used on it from here on."""
        if self._side is None or not self._used:
            return
        here = torch.cuda.current_stream(self._side.device)
        here.wait_stream(self._side)
        for result in results:
            result.record_stream(here)  # (else its memory goes to the lane's next work while it is still read here)


@lru_cache
def _side(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
