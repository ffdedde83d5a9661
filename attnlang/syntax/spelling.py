"""What the grammar spells out: the reserved words and the signs, for all who colour or complete a text.

They are read off the grammar file itself, without loading the parser: a highlighter starts in no time, and a word that
joins the grammar is known here at once.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_LITERAL = re.compile(r'^[A-Z_]+: "([^"]+)"$', re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]+")


@cache
def _literals() -> tuple[str, ...]:
    return tuple(_LITERAL.findall((files("attnlang.syntax") / "grammar.lark").read_text("utf-8")))


def reserved_words() -> tuple[str, ...]:
    """The words that no name can be, in the grammar's order."""
    return tuple(literal for literal in _literals() if _WORD.fullmatch(literal))


def signs() -> tuple[str, ...]:
    """Operators, brackets and separators; longer ones first, so that `**` comes before `*`."""
    return tuple(sorted((literal for literal in _literals() if not _WORD.fullmatch(literal)), key=len, reverse=True))
