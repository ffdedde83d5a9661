"""The triton backend: its kernels under triton's interpreter, what it launches, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attnc
import numpy as np
import pytest
import torch

from attnlang.plan import FULL, Band, Columns, Lattice, Plan, Runs
from attnlang.runtime import triton
from attnlang.runtime.expected import NAMES
from attnlang.runtime.triton.launches import CARRY, FINAL, Launch, column_rows, launches, runs_of
from attnlang.runtime.triton.nesting import Shape
from attnlang.runtime.triton.tuning import FLOAT, HALF, KINDS, LIST_BLOCK, Config, fitting, kind_of, padded, table

sys.path.insert(0, str(Path(__file__).parent))
from triton_cases import CASES

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
ROOT = Path(__file__).parents[2]
CAUSAL = Band(None, 0)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """Every case, run by two processes under the interpreter."""
    names = list(CASES)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "compiler"), os.environ.get("PYTHONPATH", "")))
    script = [sys.executable, str(Path(__file__).parent / "triton_cases.py")]
    workers = [
        subprocess.Popen([*script, *names[i::2]], env=environment, stdout=subprocess.PIPE, text=True) for i in (0, 1)
    ]
    lines = [line for worker in workers for line in worker.communicate()[0].splitlines()]
    return {found["name"]: found for found in map(json.loads, lines)}


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_equals_the_formula(name: str, interpreted: dict[str, Any]) -> None:
    found = interpreted[name]
    assert "failure" not in found, found.get("failure")
    for result, error, allowed in zip(NAMES, found["errors"], found["allowed"], strict=True):
        assert error <= allowed, f"{result} is off by {error:.1e}, allowed are {allowed:.1e}"


@needs_triton
def test_masks_are_tested_once_a_pair_on_a_gpu() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "compiler"), os.environ.get("PYTHONPATH", "")))
    script = [sys.executable, str(Path(__file__).parent / "compile_lists.py"), "forward-64", "key gradient-64"]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 2


# launches -----------------------------------------------------------------------------------------------------------


def longnet(heads: int = 4, band: Band = CAUSAL) -> Plan:
    numbers = tuple(range(heads))
    branches = [
        Lattice(numbers, Runs(2048 * r, 2048 * r), r, tuple(h % r for h in numbers) if r > 1 else None, band)
        for r in (1, 2, 4, 8, 16)
    ]
    return Plan(heads, tuple(branches))


def found(plan: Plan, mode: Any = "forward", n: int = 32768, kv_heads: int = 0, **shape: Any) -> tuple[Launch, ...]:
    return launches(plan, Shape(n, plan.heads, kv_heads or plan.heads, 64, 64, **shape), mode, {})


@pytest.mark.parametrize("mode", ["forward", "query gradient", "key gradient"])
def test_longnet_is_one_chain_that_computes_every_pair_once(mode: Any) -> None:
    first, second = found(longnet(), mode)
    assert (first.parts, first.residues, second.parts, second.residues) == (5, 16, 1, 0)
    assert all(entry.flags == FINAL for launch in (first, second) for entry in launch.entries)
    rows: list[int] = []
    for tile in (*first.tiles, *second.tiles):
        rows += [(tile.shift + (tile.row0 + i) * tile.step) % 2048 for i in range(64)]
    assert sorted(rows) == list(range(2048))  # for a head of phase 0


def test_lattices_that_do_not_nest_carry_their_results() -> None:
    plan = longnet()
    assert [launch.covers for launch in found(plan, nest=False)] == [False] * 4 + [True]
    flags = [launch.entries[0].flags for launch in found(plan, nest=False)]
    assert flags == [0, CARRY, CARRY, CARRY, CARRY + FINAL]


def test_what_shares_its_rows_is_one_launch() -> None:
    heads = (0, 1)
    window, columns = Lattice(heads, band=Band(-100, 0)), Columns(heads, 128, 120, 128)
    (launch,) = found(Plan(2, (window, columns)))
    assert (launch.band, launch.columns) == (window.band, columns)
    by_key = found(Plan(2, (window, columns)), "key gradient")
    assert [launch.columns for launch in by_key] == [columns, None]


def test_heads_of_one_group_with_other_phases_take_turns() -> None:
    rounds = found(longnet(4), "key gradient", kv_heads=1)
    entries = [launch.entries for launch in rounds]
    assert all(len(some) == 1 for some in entries)
    assert sorted(member for some in entries[::2] for member in some[0].members) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (None, (0, 1, 100, 100)),
        (Runs(30, 30), (0, 4, 30, 30)),
        (Runs(30, 30, -10), (-10, 4, 30, 30)),
        (Runs(20, 30, -10), (-10, 4, 30, 20)),
        (Runs(10, 30, -20), (10, 3, 30, 10)),
        (Runs(30, 30, 7), (-23, 5, 30, 30)),
    ],
)
def test_runs(runs: Runs | None, expected: tuple[int, ...]) -> None:
    assert runs_of(Lattice((0,), runs), 100) == expected


@pytest.mark.parametrize("n", [0, 3, 7, 10, 19, 30])
def test_column_rows(n: int) -> None:
    assert column_rows(Columns((0,), 10, 3, 7), n) == sum(3 <= t % 10 < 7 for t in range(n))


@needs_triton
def test_tables_are_read_again_only_when_they_change() -> None:
    from attnlang.runtime.triton.prepared import contents_of, work

    plan = attnc.compile("packed", heads=1).plan
    assert plan is not None
    shape, cpu = Shape(192, 1, 1, 64, 64), torch.device("cpu")
    doc = torch.arange(192) // 64
    before = work(plan, shape, "forward", 64, contents_of({"doc": doc}), cpu)
    assert work(plan, shape, "forward", 64, contents_of({"doc": doc.clone()}), cpu) is before
    doc.zero_()  # one document, in the same place in memory
    after = work(plan, shape, "forward", 64, contents_of({"doc": doc}), cpu)
    entries = [len(found.prepared[0].lists.blocks) for found in (before, after) if found.prepared[0].lists]
    assert entries == [3, 6]
    assert work(plan, shape, "forward", 64, contents_of({"doc": torch.arange(192) // 64}), cpu) is before


@pytest.mark.parametrize("masks", [1, 2, 3])
@pytest.mark.parametrize("block", [32, 64])
@pytest.mark.parametrize("by_key", [False, True])
def test_words_of_masks_hold_their_bits(masks: int, block: int, by_key: bool) -> None:
    from attnlang.runtime.triton.lists import words as words_of

    bits = np.random.default_rng(masks).integers(0, 256, (masks, block, block // 8), np.uint8)
    pairs = np.unpackbits(bits, axis=-1, bitorder="little").reshape(masks, block, block)
    words = words_of(bits, by_key).astype(np.int64)  # (masks, words, fixed rows)
    found = ((words[..., None] >> np.arange(32)) & 1).swapaxes(1, 2).reshape(masks, block, block)
    assert np.array_equal(found, pairs.swapaxes(1, 2) if by_key else pairs)


# tile shapes and refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configs", [HALF, FLOAT])
def test_the_table_fits_lists_and_an_h100(configs: Any) -> None:
    size = 4 if configs is FLOAT else 2
    for (mode, dim), kinds in configs.items():
        for kind in KINDS:
            config = kinds[kind]
            assert config.shared_bytes(dim, size, mode) <= 227 * 1024
            if kind == "lists":
                assert LIST_BLOCK % config.fixed == 0
                assert LIST_BLOCK % config.streamed == 0


def test_a_small_gpu_gets_smaller_tiles() -> None:
    first = table("forward", 256, torch.float16, "causal")
    small = fitting(first, "forward", 256, torch.float16, 99 * 1024)
    assert small.shared_bytes(256, 2, "forward") <= 99 * 1024 < first.shared_bytes(256, 2, "forward")


@needs_triton
@pytest.mark.parametrize("streamed", [16, 32, 64])
def test_every_tile_of_a_ring_begins_where_a_tensor_map_may_write(streamed: int) -> None:
    from attnlang.runtime.triton.matrices import MAP_BYTES, Form, Matrix
    from attnlang.runtime.triton.ready import Attend, Options

    shape = Config(64, streamed, 4, 3)
    options = Options(configs=(("key gradient", shape),), descriptors=True)
    form = Form((1, 2, 256, 128), (65536, 32768, 128, 1), torch.float16)
    two = form, form
    attend = Attend("key gradient", two, two, two, 0.1, shape, options, Shape(256, 2, 2, 64, streamed, True), True)
    made = attend.ready(Plan(2, (Lattice((0, 1), band=CAUSAL),)), None, torch.device("cpu"))
    found = [x for step in made.steps for x in step.call.arguments if isinstance(x, Matrix)]
    assert found
    for matrix in found:
        size = 4 if len(matrix.block) == 1 else 2
        assert math.prod(matrix.block) * size % MAP_BYTES == 0


def test_padding_and_kinds() -> None:
    assert [padded(d) for d in (8, 16, 24, 64, 65, 256)] == [16, 16, 32, 64, 128, 256]
    heads = (0,)
    assert kind_of(Plan(1, (Lattice(heads),))) == "full"
    assert kind_of(Plan(1, (Lattice(heads), Lattice(heads, band=CAUSAL)))) == "causal"
    assert kind_of(Plan(1, (Lattice(heads, band=Band(-3, 0)),))) == "window"
    plan = attnc.compile("bigbird", heads=1).plan
    assert plan is not None
    assert kind_of(plan) == "lists"


def test_refusals_name_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    plan = Plan(1, (Lattice((0,), band=FULL),))
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert "CUDA" in (triton.refusal(plan, cpu, torch.float32, 64) or "")
    assert "backend 'reference' can" in (triton.refusal(plan, cuda, torch.float64, 64) or "")  # (sdpa has none there)
    assert "512" in (triton.refusal(plan, cuda, torch.float16, 512) or "")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton.refusal(plan, cpu, torch.float32, 64) is None
    assert "bfloat16" in (triton.refusal(plan, cpu, torch.bfloat16, 64) or "")
    for reason in (triton.refusal(plan, cpu, torch.float64, 64), triton.refusal(plan, cpu, torch.float16, 300)):
        assert "sdpa" in (reason or "")
