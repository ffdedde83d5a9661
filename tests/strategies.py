"""Random patterns for hypothesis, as text: the whole vocabulary that has a meaning, small numbers, shallow nesting."""

from __future__ import annotations

import os

from hypothesis import settings
from hypothesis import strategies as st

FUZZ = int(os.environ.get("FUZZ", "0"))
"""How many times more examples than usual, chosen anew in each run; 0: the usual ones, the same in every run."""


def examples(count: int) -> settings:
    """Settings for a property: `count` examples, or FUZZ times as many."""
    return settings(max_examples=count * max(1, FUZZ), deadline=None, derandomize=not FUZZ)


small = st.integers(1, 9)
signed = st.integers(-9, 9)
by_head = st.sampled_from(["h", "h // 2", "H - 1 - h", "2 * h + 1", "1 if h >= H // 2 else 0"])
shift = st.one_of(st.integers(0, 7).map(str), by_head)


def _offset(lo: int, length: int, step: int, open_end: str) -> str:
    ends = {"both": f"{lo}..{lo + length}", "lo": f"..{lo}", "hi": f"{lo}.."}[open_end]
    return f"offset({ends}{f' step {step}' if step > 1 else ''})"


atoms = st.one_of(
    st.sampled_from(["all", "none", "self", "causal"]),
    small.map(lambda w: f"window({w})"),
    st.builds(lambda a, b: f"window(left={a}, right={b})", st.integers(0, 9), st.integers(0, 9)),
    st.builds(_offset, signed, st.integers(0, 12), st.integers(1, 4), st.sampled_from(["both", "lo", "hi"])),
    st.builds(lambda m, c: f"key(pos % {m} >= {m} - {c})", st.integers(2, 7), small),
)
rare_atoms = st.sampled_from(
    """random(2, seed=1) { causal };
    key(pos < 3); query(pos % 4 == 1); same(pos // 3); key(pos == n - 1); neighborhood(5); random(3, seed=7);
    neighborhood(4, stride=3, causal=True); grid(1, n) { self * neighborhood(3) }; pairs(q // 3 == k // 3 + 1);
    pairs(q - k < 5 and k % 3 != 0); window(isqrt(N) + 1); offset(-log2(n + 1)..min(h, 2)); segment(ceildiv(N, 3) + 1);
    pairs(k < 2 or q + k == n - 1); any(offset(-s..-s) for s in [1, sum([2, 3])])""".replace("\n", "").split(";")
)


def _frames(body: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds(lambda w, p: f"segment({w}) {{ {p} }}", st.integers(1, 24), body),
        st.builds(lambda w, s, p: f"segment({w}, shift={s}) {{ {p} }}", st.integers(1, 24), shift, body),
        st.builds(lambda r, p: f"dilate({r}) {{ {p} }}", st.integers(1, 5), body),
        st.builds(lambda r, s, p: f"dilate({r}, shift={s}) {{ {p} }}", st.integers(1, 5), shift, body),
        st.builds(lambda b, p: f"blocks({b}) {{ {p} }}", st.integers(1, 6), body),
        body.map(lambda p: f"heads(0..H // 2) {{ {p} }}"),
        body.map(lambda p: f"~({p})"),
    )


def _joins(body: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operator = st.sampled_from(["&", "|", "-", "+"])
    return st.one_of(
        st.builds(lambda a, op, b: f"({a}) {op} ({b})", body, operator, body),
        st.builds(lambda a, b: f"({a}) if h % 2 == 0 else ({b})", body, body),
        st.builds(
            lambda a, b: f"mix(segment(w) {{ dilate(r, shift=h) }} for w, r in [[{a}, 1], [{a * b}, {b}]])",
            small,
            small,
        ),
    )


def _grow(leaves: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.recursive(leaves, lambda body: st.one_of(_frames(body), _joins(body)), max_leaves=4)


relations = _grow(st.one_of(atoms, rare_atoms))
"""Any relation."""
lattices = _grow(atoms)
"""Relations that are mostly sums of lattices and columns."""
lengths = st.integers(0, 48)
heads = st.integers(1, 5)


_parameters = st.sampled_from(
    [
        "w = 4",
        "w: int",
        "ws = [1, 2]",
        "ws: list",
        "b: bool = True",
        "doc: table",
        "g = N // 4",
        "c = -2**3 % 5",
        "d = []",
    ]
)
_conditions = st.sampled_from(["w > 0", "len(ws) == len(ds) and not b", "all_of[0] <= 3 < w or b", "1 if b else 0"])
_imports = st.sampled_from(['import "a.attn"', 'from "../b.attn" import p', 'from "c.attn" import p, q'])
_comments = st.sampled_from(["# a remark", "## A documentation.\n## Two lines.", ""])


def _definition(name: str, comment: str, given: list[str], where: str | None, within: str | None, body: str) -> str:
    parameters = f"({', '.join(given)})" if given else ""
    clauses = f"{f' where {where}' if where else ''}{f' within {within}' if within else ''}"
    return f"{comment}\npattern {name}{parameters}{clauses} = {body}\n"


def _calls(body: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Calls of other patterns, tables, indices, and what else only a whole program has."""
    called = ["p1(w, ws=ds if b else [x for x in ds if x > 1])", "same(doc[pos])", "longnet(segments=[8, 2**4])"]
    return st.one_of(body, st.sampled_from(called))


definitions = st.builds(
    _definition,
    st.sampled_from(["p1", "p2", "Long_name", "_x"]),
    _comments,
    st.lists(_parameters, max_size=3),
    st.none() | _conditions,
    st.none() | atoms,
    _calls(relations),
)
programs = st.builds(
    lambda imports, items: "\n".join([*imports, *items]),
    st.lists(_imports, max_size=2),
    st.lists(definitions, max_size=3),
)
"""Whole files: they follow the grammar, and are not always faultless."""
