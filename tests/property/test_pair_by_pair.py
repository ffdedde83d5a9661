"""A second reading of docs/language.md: the multiplicity of one pair, found from the syntax tree by Python.

It shares nothing with the elaborator, the relations and the oracle: numbers are evaluated by Python, frames are walked
position by position.
"""

from __future__ import annotations

from itertools import product
from math import isqrt, prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import attnlang
from attnlang.pattern.random_keys import keys
from attnlang.source import Source
from attnlang.syntax import parse, tree
from attnlang.syntax.printer import expression_text
from tests.strategies import examples, heads, lengths, relations

FUNCTIONS: dict[str, Any] = {
    "__builtins__": {}, "len": len, "sum": sum, "min": min, "max": max, "abs": abs, "range": range,
    "zip": lambda *lists: zip(*lists, strict=True),
    "ceildiv": lambda a, b: -(-a // b), "log2": lambda a: a.bit_length() - 1, "isqrt": isqrt,
}  # fmt: skip
Env = dict[str, Any]


def value(node: tree.Expr, env: Env) -> Any:
    return eval(expression_text(node), {**FUNCTIONS, **env})


def argument(call: tree.Call, name: str, place: int | None, env: Env, default: Any = None) -> Any:
    """An argument's value, by name or place."""
    for index, given_ in enumerate(call.arguments):
        if isinstance(given_, tree.Keyword):
            if given_.name == name:
                return value(given_.value, env)
        elif index == place and not isinstance(given_, tree.Range):
            return value(given_, env)
    return default


def m(node: tree.Expr, q: int, k: int, n: int, env: Env) -> int:
    """How often the pair (q, k) of a frame of n positions counts."""
    env = {**env, "n": n}
    match node:
        case tree.Name("all"):
            return 1
        case tree.Name("none"):
            return 0
        case tree.Name("self"):
            return int(q == k)
        case tree.Name("causal"):
            return int(k <= q)
        case tree.Unary("~", body):
            return int(m(body, q, k, n, env) == 0)
        case tree.Binary("|", a, b):
            return max(m(a, q, k, n, env), m(b, q, k, n, env))
        case tree.Binary("&", a, b):
            return m(a, q, k, n, env) * m(b, q, k, n, env)
        case tree.Binary("+", a, b):
            return m(a, q, k, n, env) + m(b, q, k, n, env)
        case tree.Binary("-", a, b):
            return m(a, q, k, n, env) if m(b, q, k, n, env) == 0 else 0
        case tree.Conditional(condition, a, b):
            return m(a if value(condition, env) else b, q, k, n, env)
        case tree.Call("mix" | "any" as name, (tree.Comprehension(element, clauses),)):
            found = [m(element, q, k, n, inner) for inner in bound(clauses, env)]
            return sum(found) if name == "mix" else max(found, default=0)
        case tree.Call():
            return called(node, q, k, n, env)
        case _:
            raise AssertionError(node)


def bound(clauses: tuple[tree.Clause, ...], env: Env) -> list[Env]:
    if not clauses:
        return [env]
    first, *rest = clauses
    found: list[Env] = []
    for item in value(first.iterable, env):
        names = [item] if len(first.targets) == 1 else item
        inner = {**env, **dict(zip(first.targets, names, strict=True))}
        if all(value(condition, inner) for condition in first.conditions):
            found += bound(tuple(rest), inner)
    return found


def called(node: tree.Call, q: int, k: int, n: int, env: Env) -> int:
    body = node.body or tree.Name("all")
    match node.name:
        case "offset":
            (ends,) = node.arguments
            assert isinstance(ends, tree.Range)
            low, high = (None if end is None else value(end, env) for end in (ends.lo, ends.hi))
            step = 1 if ends.step is None else value(ends.step, env)
            return int((low is None or low <= k - q) and (high is None or k - q <= high) and (k - q) % step == 0)
        case "window":
            if (w := argument(node, "w", 0, env)) is not None:
                return int(q - w < k <= q)
            return int(q - argument(node, "left", None, env, 0) <= k <= q + argument(node, "right", None, env, 0))
        case "key":
            return int(argument(node, "b", 0, {**env, "pos": k}))
        case "query":
            return int(argument(node, "b", 0, {**env, "pos": q}))
        case "pairs":
            return int(argument(node, "b", 0, {**env, "q": q, "k": k}))
        case "same":
            return int(argument(node, "e", 0, {**env, "pos": q}) == argument(node, "e", 0, {**env, "pos": k}))
        case "random":
            count, seed = argument(node, "n", 0, env), argument(node, "seed", None, env, 0)
            order = [key for key in keys(n, n, seed, env["h"], q) if m(body, q, key, n, env) > 0]
            return int(k in order[:count])
        case "neighborhood":
            return neighborhood(node, q, k, n, env)
        case "segment":
            w, s = argument(node, "w", 0, env), argument(node, "shift", None, env, 0)
            run = [t for t in range(n) if (t + s) // w == (q + s) // w]
            length = max((t + s) % w for t in run) + 1
            return m(body, (q + s) % w, (k + s) % w, length, env) if k in run else 0
        case "dilate":
            r, s = argument(node, "r", 0, env), argument(node, "shift", None, env)
            if q % r != k % r or (s is not None and q % r != s % r):
                return 0
            return m(body, q // r, k // r, len(range(q % r, n, r)), env)
        case "blocks":
            b = argument(node, "b", 0, env)
            return m(body, q // b, k // b, len(range(0, n, b)), env)
        case "heads":
            (ends,) = node.arguments
            assert isinstance(ends, tree.Range)
            first = 0 if ends.lo is None else value(ends.lo, env)
            last = env["H"] if ends.hi is None else value(ends.hi, env)
            return m(body, q, k, n, env) if env["h"] in range(first, last) else 0
        case "grid":
            return grid(node, q, k, n, env)
        case _:
            raise AssertionError(node.name)


def neighborhood(node: tree.Call, q: int, k: int, n: int, env: Env) -> int:
    """The window that holds the w keys nearest to the leader: of all windows inside the frame, the best centred one."""
    w, stride = argument(node, "w", 0, env), argument(node, "stride", None, env, 1)
    group = [t for t in range(n) if t // stride == q // stride]
    if argument(node, "causal", None, env, False):
        return int(group[-1] - w < k <= q)
    leader = group[min(stride // 2, len(group) - 1)]
    if w >= n:
        return 1
    start = min(range(n - w + 1), key=lambda first: abs(first + w // 2 - leader))
    return int(start <= k < start + w)


def grid(node: tree.Call, q: int, k: int, n: int, env: Env) -> int:
    sizes = [value(size, env) for size in node.arguments if not isinstance(size, tree.Keyword | tree.Range)]
    assert prod(sizes) == n
    axes: list[tree.Expr] = []
    rest: Any = node.body
    while len(axes) < len(sizes) - 1:
        axes, rest = [rest.right, *axes], rest.left
    places = list(product(*map(range, sizes)))
    return prod(m(axis, places[q][i], places[k][i], sizes[i], env) for i, axis in enumerate([rest, *axes]))


def assert_read_alike(text: str, n: int, heads: int, **tables: Any) -> None:
    source = Source(
        "<text>", f"pattern p({', '.join(f'{name}: table' for name in tables)}) = {text}".replace("p() ", "p ")
    )
    file, faults = parse(source)
    assert not faults
    found = attnlang.loads(source.text).multiplicity(n, heads, **tables)
    for h in range(heads):
        env = {"N": n, "H": heads, "h": h, **tables}
        mine = [[m(file.patterns[0].body, q, k, n, env) for k in range(n)] for q in range(n)]
        assert found[h].tolist() == mine, f"head {h}"


@given(relations, lengths.filter(lambda n: 0 < n < 26), heads.filter(lambda h: h < 4))
@examples(150)
def test_random_patterns(text: str, n: int, heads: int) -> None:
    assert_read_alike(text, n, heads)


CORNERS = [
    "segment(5, shift=-2) { key(pos == n - 1) | self }",
    "segment(5, shift=13) { query(pos == 0) | key(pos == 0) }",
    "segment(7, shift=3) { segment(3, shift=1) { causal & key(pos < n - 1) | self } }",
    "segment(7, shift=h) { dilate(3, shift=h + 1) { neighborhood(2) } }",
    "dilate(3) { segment(4, shift=2) { window(2) | key(pos == n - 1) } }",
    "dilate(2, shift=-1) { dilate(2, shift=5) { causal } }",
    "dilate(30) { key(pos == n - 1) }",
    "dilate(30, shift=29) { all } | self",
    "segment(9) { blocks(2) { causal & key(pos != n - 1) | self } }",
    "segment(6, shift=2) { blocks(4) { offset(1..1) | self } }",
    "blocks(3) { segment(4, shift=1) { causal } }",
    "blocks(50) { key(n == 1) }",
    "heads(0..1) { grid(4, 6) { window(left=1, right=1) * dilate(2) { causal } } } | heads(1..H) { self }",
    "grid(2, 3, 4) { self * (causal | key(pos == n - 1)) * neighborhood(3) }",
    "grid(24) { causal }",
    "dilate(2) { grid(3, n // 3) { all * self } }",
    "segment(12) { grid(3, 4) { segment(2, shift=1) * causal } }",
    "neighborhood(4)",
    "neighborhood(6, stride=4)",
    "neighborhood(99, stride=99)",
    "neighborhood(5, stride=7, causal=h % 2 == 0)",
    "offset(3..-3)",
    "offset(..)",
    "offset(-7..7 step 3) - offset(0..)",
    "offset(.. step 5)",
    "window(left=2)",
    "window(w=3)",
    "all if n > 5 else none",
    "segment(5) { all if n == 5 else self }",
    "mix(window(i) for i in range(n) if i % 3 == 1)",
    "segment(5, shift=1) { mix(window(i + 1) for i in range(n)) }",
    "any(key(pos == i * j) for i in range(3) for j in range(i) if j > 0) | self",
    "mix(offset(-a..b) for a, b in zip([1, 2], [0, 3]))",
    "window(log2(N) + isqrt(N) + ceildiv(N, 5) + ceildiv(-7, 2) + 5)",
    "key(pos % 4 == -1 % 4 and not pos // -3 == -2)",
    "pairs(0 <= q - k < 3 != q % 2) ",
    "pairs(k == (q if q % 2 == 0 else q // 2))",
    "same(pos // 3 if pos < n // 2 else -1)",
    "random(3, seed=-5) & dilate(2) { random(2) }",
    "segment(5) { random(7) } + blocks(3) { random(1, seed=h) }",
    "random(0) | self",
    "random(2, seed=h) { causal & key(pos % 2 == 0) } | blocks(4) { random(1) { ~self } }",
    "segment(9) { random(3) { none } } + random(99) { self + self }",
    "self - self + self",
    "~(self + self) & (all + all)",
    "causal & self + all | none",
]  # fmt: skip


@pytest.mark.parametrize("text", CORNERS)
def test_corners(text: str) -> None:
    assert_read_alike(text, 24, 3)


@given(st.lists(st.integers(0, 4), min_size=24, max_size=24), st.lists(st.integers(0, 1), min_size=72, max_size=72))
@examples(10)
def test_tables(doc: list[int], chosen: list[int]) -> None:
    tables = {"doc": np.array(doc), "t": np.array(chosen).reshape(3, 24)}
    assert_read_alike(
        "same(doc[pos]) & causal | key(t[h][doc[pos]] == 1) | segment(6) { pairs(k <= q and t[h][q - k] == 1) }",
        24, 3, **tables,
    )  # fmt: skip
