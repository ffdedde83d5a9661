"""The gradients on Hopper GPUs, as far as they can be tested without one: their tables of work, and that they compile.

Loaders and consumers only follow the tables, which are walked here as they walk them, pair by pair. What the kernels
themselves compute is compared with float64 in test_squares_cuda.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from attnc.lower import lower
from hypothesis import given, settings
from hypothesis import strategies as st

import attnlang
from attnlang import Pattern
from attnlang.pattern.library import load

pytest.importorskip("triton")
from attnlang.runtime.contents import Contents
from attnlang.runtime.triton import gradients, square_steps, squares
from attnlang.runtime.triton.dealing import dealt
from attnlang.runtime.triton.nesting import Shape
from attnlang.runtime.triton.pieces import Seen
from attnlang.runtime.triton.square_steps import GROUPS, Planes
from attnlang.runtime.triton.squares import SQUARE, TILE, Chain

SCRIPT = Path(__file__).parent / "compile_gradients.py"
DIM, PROGRAMS = 4, 7
MOST_RATES = 5
Square = tuple[int, int, np.ndarray, np.ndarray, np.ndarray]
"""Batch, head, queries, 64 keys, weights (queries, keys)."""


def chains_of(pattern: Pattern, n: int, heads: int) -> tuple[Chain, ...] | None:
    return squares.chains_of(lower(pattern, heads), Shape(n, heads, heads, TILE, SQUARE), MOST_RATES)


def seen_of(n: int, heads: int) -> Seen:
    """A (batch, n, heads, DIM) tensor."""
    return Seen(heads * DIM, (n, 0, 0, DIM))


@dataclass
class Walk:
    """The tables of a pattern for (batch, n, heads, DIM) tensors, `together` units at a time.

    `group` heads of q share one of k and v.
    """

    pattern: Pattern
    n: int
    heads: int
    batch: int = 1
    together: int | None = None
    group: int = 1
    keys: np.ndarray = field(init=False)
    queries: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.batch, self.heads, self.n, self.n)
        self.keys, self.queries = np.zeros(shape), np.zeros(shape)
        chains = chains_of(self.pattern, self.n, self.heads)
        assert chains is not None
        rates = tuple(sorted({1, *(rate for chain in chains for rate in chain.matrices)}))
        self.planes = Planes(rates, self.batch * self.heads * self.n)
        self.seen, self.seen_keys = (seen_of(self.n, heads) for heads in (self.heads, self.heads // self.group))
        for chain in chains:
            self.walk(chain)

    def walk(self, chain: Chain) -> None:
        made = [square_steps.key_steps(chain, phase, self.n, self.planes) for phase in sorted(set(chain.phases))]
        key_steps = [steps for steps, *_ in made]
        query_steps = [square_steps.query_steps(chain, *rest) for _, *rest in made]
        most = max(len(steps.entries) for steps in key_steps)
        units = square_steps.units(chain.heads, chain.phases, chain.unit, self.batch, self.n, self.group)
        together = self.together or len(units)
        key_entries, query_entries = (
            np.concatenate([one.entries for one in steps]) for steps in (key_steps, query_steps)
        )
        for first in range(0, len(units), together):
            chunk = units[first : first + together]
            seen = self.seen_keys, self.seen_keys, self.seen, self.seen
            table = square_steps.key_pieces(key_steps, chunk, self.heads, self.n, most, seen, self.group)
            left: dict[int, Square] = {}
            for piece, member in product(dealt(table, table[:, 0], PROGRAMS, 4), range(self.group)):
                for number, square in self.key_squares(chain, piece, member, most, key_entries):
                    item, head, queries, keys, weights = square
                    self.keys[item, head][np.ix_(queries, keys)] += weights
                    assert number not in left
                    left[number] = square
            assert max(left, default=-1) < 2 * most * together
            table = square_steps.query_pieces(query_steps, chunk, most, self.seen_keys, self.group)
            for piece in dealt(table, table[:, 0], PROGRAMS, 4):
                self.query_squares(chain, piece, query_entries, left)

    def key_squares(
        self, chain: Chain, piece: np.ndarray, member: int, most: int, entries: np.ndarray
    ) -> Iterator[tuple[int, Square]]:
        """Each square past the queries of one head that is written down, and where."""
        steps, groups, masked, first = piece[:4]
        item, key_head, token, apart = piece[15:19]
        head = key_head * self.group + member
        piece = piece.copy()
        piece[[10, 12]] += member * DIM
        piece[13] += member * self.n
        piece[19] += member * most
        before, after = piece[square_steps.ENDS : square_steps.ENDS + 2]
        if not steps:
            return
        assert apart == chain.matrices[piece[8]]
        for at in (4, 6):
            assert self.token(piece[at], piece[at + 1], apart, item, key_head, self.seen_keys) == token
        whole = [bits for g in range(groups) for bits in piece[GROUPS + 2 * g + 1 :][:1].repeat(piece[GROUPS + 2 * g])]
        assert before + len(whole) + masked + after == steps
        lo, hi = (end if end is not None else far for end, far in ((chain.band.lo, -self.n), (chain.band.hi, self.n)))
        for step in range(steps):
            rate, shift, row, residue, place, offset, bits, who = entries[first + step]
            where = chain, piece, rate, shift, row, residue
            queries = self.streamed(*where, 9, head, self.seen)
            assert self.streamed(*where, 11, head, self.seen)[0] == queries[0] == piece[14] + offset
            assert self.vector(place + piece[13] + (piece[14] >> shift), item, head) == queries[0]
            unmasked = before <= step < before + len(whole)
            assert bits == whole[step - before] if unmasked else bits == 0 or len(chain.rates) > 1
            for block in (0, 1):
                mine = block == 1 if step < before else block == 0 if step >= steps - after else True
                assert mine == bool(who >> block & 1)
                keys = token + (SQUARE * block + np.arange(SQUARE)) * apart
                distance = keys[None, :] - queries[:, None]
                held = (lo <= distance) & (distance <= hi)
                assert mine or not held.any()
                assert held.all() or not unmasked
                if mine:
                    yield (
                        2 * (piece[19] + step) + block,
                        (item, head, queries, keys, held * np.exp2(np.array(bits, np.int32).view(np.float32))),
                    )

    def query_squares(self, chain: Chain, piece: np.ndarray, entries: np.ndarray, left: dict[int, Square]) -> None:
        item, head, token, apart = piece[15:19]
        for entry in entries[piece[3] : piece[3] + piece[0]]:
            keys = self.streamed(chain, piece, *entry[:4], 9, head // self.group, self.seen_keys)
            for block, place in enumerate(entry[4:6]):
                if place < 0:
                    continue
                *whose, queries, its_keys, weights = left[2 * piece[19] + place]
                assert whose == [item, head]
                assert (its_keys == keys).all()
                assert (queries == token + (SQUARE * block + np.arange(SQUARE)) * apart).all()
                self.queries[item, head][np.ix_(queries, keys)] += weights

    def streamed(
        self,
        chain: Chain,
        piece: np.ndarray,
        rate: int,
        shift: int,
        row: int,
        residue: int,
        at: int,
        head: int,
        seen: Seen,
    ) -> np.ndarray:
        """The tokens of a block that streams past a piece, as the loader comes to them."""
        step = chain.matrices[rate]
        assert step == 1 << shift
        column = piece[at + 1] + residue * seen.stride
        return self.token((piece[at] >> shift) + row, column, step, piece[15], head, seen) + np.arange(SQUARE) * step

    def token(self, row: int, column: int, rate: int, item: int, head: int, seen: Seen) -> int:
        residue, rest = divmod(column, seen.stride)
        assert rest == head * DIM
        return row * rate + residue - item * self.n

    def vector(self, place: int, item: int, head: int) -> int:
        plane, place = divmod(place, self.planes.size)
        rate = self.planes.rates[plane]
        whose, place = divmod(place, self.n)
        assert whose == item * self.heads + head
        residue, row = divmod(place, self.n // rate)
        return row * rate + residue


def check(text: str, n: int, heads: int, batch: int = 1, together: int | None = None, group: int = 1) -> None:
    pattern = attnlang.loads("pattern p = " + text)
    walk = Walk(pattern, n, heads, batch, together, group)
    for item in range(batch):
        np.testing.assert_allclose(walk.keys[item], pattern.multiplicity(n, heads), rtol=1e-6)
    np.testing.assert_array_equal(walk.queries, walk.keys)


def longnet(segments: list[int], dilations: list[int]) -> str:
    return f"mix(segment(w) {{ dilate(r, shift=h) }} for w, r in zip({segments}, {dilations}))"


@pytest.mark.parametrize(
    ("text", "n", "heads"),
    [
        ("causal", 512, 2),
        ("all", 256, 1),
        ("window(100)", 1024, 1),
        ("causal & window(200)", 1024, 2),
        ("offset(-300..-64)", 1024, 1),  # the last block of keys meets nothing, nor does the first of queries
        ("offset(64..)", 512, 1),
        ("segment(256)", 1024, 2),
        (longnet([512, 1024], [1, 2]), 2048, 3),
        ("causal & " + longnet([512, 1024, 2048], [1, 2, 4]), 2048, 4),
        (longnet([1024, 2048], [1, 8]), 2048, 1),
        ("causal & " + longnet([1024, 2048], [1, 8]), 2048, 1),
    ],
)
@pytest.mark.parametrize(("batch", "together"), [(1, None), (2, 3)])
def test_every_pair_is_computed_once_with_its_weight_on_both_sides(
    text: str, n: int, heads: int, batch: int, together: int | None
) -> None:
    check(text, n, heads, batch, together)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(-400, 0), st.integers(0, 400), st.booleans())
def test_any_band(tiles: int, lo: int, hi: int, segmented: bool) -> None:
    check(f"offset({lo}..{hi})" + " & segment(256)" * segmented, 256 * tiles, 1)


@settings(max_examples=4, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=3), st.booleans(), st.integers(1, 2))
def test_any_nest(ratios: list[int], causal: bool, heads: int) -> None:
    rates = [1]
    for ratio in ratios:
        rates.append(rates[-1] * 2 * ratio // (1 if ratio < 4 else 2))
    rates = [rate for rate in dict.fromkeys(rates) if rate <= 4]
    widths = [128 * rates[-1] * 2**i for i in range(len(rates))]
    check(("causal & " if causal else "") + longnet(widths, rates), max(widths), heads)


@pytest.mark.parametrize("together", [None, 4, 8])
@pytest.mark.parametrize("group", [2, 4])
def test_heads_that_share_one_of_keys(group: int, together: int | None) -> None:
    check("causal & window(150) & segment(512)", 1024, 4, 2, together, group)
    check(longnet([512, 1024], [1, 2]).replace("shift=h", "shift=h // 4"), 1024, 4, 1, None, group)


def test_heads_of_one_group_must_meet_the_same_keys() -> None:
    for text, heads, kv_heads, found in (
        (longnet([512, 1024], [1, 2]), 4, 2, False),
        (longnet([512, 1024], [1, 2]).replace("shift=h", "shift=h // 2"), 4, 2, True),
        ("causal & (segment(256) if h < 2 else window(128))", 4, 2, True),
        ("causal & (segment(256) if h < 1 else window(128))", 4, 2, False),
    ):
        plan = lower(attnlang.loads("pattern p = " + text), heads)
        parts = gradients.parts(plan, Shape(1024, heads, kv_heads, TILE, SQUARE), Contents({}))
        assert (parts is not None) == found, text


def test_heads_of_different_patterns_are_chains_of_their_own() -> None:
    pattern = attnlang.loads("pattern p = causal & (segment(256) if h < 2 else window(128))")
    chains = chains_of(pattern, 1024, 4)
    assert chains is not None
    assert [chain.heads for chain in chains] == [(0, 1), (2, 3)]
    np.testing.assert_array_equal(Walk(pattern, 1024, 4).queries[0], pattern.multiplicity(1024, 4))


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("causal", 1000),  # a tile would not be whole
        ("segment(192)", 1536),
        (longnet([512, 1024], [1, 8]), 1024),  # 64 rows of the coarser lattice in a segment
        ("mix(segment(w) & offset(.. step r) for w, r in zip([512, 1024], [1, 2]))", 1024),  # every class of a run
        ("dilate(2)", 1024),  # rows of other classes than a head's own meet nothing
        ("window(64) | key(pos < 4)", 1024),
    ],
)
def test_what_is_left_to_the_kernel_for_all_gpus(text: str, n: int) -> None:
    plan = lower(attnlang.loads("pattern p = " + text), 2)
    assert gradients.parts(plan, Shape(n, 2, 2, TILE, SQUARE), Contents({})) is None


def test_squares_are_counted_before_they_are_enumerated() -> None:
    nest = longnet([1024, 2048], [1, 4])
    for text, n in (("causal", 2048), ("offset(0..)", 2048), ("causal & window(300)", 4096), (nest, 2048)):
        (chain,) = chains_of(attnlang.loads("pattern p = " + text), n, 1) or ()
        found = squares.squares(chain, squares.blocks(chain, 0))
        assert len(found.key) / 2 <= squares.count_squares(chain) <= 3 * len(found.key)


def test_work_is_dealt_out_evenly_and_once() -> None:
    pieces = np.zeros((500, square_steps.COLUMNS), np.int64)
    pieces[:, 0] = np.random.default_rng(0).integers(30, 100, 500)
    pieces[:, 17] = np.arange(500)
    table = dealt(pieces, pieces[:, 0], 132, 4).reshape(-1, 132, square_steps.COLUMNS)
    given_out = table[table[..., 0] > 0]
    assert sorted(given_out[:, 17]) == list(range(500))
    loads = (table[..., 0] + 4 * (table[..., 0] > 0)).sum(0)
    assert loads.max() <= loads.mean() + 104


def test_longnet_of_the_paper_is_all_squares() -> None:
    pattern = load("longnet_bidirectional", segments=[2048, 4096, 8192, 16384, 32768], dilations=[1, 2, 4, 8, 16])
    (chain,) = chains_of(pattern, 131072, 16) or ()
    assert chain.matrices == (2, 4, 8, 16)
    found = squares.squares(chain, squares.blocks(chain, 3))
    assert found.whole.all()
    held = int((found.times * SQUARE**2).sum())
    assert held == 32768 * sum(w // r**2 for w, r in zip(chain.widths, chain.rates, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="triton compiles on Linux")
def test_every_build_compiles_without_a_gpu() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 2 * 4 + 1
