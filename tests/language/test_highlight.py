"""The Pygments lexer: its words are the grammar's and the vocabulary's, and it cuts a text as the parser does."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lark import Lark
from lark.lexer import PatternStr
from pygments import token

from attnlang.pattern import vocabulary
from attnlang.pattern.files import library_folder
from attnlang.pattern.highlight import BRACKETS, ITEM_STARTS, KINDS, OPERATORS, WORD_CLASSES, AttnLexer
from attnlang.pattern.kinds import ANNOTATIONS
from attnlang.syntax.parser import tokens_of
from attnlang.syntax.spelling import reserved_words, signs
from tests.strategies import examples, relations

ROOT = Path(__file__).parents[2]
GRAMMAR = (ROOT / "attnlang" / "syntax" / "grammar.lark").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = {path.stem: path.read_text() for path in sorted(library_folder().glob("*.attn"))} | {
    f"{page.name}:{name}": text
    for page in PAGES
    for name, text in re.findall(r"^```attn([^\n]*)\n(.*?)^```$", page.read_text(), re.M | re.S)
}


def cut(text: str) -> list[tuple[int, Any, str]]:
    """Place, type and text of every token."""
    return list(AttnLexer().get_tokens_unprocessed(text))


def types(text: str) -> list[tuple[str, Any]]:
    return [(value, type_) for _, type_, value in cut(text) if type_ != token.Whitespace]


def assert_cut_as_the_parser_does(text: str) -> None:
    found = cut(text)
    assert "".join(value for _, _, value in found) == text
    seen = [(place, value, type_ == token.Error) for place, type_, value in found if type_ != token.Whitespace]
    assert seen == [(t.start_pos, str(t), t.type == "UNEXPECTED") for t in tokens_of(text)]


@pytest.mark.parametrize("name", SHOWN)
def test_texts_of_the_library_and_the_documentation(name: str) -> None:
    assert_cut_as_the_parser_does(SHOWN[name])
    assert token.Error not in [type_ for _, type_ in types(SHOWN[name])]


@given(relations)
@examples(100)
def test_random_patterns(text: str) -> None:
    assert_cut_as_the_parser_does(f"## doc\npattern p(w = 1_000) = {text}  # end")


words = (*reserved_words(), *signs(), *sorted(vocabulary.BUILT_IN), *ANNOTATIONS)
others = ("x", "_", "7", "1_0", '"s"', '"', "##", " ", "\t", "\n", "\r\n", "\f", "\v", "é", "^", ".", "!")
pieces = st.sampled_from([*words, *others])


@given(st.one_of(st.lists(pieces, max_size=30).map("".join), st.text(max_size=60)))
@examples(500)
def test_any_text(text: str) -> None:
    assert_cut_as_the_parser_does(text)


def test_the_fixed_spellings_are_all_of_the_grammars() -> None:
    terminals = Lark(GRAMMAR, parser="lalr", lexer="basic", start=["item", "expr"]).terminals
    literals = [terminal.pattern.value for terminal in terminals if isinstance(terminal.pattern, PatternStr)]
    assert sorted((*reserved_words(), *signs())) == sorted(literals)
    assert set(OPERATORS) | BRACKETS == set(signs())
    for sign in signs():
        assert types(sign) == [(sign, token.Punctuation if sign in BRACKETS else token.Operator)]


def test_the_words_are_the_grammars_and_the_vocabularys() -> None:
    coloured = [word for group in WORD_CLASSES for word in group.words]
    assert set(coloured) == {*reserved_words(), *vocabulary.BUILT_IN}
    assert set(KINDS.words) == set(ANNOTATIONS)
    assert set(ITEM_STARTS) <= set(reserved_words())


@pytest.mark.parametrize("word", reserved_words())
def test_reserved_words(word: str) -> None:
    special = {
        "pattern": token.Keyword.Declaration,
        **dict.fromkeys(("import", "from"), token.Keyword.Namespace),
        **dict.fromkeys(("and", "or", "not"), token.Operator.Word),
        **dict.fromkeys(("True", "False"), token.Keyword.Constant),
    }
    expected = special.get(word, token.Keyword)
    assert types(word) == [(word, expected)]
    assert types(f"p(1, {word} = 3)")[4] == (word, expected)
    assert types(f"{word}x _{word}") == [(f"{word}x", token.Name), (f"_{word}", token.Name)]


@pytest.mark.parametrize("word", sorted(vocabulary.BUILT_IN))
def test_built_in_words(word: str) -> None:
    tables = {
        token.Name.Builtin: (*vocabulary.RELATIONS, *vocabulary.FOLDS, *vocabulary.FUNCTIONS),
        token.Name.Builtin.Pseudo: vocabulary.CONSTANTS,
        token.Name.Variable.Magic: tuple(vocabulary.FRAME_NAMES),
    }
    expected = next((type_ for type_, table in tables.items() if word in table), token.Name.Builtin)
    for text in (word, f"f({word})", f"{word}(4)", f"f(2 * {word} == 0)"):
        assert (word, expected) in types(text)
    assert types(f"pattern {word} = {word}")[1::2] == [(word, token.Name.Function), (word, expected)]
    assert (word, token.Name.Variable) in types(f"f(4, {word}=1)"), "the name of an argument is no built-in"
    assert (word, expected) in types(f"pattern p where 1 == {word} = all")


@pytest.mark.parametrize("word", ANNOTATIONS)
def test_kinds_are_words_only_after_a_colon(word: str) -> None:
    assert (word, token.Keyword.Type) in types(f"pattern p(w : # why\n {word} = 4) = all")
    assert (word, token.Name) in types(f"pattern p(w: other = {word}) = all")


def test_a_line_with_everything() -> None:
    text = '## doc\npattern near(w: int = 1_0) where w > 0 = other(w) & offset(-w..0 step 2)  # end\nimport "a.attn"'
    assert types(text) == [
        ("## doc", token.String.Doc),
        ("pattern", token.Keyword.Declaration),
        ("near", token.Name.Function),
        ("(", token.Punctuation),
        ("w", token.Name.Variable),
        (":", token.Punctuation),
        ("int", token.Keyword.Type),
        ("=", token.Operator),
        ("1_0", token.Number.Integer),
        (")", token.Punctuation),
        ("where", token.Keyword),
        ("w", token.Name),
        (">", token.Operator),
        ("0", token.Number.Integer),
        ("=", token.Operator),
        ("other", token.Name.Function),
        ("(", token.Punctuation),
        ("w", token.Name),
        (")", token.Punctuation),
        ("&", token.Operator),
        ("offset", token.Name.Builtin),
        ("(", token.Punctuation),
        ("-", token.Operator),
        ("w", token.Name),
        ("..", token.Operator),
        ("0", token.Number.Integer),
        ("step", token.Keyword),
        ("2", token.Number.Integer),
        (")", token.Punctuation),
        ("# end", token.Comment.Single),
        ("import", token.Keyword.Namespace),
        ('"a.attn"', token.String.Double),
    ]


def test_a_forgotten_bracket_ends_with_its_definition() -> None:
    found = types("pattern a = mix(window(4\npattern b where 2 == N = all")
    assert (found[-6][0], found[-3]) == ("where", ("N", token.Name.Variable.Magic))


def test_pygments_finds_it_by_the_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["pygments.lexers"]["attnlang"].partition(":")
    assert getattr(import_module(module), name) is AttnLexer
    assert {"attn", "attnlang"} == set(AttnLexer.aliases)
    assert any(item.startswith("pygments") for item in project["dependencies"])
