"""Block lists for Hopper GPUs, as far as they can be tested without one: their tables of work, and that they compile.

Loaders and consumers only follow the tables, which are walked here as they walk them, pair by pair. What the kernels
themselves compute is compared with float64 in test_listed_cuda.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
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

pytest.importorskip("triton")
from attnlang.runtime.contents import Contents
from attnlang.runtime.triton import gradients, listed, specialised, square_steps
from attnlang.runtime.triton.kept import Call
from attnlang.runtime.triton.launches import FINAL, launches
from attnlang.runtime.triton.listed import BLOCK, words
from attnlang.runtime.triton.listed_steps import Listed, listed_of
from attnlang.runtime.triton.matrices import form_of
from attnlang.runtime.triton.nesting import Shape
from attnlang.runtime.triton.pieces import Seen
from attnlang.runtime.triton.prepared import heads_of, lists_of
from attnlang.runtime.triton.specialised import LISTS

SCRIPT = Path(__file__).parent / "compile_listed.py"
DIM = 4
DOCUMENTS = {"doc": np.repeat(np.arange(7), [50, 100, 198, 30, 122, 6, 134])}
TWICE = "pattern twice = mix(same(pos // w) for w in [100, 130]) & query(pos % 3 < 2)"
CASES: dict[str, tuple[Pattern, int, dict[str, np.ndarray]]] = {
    "documents": (load("packed"), 640, DOCUMENTS),
    "documents, uneven": (load("packed_bidirectional"), 500, DOCUMENTS),
    "a grid": (load("natten2d", rows=16, cols=24, w=5), 384, {}),
    "random blocks": (load("bigbird"), 512, {}),
    "pairs that count twice": (attnlang.loads(TWICE), 384, {}),
    "rows without keys": (attnlang.loads("pattern p = same(pos // 90) & key(pos < 200) & query(pos > 70)"), 384, {}),
    "heads of two kinds": (attnlang.loads("pattern p = same(pos // 90) if h < 2 else same(pos % 50 // 7)"), 256, {}),
}


def bits(word: np.ndarray) -> np.ndarray:
    """The mask (fixed, streamed) of a block in words."""
    return np.concatenate([(row[:, None] >> np.arange(32)) & 1 for row in word], 1).astype(bool)


def walked(case: str, heads: int, kv_heads: int, consumers: int, batch: int) -> np.ndarray:
    """(batch, heads, n, n): how often loader and consumers of the forward pass come to each pair."""
    pattern, n, tables = CASES[case]
    shape = Shape(n, heads, kv_heads, BLOCK * consumers, BLOCK, joined=False)
    plan = lower(pattern, heads)
    lists = lists_of(plan, shape, BLOCK, Contents(tables))
    found = np.zeros((batch, heads, n, n))
    seen = Seen(kv_heads * DIM, (n, 0, 0, DIM))  # a (batch, n, kv_heads, DIM) tensor
    rows = np.zeros((batch, heads, n), int)
    for launch in launches(plan, shape, "forward", heads_of(lists)):
        assert launch.tiles_of is not None
        made = listed.pieces(lists[launch.tiles_of], launch.entries, batch, consumers, seen, seen)
        for piece in made.table:
            item, head, flags, base, step, count, row0 = piece[:7]
            assert (base, step, count, flags) == (0, 1, n, FINAL)
            rows[item, head, row0 : row0 + BLOCK * consumers] += 1
            assert list(piece[16:18]) == list(piece[18:20]) == [item * n, head // (heads // kv_heads) * DIM]
            for slot in range(piece[7]):
                at = piece[8] + slot
                keys = np.arange(BLOCK) + made.blocks[at] * BLOCK
                for consumer in range(consumers):
                    queries = row0 + consumer * BLOCK + np.arange(BLOCK)
                    held = bits(made.words[made.masks[at, consumer]])
                    assert held.all() or slot >= piece[12]
                    inside = (queries < n)[:, None] & held
                    assert not inside[:, keys >= n].any()
                    q, k = np.nonzero(inside)
                    np.add.at(found[item, head], (queries[q], keys[k]), 1)
    assert (rows == 1).all()
    return found


@pytest.mark.parametrize("consumers", [2, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_forward_tables_hold_every_pair_as_often_as_the_pattern(case: str, consumers: int) -> None:
    pattern, n, tables = CASES[case]
    found = walked(case, 4, 2, consumers, 2)
    assert np.abs(found - np.asarray(pattern.multiplicity(n, 4, **tables))).max() == 0


def parts(case: str, heads: int) -> tuple[Listed, ...]:
    pattern, n, tables = CASES[case]
    plan = lower(pattern, heads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listed, "MOST_SHARED", 9)
        found = listed_of(plan, lists_of(plan, Shape(n, heads, heads, 128, 64), BLOCK, Contents(tables)))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "case", [name for name, (_, n, _) in CASES.items() if n % 128 == 0 and name != "random blocks"]
)
def test_gradient_tables_hold_every_pair_as_often_as_the_pattern(case: str) -> None:
    pattern, n, tables = CASES[case]
    heads, batch = 4, 2
    seen = Seen(heads * DIM, (n, 0, 0, DIM))
    by_keys, by_queries = np.zeros((2, batch, heads, n, n))
    for part in parts(case, heads):
        made = [part.steps(number) for number in sorted(set(part.phases))]
        keys, queries = [one for one, _ in made], [one for _, one in made if one is not None]
        most = max(len(one.entries) for one in keys)
        units = square_steps.units(part.heads, part.phases, part.unit, batch, n)
        masks = words(part.lists, by_key=True)
        written: dict[int, np.ndarray] = {}
        entries = np.concatenate([one.entries for one in keys])
        for piece in square_steps.key_pieces(keys, units, heads, n, most, (seen, seen, seen, seen)):
            item, head, token = piece[15:18]
            whole = piece[20] if piece[1] else 0
            assert whole + piece[2] == piece[0]
            for step, entry in enumerate(entries[piece[3] : piece[3] + piece[0]]):
                assert entry[4] == entry[2]
                q = entry[2] + np.arange(BLOCK)
                for consumer in range(2):
                    held = bits(masks[entry[5 + 2 * consumer]])  # (keys, queries)
                    assert held.all() or step >= whole
                    k = token + consumer * BLOCK + np.arange(BLOCK)
                    by_keys[item, head][np.ix_(q, k)] += held.T
                    square = np.zeros((n, n), int)
                    square[np.ix_(q, k)] = held.T
                    assert written.setdefault(2 * (piece[19] + step) + consumer, square) is square
        entries = np.concatenate([one.entries for one in queries])
        for piece in square_steps.query_pieces(queries, units, most, seen):
            item, head, token = piece[15:18]
            for entry in entries[piece[3] : piece[3] + piece[0]]:
                for consumer, place in enumerate(entry[4:6]):
                    if place < 0:
                        continue
                    square = written.pop(2 * piece[19] + place)
                    q, k = np.nonzero(square)
                    assert set(k // BLOCK) <= {entry[2] // BLOCK}
                    assert set(q // BLOCK) <= {token // BLOCK + consumer}
                    by_queries[item, head] += square
        assert not any(square.any() for square in written.values())
    expected = np.asarray(pattern.multiplicity(n, heads, **tables))
    assert np.abs(by_keys - expected).max() == 0
    assert np.abs(by_queries - expected).max() == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.sampled_from([2, 3, 4]))
def test_any_documents(lengths: list[int], consumers: int) -> None:
    pattern, n = load("packed"), sum(lengths)
    tables = {"doc": np.repeat(np.arange(len(lengths)), lengths)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CASES, "any", (pattern, n, tables))
        found = walked("any", 1, 1, consumers, 1)
    assert np.abs(found[0] - np.asarray(pattern.multiplicity(n, 1, **tables))).max() == 0


def calls(pattern: Pattern, n: int, tables: dict[str, np.ndarray], dim: int = 64, heads: int = 2) -> list[Call]:
    """The launches of a forward pass, as a Hopper GPU would be given them."""
    q = form_of(torch.zeros(1, n, heads, dim, dtype=torch.bfloat16).transpose(1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(specialised, "available", lambda device: True)
        patch.setattr(specialised, "multiprocessors", lambda device: 132)
        device = torch.device("cpu")
        found = specialised.steps(q, q, q, lower(pattern, heads), 0.125, None, True, device, Contents(tables))
    return list(found[1]) if found else []


@pytest.mark.parametrize("dim", LISTS)
def test_documents_are_a_launch_of_lists(dim: int) -> None:
    (call,) = calls(load("packed"), 2000, {"doc": np.arange(2000) // 700}, dim)
    assert call.kernel.fn.__module__.endswith("hopper_lists")
    assert call.constants["CONSUMERS"] == LISTS[dim].consumers


def test_the_ends_of_a_band_come_before_it_and_are_few() -> None:
    lists, band = calls(load("natten1d", w=201), 4096, {})
    assert lists.kernel.fn.__module__.endswith("hopper_lists")
    assert lists.grid == (2 * 2,)  # two ends of two heads
    assert band.kernel.fn.__module__.endswith("hopper")


@pytest.mark.parametrize("name", ["bigbird", "longformer"])
def test_lists_that_are_not_shared_or_far_longer_than_others_run_elsewhere(name: str) -> None:
    assert not calls(load(name), 8192, {})


def test_a_long_document_runs_where_there_is_enough_else() -> None:
    lengths = [np.array([100, *[10] * 500]), np.array([5] * 500)]
    assert not listed.even(lengths, [1, 1], 132)
    assert listed.even(lengths, [12, 12], 132)
    assert listed.even(lengths[1:], [1], 132)  # none is long
    document = np.maximum(np.arange(65536) // 2048, 2)  # 6144 tokens, and 2048 each
    (call,) = calls(load("packed"), 65536, {"doc": document}, heads=12)
    assert call.kernel.fn.__module__.endswith("hopper_lists")
    assert not calls(load("packed"), 65536, {"doc": document}, heads=2)


def test_room_for_ds_is_of_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents change from step to step; torch keeps room of every size that was asked for."""
    monkeypatch.setattr(specialised, "available", lambda device: True)
    monkeypatch.setattr(specialised, "multiprocessors", lambda device: 132)
    generator = np.random.default_rng(0)
    q = form_of(torch.zeros(1, 8192, 2, 128, dtype=torch.bfloat16).transpose(1, 2))
    plan, device = lower(load("packed"), 2), torch.device("cpu")
    rooms: list[int] = []
    for _ in range(40):
        ends = np.sort(generator.choice(8192, 6, replace=False))
        tables = {"doc": np.searchsorted(ends, np.arange(8192), side="right")}
        found = gradients.gradients((q, q, q, q), plan, 0.1, None, True, device, Contents(tables))
        rooms += [found.room] if found else []
    assert len(rooms) > 30
    assert len(set(rooms)) <= 8 * np.log2(max(rooms) / min(rooms)) + 2


def test_every_configuration_compiles() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 2 * len(LISTS)
