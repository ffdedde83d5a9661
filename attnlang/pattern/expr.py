"""Expressions over integers, booleans and lists: their values, and what is left when only some names are known.

Values are Python's, with guards: integers stay within 63 bits, lists below `MAX_ITEMS`, and every failure is a
diagnostic at the expression that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn, TypeAlias, assert_never

from attnlang import codes
from attnlang.pattern.functions import FUNCTIONS, MAX_ITEMS, bounded, fail, too_long
from attnlang.pattern.kinds import Value
from attnlang.source import Span
from attnlang.syntax import tree
from attnlang.syntax.printer import expression_text

MAX_INT = 2**63 - 1

Scope: TypeAlias = Mapping[str, Value]
"""The names whose value is known."""


def literal(value: Value, span: Span) -> tree.Expr:
    """A known value as an expression, standing where `span` says."""
    if isinstance(value, bool):
        return tree.Bool(value, span=span)
    if isinstance(value, int):
        return tree.Int(value, span=span)
    return tree.List(tuple(literal(item, span) for item in value), span=span)


def known(node: tree.Expr) -> Value | None:
    """The value of an expression that is a literal, else None."""
    match node:
        case tree.Int(value) | tree.Bool(value):
            return value
        case tree.List(items):
            values = [known(item) for item in items]
            return None if None in values else tuple(value for value in values if value is not None)
        case _:
            return None


def integer(node: tree.Expr, scope: Scope) -> int:
    """The value of an expression that the checker found to be an integer, all of whose names are in scope."""
    value = evaluate(node, scope)
    if not isinstance(value, int):
        fail(codes.WRONG_KIND, "an integer is needed", node.span, f"is {expression_text(node)}")
    return int(value)


def evaluate(node: tree.Expr, scope: Scope) -> Value:
    """The value of an expression all of whose names are in scope."""
    value = known(fold(node, scope))
    if value is None:
        text = expression_text(node)
        fail(codes.UNKNOWN_NAME, f"`{text}` has no value here", node.span, "depends on what is not known yet")
    return value


def fold(node: tree.Expr, scope: Scope) -> tree.Expr:
    """Replace known names by their values and compute what can be computed:  `w // r + h`, w=8, r=2  -->  `4 + h`"""
    span = node.span
    match node:
        case tree.Int() | tree.Bool():
            return node
        case tree.Name(name):
            return literal(scope[name], span) if name in scope else node
        case tree.List(items):
            return tree.List(tuple(fold(item, scope) for item in items), span=span)
        case tree.Conditional(condition, then, otherwise):
            return _fold_conditional(node, fold(condition, scope), then, otherwise, scope)
        case tree.Unary(op, operand):
            return _fold_unary(op, fold(operand, scope), span)
        case tree.Binary("and" | "or" as op, left, right):
            return _fold_logic(op, fold(left, scope), right, scope, span)
        case tree.Binary(op, left, right):
            return _fold_binary(op, fold(left, scope), fold(right, scope), span)
        case tree.Compare(first, ops, rest):
            return _fold_compare(fold(first, scope), ops, tuple(fold(part, scope) for part in rest), span)
        case tree.Index(base, index):
            return _fold_index(fold(base, scope), fold(index, scope), span)
        case tree.Comprehension():
            return _fold_comprehension(node, scope)
        case tree.Call(name, arguments):
            folded = tuple(fold(argument, scope) for argument in arguments if isinstance(argument, _EXPRESSIONS))
            return _fold_call(name, folded, span)
        case _:
            assert_never(node)


_EXPRESSIONS = (
    tree.Int, tree.Bool, tree.Name, tree.List, tree.Unary, tree.Binary, tree.Compare, tree.Conditional, tree.Index,
    tree.Comprehension, tree.Call,
)  # fmt: skip


def _fold_conditional(
    node: tree.Conditional, condition: tree.Expr, then: tree.Expr, otherwise: tree.Expr, scope: Scope
) -> tree.Expr:
    match known(condition):
        case None:
            return tree.Conditional(condition, fold(then, scope), fold(otherwise, scope), span=node.span)
        case chosen:
            return fold(then if chosen else otherwise, scope)


def _fold_unary(op: str, operand: tree.Expr, span: Span) -> tree.Expr:
    match known(operand):
        case bool(value) if op == "not":
            return tree.Bool(not value, span=span)
        case int(value) if op == "-":
            return tree.Int(-value, span=span)
        case int(value) if op == "+":
            return tree.Int(value, span=span)
        case _:
            return tree.Unary(op, operand, span=span)


def _fold_logic(op: str, left: tree.Expr, right: tree.Expr, scope: Scope, span: Span) -> tree.Expr:
    """`and` and `or` look at their right side only where the left one leaves it open."""
    value = known(left)
    if value is None:
        return tree.Binary(op, left, fold(right, scope), span=span)
    if bool(value) == (op == "or"):
        return tree.Bool(bool(value), span=span)
    return fold(right, scope)


def _floor(op: Callable[[int, int], int]) -> Callable[[int, int, Span], int]:
    def apply(left: int, right: int, span: Span) -> int:
        if right == 0:
            _divided_by_zero(span)
        return op(left, right)

    return apply


def _divided_by_zero(span: Span) -> NoReturn:
    fail(codes.DIVISION_BY_ZERO, "division by zero", span, "the right side is 0")


def _power(left: int, right: int, span: Span) -> int:
    if right < 0:
        label = f"the exponent is {right}"
        fail(
            codes.OUT_OF_RANGE,
            "negative exponent",
            span,
            label,
            help="powers are integers: use an exponent of 0 or more",
        )
    if abs(left) > 1 and right > 63:
        _overflow(span)
    return left**right


_ARITHMETIC: dict[str, Callable[[int, int, Span], int]] = {
    "+": lambda left, right, span: left + right,
    "-": lambda left, right, span: left - right,
    "*": lambda left, right, span: left * right,
    "//": _floor(lambda left, right: left // right),
    "%": _floor(lambda left, right: left % right),
    "**": _power,
}


def _overflow(span: Span) -> NoReturn:
    fail(codes.OVERFLOW, "integer overflow", span, "does not fit in 63 bits")


def _fold_binary(op: str, left: tree.Expr, right: tree.Expr, span: Span) -> tree.Expr:
    match known(left), known(right):
        case int(a), int(b) if op in _ARITHMETIC:
            value = _ARITHMETIC[op](a, b, span)
            if abs(value) > MAX_INT:
                _overflow(span)
            return tree.Int(value, span=span)
        case tuple(a), tuple(b) if op == "+":
            return literal(bounded((*a, *b), span), span)
        case _, 0 if op in ("//", "%"):
            _divided_by_zero(span)
        case _:
            return tree.Binary(op, left, right, span=span)


_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _holds(op: str, left: Value, right: Value, span: Span) -> bool:
    if op in ("==", "!="):
        return (left == right) == (op == "==")
    if isinstance(left, int) and isinstance(right, int):
        return _COMPARE[op](left, right)
    fail(codes.WRONG_KIND, f"`{op}` compares integers", span, "compares a list")


def _fold_compare(first: tree.Expr, ops: tuple[str, ...], rest: tuple[tree.Expr, ...], span: Span) -> tree.Expr:
    values = [known(part) for part in (first, *rest)]
    if any(value is None for value in values):
        return tree.Compare(first, ops, rest, span=span)
    sides = [value for value in values if value is not None]
    holds = all(_holds(op, left, right, span) for left, op, right in zip(sides, ops, sides[1:], strict=False))
    return tree.Bool(holds, span=span)


def _fold_index(base: tree.Expr, index: tree.Expr, span: Span) -> tree.Expr:
    match base, known(index):
        case tree.List(items), int(place):
            if not -len(items) <= place < len(items):
                label = f"index {place}, but the list has {len(items)} items"
                fail(codes.OUT_OF_RANGE, "index out of range", span, label)
            return items[place]
        case _:
            return tree.Index(base, index, span=span)


def _fold_comprehension(node: tree.Comprehension, scope: Scope) -> tree.Expr:
    scopes = bindings(node.clauses, scope)
    if scopes is None:
        hidden = {name for clause in node.clauses for name in clause.targets}
        outer = {name: value for name, value in scope.items() if name not in hidden}
        clauses = tuple(_fold_clause(clause, outer) for clause in node.clauses)
        return tree.Comprehension(fold(node.element, outer), clauses, span=node.span)
    return tree.List(tuple(fold(node.element, inner) for inner in scopes), span=node.span)


def _fold_clause(clause: tree.Clause, scope: Scope) -> tree.Clause:
    conditions = tuple(fold(condition, scope) for condition in clause.conditions)
    return tree.Clause(clause.targets, fold(clause.iterable, scope), conditions, span=clause.span)


def bindings(clauses: tuple[tree.Clause, ...], scope: Scope) -> list[dict[str, Value]] | None:
    """The scopes that a comprehension runs through, in order; None while a list or condition is not known."""
    scopes = [dict(scope)]
    for clause in clauses:
        extended: list[dict[str, Value]] = []
        for outer in scopes:
            items = known(fold(clause.iterable, outer))
            if not isinstance(items, tuple):
                return None
            for item in items:
                inner = {**outer, **_bind(clause, item)}
                verdict = [known(fold(condition, inner)) for condition in clause.conditions]
                if None in verdict:
                    return None
                if all(verdict):
                    extended.append(inner)
            if len(extended) > MAX_ITEMS:
                too_long(clause.span)
        scopes = extended
    return scopes


def _bind(clause: tree.Clause, item: Value) -> dict[str, Value]:
    if len(clause.targets) == 1:
        return {clause.targets[0]: item}
    if not isinstance(item, tuple) or len(item) != len(clause.targets):
        got = f"a group of {len(item)}" if isinstance(item, tuple) else f"`{item}`"
        label = f"{len(clause.targets)} names for {got}"
        fail(codes.UNEQUAL_LENGTHS, "names and values do not match", clause.span, label)
    return dict(zip(clause.targets, item, strict=True))


def _fold_call(name: str, arguments: tuple[tree.Expr, ...], span: Span) -> tree.Expr:
    if name == "len" and isinstance(arguments[0], tree.List):
        return tree.Int(len(arguments[0].items), span=span)
    values = [known(argument) for argument in arguments]
    if any(value is None for value in values) or name not in FUNCTIONS:
        return tree.Call(name, arguments, span=span)
    return literal(FUNCTIONS[name]([value for value in values if value is not None], span), span)


def free_names(node: tree.Expr) -> frozenset[str]:
    """The names an expression depends on."""
    match node:
        case tree.Int() | tree.Bool():
            return frozenset()
        case tree.Name(name):
            return frozenset({name})
        case tree.List(items):
            return _union(*items)
        case tree.Unary(_, operand):
            return free_names(operand)
        case tree.Binary(_, left, right):
            return _union(left, right)
        case tree.Compare(first, _, rest):
            return _union(first, *rest)
        case tree.Conditional(condition, then, otherwise):
            return _union(condition, then, otherwise)
        case tree.Index(base, index):
            return _union(base, index)
        case tree.Call(_, arguments):
            return _union(*(argument for argument in arguments if isinstance(argument, _EXPRESSIONS)))
        case tree.Comprehension(element, clauses):
            parts = [part for clause in clauses for part in (clause.iterable, *clause.conditions)]
            return _union(element, *parts) - {name for clause in clauses for name in clause.targets}
        case _:
            assert_never(node)


def _union(*nodes: tree.Expr) -> frozenset[str]:
    return frozenset[str]().union(*(free_names(node) for node in nodes))
