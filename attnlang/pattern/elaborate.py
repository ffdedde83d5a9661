"""Tree and parameter values to `Relation`: calls written in place, lists run through, constants computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic
from attnlang.pattern import algebra
from attnlang.pattern.arithmetic import known
from attnlang.pattern.budget import spend
from attnlang.pattern.expr import Known, Scope, bindings, fold, free_names
from attnlang.pattern.functions import fail
from attnlang.pattern.modules import Module
from attnlang.pattern.pattern import value_text
from attnlang.pattern.signatures import factors
from attnlang.pattern.values import at_least_one
from attnlang.source import Span
from attnlang.syntax import tree

MAX_NODES = 20_000
"""How many relations a pattern may consist of, all calls and lists written out."""
MAX_CALL_DEPTH = 24

ZERO = tree.Int(0)


CONSTANT_NAMES = frozenset({"N", "H", "h", "layer", "L"})
"""Names that mean the same in every frame, so that the value of a parameter may depend on them."""


def bind(
    definition: tree.PatternDef, given: Mapping[str, Known], fixed: Scope, span: Span | None = None
) -> dict[str, Known]:
    """What stands for each parameter of a definition: what is given, else the default; checks `where`.

    `fixed` is the scope of names that are known everywhere: `layer` and `L`, where they are given.
    """
    scope: dict[str, Known] = {}
    for parameter in definition.params:
        if parameter.name in given:
            scope[parameter.name] = given[parameter.name]
        elif parameter.default is not None:
            scope[parameter.name] = parameter_value(parameter.default, {**fixed, **scope})
        else:
            message = f"pattern `{definition.name}` needs a value for `{parameter.name}`"
            help_ = (
                f"give it: `{definition.name}({parameter.name}=...)`, or `-p {parameter.name}=...` on the command line"
            )
            fail(codes.PARAMETER, message, span or parameter.span, "has no default", help_)
    if definition.where is not None:
        _require(definition.where, {**fixed, **scope}, scope)
    return scope


def _require(condition: tree.Expr, scope: Scope, parameters: Scope) -> None:
    holds = known(fold(condition, scope))
    values = ", ".join(f"{name}={_short(value)}" for name, value in parameters.items())
    if holds is None:
        names = " and ".join(f"`{name}`" for name in sorted(free_names(fold(condition, scope))))
        label = f"depends on {names} for {values}"
        hint = "`where` is decided before the length and the heads are known: compare numbers"
        fail(codes.WHERE_FAILS, "the `where` condition cannot be decided", condition.span, label, hint)
    if not holds:
        fail(codes.WHERE_FAILS, "the `where` condition does not hold", condition.span, f"is false for {values}")


def parameter_value(node: tree.Expr, scope: Scope) -> Known:
    """What an expression gives for a parameter: its value, or what is left of it over `CONSTANT_NAMES`."""
    folded = fold(node, scope)
    value = known(folded)
    if value is not None:
        return value
    local = sorted(free_names(folded) - CONSTANT_NAMES)
    if local:
        names = " and ".join(f"`{name}`" for name in local)
        label = f"depends on {names}: not the same thing inside the pattern that is called"
        hint = "a parameter may depend on `N`, `H`, `h`, `layer` and `L`"
        fail(codes.PARAMETER, "this value cannot be handed to a pattern", node.span, label, hint)
    return folded


def _short(value: Known) -> str:
    text = value_text(value)
    return text if len(text) < 60 else f"{text[:56]}...]"


@dataclass
class Elaborator:
    """Turns the body of one definition into a relation. Presumes that the checker found nothing wrong."""

    module: Module
    calls: tuple[str, ...] = ()
    fixed: Scope = field(default_factory=dict[str, Known])
    nodes: list[int] = field(default_factory=lambda: [0])

    def relation(self, node: tree.Expr, scope: Scope) -> algebra.Relation:
        """The relation that an expression denotes."""
        self.nodes[0] += 1
        spend(2, node.span)
        if self.nodes[0] > MAX_NODES:
            fail(codes.PATTERN_TOO_LARGE, "the pattern is too large", node.span, f"more than {MAX_NODES} parts")
        match node:
            case tree.Name(name):
                return self._name(name, node.span)
            case tree.Call("mix" | "any"):
                return self._fold(node, scope)
            case tree.Call():
                return self._call(node, scope)
            case tree.Unary(_, operand):
                return algebra.Not(self.relation(operand, scope), span=node.span)
            case tree.Binary(op, left, right):
                return _BINARY[op](self.relation(left, scope), self.relation(right, scope), span=node.span)
            case tree.Conditional(condition, then, otherwise):
                return self._choice(fold(condition, scope), then, otherwise, scope, node.span)
            case _:
                pass
        fail(codes.WRONG_KIND, "a relation is needed", node.span, "is not a relation")

    def _name(self, name: str, span: Span) -> algebra.Relation:
        match name:
            case "all":
                return algebra.Everything(span=span)
            case "none":
                return algebra.Nothing(span=span)
            case "self":
                return algebra.Offset(ZERO, ZERO, span=span)
            case "causal":
                return algebra.Offset(None, ZERO, span=span)
            case _:
                return self._pattern(tree.Call(name, (), span=span), {})

    def _choice(
        self, condition: tree.Expr, then: tree.Expr, otherwise: tree.Expr, scope: Scope, span: Span
    ) -> algebra.Relation:
        decided = known(condition)
        if decided is not None:
            chosen = then if decided else otherwise
            if chosen == tree.Name("none"):  # who writes it there means it: it has no place that one could complain of
                return algebra.Nothing()
            return self.relation(chosen, scope)
        return algebra.Choice(condition, self.relation(then, scope), self.relation(otherwise, scope), span=span)

    def _fold(self, node: tree.Call, scope: Scope) -> algebra.Relation:
        comprehension = node.arguments[0]
        assert isinstance(comprehension, tree.Comprehension)
        kind = "mix" if node.name == "mix" else "any"
        scopes = bindings(comprehension.clauses, scope)
        if scopes is None:
            hidden = {name for clause in comprehension.clauses for name in clause.targets}
            outer = {name: value for name, value in scope.items() if name not in hidden}
            folded = fold(tree.Comprehension(tree.Int(0), comprehension.clauses), outer)
            assert isinstance(folded, tree.Comprehension)
            body = self.relation(comprehension.element, outer)
            return algebra.Fold(kind, body, folded.clauses, span=node.span)
        join = algebra.Plus if kind == "mix" else algebra.Union
        parts = [self.relation(comprehension.element, inner) for inner in scopes]
        return _balanced(join, parts, node.span)

    def _call(self, node: tree.Call, scope: Scope) -> algebra.Relation:
        match node.name:
            case "offset":
                lo, hi, step = self._range(node, scope)
                _check(step, "step")
                return algebra.Offset(lo, hi, step, span=node.span)
            case "window":
                return self._window(node, scope)
            case "same":
                return algebra.Same(self._argument(node, scope, 0, "e"), span=node.span)
            case "key":
                return algebra.Key(self._argument(node, scope, 0, "b"), span=node.span)
            case "query":
                return algebra.Query(self._argument(node, scope, 0, "b"), span=node.span)
            case "pairs":
                return algebra.Pairs(self._argument(node, scope, 0, "b"), span=node.span)
            case "neighborhood":
                return self._neighborhood(node, scope)
            case "random":
                count = _check(self._argument(node, scope, 0, "n"), "number of keys", least=0)
                body = None if node.body is None else self.relation(node.body, scope)
                return algebra.Random(count, self._optional(node, scope, "seed") or ZERO, body, span=node.span)
            case "grid":
                assert node.body is not None
                sizes = [
                    fold(size, scope) for size in node.arguments if not isinstance(size, tree.Keyword | tree.Range)
                ]
                bodies = tuple(self.relation(axis, scope) for axis in factors(node.body))
                return algebra.Grid(tuple(_check(size, "size of an axis") for size in sizes), bodies, span=node.span)
            case "segment" | "dilate" | "blocks" | "heads":
                return self._frame(node, scope)
            case _:
                return self._pattern(node, scope)

    def _frame(self, node: tree.Call, scope: Scope) -> algebra.Relation:
        body = algebra.Everything(span=node.span) if node.body is None else self.relation(node.body, scope)
        match node.name:
            case "segment":
                width = _check(self._argument(node, scope, 0, "w"), "segment width")
                shift = self._optional(node, scope, "shift") or ZERO
                return algebra.Segment(width, shift, body, span=node.span)
            case "dilate":
                rate = _check(self._argument(node, scope, 0, "r"), "dilation")
                return algebra.Dilate(rate, self._optional(node, scope, "shift"), body, span=node.span)
            case "blocks":
                size = _check(self._argument(node, scope, 0, "b"), "block size")
                return algebra.Blocks(size, body, span=node.span)
            case _:
                lo, hi, _ = self._range(node, scope)
                return algebra.Heads(lo, hi, body, span=node.span)

    def _window(self, node: tree.Call, scope: Scope) -> algebra.Relation:
        """`window(w)  -->  offset(1-w..0)` and `window(left=a, right=b)  -->  offset(-a..b)`"""
        if any(not isinstance(argument, tree.Keyword) for argument in node.arguments) or _keyword(node, "w"):
            width = _check(self._argument(node, scope, 0, "w"), "window width")
            return algebra.Offset(_minus(tree.Int(1), width), ZERO, span=node.span)
        left = _check(self._optional(node, scope, "left") or ZERO, "keys to the left", least=0)
        right = _check(self._optional(node, scope, "right") or ZERO, "keys to the right", least=0)
        return algebra.Offset(_minus(ZERO, left), right, span=node.span)

    def _neighborhood(self, node: tree.Call, scope: Scope) -> algebra.Relation:
        width = _check(self._argument(node, scope, 0, "w"), "neighborhood width")
        stride = _check(self._optional(node, scope, "stride") or tree.Int(1), "stride")
        causal = self._optional(node, scope, "causal") or tree.Bool(False)
        return algebra.Neighborhood(width, stride, causal, span=node.span)

    def _range(self, node: tree.Call, scope: Scope) -> tuple[tree.Expr | None, tree.Expr | None, tree.Expr | None]:
        value = node.arguments[0]
        assert isinstance(value, tree.Range)
        ends = [None if end is None else fold(end, scope) for end in (value.lo, value.hi, value.step)]
        return ends[0], ends[1], ends[2]

    def _argument(self, node: tree.Call, scope: Scope, place: int, name: str) -> tree.Expr:
        positional = [a for a in node.arguments if not isinstance(a, tree.Keyword | tree.Range)]
        value = positional[place] if place < len(positional) else _keyword(node, name)
        assert value is not None
        return fold(value, scope)

    def _optional(self, node: tree.Call, scope: Scope, name: str) -> tree.Expr | None:
        value = _keyword(node, name)
        return None if value is None else fold(value, scope)

    def _pattern(self, node: tree.Call, scope: Scope) -> algebra.Relation:
        """A call of a pattern, written in place."""
        found = self.module.find(node.name)
        assert found is not None
        definition, module = found
        if node.name in self.calls:
            _recursion(node, self.calls)
        if len(self.calls) >= MAX_CALL_DEPTH:
            label = f"a call within {MAX_CALL_DEPTH} others"
            fail(codes.PATTERN_TOO_LARGE, "patterns call one another too deeply", node.span, label)
        names = [parameter.name for parameter in definition.params]
        given: dict[str, Known] = {}
        for place, argument in enumerate(node.arguments):
            keyword = isinstance(argument, tree.Keyword)
            name, value = (argument.name, argument.value) if keyword else (names[place], argument)
            assert not isinstance(value, tree.Range)
            given[name] = parameter_value(value, scope)
        inner = bind(definition, given, self.fixed, node.span)
        elaborator = Elaborator(module, (*self.calls, node.name), self.fixed, self.nodes)
        return replace(elaborator.relation(definition.body, {**self.fixed, **inner}), span=node.span)


def _recursion(node: tree.Call, calls: tuple[str, ...]) -> NoReturn:
    chain = " -> ".join((*calls[calls.index(node.name) :], node.name))
    raise AttnError(Diagnostic(codes.RECURSION, f"pattern `{node.name}` calls itself", node.span, chain))


def _balanced(join: type[algebra.Plus | algebra.Union], parts: list[algebra.Relation], span: Span) -> algebra.Relation:
    """A tree of logarithmic height over the parts, in order."""
    if not parts:
        return algebra.Nothing(span=span)
    if len(parts) <= 8:
        result = parts[0]
        for part in parts[1:]:
            result = join(result, part, span=span)
        return result
    middle = len(parts) // 2
    return join(_balanced(join, parts[:middle], span), _balanced(join, parts[middle:], span), span=span)


_BINARY = {"|": algebra.Union, "&": algebra.Both, "-": algebra.Without, "+": algebra.Plus}


def _keyword(node: tree.Call, name: str) -> tree.Expr | None:
    return next((a.value for a in node.arguments if isinstance(a, tree.Keyword) and a.name == name), None)


def _minus(left: tree.Int, right: tree.Expr) -> tree.Expr:
    return fold(tree.Binary("-", left, right, span=right.span), {})


def _check(expression: tree.Expr | None, what: str, least: int = 1) -> tree.Expr:
    """Refuse what is already known to be too small; what is not known yet is checked where it becomes known."""
    assert expression is not None or what == "step"
    value = None if expression is None else known(expression)
    if isinstance(value, int) and expression is not None:
        if least == 1:
            at_least_one(value, what, expression.span)
        elif value < least:
            fail(codes.OUT_OF_RANGE, f"{what} must be at least {least}", expression.span, f"is {value}")
    return expression or ZERO
