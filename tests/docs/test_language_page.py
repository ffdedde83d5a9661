"""docs/language.md: its grammar is the parser's, its table of functions computes what it says."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lark import Lark, UnexpectedInput

import attnlang
from attnlang.pattern.files import library_folder, library_names
from attnlang.pattern.pattern import value_text
from attnlang.pattern.vocabulary import FOLDS, FUNCTIONS, RELATIONS
from attnlang.source import Source
from attnlang.syntax import parse
from attnlang.syntax.spelling import reserved_words, signs
from tests.strategies import examples, programs

PAGE = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
TERMINALS = r"""
NAME: /[A-Za-z_][A-Za-z_0-9]*/
INT: /[0-9](_?[0-9])*/
STRING: /"[^"\n]*"/
COMMENT: /#[^\n]*/
%ignore /[ \t\r\n\f]+/
%ignore COMMENT
"""


def ebnf() -> str:
    (block,) = re.findall(r"^```ebnf\n(.*?)^```$", PAGE, re.M | re.S)
    return block


@cache
def grammar() -> Lark:
    """The page's grammar as a parser of its own: `{ x }` and `[ x ]` become `( x )*` and `( x )?`."""
    rules = []
    for line in filter(None, ebnf().splitlines()):
        name, _, right = line.partition("=")
        quoted = re.split(r'("[^"]*")', right)
        for place in range(0, len(quoted), 2):
            for old, new in (("{", "("), ("}", ")*"), ("[", "("), ("]", ")?")):
                quoted[place] = quoted[place].replace(old, new)
        rules.append(f"{name.strip()}:{''.join(quoted)}")
    return Lark("\n".join(rules) + TERMINALS, parser="lalr", lexer="basic", start="file")


def follows(text: str) -> bool:
    try:
        grammar().parse(text)
    except UnexpectedInput:
        return False
    return True


def is_parsed(text: str) -> bool:
    return not {found.code for found in parse(Source("<text>", text))[1]} & {"A0001", "A0002"}


def test_the_grammar_has_all_words_and_signs() -> None:
    assert set(re.findall(r'"([^"]+)"', ebnf())) == {*reserved_words(), *signs()}


@pytest.mark.parametrize("name", library_names())
def test_the_library_follows_the_grammar(name: str) -> None:
    assert follows((library_folder() / f"{name}.attn").read_text())


@given(programs)
@examples(60)
def test_programs_follow_the_grammar(text: str) -> None:
    assert is_parsed(text)
    assert follows(text)


words = st.sampled_from([*reserved_words(), *signs(), "x", "y", "7", '"s"', "\n"])
endings = st.lists(words, max_size=8).map(" ".join)


@given(programs, endings, st.integers(0, 400), st.integers(0, 3))
@examples(300)
def test_the_grammar_and_the_parser_refuse_the_same(text: str, inserted: str, place: int, left_out: int) -> None:
    words_ = text.split()
    place %= len(words_) + 1
    damaged = " ".join([*words_[:place], inserted, *words_[place + left_out :]])
    damaged = "\n".join(line for line in damaged.splitlines() if "#" not in line)
    assert follows(damaged) == is_parsed(damaged)


@given(st.lists(words, max_size=12).map(" ".join))
@examples(300)
def test_they_agree_on_rows_of_words(text: str) -> None:
    for whole in (text, f"pattern p = {text}", f"pattern p = x({text})"):
        assert follows(whole) == is_parsed(whole)


TABLE = PAGE[PAGE.index("| function | is | for example |") :].split("\n\n")[0]
COMPUTED = re.findall(r"`([^`]+)` is `([^`]+)`", TABLE)


@pytest.mark.parametrize(("expression", "value"), COMPUTED)
def test_what_the_page_says_of_functions(expression: str, value: str) -> None:
    found = attnlang.loads(f"pattern p(a = {expression}) = window(1) if len([a]) == 1 else none")
    assert value_text(dict(found.parameters)["a"]) == value


def test_the_page_speaks_of_every_form_and_function() -> None:
    assert len(COMPUTED) == 12
    gallery = "\n".join(re.findall(r"^```attn[^\n]*\n(.*?)^```$", PAGE, re.M | re.S))
    for word in (*RELATIONS, *FOLDS, *FUNCTIONS):
        assert f"{word}(" in gallery or any(f"{word}(" in expression for expression, _ in COMPUTED), word
