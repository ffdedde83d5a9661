"""What we tell the user about a place in their text, and how it is printed.

A `Diagnostic` is data; `render` draws it as rustc does, `to_json` gives machines the same facts. `AttnError` carries
diagnostics through Python calls: every error of a user is one of these, and no error of the compiler is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from attnlang.source import Span

Severity: TypeAlias = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Label:
    """A secondary place, with what it has to do with the matter."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `message` stands alone, and so does `label`, the words beside the caret.

    `code` is a key of `attnlang.codes.CODES`; `span` is None where no text is to blame (a file that cannot be read).
    """

    code: str
    message: str
    span: Span | None
    label: str = ""
    others: tuple[Label, ...] = ()
    help: str | None = None
    note: str | None = None
    severity: Severity = "error"

    def __str__(self) -> str:
        return render(self)


class AttnError(ValueError):
    """What attnlang raises when the text, a parameter or an argument is at fault. `str()` is the rendered text."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__(*diagnostics)
        self.diagnostics = diagnostics

    def __str__(self) -> str:
        return "\n\n".join(render(diagnostic) for diagnostic in self.diagnostics)


_COLOURS = {
    "error": "\x1b[1;31m",
    "warning": "\x1b[1;33m",
    "note": "\x1b[1;36m",
    "rule": "\x1b[1;34m",
    "bold": "\x1b[1m",
    "off": "\x1b[0m",
}


@dataclass(frozen=True, slots=True)
class _Paint:
    on: bool

    def __call__(self, colour: str, text: str) -> str:
        return f"{_COLOURS[colour]}{text}{_COLOURS['off']}" if self.on and text else text


def render(diagnostic: Diagnostic, *, colour: bool = False) -> str:
    """The diagnostic as text in the manner of rustc, without a final newline."""
    paint = _Paint(colour)
    head = paint(diagnostic.severity, f"{diagnostic.severity}[{diagnostic.code}]")
    lines = [head + paint("bold", f": {diagnostic.message}")]
    margin = " "
    if diagnostic.span is not None:
        labels = (Label(diagnostic.span, diagnostic.label), *diagnostic.others)
        width = max(len(str(label.span.source.position(label.span.start)[0])) for label in labels)
        margin = " " * width
        lines += _snippets(labels, margin, paint, diagnostic.severity)
    if diagnostic.help:
        lines.append(f"{margin} {paint('rule', '=')} {paint('bold', 'help')}: {diagnostic.help}")
    if diagnostic.note:
        lines.append(f"{margin} {paint('rule', '=')} {paint('bold', 'note')}: {diagnostic.note}")
    return "\n".join(lines)


def _snippets(labels: tuple[Label, ...], margin: str, paint: _Paint, severity: str) -> list[str]:
    line, column = labels[0].span.source.position(labels[0].span.start)
    lines = [f"{margin}{paint('rule', '-->')} {labels[0].span.source.name}:{line}:{column}"]
    for number, label in enumerate(labels):
        if label.span.source.text:
            colour = severity if number == 0 else "rule"
            lines += _snippet(label, "^" if number == 0 else "-", margin, paint, colour)
    return lines


def _snippet(label: Label, mark: str, margin: str, paint: _Paint, colour: str) -> list[str]:
    """The line of text a label points at, and the marks under it. A label of several lines is marked on its first."""
    source, span = label.span.source, label.span
    number, column = source.position(span.start)
    raw = source.line(number)
    raw, column = _cropped(raw, column)
    before, marked = raw[: column - 1], raw[column - 1 : column - 1 + span.end - span.start]
    marks = mark * max(1, _width(_printable(marked).removesuffix("...")))
    bar = paint("rule", "|")
    return [
        f"{margin} {bar}",
        f"{paint('rule', str(number).rjust(len(margin)))} {bar} {_printable(raw)}",
        f"{margin} {bar} {' ' * _width(_printable(before))}{paint(colour, f'{marks} {label.text}'.rstrip())}",
    ]


MAX_LINE = 140
"""Longer lines are shown in part, around the place that is meant."""


def _cropped(raw: str, column: int) -> tuple[str, int]:
    if len(raw) <= MAX_LINE:
        return raw, column
    start = max(0, min(column - MAX_LINE // 2, len(raw) - MAX_LINE))
    dots_before, dots_after = "..." if start else "", "..." if start + MAX_LINE < len(raw) else ""
    return f"{dots_before}{raw[start : start + MAX_LINE]}{dots_after}", column - start + len(dots_before)


def _printable(text: str) -> str:
    """Tabs as four blanks, control characters as a visible stand-in: what is printed cannot steer a terminal."""
    return "".join(
        "    " if c == "\t" else "\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in text
    )


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


Json: TypeAlias = "dict[str, str | int | list[Json] | Json | None]"


def to_json(diagnostic: Diagnostic) -> Json:
    """The diagnostic as plain JSON data; lines and columns count from 1, ends are exclusive."""
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "location": _location(diagnostic.span),
        "label": diagnostic.label,
        "related": [{"location": _location(other.span), "label": other.text} for other in diagnostic.others],
        "help": diagnostic.help,
        "note": diagnostic.note,
    }


def _location(span: Span | None) -> Json | None:
    if span is None:
        return None
    line, column = span.source.position(span.start)
    end_line, end_column = span.source.position(span.end)
    return {
        "file": span.source.name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
    }


def has_errors(diagnostics: Iterable[Diagnostic]) -> bool:
    """Whether any of them is an error rather than a warning."""
    return any(diagnostic.severity == "error" for diagnostic in diagnostics)
