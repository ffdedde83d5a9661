"""A backward pass in parts, for who has messages to send between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

Gradients: TypeAlias = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Parts:
    """What is launched for the gradients of q, k and v, to be called in this order, each once.

    rows   a product of every row, and no more: leaves time for small kernels beside it
    roomy  what leaves room on the GPU for others' kernels
    rest   what fills it; gives dq, dk and dv
    """

    rows: Callable[[], None]
    roomy: Callable[[], None]
    rest: Callable[[], Gradients]

    @staticmethod
    def whole(run: Callable[[], Gradients]) -> Parts:
        """A pass that is in one piece."""
        return Parts(_nothing, _nothing, run)

    def run(self) -> Gradients:
        """All of it."""
        self.rows()
        self.roomy()
        return self.rest()


def _nothing() -> None:
    pass
