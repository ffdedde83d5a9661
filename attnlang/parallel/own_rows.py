"""What a rank computes on its own rows: plans on stretches of them, by whichever backend runs each.

Shape legend: B batch, H heads, C rows of this rank, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from attnlang.parallel.choosing import OURS
from attnlang.parallel.engine import Partial, plan_calls, run_calls, run_calls_backward
from attnlang.parallel.recipe import Recipe
from attnlang.plan import Plan, Tiles
from attnlang.runtime import triton
from attnlang.runtime.backends import choose, load
from attnlang.runtime.calls import Call
from attnlang.runtime.kernels import kernel_for
from attnlang.runtime.merge import merge_
from attnlang.runtime.tile_attention import backward_ as tiles_backward_
from attnlang.runtime.tile_attention import forward_ as tiles_forward_
from attnlang.runtime.tile_attention import lists_of


class OwnRows:
    """The local plans of a recipe."""

    def __init__(self, recipe: Recipe, backend: str, tables: Mapping[str, Tensor]) -> None:
        self._local = recipe.local
        self._rows = recipe.rows
        self._backend = backend
        self._tables = dict(tables)

    def whole(self, q: Tensor) -> str | None:
        """The backend that runs one plan on all rows of this rank, where its results are the first there are.

        (sdpa adds its calls up in the accumulators themselves.)
        """
        if len(self._local) != 1:
            return None
        rows, plan = self._local[0]
        if (rows.first, rows.count, rows.step) != (0, self._rows, 1):
            return None
        name = self._name(plan, q)
        return None if name == "sdpa" else name

    def _name(self, plan: Plan, q: Tensor) -> str:
        return choose(self._backend, plan, q.device, q.dtype, q.size(-1)).name

    def check(self, q: Tensor) -> None:
        """Raises ValueError, naming what can, where the backend does not run one of the plans."""
        for _, plan in self._local:
            self._name(plan, q)

    def run_whole(self, name: str, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Out and lse of all rows, from the backend that `whole` named."""
        return load(name).forward(q, k, v, self._local[0][1], scale, self._tables)

    def run_whole_backward(
        self, name: str, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Dq, dk and dv likewise."""
        return self.begin_whole_backward(name, dout, q, k, v, out, lse, scale)()

    def begin_whole_backward(
        self, name: str, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
        """The same in two halves: what is returned runs kernels that fill the GPU, or whatever is left to run."""
        given = dout, q, k, v, out, lse, self._local[0][1], scale, self._tables
        return triton.begin_backward(*given) if name == OURS else partial(load(name).backward, *given)

    def forward_(self, q: Tensor, k: Tensor, v: Tensor, mine: Partial, scale: float) -> None:
        out, lse = mine.out.view(q.shape), mine.lse.view(q.shape[:3])
        for number, (rows, plan) in enumerate(self._local):
            part = slice(rows.first, rows.first + rows.count)
            q_, k_, v_, out_, lse_ = (x[:, :, part] for x in (q, k, v, out, lse))
            name = self._name(plan, q)
            if name != "sdpa":
                found, found_lse = load(name).forward(q_, k_, v_, plan, scale, self._tables)
                merge_(out_, lse_, found, found_lse)
                continue
            kernel = kernel_for(q.device, q.dtype, q.size(-1))
            run_calls(q_, k_, v_, out_, lse_, self._calls(number, kernel.windows), scale, kernel)
            for branch in plan.branches:
                if isinstance(branch, Tiles):
                    for lists in lists_of(branch, plan.heads, rows.count, self._tables):
                        tiles_forward_(out_, lse_, q_, k_, v_, lists, scale)

    def backward_(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
        grads: tuple[Tensor, Tensor, Tensor], scale: float,
    ) -> None:  # fmt: skip
        for number, (rows, plan) in enumerate(self._local):
            part = slice(rows.first, rows.first + rows.count)
            dout_, q_, k_, v_, out_, lse_ = (x[:, :, part] for x in (dout, q, k, v, out, lse))
            dq_, dk_, dv_ = (x[:, :, part] for x in grads)
            name = self._name(plan, q)
            if name != "sdpa":
                found = load(name).backward(dout_, q_, k_, v_, out_, lse_, plan, scale, self._tables)
                for total, added in zip((dq_, dk_, dv_), found, strict=True):
                    total += added
                continue
            kernel = kernel_for(q.device, q.dtype, q.size(-1))
            calls = self._calls(number, kernel.windows)
            run_calls_backward(dout_, q_, k_, v_, out_, lse_, (dq_, dk_, dv_), calls, scale, kernel)
            tiled = [branch for branch in plan.branches if isinstance(branch, Tiles)]
            totals = (dq_, dk_, dv_)
            whole = all(total.is_contiguous() for total in totals)
            into = totals if whole else tuple(torch.zeros_like(total, memory_format=torch.contiguous_format)
                                              for total in totals if tiled)  # fmt: skip
            for branch in tiled:
                for lists in lists_of(branch, plan.heads, rows.count, self._tables):
                    tiles_backward_((into[0], into[1], into[2]), dout_, q_, k_, v_, out_, lse_, lists, scale)
            for total, added in zip(totals, into, strict=False):
                if added is not total:
                    total += added

    def _calls(self, number: int, windows: bool) -> tuple[Call, ...]:
        """The calls of a local plan; rows that an earlier one has touched are merged, not stored."""
        rows, plan = self._local[number]
        calls = plan_calls(plan, rows.count, windows)
        touched = any(other.first < rows.first + rows.count and rows.first < other.first + other.count
                      for other, _ in self._local[:number])  # fmt: skip
        return tuple(replace(call, fresh=False) for call in calls) if touched else calls
