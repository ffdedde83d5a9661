"""The laws of the algebra, on random patterns: what a reader of docs/language.md may rely on when rewriting one."""

from __future__ import annotations

import pytest
from hypothesis import given

import attnlang
from attnlang.pattern.algebra import relation_text
from tests.strategies import examples, heads, lengths, relations

LAWS = {
    "union commutes": ("{a} | {b}", "{b} | {a}"),
    "union is associative": ("({a} | {b}) | {c}", "{a} | ({b} | {c})"),
    "union repeats nothing": ("{a} | {a}", "{a}"),
    "sum commutes": ("{a} + {b}", "{b} + {a}"),
    "sum is associative": ("({a} + {b}) + {c}", "{a} + ({b} + {c})"),
    "product commutes": ("{a} & {b}", "{b} & {a}"),
    "product is associative": ("({a} & {b}) & {c}", "{a} & ({b} & {c})"),
    "product distributes over union": ("{a} & ({b} | {c})", "{a} & {b} | {a} & {c}"),
    "product distributes over sum": ("{a} & ({b} + {c})", "({a} & {b}) + ({a} & {c})"),
    "sum distributes over union": ("{a} + ({b} | {c})", "({a} + {b}) | ({a} + {c})"),
    "difference is a product": ("{a} - {b}", "{a} & ~{b}"),
    "difference twice": ("{a} - {b} - {c}", "{a} - ({b} | {c})"),
    "de Morgan, union": ("~({a} | {b})", "~{a} & ~{b}"),
    "de Morgan, product": ("~({a} & {b})", "~{a} | ~{b}"),
    "of a sum": ("~({a} + {b})", "~({a} | {b})"),
    "complement thrice": ("~~~{a}", "~{a}"),
    "all is one": ("{a} & all", "{a}"),
    "none is zero": ("{a} + none", "{a}"),
    "mix of one": ("mix({a} for i in [7])", "{a}"),
    "mix of two": ("mix({a} for i in range(2))", "{a} + {a}"),
    "any of some": ("any({a} if i == 1 else {b} for i in range(3))", "{a} | {b}"),
    "choice": ("{a} if N > 20 else {b}", "({a} & (all if N > 20 else none)) + ({b} & (all if N <= 20 else none))"),
    "heads join": ("heads(0..H // 2) { {a} } + heads(H // 2..H) { {a} }", "{a}"),
    "restriction of a segment": ("segment(5) { causal & {a} }", "causal & segment(5) { {a} }"),
    "restriction of a dilation": ("dilate(3, shift=h) { causal & {a} }", "causal & dilate(3, shift=h) { {a} }"),
    "one segment": ("segment(N + 1) { {a} }", "{a}"),
    "dilation by one": ("dilate(1) { {a} }", "{a}"),
    "blocks of one": ("blocks(1) { {a} }", "{a}"),
    "an axis": ("grid(N) { {a} }", "{a}"),
    "a dilation is its classes": ("dilate(3) { {a} }", "mix(dilate(3, shift=e) { {a} } for e in range(3))"),
}
FRAMES = ["segment(6, shift=h)", "dilate(2)", "dilate(3, shift=h)", "blocks(3)", "heads(0..1)"]


def means(text: str, n: int, heads: int) -> list[object]:
    return attnlang.loads(f"pattern p = {text}").multiplicity(n, heads).tolist()


def filled(template: str, parts: dict[str, str]) -> str:
    for name, text in parts.items():
        template = template.replace(f"{{{name}}}", f"({text})")
    return template


def assert_same(left: str, right: str, parts: dict[str, str], n: int, heads: int) -> None:
    assert means(filled(left, parts), n, heads) == means(filled(right, parts), n, heads)


@pytest.mark.parametrize("law", LAWS)
@given(relations, relations, relations, lengths.filter(bool), heads)
@examples(25)
def test_a_law(law: str, a: str, b: str, c: str, n: int, heads: int) -> None:
    left, right = LAWS[law]
    assert_same(left, right, {"a": a, "b": b, "c": c}, n, heads)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("operator", ["&", "|", "+", "-"])
@given(relations, relations, lengths, heads)
@examples(15)
def test_frames_commute_with_every_operator(frame: str, operator: str, a: str, b: str, n: int, heads: int) -> None:
    inside = f"{frame} {{ {{a}} {operator} {{b}} }}"
    outside = f"{frame} {{ {{a}} }} {operator} {frame} {{ {{b}} }}"
    assert_same(inside, outside, {"a": a, "b": b}, n, heads)


@given(relations, lengths, heads)
@examples(60)
def test_nothing_but_the_text_the_length_and_the_heads_counts(text: str, n: int, heads: int) -> None:
    """The same pattern, loaded anew, alone or inside a larger file, printed or as written."""
    once = means(text, n, heads)
    relation = attnlang.loads(f"pattern other = random(3)\n\npattern p = {text}", name="p").relation
    assert means(text, n, heads) == once
    assert means(relation_text(relation), n, heads) == once
