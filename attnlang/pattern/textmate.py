"""The TextMate grammar of attnlang, for VS Code and other editors: data made of the classes of words that are coloured.

`make editors` writes it to the extension's folder; a test says when that file is out of date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from attnlang.pattern import highlight

Rule: TypeAlias = dict[str, object]
"""A rule of a TextMate grammar, as its JSON has it."""


def textmate_grammar() -> Rule:
    """The whole grammar; `json.dumps` writes it."""
    return {
        "information_for_contributors": ["Written by `make editors` from the vocabulary: do not edit."],
        "name": "attnlang",
        "scopeName": "source.attn",
        "fileTypes": ["attn"],
        "patterns": [_include("text")],
        "repository": {
            "text": {"patterns": [_include(name) for name in ("comments", "definition", "words", "others", "call")]},
            "comments": {"patterns": [_rule("comment.line.documentation", "##.*$"), _rule("comment.line", "#.*$")]},
            "definition": _definition(),
            "words": {"patterns": [_rule(group.scope, _any_word(group.words)) for group in highlight.WORD_CLASSES]},
            "others": {"patterns": list(_others())},
            "call": _call(),
        },
    }


def _include(name: str) -> Rule:
    return {"include": f"#{name}"}


def _rule(scope: str, match: str) -> Rule:
    return {"name": f"{scope}.attn", "match": match}


def _scopes(groups: dict[int, str]) -> Rule:
    """The scopes of a match's groups; group 0 is the whole."""
    return {str(group): {"name": f"{scope}.attn"} for group, scope in groups.items()}


def _any_word(words: Iterable[str]) -> str:
    return rf"\b(?:{'|'.join(words)})\b"


def _any_sign(signs: Iterable[str]) -> str:
    return "|".join(map(re.escape, signs))


def _definition() -> Rule:
    """`pattern name`, where the name may be that of a built-in."""
    start = highlight.WORD_CLASSES[0]
    match = rf"({_any_word(start.words)}){highlight.BLANK}+({highlight.FREE_NAME})"
    return {"match": match, "captures": _scopes({1: start.scope, 2: "entity.name.function"})}


def _others() -> Iterable[Rule]:
    kinds = highlight.KINDS
    kind = rf"(:){highlight.BLANK}*({_any_word(kinds.words)})"
    yield {"match": kind, "captures": _scopes({1: "punctuation.separator", 2: kinds.scope})}
    yield _rule("entity.name.function.call", rf"\b{highlight.CALLED_NAME}")
    yield _rule("constant.numeric.integer", rf"\b{highlight.NUMBER}")
    yield _rule("string.quoted.double", highlight.STRING)
    yield _rule("keyword.operator", _any_sign(highlight.OPERATORS))
    yield _rule("punctuation", _any_sign(sorted(highlight.BRACKETS - set("()"))))


def _call() -> Rule:
    """Parentheses, in which a name before `=` is a parameter's. A definition that begins inside of them ends them."""
    parenthesis = _scopes({0: "punctuation.parenthesis"})
    parameter = _rule("variable.parameter", rf"\b{highlight.GIVEN_NAME}")
    return {
        "begin": r"\(",
        "end": rf"\)|(?={_any_word(highlight.ITEM_STARTS)})",
        "beginCaptures": parenthesis,
        "endCaptures": parenthesis,
        "patterns": [_include("comments"), parameter, _include("text")],
    }


def main() -> None:
    """Write the grammar to the file that the command line names."""
    text = json.dumps(textmate_grammar(), indent=2)
    Path(sys.argv[1]).write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
