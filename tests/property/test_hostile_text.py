"""Whatever is fed to `attnc check`, it answers with diagnostics: no traceback, in bounded time and memory.

`make fuzz` runs these properties for minutes, on texts chosen anew.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from attnc.analysis.properties import check
from hypothesis import given
from hypothesis import strategies as st

from attnlang import AttnError
from attnlang.diagnostics import Diagnostic, render, to_json
from attnlang.pattern.files import decode, library_folder, library_names
from attnlang.pattern.library import read
from attnlang.pattern.vocabulary import BUILT_IN
from attnlang.source import Source
from attnlang.syntax.formatter import format_text
from attnlang.syntax.parser import tokens_of
from attnlang.syntax.spelling import reserved_words, signs
from tests.strategies import examples, programs

SECONDS = 20
"""More than any text may take to check, of those that are small: the longest takes a few."""
NUMBERS = ["0", "1", "2", "7", "64", "4095", "2147483648", "9223372036854775807", "99999999999999999999"]
words = st.sampled_from(
    [*reserved_words(), *signs(), *sorted(BUILT_IN), *NUMBERS, "longnet", "x", "y", "#", "\n", "\x00"]
)
LIBRARY = [
    [str(token) for token in tokens_of(read(library_folder() / f"{name}.attn").text)] for name in library_names()
]


def assert_answered(text: str) -> None:
    start = time.process_time()
    for diagnostic in check(Source("<fuzz>", text)):
        assert isinstance(diagnostic, Diagnostic)
        assert render(diagnostic)
        assert to_json(diagnostic)["code"] == diagnostic.code
    format_text(Source("<fuzz>", text))
    assert time.process_time() - start < SECONDS


@given(st.binary(max_size=300))
@examples(200)
def test_any_bytes(data: bytes) -> None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        with pytest.raises(AttnError, match="is not UTF-8 text"):
            decode("<fuzz>", data)
    else:
        assert_answered(decode("<fuzz>", data).text)
        assert_answered(text)


@given(st.text(max_size=200))
@examples(200)
def test_any_text(text: str) -> None:
    assert_answered(text)


@given(st.lists(words, max_size=40).map(" ".join))
@examples(400)
def test_any_row_of_words(text: str) -> None:
    assert_answered(f"pattern p = {text}")


@given(programs)
@examples(100)
def test_programs_that_follow_the_grammar(text: str) -> None:
    assert_answered(text)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A library pattern with a few of its words deleted, replaced, repeated or exchanged with others."""
    tokens = list(draw(st.sampled_from(LIBRARY)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(tokens) - 1))
        match draw(st.sampled_from(["delete", "replace", "insert", "repeat", "exchange"])):
            case "delete" if len(tokens) > 1:
                del tokens[place]
            case "replace":
                tokens[place] = draw(words)
            case "insert":
                tokens.insert(place, draw(words))
            case "repeat":
                tokens[place:place] = tokens[place : place + draw(st.integers(1, 12))]
            case _:
                other = draw(st.integers(0, len(tokens) - 1))
                tokens[place], tokens[other] = tokens[other], tokens[place]
    return " ".join(token + "\n" * token.startswith("#") for token in tokens)


@given(damaged())
@examples(300)
def test_damaged_patterns_of_the_library(text: str) -> None:
    assert_answered(text)


DEEP = 4000
HOSTILE = {
    "parentheses": "pattern p = " + "(" * DEEP + "all" + ")" * DEEP,
    "braces": "pattern p = " + "segment(2) { " * DEEP + "all" + " }" * DEEP,
    "signs": "pattern p = offset(" + "-" * DEEP + "1..)",
    "complements": "pattern p = " + "~" * DEEP + "all",
    "a long union": "pattern p = " + " | ".join(["self"] * DEEP),
    "a long union of windows": "pattern p = " + " | ".join(f"offset({i}..{i})" for i in range(-DEEP, 0)),
    "powers": "pattern p = window(" + "9**" * DEEP + "9)",
    "one large power": "pattern p = window(9**9**9)",
    "digits": "pattern p = window(" + "9" * 20_000 + ")",
    "a long range": "pattern p = mix(window(i) for i in range(9223372036854775807))",
    "ranges of ranges": "pattern p = mix(self for i in range(60000) for j in range(60000) for k in range(60000))",
    "nested lists": "pattern p(a = " + "[" * DEEP + "]" * DEEP + ") = window(len(a))",
    "doubling": "pattern p0 = self | self\n" + "\n".join(f"pattern p{i} = p{i - 1} + p{i - 1}" for i in range(1, 70)),
    "nested comprehensions": "pattern p = window(len(" + "[x for x in " * 40 + "[1]" + "]" * 40 + "))",
    "a circle": "pattern a = b\npattern b = c\npattern c = a",
    "many patterns": "\n".join(f"pattern p{i} = window({i + 1})" for i in range(3000)),
    "many faults": "pattern p = ?\n" * 3000,
    "many parameters": f"pattern p({', '.join(f'a{i} = {i}' for i in range(3000))}) = all",
    "awkward segments": "pattern p = " + " | ".join(f"segment({w}) {{ dilate({r}, shift=h) }}" for w, r in
                                                     [(9973, 7), (7919, 11), (6007, 13), (104_729, 17)]),
    "segments in segments": "pattern p = "
                            + "".join(f"segment({900 - 7 * i}, shift=h) {{ " for i in range(60)) + "causal" + " }" * 60,
    "complements of frames": "pattern p = ~(segment(97) { ~(dilate(89) { ~(segment(83) { ~dilate(79) }) }) })",
    "large numbers": "pattern p = segment(9223372036854775807, shift=4611686018427387904) { dilate(4611686018427387) }",
    "a large grid": "pattern p = grid(3037000499, 3037000499) { causal * neighborhood(3) }",
    "a line of one megabyte": "# " + "x" * 900_000 + "\npattern p = all",
    "one word of many letters": "pattern p = " + "x" * 900_000,
    "products in products": "pattern p = window(" + "2 * (" * 100 + "1" + ")" * 100 + ")",
    "loops in loops": "pattern p = window(sum([sum([sum([1 for a in range(60000)]) for b in range(60000)])"
                      " for c in range(60000)]))",
    "lists of lists": "pattern p(a = [range(60000) for i in range(60000)]) = window(len(a))",
    "lists anew": "pattern p(" + ", ".join(f"b{i} = [i for i in range(60000)]" for i in range(60)) + ") = self",
    "a long condition": "pattern p = any(self for x in range(60000) if len([y for y in range(60000) if y > x]) > 3)",
    "loops over the length": "pattern p within self = mix(mix(self | offset(i..j) for j in range(N * 900))"
                             " for i in range(N * 900))",
    "lists by head": "pattern p within causal = any(offset(-i * 7..-i * 7 + h) for i in range(h * 900))",
    "many segments": "pattern p within self = " + " | ".join(
        f"segment({7 + i}, shift={i}) {{ dilate({2 + i % 5}) {{ key(pos % {3 + i} < 2) }} }}" for i in range(40)),
    "a huge dilation": "pattern p within dilate(4611686018427387904 + N * h) { self } = key(pos < N * N)",
    "a grid beyond 64 bits": "pattern p within grid(h + 3, 9223372036854775807) { self * self } = self",
    "calls in calls": "\n".join(["pattern p0 = self", *(f"pattern p{i} = p{i - 1}" for i in range(1, 3000))]),
    "many unknown names": "\n".join(f"pattern p{i} = nope{i}" for i in range(9000)),
    "many documented patterns": "".join(f"## a doc\npattern p{i} = all\n" for i in range(5000)),
    "many comments": "#\n" * 60_000 + "pattern p = all",
    "many words": "pattern p = window(min(" + "1, " * 20_000 + "1))",
    "too many words": "pattern p = window(min(" + "1, " * 50_000 + "1))",
    "many loops": "pattern p = mix(self " + "for x in [1] " * 7_000 + ")",
    "many brackets": "(" * 100_000,
    "many strange characters": "? " * 40_000,
    "not a text": "\x00\x01\x7f\ufeff\u202e\U0001f600" * 1000,
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_texts(case: str) -> None:
    assert_answered(HOSTILE[case])


def test_hostile_imports(tmp_path: Path) -> None:
    """Circles, chains, a symlink to itself, a folder, a pipe, the machine's devices, names with odd characters."""
    for i in range(60):
        (tmp_path / f"chain{i}.attn").write_text(f'import "chain{i + 1}.attn"\npattern p{i} = all\n')
    (tmp_path / "loop.attn").symlink_to(tmp_path / "loop.attn")
    (tmp_path / "circle.attn").write_text('import "circle.attn"\npattern a = all\n')
    (tmp_path / "folder.attn").mkdir()
    (tmp_path / "binary.attn").write_bytes(bytes(range(256)))
    paths = [
        "chain0.attn",
        "loop.attn",
        "circle.attn",
        "folder.attn",
        "binary.attn",
        "/dev/zero",
        "/dev/stdin",
        "\\0",
        "",
    ]
    for path in [*paths, "../" * 300 + "etc/passwd", "x" * 5000, "a\x00b"]:
        main = tmp_path / "main.attn"
        main.write_text(f'import "{path}"\npattern main = all\n')
        found = check(read(main))
        assert [each.code for each in found if each.severity == "error"], path


def test_many_large_imports_end(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"big{i}.attn").write_text("# " + "x" * 200_000 + f"\npattern big{i} = all\n")
    main = tmp_path / "main.attn"
    main.write_text("".join(f'import "big{i}.attn"\n' for i in range(40)) + "pattern main = big0\n")
    assert "too many imports" in {each.message for each in check(read(main))}


def test_a_pattern_that_calls_one_that_differs_by_layer_is_checked_on_layers() -> None:
    assert check(Source("<text>", "pattern p = gemma2 & query(pos < N)")) == []
    (found,) = check(Source("<text>", "pattern p within window(9) = llama4"))
    assert found.code == "A0211"
