"""Plan to a Python module that one can read, import and run: torch and attnlang are all it needs."""

from __future__ import annotations

import hashlib
import keyword
import textwrap
from collections.abc import Iterator

import attnlang
from attnc.analysis.formula import text as formula_text
from attnc.analysis.report import Report
from attnc.emit.schedule_source import literal
from attnlang.pattern.algebra import Relation, relation_text
from attnlang.pattern.expr import Known
from attnlang.pattern.pattern import Pattern, value_text
from attnlang.pattern.walk import table_axes
from attnlang.plan import Band, Branch, Columns, Lattice, Plan, Runs, Tiles
from attnlang.schedule import Schedule
from attnlang.syntax.tree import Node

WIDTH = 120


def emit(report: Report, plan: Plan, backend: str = "auto", schedule: Schedule | None = None) -> str:
    """The text of a module with one class, the pattern's PatternAttention, and its schedule for several ranks."""
    pattern = report.pattern
    return "\n".join(
        (
            *_docstring(report),
            "",
            "from __future__ import annotations",
            "",
            "from attnlang import Pattern, loads",
            "from attnlang.nn import Backend, PatternAttention",
            f"from attnlang.plan import {', '.join(_names(plan))}",
            *(() if schedule is None else ("from attnlang.schedule import Schedule",)),
            "",
            *_source(pattern),
            *_parameters(pattern),
            "",
            *_plan(plan),
            *(() if schedule is None else ("", *literal(schedule))),
            "",
            "",
            *_loader(pattern),
            "",
            "",
            *_class(pattern, plan, backend),
            *(() if schedule is None else ("        self.schedule = Schedule.from_json(SCHEDULE)",)),
            "",
            "",
            *_self_check(pattern),
            "",
        )
    )


def class_name(pattern: Pattern) -> str:
    """longnet_torchscale  -->  LongnetTorchscale"""
    return "".join(part[:1].upper() + part[1:] for part in pattern.name.split("_")) or "Pattern"


def _docstring(report: Report) -> Iterator[str]:
    pattern = report.pattern
    title = f"{pattern.call}, for {report.heads} heads."
    lines = [*_wrapped(title), ""]
    if pattern.doc:
        lines += [*_wrapped(pattern.doc), ""]
    lines += [f"At N = {report.n:,}: {report.bag:,} pairs over all heads, where dense attention has {report.dense:,}."]
    if report.formula is not None:
        conditions = " and ".join(report.formula.assumptions)
        basis = ", fitted to exact counts" if report.formula.checked else ""
        lines += [f"Pairs: {formula_text(report.formula.pairs)}{f', where {conditions}' if conditions else ''}{basis}."]
    digest = hashlib.sha256(pattern.source.text.encode()).hexdigest()
    lines += ["", f"Written by attnc {attnlang.__version__} from a pattern with SHA-256 {digest}.",
              "To change it, change the pattern and compile again."]  # fmt: skip
    text = "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''")
    yield f'"""{text}\n"""'


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), WIDTH)


def _names(plan: Plan) -> list[str]:
    kinds = {"Band", "Plan", *(type(branch).__name__ for branch in plan.branches)}
    if "Tiles" in kinds:
        kinds.add("relation_of")
    if any(isinstance(branch, Lattice) and branch.runs is not None for branch in plan.branches):
        kinds.add("Runs")
    if all(isinstance(branch, Tiles) or branch.band == Band() for branch in plan.branches):
        kinds.discard("Band")
    return sorted(kinds)


def _source(pattern: Pattern) -> Iterator[str]:
    yield from _text("SOURCE = ", pattern.source.text, "")
    if pattern.imports:
        yield "IMPORTS = {"
        for path, text in pattern.imports:
            yield from _text(f"    {path!r}: ", text, ",")
        yield "}"


def _text(before: str, text: str, after: str) -> Iterator[str]:
    """A text as a literal of several lines, where it can be one."""
    text = text.rstrip("\n")
    if '"""' in text or "\\" in text:
        yield f"{before}{text!r}{after}"
        return
    yield f'{before}"""\\'
    yield text
    yield f'"""{after}'


def _parameters(pattern: Pattern) -> Iterator[str]:
    items = [f'"{name}": {_literal(value)}' for name, value in pattern.parameters]
    line = f"PARAMETERS = {{{', '.join(items)}}}"
    if len(line) <= WIDTH:
        yield line
        return
    yield "PARAMETERS = {"
    yield from (f"    {item}," for item in items)
    yield "}"


def _literal(value: Known) -> str:
    """A parameter as Python writes it; one that depends on N, H or h as a text."""
    return f'"{value_text(value)}"' if isinstance(value, Node) else value_text(value)


def _plan(plan: Plan) -> Iterator[str]:
    if not plan.branches:
        yield f"PLAN = Plan(heads={plan.heads}, branches=())"
        return
    yield "PLAN = Plan("
    yield f"    heads={plan.heads},"
    yield "    branches=("
    for branch in plan.branches:
        yield f"        # {' '.join(str(branch).split())}"
        yield f"        {_branch(branch)},"
    yield "    ),"
    yield ")"


def _branch(branch: Branch) -> str:
    match branch:
        case Lattice(heads, runs, dilation, phases, band):
            parts = [f"heads={_numbers(heads)}"]
            if runs is not None:
                parts.append(f"runs={_runs(runs)}")
            if dilation != 1:
                parts += [f"dilation={dilation}", f"phases={_phases(heads, phases, dilation)}"]
        case Columns(heads, period, first, last, band):
            parts = [f"heads={_numbers(heads)}", f"period={period}", f"first={first}", f"last={last}"]
        case Tiles(heads, relation):
            return _tiles(heads, relation)
    if band != Band():
        parts.append(f"band=Band({band.lo}, {band.hi})")
    text = f"{type(branch).__name__}({', '.join(parts)})"
    if len(text) + 9 <= WIDTH:
        return text
    inner = "".join(f"            {part},\n" for part in parts)
    return f"{type(branch).__name__}(\n{inner}        )"


def _tiles(heads: tuple[int, ...], relation: Relation) -> str:
    names = tuple(name for name, _ in table_axes(relation))
    quoted = ", ".join(f'"{name}"' for name in names) + ("," if len(names) == 1 else "")
    tables = f", tables=({quoted})" if names else ""
    text = relation_text(relation)
    one = f'Tiles(heads={_numbers(heads)}, relation=relation_of("{text}"{tables}))'
    if len(one) + 9 <= WIDTH:
        return one
    wrapped = textwrap.wrap(text, WIDTH - 24, break_long_words=False, drop_whitespace=False)
    parts = [f'"{line}"' for line in wrapped]
    if names:
        parts[-1] += ","
        parts.append(f"tables=({quoted}),")
    inner = "\n".join(f"                {part}" for part in parts)
    relation_lines = f"            relation=relation_of(\n{inner}\n            ),"
    return f"Tiles(\n            heads={_numbers(heads)},\n{relation_lines}\n        )"


def _runs(runs: Runs) -> str:
    start = f", {runs.start}" if runs.start else ""
    return f"Runs({runs.width}, {runs.period}{start})"


def _numbers(numbers: tuple[int, ...]) -> str:
    if len(numbers) > 2 and numbers == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"tuple(range({numbers[0]}, {numbers[-1] + 1}))" if numbers[0] else f"tuple(range({numbers[-1] + 1}))"
    return repr(numbers)


def _phases(heads: tuple[int, ...], phases: tuple[int, ...] | None, dilation: int) -> str:
    if phases is None:
        return "None"
    if len(phases) > 2 and len(set(phases)) == 1:
        return f"({phases[0]},) * {len(phases)}"
    if len(phases) > 2 and phases == tuple(h % dilation for h in heads) and heads == tuple(range(len(heads))):
        return f"tuple(h % {dilation} for h in range({len(heads)}))"
    return repr(phases)


def _loader(pattern: Pattern) -> Iterator[str]:
    yield "def load() -> Pattern:"
    yield '    """The pattern this module computes, from its source."""'
    files = ", files=IMPORTS" if pattern.imports else ""
    yield f'    return loads(SOURCE, name="{pattern.name}"{files}, **PARAMETERS)'


def _class(pattern: Pattern, plan: Plan, backend: str) -> Iterator[str]:
    name = class_name(pattern)
    if keyword.iskeyword(name):
        name += "_"
    yield f"class {name}(PatternAttention):"
    shape = f"(batch, {plan.heads}, N, head_dim)"
    yield f'    """`{name}()(q, k, v)` is attention under `{pattern.name}`; q, k and v are {shape}."""'
    yield ""
    yield f'    def __init__(self, backend: Backend = "{backend}") -> None:'
    yield f"        super().__init__(load(), PLAN, {plan.heads}, backend)"


def _self_check(pattern: Pattern) -> Iterator[str]:
    yield 'if __name__ == "__main__":'
    yield "    from attnlang.runtime.verify import verify"
    yield ""
    yield f"    print(verify({class_name(pattern)}()))"
