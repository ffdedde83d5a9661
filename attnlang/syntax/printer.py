"""Expressions back to text, with as few parentheses as their precedence allows."""

from __future__ import annotations

from typing import assert_never

from attnlang.syntax import tree

_BINARY = {"or": 1, "and": 2, "|": 5, "&": 6, "+": 7, "-": 7, "*": 8, "//": 8, "%": 8, "**": 10}
_UNARY = {"not": 3, "-": 9, "+": 9, "~": 9}
_ATOM = 12


def expression_text(node: tree.Expr | tree.Range | tree.Keyword, outer: int = 0) -> str:
    """The node as text, in parentheses where a context of precedence `outer` needs them."""
    text, precedence = _text(node)
    return f"({text})" if precedence < outer else text


def _text(node: tree.Expr | tree.Range | tree.Keyword) -> tuple[str, int]:
    match node:
        case tree.Int(value):
            return str(value), _ATOM if value >= 0 else 9
        case tree.Bool(value):
            return str(value), _ATOM
        case tree.Name(name) | tree.Table(name):
            return name, _ATOM
        case tree.List(items):
            return f"[{', '.join(map(expression_text, items))}]", _ATOM
        case tree.Index(base, index):
            return f"{expression_text(base, _ATOM)}[{expression_text(index)}]", _ATOM
        case tree.Comprehension():
            return f"[{comprehension_text(node)}]", _ATOM
        case tree.Call():
            return _call(node), _ATOM
        case tree.Unary(op, operand):
            gap = " " if op == "not" else ""
            return f"{op}{gap}{expression_text(operand, _UNARY[op])}", _UNARY[op]
        case tree.Binary(op, left, right):
            level = _BINARY[op]
            tight_left, tight_right = (level + 1, level - 1) if op == "**" else (level, level + 1)
            return f"{expression_text(left, tight_left)} {op} {expression_text(right, tight_right)}", level
        case tree.Compare(first, ops, rest):
            tail = "".join(f" {op} {expression_text(part, 5)}" for op, part in zip(ops, rest, strict=True))
            return expression_text(first, 5) + tail, 4
        case tree.Conditional(condition, then, otherwise):
            parts = (expression_text(then, 1), expression_text(condition, 1), expression_text(otherwise))
            return f"{parts[0]} if {parts[1]} else {parts[2]}", 0
        case tree.Range(lo, hi, step):
            return range_text(lo, hi, step), 0
        case tree.Keyword(name, value):
            return f"{name}={expression_text(value)}", 0
        case _:
            assert_never(node)


def range_text(lo: tree.Expr | None, hi: tree.Expr | None, step: tree.Expr | None) -> str:
    """`lo..hi step s`, leaving out what is None."""
    ends = "..".join("" if end is None else expression_text(end) for end in (lo, hi))
    return ends if step is None else f"{ends} step {expression_text(step)}"


def comprehension_text(node: tree.Comprehension) -> str:
    """`element for a, b in items if condition`, without brackets."""
    return f"{expression_text(node.element)} {clauses_text(node.clauses)}"


def clauses_text(clauses: tuple[tree.Clause, ...]) -> str:
    """The `for` part of a comprehension."""
    return " ".join(_clause(clause) for clause in clauses)


def _clause(clause: tree.Clause) -> str:
    conditions = "".join(f" if {expression_text(condition, 1)}" for condition in clause.conditions)
    return f"for {', '.join(clause.targets)} in {expression_text(clause.iterable, 1)}{conditions}"


def _call(node: tree.Call) -> str:
    body = "" if node.body is None else f" {{ {expression_text(node.body)} }}"
    match node.arguments:
        case (tree.Comprehension() as only,):
            return f"{node.name}({comprehension_text(only)}){body}"
        case arguments:
            return f"{node.name}({', '.join(map(expression_text, arguments))}){body}"
