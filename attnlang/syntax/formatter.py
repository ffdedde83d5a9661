"""The formatter: one way to space and indent a text. It has no options.

It works on tokens and changes nothing but the blanks between them, so the tree stays the same and every comment stays
where it was. Line breaks are the author's: lines are indented by four blanks a bracket, a line that continues a
definition outside of brackets by four, and there is never more than one empty line.
"""

from __future__ import annotations

from collections.abc import Sequence

from lark import Token

from attnlang.source import Source
from attnlang.syntax.parser import tokens_of

_OPEN, _CLOSE = frozenset({"LPAR", "LSQB", "LBRACE"}), frozenset({"RPAR", "RSQB", "RBRACE"})
_ITEMS = frozenset({"PATTERN", "IMPORT", "FROM"})
_VALUE_ENDS = frozenset({"NAME", "INT", "TRUE", "FALSE", "STRING", *_CLOSE})
_SIGNS = frozenset({"MINUS", "PLUS", "TILDE"})
_TIGHT = frozenset({"DOTDOT", "POWER"})
INDENT = " " * 4


def format_text(source: Source) -> str:
    """The text in its one form. Formatting it again changes nothing.

    Only for texts that parse: what is no part of the language is kept, but its surroundings are guesswork.
    """
    lines = _lines(source.text, tokens_of(source.text))
    written = "\n".join(_written(lines))
    return f"{written}\n" if written else ""


def _lines(text: str, tokens: Sequence[Token]) -> list[list[Token]]:
    """Tokens by line; an empty list for each empty line between them."""
    lines: list[list[Token]] = []
    last = 0
    for token in tokens:
        line = token.line or 0
        if line != last or not lines:
            if lines and line > last + 1:
                lines.append([])
            lines.append([])
        lines[-1].append(token)
        last = token.end_line or line
    return lines


def _written(lines: Sequence[Sequence[Token]]) -> list[str]:
    result: list[str] = []
    brackets: list[bool] = []  # for every open bracket: does it hold the parameters of a definition?
    before: Token | None = None  # the last token that is no comment
    within_item = False
    for line, begins_item in zip(lines, _begin_items(lines), strict=True):
        if not line:
            result.append("")
            continue
        indent = _indent(line, begins_item, within_item, len(brackets))
        parts: list[str] = []
        for place, token in enumerate(line):
            gap = "" if place == 0 else _gap(line[place - 1], token, _two_before(line, place, before), brackets)
            parts.append(gap + str(token).rstrip())
            if token.type in _OPEN:
                brackets.append(_opens_parameters(line, place, before))
            elif token.type in _CLOSE and brackets:
                brackets.pop()
        before = next((token for token in reversed(line) if token.type != "COMMENT"), before)
        within_item = within_item or any(token.type in _ITEMS for token in line)
        result.append(INDENT * indent + "".join(parts))
    return result


def _begin_items(lines: Sequence[Sequence[Token]]) -> list[bool]:
    """For every line, whether its first token that is no comment, there or further on, begins an item (or is none)."""
    found: list[bool] = []
    begins = True
    for line in reversed(lines):
        first = next((token for token in line if token.type != "COMMENT"), None)
        begins = begins if first is None else first.type in _ITEMS
        found.append(begins)
    return found[::-1]


def _indent(line: Sequence[Token], begins_item: bool, within_item: bool, depth: int) -> int:
    """Levels before a line: its open brackets, or one for a line that continues a definition."""
    if line[0].type in _CLOSE:
        return max(0, depth - 1)
    return depth or int(within_item and not begins_item)


def _opens_parameters(line: Sequence[Token], place: int, before: Token | None) -> bool:
    """Whether a bracket is the one after `pattern name`."""
    previous = [*([before] if before and place < 2 else []), *line[max(0, place - 2) : place]]
    return [token.type for token in previous[-2:]] == ["PATTERN", "NAME"] and line[place].type == "LPAR"


def _two_before(line: Sequence[Token], place: int, before: Token | None) -> Token | None:
    return line[place - 2] if place >= 2 else before


def _gap(left: Token, right: Token, two_before: Token | None, brackets: Sequence[bool]) -> str:
    """What stands between two neighbours on a line."""
    if right.type == "COMMENT":
        return "  "
    if right.type in ("COMMA", "COLON", "RPAR", "RSQB") or left.type in ("LPAR", "LSQB"):
        return ""
    if _TIGHT & {left.type, right.type}:
        return _around_tight(left, right)
    if right.type in ("LPAR", "LSQB") and left.type in ("NAME", "RPAR", "RSQB") and not _is_word(left):
        return ""
    if "ASSIGN" in (left.type, right.type) and brackets and not brackets[-1]:
        return ""  # `shift=h` in a call; `w = 4` in a definition
    if left.type in _SIGNS and (two_before is None or two_before.type not in _VALUE_ENDS):
        return ""  # a sign, not an operator
    return " "


def _around_tight(left: Token, right: Token) -> str:
    """`lo..hi step s` and `2**t`: no blanks, except between words and an open end."""
    words = ("STEP", "IF", "ELSE", "FOR", "IN", "AND", "OR", "NOT", "COMMA")
    return " " if left.type in words or right.type in words else ""


def _is_word(token: Token) -> bool:
    return token.type != "NAME" and str(token).isalpha()
