"""Colours for attnlang texts: the classes of words that look alike, and the Pygments lexer `attn`.

Every word comes from the grammar or from the vocabulary, so a form that joins the language is coloured at once. The
same classes make the grammar for editors, in `attnlang.pattern.textmate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from pygments import token
from pygments.lexer import RegexLexer, bygroups, default, include, words

from attnlang.pattern import vocabulary
from attnlang.pattern.kinds import ANNOTATIONS
from attnlang.syntax.spelling import reserved_words, signs

NAME = "[A-Za-z_][A-Za-z_0-9]*"
NUMBER = "[0-9](?:_?[0-9])*"
STRING = r'"[^"\n]*"'
BLANK = r"[ \t\r\n\f]"

ITEM_STARTS = ("pattern", "import", "from")
"""The words that can only begin an item: whatever bracket is still open before one was forgotten."""
_LOGIC = ("and", "or", "not")
_TRUTH = ("True", "False")
BRACKETS = frozenset("()[]{},:")
"""The signs that hold a text together; all others compute."""


@dataclass(frozen=True, slots=True)
class WordClass:
    """Words of one colour: their Pygments token, and their TextMate scope without its last part, `.attn`."""

    words: tuple[str, ...]
    token: Any
    scope: str


def _reserved() -> Iterable[WordClass]:
    special = {*ITEM_STARTS, *_LOGIC, *_TRUTH}
    yield WordClass(("pattern",), token.Keyword.Declaration, "storage.type.pattern")
    yield WordClass(("import", "from"), token.Keyword.Namespace, "keyword.control.import")
    yield WordClass(_LOGIC, token.Operator.Word, "keyword.operator.logical")
    yield WordClass(_TRUTH, token.Keyword.Constant, "constant.language.boolean")
    yield WordClass(tuple(w for w in reserved_words() if w not in special), token.Keyword, "keyword.control")


def _built_in() -> Iterable[WordClass]:
    relations = (*vocabulary.RELATIONS, *vocabulary.FOLDS)
    yield WordClass(relations, token.Name.Builtin, "support.function.relation")
    yield WordClass(vocabulary.CONSTANTS, token.Name.Builtin.Pseudo, "constant.language.relation")
    yield WordClass(tuple(vocabulary.FUNCTIONS), token.Name.Builtin, "support.function.integer")
    yield WordClass(tuple(vocabulary.FRAME_NAMES), token.Name.Variable.Magic, "variable.language")
    named = {*relations, *vocabulary.CONSTANTS, *vocabulary.FUNCTIONS, *vocabulary.FRAME_NAMES}
    others = tuple(sorted(vocabulary.BUILT_IN - named))  # built in, but of a table that this file does not know
    if others:
        yield WordClass(others, token.Name.Builtin, "support.other")


WORD_CLASSES = (*_reserved(), *_built_in())
"""Every word of the language that is no one's own. Where a word stands in two classes, the first one colours it."""

KINDS = WordClass(tuple(ANNOTATIONS), token.Keyword.Type, "support.type")
"""The kinds of parameters: words of their own only after a colon."""

OPERATORS = tuple(sign for sign in signs() if sign not in BRACKETS)
FREE_NAME = rf"(?!(?:{'|'.join(reserved_words())})(?![A-Za-z_0-9])){NAME}"
"""A name that is no reserved word."""
GIVEN_NAME = rf"{FREE_NAME}(?={BLANK}*(?::|=(?!=)))"
"""Inside parentheses, a parameter that is defined or given: not the built-in that may share its name."""
CALLED_NAME = rf"{NAME}(?={BLANK}*\()"


def _coloured(words_: WordClass, *state: str) -> tuple[Any, ...]:
    return (words(words_.words, suffix=r"(?![A-Za-z_0-9])"), words_.token, *state)


class AttnLexer(RegexLexer):
    """Pygments' lexer for attnlang; it cuts a text into the tokens that the parser sees."""

    name = "attnlang"
    aliases: ClassVar = ["attn", "attnlang"]
    filenames: ClassVar = ["*.attn"]
    mimetypes: ClassVar = ["text/x-attnlang"]

    tokens: ClassVar = {
        "blank": [
            (rf"{BLANK}+", token.Whitespace),
            (r"##[^\n]*", token.String.Doc),
            (r"#[^\n]*", token.Comment.Single),
        ],
        "root": [
            include("blank"),
            _coloured(WORD_CLASSES[0], "name"),
            *map(_coloured, WORD_CLASSES[1:]),
            (CALLED_NAME, token.Name.Function),
            (NAME, token.Name),
            (NUMBER, token.Number.Integer),
            (STRING, token.String.Double),
            (r"\(", token.Punctuation, "arguments"),
            (":", token.Punctuation, "kind"),
            (words(OPERATORS), token.Operator),
            (words(sorted(BRACKETS)), token.Punctuation),
        ],
        "name": [
            include("blank"),
            (FREE_NAME, token.Name.Function, "#pop"),
            default("#pop"),
        ],
        "kind": [
            include("blank"),
            _coloured(KINDS, "#pop"),
            default("#pop"),
        ],
        "arguments": [
            (r"\)", token.Punctuation, "#pop"),
            (rf"(?=(?:{'|'.join(ITEM_STARTS)})(?![A-Za-z_0-9]))", bygroups(), "#pop"),  # takes nothing
            (GIVEN_NAME, token.Name.Variable),
            include("root"),
        ],
    }
