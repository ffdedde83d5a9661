"""Names, arguments and kinds of every pattern in a file, before any value is looked at.

The checker walks the tree once and reports all it finds. What passes here can be elaborated; only values (a zero, a
false `where`, lists of unequal length) can still be wrong then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnlang import codes
from attnlang.diagnostics import Label
from attnlang.pattern import vocabulary
from attnlang.pattern.kind_checker import KindChecker
from attnlang.pattern.kinds import ANNOTATIONS, ANYTHING, BOOLEAN, INTEGER, RELATION, TABLE, Kind, list_of
from attnlang.pattern.signatures import factors, form_of
from attnlang.pattern.walk import subnodes
from attnlang.source import Span
from attnlang.syntax import tree


@dataclass
class Checker(KindChecker):
    """Checks definitions against the names in scope."""

    # definitions ----------------------------------------------------------------------------------------------------

    def file(self, file: tree.File) -> None:
        """Check a whole file."""
        seen: dict[str, Span] = {}
        self._faulty = file.faulty
        for item in file.items:
            if isinstance(item, tree.PatternDef):
                self._definition_name(item, seen)
                self.definition(item)

    def definition(self, item: tree.PatternDef, kinds: Mapping[str, Kind] | None = None) -> None:
        """Check one pattern; `kinds` are those of parameter values given from outside."""
        self._locals = {}
        for parameter in item.params:
            self._parameter(parameter, (kinds or {}).get(parameter.name))
        if item.where is not None:
            self._expect(item.where, BOOLEAN, "the condition after `where`")
        if item.within is not None:
            self._expect(item.within, RELATION, "the bound after `within`")
        self._expect(item.body, RELATION, f"the body of `{item.name}`")
        self._unused(item)

    def _unused(self, item: tree.PatternDef) -> None:
        used = {node.name for node in subnodes(item) if isinstance(node, tree.Name)}
        for parameter in item.params:
            if parameter.name not in used:
                message = f"parameter `{parameter.name}` is never used"
                self.warn(codes.UNUSED, message, parameter.span, "changes nothing")

    def _definition_name(self, item: tree.PatternDef, seen: dict[str, Span]) -> None:
        if item.name in seen:
            first = Label(seen[item.name], "first defined here")
            message = f"pattern `{item.name}` is defined twice"
            self.report(codes.DUPLICATE_PATTERN, message, item.name_span, "defined again", others=(first,))
        seen.setdefault(item.name, item.name_span)
        is_itself = isinstance(item.body, tree.Name) and item.body.name == item.name
        if item.name in vocabulary.BUILT_IN and not is_itself:
            self.built_in(item.name, item.name_span)

    def _parameter(self, parameter: tree.Param, given: Kind | None) -> None:
        if parameter.name in self._locals:
            message = f"parameter `{parameter.name}` appears twice"
            self.report(codes.DUPLICATE_PARAMETER, message, parameter.span, "given again")
        if parameter.name in vocabulary.BUILT_IN:
            self.built_in(parameter.name, parameter.span)
        kind = ANNOTATIONS.get(parameter.kind or "", ANYTHING)
        if parameter.kind is not None and parameter.kind not in ANNOTATIONS:
            message, known = f"unknown kind `{parameter.kind}`", ", ".join(ANNOTATIONS)
            hint = self.did_you_mean(parameter.kind, ANNOTATIONS, 0.6)
            self.report(codes.UNKNOWN_NAME, message, parameter.span, f"a parameter is one of: {known}", hint)
        if kind == TABLE:
            self._table(parameter)
        elif parameter.default is not None:
            found = self._kind(parameter.default)
            if not found.fits(kind):
                self.wrong_kind(parameter.default, found, kind, f"parameter `{parameter.name}`")
            kind = found if kind == ANYTHING else kind
        self._locals[parameter.name] = given or kind

    def _table(self, parameter: tree.Param) -> None:
        if parameter.name in vocabulary.MODULE_ARGUMENTS:
            message, taken = f"a table cannot be called `{parameter.name}`", ", ".join(vocabulary.MODULE_ARGUMENTS)
            label = "is an argument of the compiled module"
            self.report(codes.BUILT_IN_NAME, message, parameter.span, label, help=f"any name does but {taken}")
        if parameter.default is not None:
            message = f"table `{parameter.name}` has a default"
            label = "its content is given with every call of the compiled module"
            self.report(codes.PARAMETER, message, parameter.default.span, label)

    # calls ----------------------------------------------------------------------------------------------------------

    def _call(self, node: tree.Call) -> Kind:
        if node.name in vocabulary.FOLDS:
            return self._fold(node)
        if node.name in vocabulary.RELATIONS:
            return self._relation(node, vocabulary.RELATIONS[node.name])
        if node.name in vocabulary.FUNCTIONS:
            return self._function(node)
        if node.name in self.patterns and node.name not in self._locals:
            self._arguments(node, form_of(self.patterns[node.name]))
            self._body(node, "none")
            return RELATION
        if node.name in (*self._locals, *vocabulary.FRAME_NAMES, *vocabulary.CONSTANTS):
            message = f"`{node.name}` takes no arguments"
            self.report(codes.WRONG_ARGUMENTS, message, node.span, f"write `{node.name}` alone")
        else:
            self._unknown(node.name, Span(node.span.source, node.span.start, node.span.start + len(node.name)))
        return ANYTHING

    def _fold(self, node: tree.Call) -> Kind:
        self._body(node, "none")
        match node.arguments:
            case (tree.Comprehension(element, clauses),):
                with self._clauses(clauses):
                    self._expect(element, RELATION, f"what `{node.name}` combines")
            case _:
                label = f"write `{node.name}(pattern for x in list)`"
                self.report(codes.WRONG_ARGUMENTS, f"`{node.name}` takes a comprehension", node.span, label)
        return RELATION

    def _relation(self, node: tree.Call, form: vocabulary.Form) -> Kind:
        self._arguments(node, form)
        if node.name == "window" and not node.arguments:
            self.report(codes.WRONG_ARGUMENTS, "`window` needs a width", node.span, "write `window(w)`")
        self._body(node, form.body)
        return RELATION

    def _function(self, node: tree.Call) -> Kind:
        form = vocabulary.FUNCTIONS[node.name]
        self._body(node, "none")
        if node.name in ("min", "max") and len(node.arguments) == 1:
            form = vocabulary.Form((vocabulary.Parameter("values", list_of(INTEGER)),), INTEGER)
        kinds = self._arguments(node, form)
        if node.name == "range" and len(node.arguments) > 3:
            self.report(codes.WRONG_ARGUMENTS, "`range` takes at most 3 arguments", node.span, "too many")
        if node.name == "zip":
            return list_of(Kind("tuple", tuple(k.items[0] if k.name == "list" else ANYTHING for k in kinds)))
        return form.result

    def _body(self, node: tree.Call, wanted: str) -> None:
        if node.body is None:
            if wanted == "required":
                label = f"write `{node.name}(...) {{ pattern }}`"
                self.report(codes.WRONG_BODY, f"`{node.name}` needs a pattern in braces", node.span, label)
            return
        if wanted == "none":
            self.report(codes.WRONG_BODY, f"`{node.name}` takes no braces", node.body.span, "not expected here")
        if node.name == "grid":
            self._axes(node, node.body)
            return
        self._expect(node.body, RELATION, f"the body of `{node.name}`")

    def _axes(self, node: tree.Call, body: tree.Expr) -> None:
        axes = factors(body)
        for axis in axes:
            self._expect(axis, RELATION, "an axis of `grid`")
        if len(axes) != len(node.arguments):
            message = f"{len(node.arguments)} axes, but {len(axes)} relation{'s' if len(axes) > 1 else ''}"
            label = "write one relation an axis, joined by `*`"
            self.report(codes.WRONG_BODY, f"`grid` has {message}", body.span, label)

    def _arguments(self, node: tree.Call, form: vocabulary.Form) -> list[Kind]:
        """Match arguments with a form's parameters; the kinds of the positional ones, in order."""
        positional = [p for p in form.parameters if not p.keyword_only]
        by_name = {p.name: p for p in form.parameters}
        seen: set[str] = set()
        kinds: list[Kind] = []
        for place, argument in enumerate(node.arguments):
            if isinstance(argument, tree.Keyword):
                parameter = by_name.get(argument.name)
                if parameter is None or form.many:
                    self.unknown_keyword(node, argument, [] if form.many else list(by_name))
                    continue
                value = argument.value
            elif place < len(positional) or form.many:
                parameter, value = positional[min(place, len(positional) - 1)], argument
            else:
                self.too_many(node, argument, len(positional))
                continue
            if parameter.name in seen and not form.many:
                self.report(codes.WRONG_ARGUMENTS, f"`{parameter.name}` is given twice", argument.span, "again")
            seen.add(parameter.name)
            kinds.append(self._argument(node, parameter, value))
        missing = [p.name for p in form.parameters if p.required and p.name not in seen]
        if missing:
            self.missing(node, missing)
        if node.name == "window" and "w" in seen and seen & {"left", "right"}:
            help_ = "`window(w)` counts w keys up to the query; `window(left=a, right=b)` counts besides it"
            self.report(codes.WRONG_ARGUMENTS, "two ways to give a window", node.span, "choose one", help=help_)
        return kinds

    def _argument(self, node: tree.Call, parameter: vocabulary.Parameter, value: tree.Expr | tree.Range) -> Kind:
        if parameter.kind == vocabulary.RANGE:
            if isinstance(value, tree.Range):
                self._range(value, node.name)
            else:
                self.report(codes.WRONG_KIND, f"`{node.name}` takes a range", value.span, "write `lo..hi`")
            return vocabulary.RANGE
        if isinstance(value, tree.Range):
            what = f"`{parameter.name}` of `{node.name}` is {parameter.kind.a}"
            self.report(codes.WRONG_KIND, what, value.span, "is a range")
            return ANYTHING
        outer = self._positions
        if node.name not in vocabulary.FUNCTIONS:  # `abs(pos)` speaks of the same position as what is around it
            self._positions = parameter.positions
        kind = self._kind(value)
        self._positions = outer
        if not kind.fits(parameter.kind):
            self.wrong_kind(value, kind, parameter.kind, f"`{parameter.name}` of `{node.name}`")
        return kind

    def _range(self, value: tree.Range, name: str) -> None:
        for what, end in (("lower end", value.lo), ("upper end", value.hi), ("step", value.step)):
            if end is not None:
                self._expect(end, INTEGER, f"the {what} of a range")
        if name == "heads" and value.step is not None:
            self.report(codes.WRONG_ARGUMENTS, "`heads` takes no step", value.step.span, "write `heads(a..b)`")
