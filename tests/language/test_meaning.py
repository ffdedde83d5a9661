"""The forms of the language, each against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import attnlang
from attnlang import AttnError

N, H = 23, 4
q, k = np.arange(N)[:, None], np.arange(N)[None, :]
h = np.arange(H)[:, None, None]
NONE = np.zeros((N, N))

MEANINGS: dict[str, Any] = {
    "all": NONE + 1,
    "none": NONE,
    "self": q == k,
    "causal": k <= q,
    "offset(-2..3)": (k - q >= -2) & (k - q <= 3),
    "offset(..-2 step 3)": (k - q <= -2) & ((k - q) % 3 == 0),
    "offset(4..)": k - q >= 4,
    "window(3)": (k <= q) & (q - k < 3),
    "window(left=1, right=2)": (k - q >= -1) & (k - q <= 2),
    "same(pos // 4 + h)": q // 4 == k // 4,
    "key(pos % 3 == h)": (k % 3 == h) & (q == q),
    "query(0 <= pos < 2 or pos == n - 1)": ((q < 2) | (q == N - 1)) & (k == k),
    "key(not pos >= 2 and True)": (k < 2) & (q == q),
    "pairs(abs(q - k) == n - 1 or q == k)": (abs(q - k) == N - 1) | (q == k),
    "pairs(k <= q and q // (k + 1) == h)": (k <= q) & (q // (k + 1) == h),
    "pairs([k, q, 0][q % 3] == k)": np.choose(q % 3, [k, q + 0 * k, 0 * q + 0 * k]) == k,
    "segment(5) { pairs(k == n - 1 - q) }": (q // 5 == k // 5) & (k % 5 == np.minimum(5, N - q // 5 * 5) - 1 - q % 5),
    "window(log2(9) + isqrt(10) + ceildiv(7, 2) + sum([1, 2]))": (k <= q) & (q - k < 13),
    "segment(5)": q // 5 == k // 5,
    "segment(5, shift=2) { causal }": ((q + 2) // 5 == (k + 2) // 5) & (k <= q),
    "segment(6) { key(pos == n - 1) }": (q // 6 == k // 6) & (k == np.minimum(q // 6 * 6 + 5, N - 1)),
    "segment(6, shift=4) { key(pos == 1) }": ((q + 4) // 6 == (k + 4) // 6) & ((k + 4) % 6 == 1),
    "dilate(3)": q % 3 == k % 3,
    "dilate(3) { window(2) }": (k == q) | (k == q - 3),
    "dilate(3, shift=h)": (q % 3 == h % 3) & (k % 3 == h % 3),
    "dilate(4, shift=1) { offset(1..) }": (q % 4 == 1) & (k % 4 == 1) & (k > q),
    "segment(8) { dilate(3, shift=2) }": (q // 8 == k // 8) & (q % 8 % 3 == 2) & (k % 8 % 3 == 2),
    "blocks(4) { causal }": k // 4 <= q // 4,
    "blocks(4) { key(pos == n - 1) }": (k // 4 == (N - 1) // 4) & (q == q),
    "neighborhood(4)": (k >= np.clip(q - 2, 0, N - 4)) & (k < np.clip(q - 2, 0, N - 4) + 4),
    "neighborhood(30)": NONE + 1,
    "neighborhood(5, stride=4)": (k >= (start := np.clip(np.minimum(q // 4 * 4 + 2, N - 1) - 2, 0, N - 5)))
    & (k < start + 5),
    "neighborhood(6, stride=2, causal=True)": (k <= q) & (k >= np.minimum(q // 2 * 2 + 1, N - 1) - 5),
    "random(0)": NONE,
    "random(100)": NONE + 1,
    "grid(1, 23) { all * window(3) }": (k <= q) & (q - k < 3),
    "blocks(4) { grid(2, 3) { self * causal } }": (q // 12 == k // 12) & (q // 4 % 3 >= k // 4 % 3),
    "heads(1..3) { self }": (q == k) & (h >= 1) & (h < 3),
    "heads(H // 2..) { self }": (q == k) & (h >= 2),
    "causal | self + self": np.maximum(k <= q, 2 * (q == k)),
    "causal & self + all": (k <= q) * (1 + (q == k)),
    "(all + self) & (all + causal)": (1 + (q == k)) * (1 + (k <= q)),
    "(all + self) - offset(1..)": (1 + (q == k)) * (k <= q),
    "~(causal + causal)": k > q,
    "mix(window(w) for w in [1, 2, 4])": sum((k <= q) & (q - k < w) for w in (1, 2, 4)),
    "any(offset(-o..-o) for o in [2 ** t for t in range(4)] if o != 4)": np.isin(q - k, [1, 2, 8]),
    "any(offset(-t..-t) for t in range(N) if t % 5 == h)": ((q - k) % 5 == h) & (k <= q),
    "window(2) if h < 2 else causal": np.where(h < 2, (k <= q) & (q - k < 2), k <= q),
    "causal if N > 100 else self": q == k,
    "longnet(segments=[4, 8], dilations=[1, 2])": (k <= q)
    * sum((q // w == k // w) & (q % w % r == h % r) & (k % w % r == h % r) for w, r in ((4, 1), (8, 2))),
    "strided(3) - self": (k < q) & ((q - k <= 3) | ((q - k) % 3 == 0)),
    "window(min(3, 7, 5)) & window(max([1, 2]) + abs(-7) // 2 + len([1, 2]))": (k <= q) & (q - k < 3),
    "window([4, 5, 6][-2])": (k <= q) & (q - k < 5),
}


@pytest.mark.parametrize("text", MEANINGS)
def test_forms_mean_what_the_table_says(text: str) -> None:
    expected = np.broadcast_to(np.asarray(MEANINGS[text]).astype(int), (H, N, N))
    assert (attnlang.loads(f"pattern p = {text}").multiplicity(N, H) == expected).all()


def test_parameters_given_by_python() -> None:
    text = "pattern p(w, deep = False, sizes = [2]) = window(w) if deep else window(sizes[0])"
    assert attnlang.loads(text, w=np.int64(5), deep=True).multiplicity(9, 1).sum() == 5 * 9 - 10
    assert attnlang.loads(text, w=1, sizes=(3, 4)).multiplicity(9, 1).sum() == 3 * 9 - 3


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "needs a value for `w`"),
        ({"w": 2, "x": 3}, "no parameter `x`"),
        ({"w": 2.5}, "must be an integer, a boolean, a list"),
        ({"w": "True"}, "`w` of `window` must be an integer"),
        ({"w": "2 +"}, "the text ends too early"),
        ({"w": "pos"}, "no such position is meant here"),
        ({"w": b"2"}, "must be an integer, a boolean, a list"),
        ({"w": 2, "sizes": 4}, "must be a list of integers"),
        ({"w": 2, "sizes": [True]}, "must be a list of integers"),
        ({"w": [1]}, "`w` of `window` must be an integer"),
        ({"w": 0}, "must be at least 1"),
        ({"w": 2**80}, "must be an integer"),
    ],
)
def test_unsuitable_parameters_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnError, match=message):
        attnlang.loads("pattern p(w, sizes = [2]) = window(w) | window(sizes[0])", **parameters)


def test_a_shift_that_fails_only_on_some_head_is_reported_with_its_place() -> None:
    pattern = attnlang.loads("pattern p = segment(8 // (h - 1) + 20)")
    with pytest.raises(AttnError, match=r"division by zero(.|\n)*8 // \(h - 1\)"):
        pattern.multiplicity(8, 2)


def test_heads_out_of_range() -> None:
    with pytest.raises(AttnError, match=r"heads 0\.\.4 of 2"):
        attnlang.loads("pattern p = heads(0..4) { all }").multiplicity(4, 2)


def test_a_grid_must_fit() -> None:
    with pytest.raises(AttnError, match="4 x 6 = 24 positions, but the frame has 23"):
        attnlang.loads("pattern p = grid(4, 6) { all * self }").multiplicity(23, 1)


def test_the_oracle_refuses_what_cannot_be_held() -> None:
    pattern = attnlang.load("causal")
    with pytest.raises(ValueError, match="entries"):
        pattern.multiplicity(10**6, 12)
    with pytest.raises(ValueError, match="at least"):
        pattern.multiplicity(4, 0)


WIDE, CUT = 10**6, 10**6 - 8
"""A segment that is cut short to its last 8 positions: their coordinates are CUT, CUT + 1, ..."""
x, y = q + CUT, k + CUT
IN_A_CUT_RUN: dict[str, Any] = {
    "causal": k <= q,
    "key(pos % 7 == 1) | query(pos == n - 1)": (y % 7 == 1) | (x == WIDE - 1),
    "pairs(q + k == 2 * n - 6)": x + y == 2 * WIDE - 6,
    "same(pos // 3)": x // 3 == y // 3,
    "neighborhood(5)": abs(k - np.minimum(q, 5)) <= 2,
    "neighborhood(3, stride=5, causal=True)": (k <= q) & (y > x // 5 * 5 + 4 - 3),
    "dilate(3) { key(pos == n - 1) }": (x % 3 == y % 3) & (y >= WIDE - 3),
    "dilate(10**5, shift=-1) { self }": (x == y) & (x == WIDE - 1),
    "blocks(3) { key(pos >= n - 2) }": y // 3 >= (WIDE + 2) // 3 - 2,
    "segment(10, shift=5) { key(pos == 0) }": ((x + 5) // 10 == (y + 5) // 10) & ((y + 5) % 10 == 0),
    "grid(n // 10, 10) { self * causal }": (x // 10 == y // 10) & (y <= x),
    "grid(10, n // 10) { self * key(pos == n - 1) }": y == WIDE - 1,
    "mix(offset(-t..0) for t in range(n - 999_998))": (q == k) * 2 + (k - q == -1),
    "~(all - self)": q == k,
}


@pytest.mark.parametrize("text", IN_A_CUT_RUN)
def test_of_a_run_cut_short_only_what_is_there_is_made(text: str) -> None:
    found = attnlang.loads(f"pattern p = segment({WIDE}, shift={CUT}) {{ {text} }}").multiplicity(8, 1)[0]
    assert (found == np.broadcast_to(IN_A_CUT_RUN[text], (N, N))[:8, :8]).all()


def test_random_keys_of_a_run_cut_short() -> None:
    pattern = attnlang.loads(f"pattern p = segment({WIDE}, shift={CUT}) {{ random(3, seed=1) }}")
    assert pattern.multiplicity(8, 1).sum() < 3  # they are drawn from the whole run
    pattern = attnlang.loads(f"pattern p = segment({WIDE}, shift={CUT}) {{ random(3, seed=1) {{ causal }} }}")
    with pytest.raises(ValueError, match="random keys are drawn from a run of 1,000,000 positions"):
        pattern.multiplicity(8, 1)


def test_no_position_is_no_trouble() -> None:
    assert attnlang.loads("pattern p = grid(4, 5) { self * all }").multiplicity(0, 2).shape == (2, 0, 0)


def test_several_patterns_in_a_text() -> None:
    text = "pattern a = self\npattern b = a | offset(-1..-1)"
    assert attnlang.loads(text, name="b").multiplicity(3, 1).sum() == 5
    with pytest.raises(AttnError, match="holds several patterns"):
        attnlang.loads(text)
    with pytest.raises(AttnError, match="has no pattern `c`"):
        attnlang.loads(text, name="c")


def test_a_file_may_take_the_name_of_a_library_pattern() -> None:
    text = "pattern sliding(w = 2) = offset(-w..w)\npattern p = sliding(3)"
    assert attnlang.loads(text, name="p").multiplicity(4, 1).sum() == 16


def test_documentation_comes_from_the_lines_above() -> None:
    pattern = attnlang.loads("# not this\n\n## First line.\n## Second.\npattern p = self  # nor this")
    assert pattern.doc == "First line.\nSecond."
    assert str(pattern) == "p\n    = self"


@pytest.mark.parametrize(
    "name", ["x" * 300, "x" * 300 + ".attn", "pattern p = window(3)", "## A text.\npattern p = window(N // 4)\n"]
)
def test_names_that_no_pattern_can_have(name: str) -> None:
    with pytest.raises(AttnError) as caught:
        attnlang.load(name)
    assert ("`attnlang.loads(text)` reads a text" in str(caught.value)) == ("=" in name)
