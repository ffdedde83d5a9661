"""Expressions over integers, booleans and lists: their values, and what is left when only some names are known.

Values are Python's, with guards: integers stay within 63 bits, lists below `MAX_ITEMS`, and every failure is a
diagnostic at the expression that failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn, TypeAlias, assert_never

from attnlang import codes
from attnlang.pattern.arithmetic import fold_binary, fold_compare, fold_unary, known, literal
from attnlang.pattern.budget import spend
from attnlang.pattern.functions import FUNCTIONS, MAX_ITEMS, fail, too_long
from attnlang.pattern.kinds import Value
from attnlang.pattern.tables import Content, key
from attnlang.source import Span
from attnlang.syntax import tree
from attnlang.syntax.printer import expression_text

Known: TypeAlias = "Value | tree.Expr | Content"
Scope: TypeAlias = Mapping[str, Known]
"""Names with what stands for them: a value; an expression over N, h and the like; the content of a table."""


def integer(node: tree.Expr, scope: Scope) -> int:
    """The value of an expression that the checker found to be an integer, all of whose names are in scope."""
    value = evaluate(node, scope)
    if not isinstance(value, int):
        fail(codes.WRONG_KIND, "an integer is needed", node.span, f"is {expression_text(node)}")
    return int(value)


LAYER_NAMES = frozenset({"layer", "L"})
GIVE_LAYER = "give the layer with the parameters: `layer=0, L=12` in Python, `-p layer=0 -p L=12` to attnc"


def evaluate(node: tree.Expr, scope: Scope) -> Value:
    """The value of an expression all of whose names are in scope."""
    value = known(fold(node, scope))
    if value is None:
        _undecided(node, fold(node, scope))
    return value


def _undecided(node: tree.Expr, folded: tree.Expr) -> NoReturn:
    names = sorted(free_names(folded))
    label = f"depends on {' and '.join(f'`{name}`' for name in names)}" if names else "depends on a table"
    hint = GIVE_LAYER if LAYER_NAMES & set(names) else None
    fail(codes.UNKNOWN_NAME, f"`{expression_text(node)}` has no value here", node.span, label, hint)


def fold(node: tree.Expr, scope: Scope) -> tree.Expr:
    """Replace known names by their values and compute what can be computed:  `w // r + h`, w=8, r=2  -->  `4 + h`"""
    span = node.span
    spend(1, span)
    match node:
        case tree.Int() | tree.Bool() | tree.Table():
            return node
        case tree.Name(name):
            return _named(node, scope.get(name))
        case tree.List(items):
            return tree.List(tuple(fold(item, scope) for item in items), span=span)
        case tree.Conditional(condition, then, otherwise):
            return _fold_conditional(node, fold(condition, scope), then, otherwise, scope)
        case tree.Unary(op, operand):
            return fold_unary(op, fold(operand, scope), span)
        case tree.Binary("and" | "or" as op, left, right):
            return _fold_logic(op, fold(left, scope), right, scope, span)
        case tree.Binary(op, left, right):
            return fold_binary(op, fold(left, scope), fold(right, scope), span)
        case tree.Compare(first, ops, rest):
            return fold_compare(fold(first, scope), ops, tuple(fold(part, scope) for part in rest), span)
        case tree.Index(base, index):
            return _fold_index(fold(base, scope), fold(index, scope), span, scope)
        case tree.Comprehension():
            return _fold_comprehension(node, scope)
        case tree.Call(name, arguments):
            folded = tuple(fold(argument, scope) for argument in arguments if isinstance(argument, _EXPRESSIONS))
            return _fold_call(name, folded, span)
        case _:
            assert_never(node)


def _named(node: tree.Name, found: Known | None) -> tree.Expr:
    match found:
        case None | Content():
            return node
        case tree.Table(name):
            return tree.Table(name, span=node.span)
        case tree.Node():
            return found
        case _:
            if isinstance(found, tuple):
                spend(len(found), node.span)
            return literal(found, node.span)


_EXPRESSIONS = (
    tree.Int, tree.Bool, tree.Name, tree.Table, tree.List, tree.Unary, tree.Binary, tree.Compare, tree.Conditional,
    tree.Index, tree.Comprehension, tree.Call,
)  # fmt: skip


def _fold_conditional(
    node: tree.Conditional, condition: tree.Expr, then: tree.Expr, otherwise: tree.Expr, scope: Scope
) -> tree.Expr:
    match known(condition):
        case None:
            return tree.Conditional(condition, fold(then, scope), fold(otherwise, scope), span=node.span)
        case chosen:
            return fold(then if chosen else otherwise, scope)


def _fold_logic(op: str, left: tree.Expr, right: tree.Expr, scope: Scope, span: Span) -> tree.Expr:
    """`and` and `or` look at their right side only where the left one leaves it open."""
    value = known(left)
    if value is None:
        return tree.Binary(op, left, fold(right, scope), span=span)
    if bool(value) == (op == "or"):
        return tree.Bool(bool(value), span=span)
    return fold(right, scope)


def table_entry(node: tree.Expr) -> tuple[str, list[tree.Expr]] | None:
    """`t[a][b]`  -->  ("t", [a, b]); None for what is not an entry of a table."""
    indices: list[tree.Expr] = []
    while isinstance(node, tree.Index):
        indices.append(node.index)
        node = node.base
    return (node.name, indices[::-1]) if isinstance(node, tree.Table) else None


def _fold_table(node: tree.Index, scope: Scope) -> tree.Expr:
    entry = table_entry(node)
    content = scope.get(key(entry[0])) if entry else None
    if entry is None or not isinstance(content, Content) or len(entry[1]) < content.array.ndim:
        return node
    places = [place for index in entry[1] if isinstance(place := known(index), int)]
    if len(places) < len(entry[1]):
        return node
    return tree.Int(content.entry(places, node.span), span=node.span)


def _fold_index(base: tree.Expr, index: tree.Expr, span: Span, scope: Scope) -> tree.Expr:
    match base, known(index):
        case (tree.Table() | tree.Index(), _):
            return _fold_table(tree.Index(base, index, span=span), scope)
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


def bindings(clauses: tuple[tree.Clause, ...], scope: Scope) -> list[dict[str, Known]] | None:
    """The scopes that a comprehension runs through, in order; None while a list or condition is not known."""
    scopes = [dict(scope)]
    for clause in clauses:
        extended: list[dict[str, Known]] = []
        for outer in scopes:
            items = known(fold(clause.iterable, outer))
            if not isinstance(items, tuple):
                return None
            spend(2 * len(items), clause.span)
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
    result = FUNCTIONS[name]([value for value in values if value is not None], span)
    if isinstance(result, tuple):
        spend(len(result), span)
    return literal(result, span)


def free_names(node: tree.Expr) -> frozenset[str]:
    """The names an expression depends on."""
    match node:
        case tree.Int() | tree.Bool() | tree.Table():
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
