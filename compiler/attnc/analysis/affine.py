"""Expressions as piecewise quasi-affine functions of islpy: what proofs about a pattern are made of.

All functions live on one space, `[N] -> { [q, k, n] }`: query, key and the length of a frame. What is not quasi-affine
(a product of two unknowns, a division by one, a list, a table) raises `NotAffineError`, and is never approximated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import islpy as isl

from attnc.analysis.isl_types import PwAff, Set, Space
from attnlang.pattern.arithmetic import known
from attnlang.syntax import tree
from attnlang.syntax.printer import expression_text

Names: TypeAlias = Mapping[str, PwAff]

SPACE: Space = isl.Space.create_from_names(isl.DEFAULT_CONTEXT, set=["q", "k", "n"], params=["N"])


class NotAffineError(Exception):
    """Why something cannot be said with integers sets; one phrase."""


def variable(name: str) -> PwAff:
    """Q, k, n or N as a function."""
    local = isl.LocalSpace.from_space(SPACE)
    if name == "N":
        return isl.PwAff.from_aff(isl.Aff.var_on_domain(local, isl.dim_type.param, 0))
    return isl.PwAff.from_aff(isl.Aff.var_on_domain(local, isl.dim_type.set, "qkn".index(name)))


LARGE = 2**31
"""Numbers from here on are no lengths, and islpy takes long over sets of several of them."""


def small(value: int) -> int:
    """The number, if it is not large."""
    if abs(value) >= LARGE:
        raise NotAffineError("its numbers are large")
    return value


def integer_val(value: int) -> Any:
    """An integer of any size; islpy itself takes those of 64 bits only."""
    return isl.Val(str(value))


def constant(value: int) -> PwAff:
    """An integer as a function."""
    local = isl.LocalSpace.from_space(SPACE)
    return isl.PwAff.from_aff(isl.Aff.zero_on_domain(local).add_constant_val(integer_val(value)))


def affine(node: tree.Expr, names: Names) -> PwAff:
    """The function that an integer expression is."""
    match node:
        case tree.Int(value):
            return constant(small(value))
        case tree.Name(name) if name in names:
            return names[name]
        case tree.Unary("-", operand):
            return affine(operand, names).neg()
        case tree.Unary("+", operand):
            return affine(operand, names)
        case tree.Binary(op, left, right):
            return _binary(op, left, right, names)
        case tree.Conditional(test, then, otherwise):
            holds = condition(test, names)
            one = affine(then, names).intersect_domain(holds)
            return one.union_add(affine(otherwise, names).intersect_domain(holds.complement()))
        case tree.Call("min" | "max" as name, arguments):
            parts = [affine(part, names) for part in _operands(arguments)]
            result = parts[0]
            for part in parts[1:]:
                result = result.min(part) if name == "min" else result.max(part)
            return result
        case tree.Call("abs", (tree.Node() as argument,)):
            value = affine(argument, names)  # pyright: ignore[reportArgumentType] - the checker saw an expression
            return value.max(value.neg())
        case tree.Call("ceildiv", (a, b)):
            return _floor_divided(affine(a, names).neg(), b).neg()  # pyright: ignore[reportArgumentType]
        case _:
            raise NotAffineError(f"`{expression_text(node)}` is not affine")


def _operands(arguments: tuple[tree.Expr | tree.Range | tree.Keyword, ...]) -> list[tree.Expr]:
    match arguments:
        case (tree.List(items),):
            return list(items)
        case _:
            return [part for part in arguments if not isinstance(part, tree.Range | tree.Keyword)]


def _binary(op: str, left: tree.Expr, right: tree.Expr, names: Names) -> PwAff:
    match op:
        case "+":
            return affine(left, names).add(affine(right, names))
        case "-":
            return affine(left, names).sub(affine(right, names))
        case "*" if isinstance(factor := known(left), int):
            return affine(right, names).scale_val(integer_val(int(factor)))
        case "*" if isinstance(factor := known(right), int):
            return affine(left, names).scale_val(integer_val(int(factor)))
        case "//":
            return _floor_divided(affine(left, names), right)
        case "%":
            value = affine(left, names)
            divisor = _divisor(right)
            return value.sub(_floor_divided(value, right).scale_val(integer_val(divisor)))
        case _:
            raise NotAffineError(f"`{op}` of two unknowns is not affine")


def _divisor(node: tree.Expr) -> int:
    value = known(node)
    if not isinstance(value, int) or value == 0:
        raise NotAffineError(f"a division by `{expression_text(node)}` is not affine")
    return int(value)


def _floor_divided(value: PwAff, by: tree.Expr) -> PwAff:
    divisor = _divisor(by)
    return (value if divisor > 0 else value.neg()).scale_down_val(integer_val(abs(divisor))).floor()


def condition(node: tree.Expr, names: Names) -> Set:
    """The points where a boolean expression holds."""
    everything = isl.Set.universe(SPACE)
    match node:
        case tree.Bool(value):
            return everything if value else everything.complement()
        case tree.Unary("not", operand):
            return condition(operand, names).complement()
        case tree.Binary("and", left, right):
            return condition(left, names).intersect(condition(right, names))
        case tree.Binary("or", left, right):
            return condition(left, names).union(condition(right, names))
        case tree.Compare(first, ops, rest):
            sides = [affine(part, names) for part in (first, *rest)]
            for op, left, right in zip(ops, sides, sides[1:], strict=False):
                everything = everything.intersect(_compared(op, left, right))
            return everything
        case tree.Conditional(test, then, otherwise):
            holds = condition(test, names)
            chosen = holds.intersect(condition(then, names))
            return chosen.union(holds.complement().intersect(condition(otherwise, names)))
        case _:
            raise NotAffineError(f"`{expression_text(node)}` is no affine condition")


def _compared(op: str, left: PwAff, right: PwAff) -> Set:
    methods = {"==": "eq_set", "!=": "ne_set", "<": "lt_set", "<=": "le_set", ">": "gt_set", ">=": "ge_set"}
    return getattr(left, methods[op])(right)
