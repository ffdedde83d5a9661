"""The shapes of calls: how a pattern wants to be called, in the terms of a built-in form; the axes of a grid."""

from __future__ import annotations

from attnlang.pattern import vocabulary
from attnlang.pattern.arithmetic import known
from attnlang.pattern.kinds import ANNOTATIONS, ANYTHING, RELATION, Kind, kind_of
from attnlang.syntax import tree


def form_of(definition: tree.PatternDef) -> vocabulary.Form:
    """What a call of a pattern must look like: kinds by annotation, else by the default's value."""
    return vocabulary.Form(
        tuple(
            vocabulary.Parameter(parameter.name, declared_kind(parameter), required=parameter.default is None)
            for parameter in definition.params
        ),
        RELATION,
    )


def declared_kind(parameter: tree.Param) -> Kind:
    """The kind of a parameter as far as its own definition tells."""
    default = None if parameter.default is None else known(parameter.default)
    fallback = ANYTHING if default is None else kind_of(default)
    return ANNOTATIONS.get(parameter.kind or "", fallback)


def factors(body: tree.Expr) -> list[tree.Expr]:
    """P * q * r  -->  [p, q, r]"""
    match body:
        case tree.Binary("*", left, right):
            return [*factors(left), right]
        case _:
            return [body]
