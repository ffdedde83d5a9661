"""The extension for VS Code: its files fit together, and its grammar is the vocabulary's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attnlang.pattern import vocabulary
from attnlang.pattern.kinds import ANNOTATIONS
from attnlang.pattern.textmate import textmate_grammar
from attnlang.syntax.spelling import reserved_words, signs

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "editors" / "vscode"
GRAMMAR: Any = textmate_grammar()
RULES: dict[str, Any] = GRAMMAR["repository"]


def under(node: Any, key: str) -> Iterator[Any]:
    """Every value of a key, however deep."""
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from under(inner, key)


def scope(word: str) -> str:
    """The scope of a word that stands alone."""
    return next(
        rule["name"]
        for group in ("words", "others")
        for rule in RULES[group]["patterns"]
        if "name" in rule and re.fullmatch(rule["match"], word)
    )


def test_the_file_is_what_the_vocabulary_makes(tmp_path: Path) -> None:
    committed = FOLDER / "syntaxes" / "attn.tmLanguage.json"
    made = tmp_path / "made.json"
    command = [sys.executable, "-m", "attnlang.pattern.textmate", str(made)]
    subprocess.run(command, check=True, cwd=ROOT)
    assert json.loads(made.read_text()) == GRAMMAR
    assert made.read_text() == committed.read_text(), "run `make editors`"


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.json")), ids=lambda path: path.name)
def test_json(path: Path) -> None:
    assert isinstance(json.loads(path.read_text()), dict)


def test_package_names_what_is_there() -> None:
    contributes = json.loads((FOLDER / "package.json").read_text())["contributes"]
    (language,), (grammar,) = contributes["languages"], contributes["grammars"]
    assert (FOLDER / language["configuration"]).is_file()
    assert (FOLDER / grammar["path"]).is_file()
    assert grammar["language"] == language["id"]
    assert grammar["scopeName"] == GRAMMAR["scopeName"]
    assert language["extensions"] == [f".{ending}" for ending in GRAMMAR["fileTypes"]]


def test_brackets_and_comments_are_the_languages() -> None:
    configuration = json.loads((FOLDER / "language-configuration.json").read_text())
    assert {sign for pair in configuration["brackets"] for sign in pair} <= set(signs())
    assert all(
        [pair["open"], pair["close"]] in configuration["surroundingPairs"] for pair in configuration["autoClosingPairs"]
    )
    assert scope_of_first(f"{configuration['comments']['lineComment']} x", "comments") == "comment.line.attn"
    assert scope_of_first("## x", "comments") == "comment.line.documentation.attn"


def scope_of_first(text: str, group: str) -> str:
    return next(rule["name"] for rule in RULES[group]["patterns"] if re.fullmatch(rule["match"], text))


def test_every_regex_compiles_and_every_include_is_there() -> None:
    found = [regex for key in ("match", "begin", "end") for regex in under(GRAMMAR, key)]
    assert len(found) > 15
    for regex in found:
        assert re.compile(regex).match("") is None, "a match of nothing takes an editor nowhere"
    assert {f"#{name}" for name in RULES} >= set(under(GRAMMAR, "include"))


def test_words_have_the_scope_of_their_table() -> None:
    tables = {
        "support.function.relation.attn": (*vocabulary.RELATIONS, *vocabulary.FOLDS),
        "support.function.integer.attn": vocabulary.FUNCTIONS,
        "constant.language.relation.attn": vocabulary.CONSTANTS,
        "variable.language.attn": vocabulary.FRAME_NAMES,
    }
    for name, table in tables.items():
        assert {word: scope(word) for word in table} == dict.fromkeys(table, name)
    assert all(scope(word) for word in (*vocabulary.BUILT_IN, *reserved_words()))
    kind = re.compile(RULES["others"]["patterns"][0]["match"])
    assert all(kind.fullmatch(f": {word}") for word in ANNOTATIONS)


def test_every_word_is_someones() -> None:
    alternatives = [rule["match"].removeprefix(r"\b(?:").removesuffix(r")\b") for rule in RULES["words"]["patterns"]]
    assert {word for text in alternatives for word in text.split("|")} == {*reserved_words(), *vocabulary.BUILT_IN}


@pytest.mark.parametrize("sign", signs())
def test_signs(sign: str) -> None:
    if sign not in "()":
        assert scope(sign).startswith(("punctuation", "keyword.operator"))


@pytest.mark.parametrize("name", ["mine", *sorted(vocabulary.BUILT_IN)])
def test_a_definition_names_its_pattern(name: str) -> None:
    found = re.match(RULES["definition"]["match"], f"pattern {name}(w = 4)")
    assert found
    assert found.groups() == ("pattern", name)
    parameter = RULES["call"]["patterns"][1]["match"]
    assert re.match(parameter, f"{name} = 3)")
    assert not re.match(parameter, f"{name} == 3)")
