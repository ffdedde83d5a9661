"""The kernel for Hopper GPUs, as far as it can be tested without one: its table of work, and that it compiles.

Its loader and consumers only follow the table, which is walked here as they walk it, pair by pair. What the kernel
itself computes is compared with float64 in test_hopper_cuda.py and test_triton_cuda.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attnc.lower import lower
from hypothesis import given, settings
from hypothesis import strategies as st

import attnlang
from attnlang import Pattern
from attnlang.pattern.library import load
from attnlang.plan import Band

pytest.importorskip("triton")
from attnlang.runtime.triton import pieces as piece_tables
from attnlang.runtime.triton import specialised
from attnlang.runtime.triton.dealing import unbalanced
from attnlang.runtime.triton.kept import Call
from attnlang.runtime.triton.launches import Launch, launches
from attnlang.runtime.triton.matrices import form_of
from attnlang.runtime.triton.nesting import Shape
from attnlang.runtime.triton.pieces import Seen, pieces, weights
from attnlang.runtime.triton.prepared import log_m
from attnlang.runtime.triton.specialised import SCALES, TABLE, Split, Way, in_turn, refusal, split_for

ROWS = 64
SCRIPT = Path(__file__).parent / "compile_hopper.py"


def walked(
    pattern: Pattern, n: int, heads: int, kv_heads: int, consumers: int, streamed: int, batch: int
) -> np.ndarray:
    """(batch, heads, n, n): the weight of each pair, as loader and consumers come to it."""
    found = np.zeros((batch, heads, n, n))
    shape = Shape(n, heads, kv_heads, ROWS * consumers, streamed)
    seen = Seen(kv_heads * 4, (n, 0, 0, 4))  # a (batch, n, kv_heads, 4) tensor
    for launch in launches(lower(pattern, heads), shape, "forward", {}):
        assert launch.tiles_of is None
        assert launch.columns is None
        assert launch.even or not launch.nested
        band = launch.band or Band()
        table = pieces(launch, band, n, batch, shape.fixed, streamed, seen, seen)
        weight = np.exp2(weights(launch, log_m(launch).numpy(), streamed))
        for piece in table:
            item, head, _flags, base, step, rows, row0 = piece[:7]
            queries = base + np.arange(row0, min(row0 + shape.fixed, rows)) * step
            for matrix_row, column, rate, row, weights_row in tiles(launch, piece, streamed):
                token = np.arange(matrix_row, matrix_row + streamed) * rate + column // seen.stride - item * n
                assert column % seen.stride == head // (heads // kv_heads) * 4
                keep = (
                    np.full((len(queries), streamed), True)
                    if row is None
                    else inside(band, piece, queries, row, streamed)
                )
                assert keep.any() or row is not None
                for q, kept in zip(queries, keep, strict=True):
                    np.add.at(found[item, head, q], token[kept], weight[weights_row][kept])
    return found


def tiles(launch: Launch, piece: np.ndarray, streamed: int) -> Iterator[tuple[int, int, int, int | None, int]]:
    """Row and column in the matrix of a rate, that rate, row of the own run (None in outer ones), row of weights."""
    for i in range(piece[7]):
        rate = launch.chain[0][1] if launch.chain else 1
        yield piece[16] + i * streamed, piece[17], rate, piece[8] + i * streamed, piece[20] if launch.weighted else 0
    plain = 0
    for part in range(1, launch.parts):
        row, column, _y_row, _y_column, jump_at, jump, count, weights_row = piece[16 + 8 * part : 24 + 8 * part]
        for i in range(count):
            at = i * streamed
            yield row + at + (jump if at >= jump_at else 0), column, launch.chain[part][1], None, weights_row
        plain = count or plain
    assert piece[13] in (0, plain)


def inside(band: Band, piece: np.ndarray, queries: np.ndarray, row: int, streamed: int) -> np.ndarray:
    """Which rows of a tile of its own run a query meets."""
    start, rate, limit = piece[9:12]
    rows = np.arange(row, row + streamed)
    token = start + rows * rate - queries[:, None]
    keep = np.broadcast_to(rows < limit, token.shape).copy()
    if band.lo is not None:
        keep &= token >= band.lo
    if band.hi is not None:
        keep &= token <= band.hi
    return keep


@pytest.mark.parametrize(
    ("name", "parameters", "n", "heads", "kv_heads", "streamed"),
    [
        ("longnet", {"segments": [128, 256, 512], "dilations": [1, 2, 4]}, 512, 4, 4, 16),
        ("longnet", {"segments": [128, 256, 1024], "dilations": [1, 2, 8]}, 1280, 8, 2, 16),
        ("longnet_bidirectional", {"segments": [256, 512], "dilations": [1, 4]}, 768, 4, 2, 16),
        ("sliding", {"w": 70}, 300, 2, 1, 32),
        ("causal", {}, 200, 2, 2, 64),
        ("longnet", {"segments": [512], "dilations": [1]}, 500, 3, 3, 128),
        ("longnet", {"segments": [96, 200], "dilations": [3, 5]}, 411, 5, 5, 16),
    ],
)
@pytest.mark.parametrize("consumers", [1, 2])
def test_the_table_holds_every_pair_as_often_as_the_pattern(
    name: str, parameters: dict[str, object], n: int, heads: int, kv_heads: int, streamed: int, consumers: int
) -> None:
    pattern = load(name, **parameters)
    found = walked(pattern, n, heads, kv_heads, consumers, streamed, 2)
    expected = np.asarray(pattern.multiplicity(n, heads))
    assert np.abs(found - expected).max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 200),
    lo=st.integers(0, 90),
    hi=st.integers(-40, 40),
    consumers=st.sampled_from([1, 2, 3]),
    streamed=st.sampled_from([16, 64]),
)
def test_any_window(n: int, lo: int, hi: int, consumers: int, streamed: int) -> None:
    pattern = attnlang.loads(f"pattern any_window = offset({min(-lo, hi)}..{hi})")
    found = walked(pattern, n, 1, 1, consumers, streamed, 1)
    assert np.abs(found[0] - np.asarray(pattern.multiplicity(n, 1))).max() == 0


TERMS = (
    "segment({w}) {{ dilate({r}, shift=h) }}",
    "segment({w}) {{ dilate({r}) }}",
    "segment({w}) & offset(.. step {r})",
)
"""A class of each head, class 0, and every class by itself."""


@settings(max_examples=60, deadline=None)
@given(
    terms=st.lists(
        st.tuples(st.sampled_from(TERMS), st.sampled_from([(128, 1), (256, 2), (256, 4), (128, 2), (256, 1)])),
        min_size=2,
        max_size=3,
    ),
    causal=st.booleans(),
)
def test_any_mix_of_segments(terms: list[tuple[str, tuple[int, int]]], causal: bool) -> None:
    mixed = " + ".join(f"({text.format(w=w, r=r)})" for text, (w, r) in terms)
    pattern = attnlang.loads("pattern any_mix = " + ("causal & " if causal else "") + f"({mixed})")
    found = walked(pattern, 256, 2, 2, 1, 16, 1)
    assert np.abs(found[0] - np.asarray(pattern.multiplicity(256, 2))).max() < 1e-5


def test_every_configuration_of_the_table_compiles_for_hopper() -> None:
    """With shared memory to spare; triton brings its own assembler, so this needs no GPU."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == len(TABLE) + 2


NESTED = {"segments": [512, 1024], "dilations": [1, 2]}


def calls(name: str, parameters: dict[str, object], scale: float = 0.125, split: Split | None = None) -> list[Call]:
    """The launches of a forward pass of 2048 tokens, as a Hopper GPU would be given them."""
    plan = lower(load(name, **parameters), 2)
    q = form_of(torch.zeros(1, 2048, 2, 64, dtype=torch.bfloat16).transpose(1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(specialised, "available", lambda _: True)
        patch.setattr(specialised, "multiprocessors", lambda _: 132)
        found = specialised.steps(q, q, q, plan, scale, split, True, torch.device("cpu"))
    assert found is not None
    return list(found[1])


@pytest.mark.parametrize(
    ("name", "parameters", "under", "count"),
    [
        ("longnet", NESTED, True, 2),
        ("longnet_bidirectional", NESTED, True, 2),
        ("longnet", {"segments": [512], "dilations": [1]}, True, 1),
        ("causal", {}, True, 1),
        ("sliding", {"w": 300}, True, 1),
    ],
)
def test_exponentials_run_under_the_next_scores_where_lattices_are_nested(
    name: str, parameters: dict[str, object], under: bool, count: int
) -> None:
    assert [call.constants["UNDER"] for call in calls(name, parameters)] == [under] * count
    for chosen in (False, True):
        split = replace(TABLE[64, "causal"], under=chosen)
        assert [call.constants["UNDER"] for call in calls(name, parameters, split=split)] == [chosen] * count


@pytest.mark.parametrize("scale", [1e-30, SCALES[0] / 2, SCALES[0], 0.125, SCALES[1], SCALES[1] * 2, 1e30])
def test_weights_are_in_units_of_scores_where_they_can_be(scale: float) -> None:
    """Log2 m over a scale is what is added to a score before it is scaled; others add it after."""
    weighted = [call for call in calls("longnet", NESTED, scale) if call.constants["BIASED"]]
    assert weighted
    for call in weighted:
        log_m = call.arguments[call.kernel.arg_names.index("log_m")].base.double()
        factor = call.arguments[call.kernel.arg_names.index("scale")]
        assert call.constants["UNDER"] == (SCALES[0] <= scale <= SCALES[1])
        m = torch.exp2(log_m * factor if call.constants["UNDER"] else log_m)
        assert (m - m.round()).abs().max() < 1e-6
        assert set(m.round().tolist()) == {1.0, 2.0}


def test_which_kernel_runs_is_said() -> None:
    assert refusal((9, 0), "3.6.0") is None
    assert "compute capability 9.0, this GPU has 8.0" in (refusal((8, 0), "3.6.0") or "")
    assert "triton 3.6, this is 3.7.1" in (refusal((9, 0), "3.7.1") or "")


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("dense = all", "full"),
        ("p = causal", "causal"),
        ("p = causal & segment(2048)", "causal"),
        ("p = segment(128)", "short"),
        ("p = segment(640)", "short"),  # (of 768 rows 640 would be used)
        ("p = causal & window(1024)", "window"),
        ("p = causal & window(100)", "short"),
        ("p = offset(-2000..0 step 8)", "short"),
        ("p = causal & mix(segment(w) { dilate(r, shift=h) } for w, r in zip([512, 1024], [1, 2]))", "nested"),
        ("p = heads(0..0) { causal & window(1024) } + heads(1..1) { causal }", "window"),
    ],
)
def test_which_split_a_plan_gets(text: str, way: Way) -> None:
    plan = lower(attnlang.loads(f"pattern {text}"), 2)
    assert split_for(plan, 4096, 64) == TABLE[64, way]


@pytest.mark.parametrize(
    ("segments", "dilations", "together"),
    [
        ([2048, 4096, 8192, 16384, 32768], [1, 2, 4, 8, 16], 5),
        ([2048, 65536], [1, 32], 1),  # (a tile of 64 rows would span the whole inner run)
        ([2048, 4096, 65536], [1, 2, 32], 2),
    ],
)
def test_causal_lattices_are_together_where_that_is_sooner(
    segments: list[int], dilations: list[int], together: int
) -> None:
    plan = lower(load("longnet", segments=segments, dilations=dilations), 4)
    found = launches(plan, Shape(65536, 4, 4, 64, 64), "forward", {})
    assert max(launch.parts for launch in found) == together


@pytest.mark.parametrize(("text", "n"), [("causal", 5000), ("causal & segment(2048)", 8192), ("window(700)", 6000)])
def test_pieces_are_in_turn_and_all_there(text: str, n: int) -> None:
    pattern = attnlang.loads(f"pattern p = {text}")
    shape, seen = Shape(n, 3, 3, 256, 64), Seen(12, (n, 0, 0, 4))
    (launch,) = launches(lower(pattern, 3), shape, "forward", {})
    before = pieces(launch, launch.band or Band(), n, 2, 256, 64, seen, seen)
    after, programs = in_turn(before, launch, 7)
    assert programs == 7
    there = after[after[:, 5] > 0]
    assert sorted(map(tuple, there)) == sorted(map(tuple, before))
    empty = after[after[:, 5] == 0]
    assert not piece_tables.tiles(empty, 1).any()
    assert (empty[:, [4, 10]] == 1).all()
    assert unbalanced(piece_tables.tiles(after, 1), 7, 4) <= 1.05


def test_few_pieces_are_a_program_each_and_the_longest_come_first() -> None:
    n = 1000
    (launch,) = launches(lower(attnlang.loads("pattern p = causal"), 3), Shape(n, 3, 3, 256, 64), "forward", {})
    before = pieces(launch, launch.band or Band(), n, 1, 256, 64, Seen(12, (n, 0, 0, 4)), Seen(12, (n, 0, 0, 4)))
    after, programs = in_turn(before, launch, 7)
    assert programs == len(before) == 12
    assert sorted(map(tuple, after)) == sorted(map(tuple, before))
    assert (np.diff(piece_tables.tiles(after, 1)) <= 0).all()
