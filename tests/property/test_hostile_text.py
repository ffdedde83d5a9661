"""Whatever is fed to the checker, it answers with diagnostics."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from attnlang.diagnostics import Diagnostic, render, to_json
from attnlang.pattern.library import check
from attnlang.source import Source

words = st.sampled_from(
    [
        "pattern",
        "import",
        "from",
        "where",
        "if",
        "else",
        "for",
        "in",
        "and",
        "or",
        "not",
        "step",
        "True",
        "self",
        "causal",
        "all",
        "window",
        "segment",
        "dilate",
        "key",
        "mix",
        "any",
        "longnet",
        "pos",
        "n",
        "h",
        "N",
        "H",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "..",
        "=",
        "==",
        "<",
        "+",
        "-",
        "*",
        "//",
        "%",
        "**",
        "|",
        "&",
        "~",
        "0",
        "1",
        "7",
        "99999999999999999999",
        "x",
        "#",
        "\n",
    ]
)


def assert_reported(text: str) -> None:
    for diagnostic in check(Source("<fuzz>", text)):
        assert isinstance(diagnostic, Diagnostic)
        assert render(diagnostic)
        assert to_json(diagnostic)["code"] == diagnostic.code


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text(text: str) -> None:
    assert_reported(text)


@given(st.lists(words, max_size=40).map(" ".join))
@settings(max_examples=600, deadline=None)
def test_any_row_of_words(text: str) -> None:
    assert_reported(f"pattern p = {text}")
