"""Parameters that come from outside, from Python or the command line: checked, and made values of the language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from operator import index
from typing import NoReturn, SupportsIndex, cast

from attnlang import codes
from attnlang.diagnostics import AttnError, Diagnostic
from attnlang.pattern.arithmetic import MAX_INT
from attnlang.pattern.checker import Checker
from attnlang.pattern.elaborate import parameter_value
from attnlang.pattern.expr import Known
from attnlang.pattern.kinds import TABLE, Argument, Kind, Value, kind_of
from attnlang.pattern.signatures import declared_kind
from attnlang.source import Source
from attnlang.syntax import parse_expression, tree

LAYER_NAMES = frozenset({"layer", "L"})
"""Names that are given like parameters, and mean the same in every pattern."""

WANTED = "an integer, a boolean, a list of them, or an expression as text"


@dataclass(frozen=True, slots=True)
class Given:
    """What is given for a parameter: a value, or an expression over N, H, h, layer and L."""

    value: Known
    kind: Kind


def given_values(definition: tree.PatternDef, params: Mapping[str, Argument]) -> dict[str, Given]:
    """Check and convert parameters of a definition."""
    by_name = {parameter.name: parameter for parameter in definition.params}
    values: dict[str, Given] = {}
    for name, argument in params.items():
        if name not in by_name:
            close = get_close_matches(name, by_name, 1, 0.5)
            takes = f"it takes {', '.join(by_name)}" if by_name else "it takes none"
            message = f"pattern `{definition.name}` has no parameter `{name}`"
            hint = f"did you mean `{close[0]}`?" if close else None
            raise AttnError(Diagnostic(codes.PARAMETER, message, definition.name_span, takes, help=hint))
        values[name] = _given(definition, by_name[name], argument)
    return values


def given_layer(params: Mapping[str, Argument]) -> dict[str, Known]:
    """`layer` and `L`, as far as they are given, checked."""
    values: dict[str, int] = {}
    for name in sorted(LAYER_NAMES & set(params)):
        values[name] = _count(name, params[name], 1 if name == "L" else 0)
    if len(values) == 2 and values["layer"] >= values["L"]:
        last = values["L"] - 1
        _refuse(f"`layer` is {values['layer']}, but with L = {values['L']} layers count from 0 to {last}")
    return dict(values)


def _count(name: str, argument: Argument, least: int) -> int:
    value = evaluated(name, argument).value if isinstance(argument, str) else plain(argument)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        _refuse(f"`{name}` must be an integer of at least {least}, not {argument!r}")
    return value


def _refuse(message: str) -> NoReturn:
    raise AttnError(Diagnostic(codes.PARAMETER, message, None))


def _given(definition: tree.PatternDef, parameter: tree.Param, argument: Argument) -> Given:
    wanted = declared_kind(parameter)
    if wanted == TABLE:
        message = f"`{parameter.name}` of `{definition.name}` is a table: its content is given with every call"
        name = parameter.name
        hint = f"leave it out here: `module(q, k, v, {name}=...)`, or `tables={{'{name}': ...}}` to attnc's functions"
        raise AttnError(Diagnostic(codes.PARAMETER, message, parameter.span, "is a table", help=hint))
    if isinstance(argument, str):
        given = evaluated(parameter.name, argument)
    else:
        value = plain(argument)
        if value is None:
            message = f"`{parameter.name}` of `{definition.name}` must be {WANTED}, not {argument!r}"
            raise AttnError(Diagnostic(codes.PARAMETER, message, parameter.span, "given from outside"))
        given = Given(value, kind_of(value))
    if not given.kind.fits(wanted):
        message = f"`{parameter.name}` of `{definition.name}` must be {wanted.a}, not {argument!r}"
        raise AttnError(Diagnostic(codes.PARAMETER, message, parameter.span, f"is {wanted.a}"))
    return given


def plain(argument: object) -> Value | None:
    """Python's integers, booleans and (nested) lists; numpy's and torch's too. None for anything else."""
    if callable(listed := getattr(argument, "tolist", None)):
        argument = listed()
    if isinstance(argument, bool):
        return argument
    if isinstance(argument, Sequence) and not isinstance(argument, str | bytes):
        items = [plain(item) for item in cast("Sequence[object]", argument)]
        return None if None in items else tuple(item for item in items if item is not None)
    if not isinstance(argument, SupportsIndex):
        return None
    value = index(argument)
    return value if abs(value) <= MAX_INT else None


def evaluated(name: str, text: str) -> Given:
    """What a text gives for a parameter, as in `-p segments=[64, 128]` or `-p g="N // 4"`."""
    node, diagnostics = parse_expression(Source(f"<parameter {name}>", text))
    if node is None or diagnostics:
        raise AttnError(*diagnostics)
    checker = Checker()
    kind = checker.kind(node)
    if checker.diagnostics:
        raise AttnError(*checker.diagnostics)
    return Given(parameter_value(node, {}), kind)
