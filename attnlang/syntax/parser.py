"""Text to `Tree`, reporting every faulty item in one run.

The whole text is lexed once and cut into items at the reserved words that can only begin one (`pattern`, `import`,
`from`); each item is parsed by itself. So one mistake costs one diagnostic and hides nothing that follows.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.resources import files
from typing import Any, cast

from lark import Lark, Token, UnexpectedToken
from lark import Tree as ParseTree

from attnlang import codes
from attnlang.diagnostics import Diagnostic, Label
from attnlang.source import Source, Span
from attnlang.syntax import tree
from attnlang.syntax.build import TreeBuilder
from attnlang.syntax.expected import describe_expected, describe_token

MAX_DEPTH = 120
"""How deep expressions may nest; far beyond any pattern, and safely within Python's own stack."""
MAX_WORDS = 50_000
"""How many words a definition may have; the parser takes more than proportional time."""
MAX_INT = 2**63 - 1

_ITEM_STARTS = frozenset({"PATTERN", "IMPORT", "FROM"})


class _KeepStrays:
    """Tells lark to keep terminals that no rule uses: comments and characters without meaning."""

    always_accept = ("COMMENT", "UNEXPECTED")

    def process(self, stream: Any) -> Any:
        return stream


@cache
def _lark() -> Lark:
    text = (files("attnlang.syntax") / "grammar.lark").read_text("utf-8")
    return Lark(
        text,
        parser="lalr",
        lexer="basic",
        start=["item", "expr"],
        propagate_positions=True,
        postlex=cast("Any", _KeepStrays()),
        keep_all_tokens=True,
        cache=_cache_file() or False,
    )


def _cache_file() -> str | None:
    """Where lark keeps the parse tables (it checks them against the grammar), or None where nothing can be kept."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(home, "attnlang")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError:
        return None
    return os.path.join(folder, "grammar.lark.cache") if os.access(folder, os.W_OK) else None


def tokens_of(text: str) -> list[Token]:
    """All tokens of a text in order, comments and stray characters among them."""
    return list(_lark().lex(text))


def parse(source: Source) -> tuple[tree.File, list[Diagnostic]]:
    """Parse a whole text. Faulty items are left out of the tree and reported; lists are in text order."""
    tokens = tokens_of(source.text)
    comments = tuple((_span(source, token), str(token)) for token in tokens if token.type == "COMMENT")
    diagnostics = _strays(source, tokens)
    strays = [found.span.start for found in diagnostics if found.span is not None]
    docs = _documentation(source, comments)
    items: list[tree.PatternDef | tree.Import] = []
    faulty: set[str] = set()
    for group in _split([token for token in tokens if token.type not in ("COMMENT", "UNEXPECTED")]):
        found: list[Diagnostic] = []
        item = _parse_tokens(source, group, "item", found)
        has_stray = _has_stray(group, strays)
        if found or item is None or has_stray:
            faulty |= _defined(group)
        if has_stray:
            continue
        diagnostics += found
        if isinstance(item, tree.PatternDef):
            items.append(_with_doc(item, docs))
        elif isinstance(item, tree.Import):
            items.append(item)
    diagnostics.sort(key=lambda diagnostic: diagnostic.span.start if diagnostic.span else 0)
    return tree.File(source, tuple(items), comments, frozenset(faulty)), diagnostics


def _defined(group: Sequence[Token]) -> set[str]:
    """The name that a definition gives, as far as it can be read."""
    return {str(group[1])} if [token.type for token in group[:2]] == ["PATTERN", "NAME"] else set()


def parse_expression(source: Source) -> tuple[tree.Expr | None, list[Diagnostic]]:
    """Parse a text that is one expression, as given for a parameter."""
    tokens = tokens_of(source.text)
    diagnostics = _strays(source, tokens)
    kept = [token for token in tokens if token.type not in ("COMMENT", "UNEXPECTED")]
    node = None if diagnostics else _parse_tokens(source, kept, "expr", diagnostics)
    return cast("tree.Expr | None", node), diagnostics


def _span(source: Source, token: Token) -> Span:
    assert token.start_pos is not None
    assert token.end_pos is not None
    return Span(source, token.start_pos, token.end_pos)


def _strays(source: Source, tokens: Sequence[Token]) -> list[Diagnostic]:
    """One diagnostic for each run of characters that no token can hold."""
    spans: list[Span] = []
    for token in tokens:
        if token.type == "UNEXPECTED":
            span = _span(source, token)
            if spans and spans[-1].end == span.start:
                span = spans.pop().to(span)
            spans.append(span)
    return [_stray(span) for span in spans]


def _stray(span: Span) -> Diagnostic:
    hints = {'"': "a string ends on its own line", "^": "powers are written `**`", "!": "use `not` or `!=`"}
    dot = "ranges are written `lo..hi`; there are no fractions"
    hint = dot if span.text.startswith(".") else hints.get(span.text[:1])
    shown = span.text if len(span.text) <= 12 else f"{span.text[:12]}..."
    if not shown.isprintable():
        shown = ascii(shown)[1:-1]
    message = f"unexpected character{'s' if len(span.text) > 1 else ''} `{shown}`"
    return Diagnostic(codes.UNEXPECTED_CHARACTER, message, span, "has no meaning here", help=hint)


def _has_stray(group: Sequence[Token], strays: Sequence[int]) -> bool:
    """Whether an item holds a stray character: then what is left of it is not what was meant, and is not judged."""
    start, end = group[0].start_pos or 0, group[-1].end_pos or 0
    place = bisect_left(strays, start)
    return place < len(strays) and strays[place] <= end + 1


def _split(tokens: Sequence[Token]) -> list[list[Token]]:
    """Cut before every token that begins an item; `import` after `from "..."` belongs to its `from`."""
    groups: list[list[Token]] = []
    for token in tokens:
        continues = token.type == "IMPORT" and len(groups[-1] if groups else ()) == 2 and groups[-1][0].type == "FROM"
        if not groups or (token.type in _ITEM_STARTS and not continues):
            groups.append([])
        groups[-1].append(token)
    return groups


def _parse_tokens(
    source: Source, tokens: Sequence[Token], start: str, diagnostics: list[Diagnostic]
) -> tree.Node | None:
    refused = _too_long(source, tokens) or _bracket_depth(source, tokens)
    if refused is not None:
        diagnostics.append(refused)
        return None
    parser = _lark().parse_interactive(start=start)
    try:
        for token in tokens:
            parser.feed_token(token)
        result: Any = parser.feed_eof(tokens[-1] if tokens else None)
    except UnexpectedToken as error:
        diagnostics.append(_syntax_error(source, tokens, cast("Token", error.token), parser.accepts()))
        return None
    return _build(source, result, tokens, diagnostics)


def _build(source: Source, result: Any, tokens: Sequence[Token], diagnostics: list[Diagnostic]) -> tree.Node | None:
    whole = _span(source, tokens[0]).to(_span(source, tokens[-1]))
    if _tree_depth(result) > 3 * MAX_DEPTH:
        diagnostics.append(_too_deep(whole))
        return None
    builder = TreeBuilder(partial(Span, source), diagnostics, MAX_INT)
    return builder.node(result)


def _too_deep(span: Span) -> Diagnostic:
    label = f"more than {MAX_DEPTH} levels"
    return Diagnostic(codes.TOO_DEEP, "nested too deeply", span, label, help="give inner parts names of their own")


def _too_long(source: Source, tokens: Sequence[Token]) -> Diagnostic | None:
    if len(tokens) <= MAX_WORDS:
        return None
    label, hint = f"more than {MAX_WORDS} words", "`range` and comprehensions write long lists in short"
    return Diagnostic(codes.PATTERN_TOO_LARGE, "the definition is too long", _span(source, tokens[0]), label, help=hint)


def _bracket_depth(source: Source, tokens: Sequence[Token]) -> Diagnostic | None:
    depth = 0
    for token in tokens:
        depth += (token.type in ("LPAR", "LSQB", "LBRACE")) - (token.type in ("RPAR", "RSQB", "RBRACE"))
        if depth > MAX_DEPTH:
            return _too_deep(_span(source, token))
    return None


def _tree_depth(root: Any) -> int:
    """Height of a parse tree, without recursion: it bounds the recursion of all that comes after."""
    deepest, stack = 0, [(root, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        if isinstance(node, ParseTree):
            children = cast("list[Any]", node.children)
            stack.extend((child, depth + 1) for child in children)
    return deepest


def _syntax_error(source: Source, tokens: Sequence[Token], token: Token, accepted: set[str]) -> Diagnostic:
    expected = describe_expected(frozenset(accepted))
    opened = _unclosed(source, tokens)
    if token.type == "$END":
        end = _span(source, tokens[-1]).end if tokens else 0
        span = Span(source, max(0, end - 1), end)
        message, label = "the text ends too early", f"expected {expected} after this"
    else:
        span = _span(source, token)
        message, label = f"unexpected {describe_token(token)}", f"expected {expected}"
    others = (Label(opened, "opened here, never closed"),) if opened and token.type == "$END" else ()
    return Diagnostic(codes.SYNTAX, message, span, label, others, help=_syntax_hint(source, tokens, token))


def _unclosed(source: Source, tokens: Sequence[Token]) -> Span | None:
    stack: list[Token] = []
    for token in tokens:
        if token.type in ("LPAR", "LSQB", "LBRACE"):
            stack.append(token)
        elif token.type in ("RPAR", "RSQB", "RBRACE") and stack:
            stack.pop()
    return _span(source, stack[-1]) if stack else None


_HINTS: tuple[tuple[Callable[[str, str], bool], str], ...] = (
    (lambda kind, before: kind == "ASSIGN" and before != "RPAR", "equality is written `==`"),
    (lambda kind, before: kind == "NAME" and before == "", "every definition begins with the word `pattern`"),
    (lambda kind, before: kind == "LBRACE" and before == "NAME", "write `segment(w) { ... }`, arguments first"),
)


def _syntax_hint(source: Source, tokens: Sequence[Token], token: Token) -> str | None:
    index = next((i for i, other in enumerate(tokens) if other is token), None)
    if index is None:
        return None
    before = tokens[index - 1].type if index else ""
    return next((hint for fits, hint in _HINTS if fits(token.type, before)), None)


def _documentation(source: Source, comments: Sequence[tuple[Span, str]]) -> dict[int, str]:
    """The text of every line that begins with `##`, by its number."""
    return {
        source.position(span.start)[0]: re.sub(r"^##+ ?", "", text).rstrip()
        for span, text in comments
        if text.startswith("##")
    }


def _with_doc(item: tree.PatternDef, docs: Mapping[int, str]) -> tree.PatternDef:
    """Attach the `##` lines that stand directly above the definition."""
    line = item.span.source.position(item.span.start)[0] - 1
    lines: list[str] = []
    while line in docs:
        lines.append(docs[line])
        line -= 1
    return replace(item, doc="\n".join(reversed(lines)))
