"""An expression over positions as a term: what a condition or a label says of q and k, step by step.

Parameters, N, H and h are folded into it, so that what is left are positions, integers and the entries of tables.
"""

from __future__ import annotations

from collections.abc import Callable

from attnc.analysis.terms import Term, Terms
from attnlang.pattern.arithmetic import known
from attnlang.pattern.expr import Scope, bindings, fold, table_entry
from attnlang.syntax import tree
from attnlang.syntax.printer import expression_text


class NoTermError(Exception):
    """Why an expression is no term; one phrase."""


class ExpressionTerms:
    """Expressions as terms of one set. Raises NoTermError for what is no term."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms

    def value(self, node: tree.Expr, scope: Scope, places: dict[str, Term]) -> Term:
        """The term of an expression; `places` are the positions by their names: pos, or q and k."""
        return self._folded(fold(node, scope), scope, places)

    def _folded(self, node: tree.Expr, scope: Scope, places: dict[str, Term]) -> Term:
        terms = self._terms

        def inner(part: tree.Expr) -> Term:
            return self._folded(part, scope, places)

        match node:
            case tree.Int(value) | tree.Bool(value):
                return terms.constant(int(value))
            case tree.Name(name) if name in places:
                return places[name]
            case tree.Unary("-", operand):
                return terms.scaled(inner(operand), -1)
            case tree.Unary("+", operand):
                return inner(operand)
            case tree.Unary("not", operand):
                return terms.negated(inner(operand))
            case tree.Binary("and", left, right):
                return terms.both(inner(left), inner(right))
            case tree.Binary("or", left, right):
                return terms.either(inner(left), inner(right))
            case tree.Binary(op, left, right):
                return self._operated(node, op, inner(left), right, inner)
            case tree.Compare(first, ops, rest):
                sides = [inner(part) for part in (first, *rest)]
                result = terms.constant(1)
                for op, left, right in zip(ops, sides, sides[1:], strict=False):
                    result = terms.both(result, self._compared(op, left, right))
                return result
            case tree.Conditional(test, then, otherwise):
                return terms.choice(inner(test), inner(then), inner(otherwise))
            case tree.Index() if (entry := table_entry(node)) is not None:
                return terms.table(entry[0], tuple(inner(index) for index in entry[1]))
            case tree.Call(name, arguments):
                return self._call(node, name, list(arguments), scope, places)
            case _:
                raise NoTermError(f"`{expression_text(node)}` is looked at as a whole")

    def _operated(
        self, node: tree.Expr, op: str, left: Term, right: tree.Expr, inner: Callable[[tree.Expr], Term]
    ) -> Term:
        terms = self._terms
        match op:
            case "+":
                return terms.add(left, inner(right))
            case "-":
                return terms.sub(left, inner(right))
            case "*":
                return terms.mul(left, inner(right))
            case "//" | "%" if isinstance(divisor := known(right), int) and divisor:
                sign = 1 if divisor > 0 else -1
                quotient = terms.floor(terms.scaled(left, sign), abs(divisor))
                if op == "//":
                    return quotient
                return terms.mod(left, divisor) if sign > 0 else terms.sub(left, terms.scaled(quotient, divisor))
            case _:
                raise NoTermError(f"`{expression_text(node)}` has no simple steps")

    def _compared(self, op: str, left: Term, right: Term) -> Term:
        terms = self._terms
        match op:
            case "==":
                return terms.eq(terms.sub(left, right))
            case "!=":
                return terms.negated(terms.eq(terms.sub(left, right)))
            case ">=" | "<=":
                return terms.ge(terms.sub(left, right) if op == ">=" else terms.sub(right, left))
            case _:
                return terms.ge(terms.plus(terms.sub(left, right) if op == ">" else terms.sub(right, left), -1))

    def _call(
        self, node: tree.Expr, name: str, arguments: list[tree.Node], scope: Scope, places: dict[str, Term]
    ) -> Term:
        terms = self._terms
        match name, arguments:
            case (("sum" | "len"), [tree.Comprehension() as listed]):
                return terms.total(0, ((part, 1) for part in self._listed(listed, scope, places, count=name == "len")))
            case (("min" | "max" | "sum"), [tree.List(items)]):
                parts = [self._folded(item, scope, places) for item in items]
            case (("min" | "max" | "abs" | "ceildiv"), _):
                parts = [self._folded(part, scope, places) for part in arguments]  # pyright: ignore[reportArgumentType]
            case _:
                raise NoTermError(f"`{expression_text(node)}` has no simple steps")
        match name:
            case "sum":
                return terms.total(0, ((part, 1) for part in parts))
            case "abs":
                return terms.larger(parts[0], terms.scaled(parts[0], -1))
            case "ceildiv":
                if not (divisor := terms.value(parts[1])):
                    raise NoTermError(f"`{expression_text(node)}` divides by what is not known")
                up = terms.scaled(parts[0], -1 if divisor > 0 else 1)
                return terms.scaled(terms.floor(up, abs(divisor)), -1)
            case _:
                result = parts[0]
                for part in parts[1:]:
                    result = terms.larger(result, part) if name == "max" else terms.smaller(result, part)
                return result

    def _listed(self, listed: tree.Comprehension, scope: Scope, places: dict[str, Term], *, count: bool) -> list[Term]:
        """`[e for x in items if c]`  -->  the terms `c * e`, where only c and e depend on the position"""
        unconditional = tuple(tree.Clause(c.targets, c.iterable, (), span=c.span) for c in listed.clauses)
        scopes = bindings(unconditional, scope)
        if scopes is None:
            raise NoTermError(f"`{expression_text(listed)}` runs through a list that depends on the position")
        result: list[Term] = []
        for inner in scopes:
            kept = self._terms.constant(1)
            for condition in (condition for clause in listed.clauses for condition in clause.conditions):
                kept = self._terms.both(kept, self.value(condition, inner, places))
            value = self._terms.constant(1) if count else self.value(listed.element, inner, places)
            result.append(self._terms.mul(kept, value))
        return result
