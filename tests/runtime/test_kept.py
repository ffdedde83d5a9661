"""Launches that are kept: the driver is given what triton would give it, whatever was launched before."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attnc
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter launches nothing", allow_module_level=True)
from triton import knobs

sys.path.insert(0, str(Path(__file__).parent))
from launches_seen import Recorder, forget, recorder, tensors, without_addresses

from attnlang.plan import Plan
from attnlang.runtime.triton import gradients, kept, ready, run
from attnlang.runtime.triton.kept import Call, Kept
from attnlang.runtime.triton.ready import Options
from attnlang.runtime.triton.run import DEFAULT

if not kept._known():
    pytest.skip("this triton's launcher is not known", allow_module_level=True)

LONGNET = {"segments": [256, 512, 1024], "dilations": [1, 2, 4]}
WHOLE = {"segments": [512, 1024], "dilations": [1, 2]}
bf16, f16, f32 = torch.bfloat16, torch.float16, torch.float32


def plan_of(name: str, heads: int, **parameters: object) -> Plan:
    found = attnc.compile(name, heads=heads, **parameters).plan
    assert found is not None
    return found


@pytest.fixture
def seen() -> Iterator[Recorder]:
    with recorder() as found:
        yield found


class Both:
    """Every launch is made twice, plainly and as it is kept, and what the driver is given is compared."""

    def __init__(self, seen: Recorder, patch: pytest.MonkeyPatch) -> None:
        self.seen, self.kept, self.launches = seen, 0, 0
        self._launch, self._run = kept.launch, Kept.__call__
        patch.setattr(Kept, "__call__", lambda *given: self._counted(*given))
        for module in (kept, ready, run, gradients):
            patch.setattr(module, "launch", self._twice)

    def _counted(self, *given: Any) -> None:
        self.kept += 1
        self._run(*given)

    def _twice(self, calls: Sequence[Call], given: Sequence[Tensor]) -> None:
        before = len(self.seen.seen)
        for call in calls:
            call.plainly(given)
        between = len(self.seen.seen)
        self._launch(calls, given)
        assert self.seen.seen[before:between] == self.seen.seen[between:]
        self.launches += len(calls)


@pytest.fixture
def both(seen: Recorder, monkeypatch: pytest.MonkeyPatch) -> Both:
    return Both(seen, monkeypatch)


def step(
    plan: Plan, given: Sequence[Tensor], options: Options = DEFAULT, tables: dict[str, Tensor] | None = None
) -> None:
    """Forward and backward."""
    q, k, v, dout = given
    out, lse = run.forward(q, k, v, plan, 0.125, tables or {}, options)
    run.backward(dout, q, k, v, out, lse, plan, 0.125, tables or {}, options)


POINTERS = Options(descriptors=False)
CASES: dict[str, tuple[str, dict[str, object], tuple[Any, ...], Options]] = {
    "longnet": ("longnet", LONGNET, (4, 4, 2048, 64, bf16), DEFAULT),
    "longnet, heads apart": ("longnet", LONGNET, (4, 2, 1024, 128, f16, 2, False), DEFAULT),
    "longnet, whole tiles": ("longnet", WHOLE, (2, 2, 1024, 64, f16, 2), DEFAULT),
    "longnet, dS written down": ("longnet", WHOLE, (2, 2, 2048, 128, bf16, 2), DEFAULT),
    "longnet, kernel for all GPUs": ("longnet", LONGNET, (4, 4, 1024, 32, bf16), DEFAULT),
    "longnet, uneven": ("longnet", LONGNET, (4, 4, 1060, 64, bf16), DEFAULT),
    "longnet, one token more": ("longnet", LONGNET, (4, 4, 1025, 64, bf16), DEFAULT),
    "one token": ("longnet", LONGNET, (4, 4, 1, 64, bf16), DEFAULT),
    "window": ("sliding", {"w": 100}, (2, 1, 1000, 128, bf16, 3), DEFAULT),
    "causal, odd": ("causal", {}, (1, 1, 333, 40, f32, 3), DEFAULT),
    "pointers": ("longformer", {"w": 64}, (2, 2, 700, 64, bf16), POINTERS),
    "several launches a row": ("longformer", {"w": 64}, (2, 2, 700, 64, bf16, 2, False), DEFAULT),
    "block lists": ("bigbird", {}, (2, 2, 1024, 64, bf16), DEFAULT),
    "float32": ("strided", {"l": 16}, (2, 2, 512, 32, f32), DEFAULT),
}


@pytest.mark.parametrize("name", CASES)
def test_the_driver_is_given_what_triton_gives_it(name: str, both: Both) -> None:
    pattern, parameters, sizes, options = CASES[name]
    plan = plan_of(pattern, sizes[0], **parameters)
    addresses: list[Sequence[Tensor]] = []
    for _ in range(3):  # at other addresses each time
        addresses.append(tensors(*sizes))
        step(plan, addresses[-1], options)
    assert both.launches >= 9
    assert both.kept * 3 == both.launches * 2  # all but the first


def test_chunks_of_long_lists_and_runtime_tables(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnlang.runtime.triton.lists.CHUNK", 1)
    plan, n = plan_of("packed", 2), 700
    for documents in (3, 1, 3):
        step(plan, tensors(2, 2, n, 64, bf16), tables={"doc": torch.arange(n) * documents // n})
    assert both.kept
    plan = plan_of("longformer", 2, w=8)
    before = both.launches
    for _ in range(2):
        step(plan, tensors(2, 2, 150 * 16, 64, bf16))
    assert both.launches - before > 10  # chunks, and collect


def shifted(given: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors, 4 bytes further in memory."""
    found: list[Tensor] = []
    for x in given:
        room = torch.zeros(x.numel() + 2, dtype=x.dtype)
        found.append(room.as_strided(x.shape, x.stride(), 2))
    return found


def test_nothing_that_a_kernel_is_compiled_for_is_mistaken(both: Both) -> None:
    """Dtype, alignment, head dimension, strides of 1, lengths: each in turn, twice over, on one plan."""
    plan = plan_of("longnet", 4, **LONGNET)
    sizes: list[tuple[Any, ...]] = [
        (4, 4, 1024, 64, bf16),
        (4, 4, 1024, 64, f16),
        (4, 4, 1024, 128, bf16),
        (4, 4, 1024, 64, f32),
        (4, 4, 1024, 64, bf16, 2),
        (4, 4, 1024, 64, bf16, 1, False),
        (4, 1, 1024, 64, bf16),
        (4, 4, 1028, 64, bf16),
        (4, 4, 1027, 64, bf16),
    ]
    for _ in range(2):
        for each in sizes:
            step(plan, tensors(*each))
            step(plan, shifted(tensors(*each)))
    of_one = [x[:, :, :, :] for x in tensors(4, 4, 1, 64, bf16)]
    turned = [torch.zeros(1, 64, 4, 1024, dtype=bf16).permute(0, 2, 3, 1) for _ in range(4)]  # last stride not 1
    for _ in range(2):
        step(plan, of_one)
        step(plan, turned)
    functions = {launch[4] for launch in both.seen.seen}
    assert len(functions) > 3 * len(sizes)


CHOICES = ((DEFAULT, 0.25), (Options(descriptors=False, specialise=False), 0.125))
SIZES: list[tuple[Any, ...]] = [
    (4, 4, 1024, 64, bf16),
    (4, 4, 1024, 64, f16),
    (4, 4, 1024, 128, bf16),
    (4, 4, 1024, 64, bf16, 2),
    (4, 4, 1024, 64, bf16, 1, False),
    (4, 2, 1024, 64, bf16),
    (4, 4, 1028, 64, bf16),
]


def test_launches_are_those_of_a_new_process(seen: Recorder) -> None:
    """Whatever was made ready before: for other plans, scales, options, forms."""
    longnet, window = plan_of("longnet", 4, **LONGNET), plan_of("sliding", 4, w=64)
    ways = [(longnet, size, DEFAULT, 0.125) for size in SIZES]
    ways += [(plan, SIZES[0], options, scale) for plan in (longnet, window) for options, scale in CHOICES]
    given = {size: (tensors(*size), shifted(tensors(*size))) for size in SIZES}

    def launches(plan: Plan, size: tuple[Any, ...], options: Options, scale: float) -> list[tuple[Any, ...]]:
        count = len(seen.seen)
        for q, k, v, dout in given[size]:
            out, lse = run.forward(q, k, v, plan, scale, {}, options)
            run.backward(dout, q, k, v, out, lse, plan, scale, {}, options)
        return [without_addresses(launch) for launch in seen.seen[count:]]

    for way in ways:
        launches(*way)
    later = [launches(*way) for way in ways]
    for way, found in zip(ways, later, strict=True):
        forget()
        assert found == launches(*way)
    assert len({str(found) for found in later}) == len(ways)


def test_an_address_that_is_no_multiple_of_16_goes_through_triton(seen: Recorder) -> None:
    plan = plan_of("causal", 1)
    q, k, v, dout = tensors(1, 1, 256, 64, bf16)
    out, lse = run.forward(q, k, v, plan, 0.125, {})
    moved = torch.zeros(lse.numel() + 1)[1:].view(lse.shape)
    for each in (lse, lse, moved):
        run.backward(dout, q, k, v, out, each, plan, 0.125, {})
    assert seen.functions == 5  # forward, two gradients, and row_products for both kinds of lse


def test_devices_drivers_and_settings_have_kernels_of_their_own(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, given = plan_of("sliding", 2, w=64), tensors(2, 2, 512, 64, bf16)
    found: list[set[int]] = []
    for device in (0, 1, 0, 1):
        both.seen.device = device
        count = len(both.seen.seen)
        step(plan, given)
        found.append({launch[4] for launch in both.seen.seen[count:]})
        assert {launch[3] for launch in both.seen.seen[count:]} == {100 + device}
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert not found[0] & found[1]
    monkeypatch.setattr(knobs.runtime, "debug", True)
    count = len(both.seen.seen)
    step(plan, given)
    assert not {launch[4] for launch in both.seen.seen[count:]} & (found[0] | found[1])


def test_where_a_profiler_looks_on_triton_launches(both: Both) -> None:
    plan, given = plan_of("causal", 2), tensors(2, 2, 512, 64, bf16)
    step(plan, given)
    for hook in (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook):
        hook.add(print)
        try:
            step(plan, given)
        finally:
            hook.remove(print)
        assert not both.kept
    step(plan, given)
    assert both.kept * 4 == both.launches


def test_other_versions_of_triton_launch_by_themselves(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_known", lambda: False)
    plan = plan_of("longnet", 4, **LONGNET)
    for _ in range(2):
        step(plan, tensors(4, 4, 1024, 64, bf16))
    assert both.launches
    assert not both.kept


def test_few_tensor_maps_are_kept(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_MAPS", 2)
    plan = plan_of("longnet", 4, **LONGNET)
    held = [tensors(4, 4, 1024, 64, bf16) for _ in range(5)]
    for given in (*held, *held):
        step(plan, given)
    calls = [step.call for step in _steps(plan, held[0])]
    maps = [maps for call in calls for one in call.kept.values() if one for maps in one.maps]
    assert maps
    assert all(len(each.known) <= 2 for each in maps)


def _steps(plan: Plan, given: Sequence[Tensor]) -> tuple[ready.Step, ...]:
    q, k, v, _ = given
    forms = (run.form_of(x) for x in (q, k, v))
    return run._forward(plan, 0.125, DEFAULT, *forms, q.device, None).steps


@pytest.mark.parametrize(("n", "rates"), [(1024, (1, 2, 4)), (1028, (1,)), (2048, (1, 2, 4))])
def test_planes_come_from_row_products_where_one_set_does(n: int, rates: tuple[int, ...], seen: Recorder) -> None:
    q, k, v, dout = map(run.form_of, tensors(4, 4, n, 64, bf16))
    plan = plan_of("longnet", 4, **LONGNET)
    todo = run._backward(plan, 0.125, DEFAULT, dout, q, k, v, q.like(), torch.device("cpu"), None)
    assert todo.keys.rates == rates
    assert {step.rates for step in todo.keys.steps} == {None} | ({(1, 2, 4)} if n == 1028 else set())
