"""The built-in names: which arguments each form takes, of which kind. One table for the checker and for messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attnlang.pattern.kinds import ANYTHING, BOOLEAN, INTEGER, RELATION, Kind, list_of

FRAME_NAMES = {
    "pos": "the position within the enclosing frame",
    "q": "the position of the query, in `pairs`",
    "k": "the position of the key, in `pairs`",
    "n": "the length of the enclosing frame",
    "N": "the length of the sequence",
    "h": "the head",
    "H": "the number of heads",
    "layer": "the layer",
    "L": "the number of layers",
}
"""Names of integers that are in scope everywhere; `pos`, `q` and `k` only where positions are at hand."""

POSITIONS = frozenset({"pos", "q", "k"})

CONSTANTS = ("all", "none", "self", "causal")
"""Relations without arguments."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a built-in form. `positions`: the positions that the argument may speak of."""

    name: str
    kind: Kind
    required: bool = True
    keyword_only: bool = False
    positions: frozenset[str] = frozenset()


RANGE = Kind("range")
"""The kind of `lo..hi step s`."""


@dataclass(frozen=True, slots=True)
class Form:
    """A built-in form. `body` says whether braces follow; `many`: the last parameter may be given more than once."""

    parameters: tuple[Parameter, ...]
    result: Kind
    body: Literal["none", "optional", "required"] = "none"
    many: bool = False


def _one(name: str, kind: Kind, *positions: str) -> Parameter:
    return Parameter(name, kind, positions=frozenset(positions))


_SHIFT = Parameter("shift", INTEGER, required=False, keyword_only=True)

RELATIONS: dict[str, Form] = {
    "offset": Form((_one("range", RANGE),), RELATION),
    "window": Form(
        (
            Parameter("w", INTEGER, required=False),
            Parameter("left", INTEGER, required=False, keyword_only=True),
            Parameter("right", INTEGER, required=False, keyword_only=True),
        ),
        RELATION,
    ),
    "same": Form((_one("e", INTEGER, "pos"),), RELATION),
    "key": Form((_one("b", BOOLEAN, "pos"),), RELATION),
    "query": Form((_one("b", BOOLEAN, "pos"),), RELATION),
    "pairs": Form((_one("b", BOOLEAN, "q", "k"),), RELATION),
    "neighborhood": Form(
        (
            _one("w", INTEGER),
            Parameter("stride", INTEGER, required=False, keyword_only=True),
            Parameter("causal", BOOLEAN, required=False, keyword_only=True),
        ),
        RELATION,
    ),
    "random": Form(
        (_one("n", INTEGER), Parameter("seed", INTEGER, required=False, keyword_only=True)), RELATION, body="optional"
    ),
    "segment": Form((_one("w", INTEGER), _SHIFT), RELATION, body="optional"),
    "dilate": Form((_one("r", INTEGER), _SHIFT), RELATION, body="optional"),
    "blocks": Form((_one("b", INTEGER),), RELATION, body="required"),
    "grid": Form((_one("size", INTEGER),), RELATION, body="required", many=True),
    "heads": Form((_one("range", RANGE),), RELATION, body="required"),
}
"""Relations with arguments. `mix` and `any` are comprehensions and handled by themselves."""

FOLDS = ("mix", "any")

FUNCTIONS: dict[str, Form] = {
    "len": Form((_one("items", list_of(ANYTHING)),), INTEGER),
    "range": Form((_one("stop", INTEGER),), list_of(INTEGER), many=True),
    "zip": Form((_one("items", list_of(ANYTHING)),), list_of(ANYTHING), many=True),
    "min": Form((_one("values", INTEGER),), INTEGER, many=True),
    "max": Form((_one("values", INTEGER),), INTEGER, many=True),
    "sum": Form((_one("items", list_of(INTEGER)),), INTEGER),
    "abs": Form((_one("value", INTEGER),), INTEGER),
    "ceildiv": Form((_one("a", INTEGER), _one("b", INTEGER)), INTEGER),
    "log2": Form((_one("value", INTEGER),), INTEGER),
    "isqrt": Form((_one("value", INTEGER),), INTEGER),
}
"""Functions over integers and lists."""

MODULE_ARGUMENTS = ("v", "scale", "lengths", "return_lse", "layers")
"""Names that a runtime table may not take: the compiled module takes tables as arguments beside these."""

BUILT_IN = frozenset((*FRAME_NAMES, *CONSTANTS, *RELATIONS, *FOLDS, *FUNCTIONS))
"""Names that a user's definition may not take."""
