"""The kinds of expressions, found from the inside out; what is wrong inside is reported on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

from attnlang import codes
from attnlang.pattern import vocabulary
from attnlang.pattern.findings import Findings
from attnlang.pattern.kinds import ANYTHING, BOOLEAN, INTEGER, RELATION, TABLE, Kind, list_of
from attnlang.pattern.signatures import form_of
from attnlang.source import Span
from attnlang.syntax import tree
from attnlang.syntax.printer import expression_text


@dataclass
class KindChecker(Findings, ABC):
    """Finds the kind of an expression. What calls are worth is said by `Checker`.

    `patterns` maps callable names to their definitions; `_positions` says which of `pos`, `q` and `k` have a value;
    `_faulty` are the names of definitions that could not be read, so that nothing is said about calls of them.
    """

    patterns: Mapping[str, tree.PatternDef] = field(default_factory=dict[str, tree.PatternDef])
    _locals: dict[str, Kind] = field(default_factory=dict[str, Kind])
    _positions: frozenset[str] = frozenset()
    _faulty: frozenset[str] = frozenset()

    @abstractmethod
    def _call(self, node: tree.Call) -> Kind: ...

    @abstractmethod
    def _arguments(self, node: tree.Call, form: vocabulary.Form) -> list[Kind]: ...

    def kind(self, node: tree.Expr) -> Kind:
        """The kind of an expression that stands by itself."""
        return self._kind(node)

    # expressions ----------------------------------------------------------------------------------------------------

    def _expect(self, node: tree.Expr, wanted: Kind, what: str) -> None:
        found = self._kind(node)
        if not found.fits(wanted):
            self.wrong_kind(node, found, wanted, what)

    def _kind(self, node: tree.Expr) -> Kind:
        """The kind of an expression, reporting what is wrong inside it."""
        match node:
            case tree.Int():
                return INTEGER
            case tree.Bool():
                return BOOLEAN
            case tree.Name(name):
                return self._name(name, node.span)
            case tree.Table():
                return TABLE
            case tree.List(items):
                return self._list(items)
            case tree.Unary(op, operand):
                return self._unary(op, operand)
            case tree.Binary(op, left, right):
                return self._binary(node, op, left, right)
            case tree.Compare(first, ops, rest):
                return self._compare(first, ops, rest)
            case tree.Conditional(condition, then, otherwise):
                self._expect(condition, BOOLEAN, "the condition after `if`")
                kind = self._kind(then)
                self._expect(otherwise, kind, "the value after `else`")
                return kind
            case tree.Index(base, index):
                return self._index(base, index)
            case tree.Comprehension(element, clauses):
                with self._clauses(clauses):
                    return list_of(self._kind(element))
            case tree.Call():
                return self._call(node)

    def _name(self, name: str, span: Span) -> Kind:
        if name in self._locals:
            return self._locals[name]
        if name in vocabulary.POSITIONS - self._positions:
            self.no_position(name, span, self._positions)
            return INTEGER
        if name in vocabulary.FRAME_NAMES:
            return INTEGER
        if name in vocabulary.CONSTANTS:
            return RELATION
        if name in self.patterns:
            self._arguments(tree.Call(name, (), span=span), form_of(self.patterns[name]))
            return RELATION
        if name in vocabulary.BUILT_IN:
            self.report(codes.WRONG_ARGUMENTS, f"`{name}` needs arguments", span, f"write `{name}(...)`")
        else:
            self._unknown(name, span)
        return ANYTHING

    def _unknown(self, name: str, span: Span) -> None:
        if name in self._faulty:
            return
        hint = self.did_you_mean(name, chain(self._locals, self.patterns, vocabulary.BUILT_IN), 0.6)
        self.report(codes.UNKNOWN_NAME, f"unknown name `{name}`", span, "not in scope", help=hint)

    def _list(self, items: tuple[tree.Expr, ...]) -> Kind:
        if not items:
            return list_of(ANYTHING)
        kind = self._kind(items[0])
        for item in items[1:]:
            self._expect(item, kind, "each item of a list")
        return list_of(kind)

    def _unary(self, op: str, operand: tree.Expr) -> Kind:
        kind = {"~": RELATION, "not": BOOLEAN}.get(op, INTEGER)
        self._expect(operand, kind, f"the operand of `{op}`")
        return kind

    def _binary(self, node: tree.Binary, op: str, left: tree.Expr, right: tree.Expr) -> Kind:
        if op in ("and", "or"):
            wanted = BOOLEAN
        elif op in ("|", "&"):
            wanted = RELATION
        elif op == "*":
            return self._product(node, left, right)
        elif op in ("+", "-"):
            kind = self._kind(left)
            wanted = kind if kind in (RELATION, ANYTHING) or (kind.name == "list" and op == "+") else INTEGER
            if not kind.fits(wanted):
                self.wrong_kind(left, kind, INTEGER, f"the left side of `{op}`")
            other = self._kind(right)
            if not other.fits(wanted):
                self.wrong_kind(right, other, wanted, f"the right side of `{op}`")
            return other if kind == ANYTHING else kind
        else:
            wanted = INTEGER
        self._expect(left, wanted, f"the left side of `{op}`")
        self._expect(right, wanted, f"the right side of `{op}`")
        return wanted

    def _product(self, node: tree.Binary, left: tree.Expr, right: tree.Expr) -> Kind:
        kinds = self._kind(left), self._kind(right)
        if RELATION in kinds:
            help_ = "joined by `&`, relations hold together; `grid(a, b) { p * q }` takes one relation an axis"
            self.report(codes.WRONG_KIND, "`*` joins the axes of a grid", node.span, "is not in a grid", help=help_)
            return RELATION
        for side, part, kind in zip(("left", "right"), (left, right), kinds, strict=True):
            if not kind.fits(INTEGER):
                self.wrong_kind(part, kind, INTEGER, f"the {side} side of `*`")
        return INTEGER

    def _compare(self, first: tree.Expr, ops: tuple[str, ...], rest: tuple[tree.Expr, ...]) -> Kind:
        kind = self._kind(first)
        if kind == RELATION:
            self.wrong_kind(first, kind, INTEGER, f"the left side of `{ops[0]}`")
        for op, part in zip(ops, rest, strict=True):
            self._expect(
                part, kind if op in ("==", "!=") and kind != RELATION else INTEGER, f"the right side of `{op}`"
            )
        return BOOLEAN

    def _index(self, base: tree.Expr, index: tree.Expr) -> Kind:
        self._expect(index, INTEGER, "an index")
        if isinstance(base, tree.Index) and self._is_table(base):
            return self._kind(base)
        kind = self._kind(base)
        if kind.name == "list":
            return kind.items[0]
        if kind not in (ANYTHING, TABLE):
            self.wrong_kind(base, kind, list_of(ANYTHING), "what is indexed")
        return INTEGER if kind == TABLE else ANYTHING

    def _is_table(self, node: tree.Expr) -> bool:
        """Whether a chain of indices begins at a table."""
        while isinstance(node, tree.Index):
            node = node.base
        return isinstance(node, tree.Name) and self._locals.get(node.name) == TABLE

    # comprehensions -------------------------------------------------------------------------------------------------

    @contextmanager
    def _clauses(self, clauses: tuple[tree.Clause, ...]) -> Generator[None, None, None]:
        outer = dict(self._locals)
        for clause in clauses:
            self._clause(clause)
        yield
        self._locals = outer

    def _clause(self, clause: tree.Clause) -> None:
        items = self._iterable(clause)
        if len(set(clause.targets)) < len(clause.targets):
            self.report(codes.DUPLICATE_PARAMETER, "a name is bound twice", clause.span, "by the same `for`")
        for place, name in enumerate(clause.targets):
            if name in vocabulary.BUILT_IN:
                self.built_in(name, clause.span)
            self._locals[name] = items[place] if place < len(items) else ANYTHING
        for condition in clause.conditions:
            self._expect(condition, BOOLEAN, "the condition after `if`")

    def _iterable(self, clause: tree.Clause) -> tuple[Kind, ...]:
        """The kinds of the names that a clause binds."""
        found = self._kind(clause.iterable)
        if not found.fits(list_of(ANYTHING)):
            hint = f"`range({expression_text(clause.iterable)})` runs through the numbers" if found == INTEGER else None
            message = "`for` runs through a list"
            self.report(codes.WRONG_KIND, message, clause.iterable.span, f"is {found.a}", help=hint)
            return ()
        item = found.items[0] if found.items else ANYTHING
        if len(clause.targets) == 1:
            return (item,)
        if item.name == "list":
            return item.items * len(clause.targets)
        if item == ANYTHING:
            return ()
        if item.name != "tuple" or len(item.items) != len(clause.targets):
            what = f"{len(clause.targets)} names for {item.a}"
            self.report(codes.UNEQUAL_LENGTHS, "names and values do not match", clause.span, what)
        return item.items
