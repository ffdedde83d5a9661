"""Diagnostics for machines: JSON, SARIF 2.1.0, and the annotations of GitHub's workflows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attnlang.catalogue import pages
from attnlang.codes import CODES
from attnlang.diagnostics import Diagnostic, to_json
from attnlang.source import Span

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def json_list(diagnostics: Iterable[Diagnostic]) -> list[Any]:
    """A list of diagnostics, each as `attnlang.diagnostics.to_json` has it."""
    return [to_json(diagnostic) for diagnostic in diagnostics]


def sarif(diagnostics: Sequence[Diagnostic], version: str) -> dict[str, Any]:
    """One SARIF 2.1.0 log with one run (OASIS, Static Analysis Results Interchange Format 2.1.0)."""
    used = sorted({diagnostic.code for diagnostic in diagnostics})
    rules = [_sarif_rule(code) for code in used]
    driver = {"name": "attnc", "version": version, "rules": rules}
    results = [_sarif_result(diagnostic) for diagnostic in diagnostics]
    return {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }


def _sarif_rule(code: str) -> dict[str, Any]:
    page = pages()[code]
    return {
        "id": code,
        "name": page.title,
        "shortDescription": {"text": page.title},
        "fullDescription": {"text": CODES[code]},
        "help": {"text": page.body, "markdown": page.body},
    }


def _sarif_result(diagnostic: Diagnostic) -> dict[str, Any]:
    parts = [diagnostic.message, diagnostic.label, diagnostic.help]
    result: dict[str, Any] = {
        "ruleId": diagnostic.code,
        "level": diagnostic.severity,
        "message": {"text": "; ".join(part for part in parts if part)},
    }
    if diagnostic.span is not None:
        result["locations"] = [_sarif_location(diagnostic.span)]
    if diagnostic.others:
        result["relatedLocations"] = [
            {**_sarif_location(other.span), "message": {"text": other.text}} for other in diagnostic.others
        ]
    return result


def _sarif_location(span: Span) -> dict[str, Any]:
    line, column = span.source.position(span.start)
    end_line, end_column = span.source.position(span.end)
    region = {"startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column}
    return {"physicalLocation": {"artifactLocation": {"uri": _uri(span.source.name)}, "region": region}}


def _uri(name: str) -> str:
    """A path as SARIF wants it: relative ones as they are but for characters that no URI has, absolute ones in full."""
    path = Path(name)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix(), safe="/")


def github(diagnostic: Diagnostic) -> str:
    """One workflow command; GitHub shows it beside the line."""
    text = "; ".join(part for part in (diagnostic.message, diagnostic.label, diagnostic.help) if part)
    where = ""
    if diagnostic.span is not None:
        line, column = diagnostic.span.source.position(diagnostic.span.start)
        end_line, end_column = diagnostic.span.source.position(diagnostic.span.end)
        columns = f",col={column},endColumn={end_column}" if line == end_line else ""
        where = f"file={_property(diagnostic.span.source.name)},line={line},endLine={end_line}{columns},"
    return f"::{diagnostic.severity} {where}title={diagnostic.code}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
