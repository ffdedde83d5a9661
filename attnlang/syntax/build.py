"""Lark's parse tree to our nodes: one small method a grammar rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from lark import Token
from lark import Tree as ParseTree

from attnlang import codes
from attnlang.diagnostics import Diagnostic
from attnlang.source import Span
from attnlang.syntax import tree

_PUNCTUATION = frozenset(["LPAR", "RPAR", "LSQB", "RSQB", "LBRACE", "RBRACE", "COMMA"])


class TreeBuilder:
    """Builds nodes bottom up. `span(start, end)` makes a span of the text at hand."""

    def __init__(self, span: Callable[[int, int], Span], diagnostics: list[Diagnostic], max_int: int) -> None:
        self._span = span
        self._diagnostics = diagnostics
        self._max_int = max_int

    def node(self, parsed: Any) -> Any:
        """The node of a parse tree; tokens and None stand for themselves."""
        if not isinstance(parsed, ParseTree):
            return parsed
        children = [self.node(child) for child in cast("list[Any]", parsed.children)]
        kept = [c for c in children if not (isinstance(c, Token) and c.type in _PUNCTUATION)]
        meta = parsed.meta
        empty = getattr(meta, "empty", True)
        span = self._span(0, 0) if empty else self._span(meta.start_pos, meta.end_pos)
        return getattr(self, f"_{parsed.data}")(span, kept)

    def _token_span(self, token: Token) -> Span:
        return self._span(cast("int", token.start_pos), cast("int", token.end_pos))

    # items ----------------------------------------------------------------------------------------------------------

    def _import_file(self, span: Span, parts: list[Any]) -> tree.Import:
        return tree.Import(str(parts[1])[1:-1], None, span=span)

    def _import_names(self, span: Span, parts: list[Any]) -> tree.Import:
        names = tuple(str(part) for part in parts[3:] if part is not None)
        return tree.Import(str(parts[1])[1:-1], names, span=span)

    def _pattern(self, span: Span, parts: list[Any]) -> tree.PatternDef:
        _, name, params, where, within, _, body = parts
        return tree.PatternDef(str(name), params or (), where, within, body, "", self._token_span(name), span=span)

    def _params(self, span: Span, parts: list[Any]) -> tuple[tree.Param, ...]:
        return tuple(part for part in parts if part is not None)

    def _param(self, span: Span, parts: list[Any]) -> tree.Param:
        name, _, kind, _, default = parts
        return tree.Param(str(name), None if kind is None else str(kind), default, span=self._token_span(name))

    def _where(self, span: Span, parts: list[Any]) -> tree.Expr:
        return parts[1]

    def _within(self, span: Span, parts: list[Any]) -> tree.Expr:
        return parts[1]

    # expressions ----------------------------------------------------------------------------------------------------

    def _name(self, span: Span, parts: list[Any]) -> tree.Name:
        return tree.Name(str(parts[0]), span=span)

    def _integer(self, span: Span, parts: list[Any]) -> tree.Int:
        digits = str(parts[0]).replace("_", "")
        value = int(digits) if len(digits) < 20 else self._max_int + 1
        if value > self._max_int:
            message = "integer too large"
            self._diagnostics.append(Diagnostic(codes.INTEGER_TOO_LARGE, message, span, "does not fit in 63 bits"))
            value = 1
        return tree.Int(value, span=span)

    def _boolean(self, span: Span, parts: list[Any]) -> tree.Bool:
        return tree.Bool(str(parts[0]) == "True", span=span)

    def _group(self, span: Span, parts: list[Any]) -> tree.Expr:
        return parts[0]

    def _list(self, span: Span, parts: list[Any]) -> tree.List:
        return tree.List(tuple(part for part in parts if part is not None), span=span)

    def _list_comprehension(self, span: Span, parts: list[Any]) -> tree.Comprehension:
        return tree.Comprehension(parts[0], tuple(parts[1:]), span=span)

    def _clause(self, span: Span, parts: list[Any]) -> tree.Clause:
        split = next(i for i, part in enumerate(parts) if isinstance(part, Token) and part.type == "IN")
        conditions = tuple(part for part in parts[split + 2 :] if not isinstance(part, Token) and part is not None)
        return tree.Clause(tuple(map(str, parts[1:split])), parts[split + 1], conditions, span=span)

    def _call(self, span: Span, parts: list[Any]) -> tree.Call:
        name, *arguments, body = parts
        return tree.Call(str(name), tuple(a for a in arguments if a is not None), body, span=span)

    def _comprehension_call(self, span: Span, parts: list[Any]) -> tree.Call:
        name, element, *clauses = parts
        inner = element.span.to(clauses[-1].span)
        return tree.Call(str(name), (tree.Comprehension(element, tuple(clauses), span=inner),), span=span)

    def _body(self, span: Span, parts: list[Any]) -> tree.Expr:
        return parts[0]

    def _keyword(self, span: Span, parts: list[Any]) -> tree.Keyword:
        return tree.Keyword(str(parts[0]), parts[2], span=span)

    def _range(self, span: Span, parts: list[Any]) -> tree.Range:
        lo, _, hi, _, step = parts
        return tree.Range(lo, hi, step, span=span)

    def _index(self, span: Span, parts: list[Any]) -> tree.Index:
        return tree.Index(parts[0], parts[1], span=span)

    def _unary(self, span: Span, parts: list[Any]) -> tree.Expr:
        op, operand = parts
        if op == "-" and isinstance(operand, tree.Int):
            return tree.Int(-operand.value, span=span)
        return tree.Unary(str(op), operand, span=span)

    def _binary(self, span: Span, parts: list[Any]) -> tree.Binary:
        left, op, right = parts
        return tree.Binary(str(op), left, right, span=span)

    def _comparator(self, span: Span, parts: list[Any]) -> str:
        return str(parts[0])

    def _compare(self, span: Span, parts: list[Any]) -> tree.Compare:
        return tree.Compare(parts[0], tuple(parts[1::2]), tuple(parts[2::2]), span=span)

    def _conditional(self, span: Span, parts: list[Any]) -> tree.Conditional:
        then, _, condition, _, otherwise = parts
        return tree.Conditional(condition, then, otherwise, span=span)
