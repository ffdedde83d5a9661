"""The catalogue of diagnostic codes. A code is stable: once given, its meaning does not change.

A00xx is about the text, A01xx about names and kinds, A02xx about values and claims, A03xx about what a backend
can do; A04xx are warnings about what is allowed and hardly meant.
"""

from __future__ import annotations

from typing import Final

UNEXPECTED_CHARACTER: Final = "A0001"
SYNTAX: Final = "A0002"
TOO_DEEP: Final = "A0003"
INTEGER_TOO_LARGE: Final = "A0004"
UNREADABLE: Final = "A0005"
NO_PATTERN: Final = "A0006"
UNKNOWN_NAME: Final = "A0101"
DUPLICATE_PATTERN: Final = "A0102"
DUPLICATE_PARAMETER: Final = "A0103"
WRONG_KIND: Final = "A0104"
WRONG_ARGUMENTS: Final = "A0105"
WRONG_BODY: Final = "A0106"
BUILT_IN_NAME: Final = "A0107"
RECURSION: Final = "A0108"
PARAMETER: Final = "A0109"
WHICH_PATTERN: Final = "A0110"
IMPORT: Final = "A0111"
DIVISION_BY_ZERO: Final = "A0201"
OUT_OF_RANGE: Final = "A0202"
FUTURE: Final = "A0203"
WHERE_FAILS: Final = "A0204"
UNEQUAL_LENGTHS: Final = "A0205"
OVERFLOW: Final = "A0206"
LIST_TOO_LONG: Final = "A0207"
TABLE: Final = "A0208"
PATTERN_TOO_LARGE: Final = "A0209"
BOUND: Final = "A0211"
UNPROVED: Final = "A0212"
CANNOT_LOWER: Final = "A0301"
NO_KEY: Final = "A0401"
DEAD: Final = "A0402"
EMPTY: Final = "A0403"
UNUSED: Final = "A0404"
UNREAD: Final = "A0405"
UNCOVERED: Final = "A0406"
UNREACHABLE: Final = "A0407"
COUNTED_TWICE: Final = "A0408"
UNDIVIDED: Final = "A0409"
IDLE_ROWS: Final = "A0410"

CODES: Final[dict[str, str]] = {
    UNEXPECTED_CHARACTER: "The text holds a character that no part of the language uses.",
    SYNTAX: "The text does not follow the grammar at this place.",
    TOO_DEEP: "Expressions are nested more deeply than any pattern needs; name the inner ones as patterns.",
    INTEGER_TOO_LARGE: "Integers must fit in 63 bits.",
    UNREADABLE: "The file cannot be read, or is not UTF-8 text.",
    NO_PATTERN: "A file must define at least one pattern.",
    UNKNOWN_NAME: "The name is neither built in, nor a parameter, nor a pattern in scope.",
    DUPLICATE_PATTERN: "Two patterns of one file have the same name.",
    DUPLICATE_PARAMETER: "Two parameters of one pattern, or two names bound by one `for`, are the same.",
    WRONG_KIND: "An expression is of another kind (integer, boolean, list, relation) than its place asks for.",
    WRONG_ARGUMENTS: "A call has too many, too few, repeated or unknown arguments.",
    WRONG_BODY: "Frames, `heads` and `random` take a relation in braces, some of them need one; other calls take none.",
    BUILT_IN_NAME: "A pattern, parameter or loop variable may not take the name of something built in.",
    RECURSION: "A pattern may not call itself, directly or through others.",
    PARAMETER: "A parameter has no value, an unsuitable one, or does not exist.",
    WHICH_PATTERN: "The file holds several patterns, or none of the name asked for.",
    IMPORT: "An imported file is missing or faulty, does not define what is asked of it, or imports itself.",
    DIVISION_BY_ZERO: "The right side of `//` or `%` is zero.",
    OUT_OF_RANGE: "A number lies outside of what its place allows.",
    FUTURE: "A pattern that is said to be causal, or seems meant to be, holds a pair whose key lies after its query.",
    WHERE_FAILS: "The condition after `where` does not hold for the given parameters.",
    UNEQUAL_LENGTHS: "Lists that go side by side must be of equal length.",
    OVERFLOW: "A computed integer does not fit in 63 bits.",
    LIST_TOO_LONG: "A list has more elements than any pattern needs.",
    TABLE: "An index lies outside of a runtime table, or a table is used with differing numbers of indices.",
    PATTERN_TOO_LARGE: "The pattern, with its calls and comprehensions written out, is too large.",
    BOUND: "A pattern holds a pair outside of the relation that stands after `within`.",
    UNPROVED: "A pattern may hold a pair outside of its bound: integer sets cannot decide it.",
    CANNOT_LOWER: "The chosen backend cannot run this pattern; the message names one that can.",
    NO_KEY: "Some queries have no key: their output is 0.",
    DEAD: "A part of a union adds no pair that the other parts do not hold.",
    EMPTY: "A pattern, or a part of it, holds no pair on any head at any length.",
    UNUSED: "A parameter or an imported name is never used.",
    UNREAD: "Some keys are read by no query on any head.",
    UNCOVERED: "A dilated branch has residue classes that belong to no head.",
    UNREACHABLE: "Some pairs never meet, in any number of layers.",
    COUNTED_TWICE: "A sum counts some pairs more than once.",
    UNDIVIDED: "Segments of different branches do not divide one another.",
    IDLE_ROWS: "The rows of a dilated segment fill no whole number of tensor-core tiles.",
}
"""Every code with what it means."""
