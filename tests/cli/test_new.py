"""`attnc new`: what it writes is clean and formatted, and what it cannot write is refused in words."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from attnc.cli import main
from click.testing import CliRunner, Result

import attnlang
from attnlang.pattern.files import library_names, library_path, read
from attnlang.pattern.vocabulary import BUILT_IN
from attnlang.syntax.spelling import reserved_words


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def attnc(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def assert_clean(file: str, but: str = "") -> None:
    checked = attnc("check", file)
    assert (checked.exit_code, checked.stdout) == (0, f"1 file: clean{but}\n"), checked.stderr
    assert attnc("fmt", "--check", file).exit_code == 0


def test_a_process_writes_a_file_and_says_what_comes_next(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attnc", "new", "mine"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "wrote mine.attn\nnext: attnc check mine.attn, attnc show mine.attn, attnc report mine.attn\n"
    assert_clean("mine.attn")


@pytest.mark.parametrize("name", ["mine", "w", "_", "longnet", "Mine2", "a" * 100])
def test_the_starter_is_clean(name: str) -> None:
    assert attnc("new", name).exit_code == 0
    assert_clean(f"{name}.attn")
    pattern = attnlang.load(f"{name}.attn")
    assert (pattern.name, pattern.doc) == (name, "The w latest keys and, further back, every w-th key.")


def test_the_starter_is_short_and_what_it_says_works() -> None:
    attnc("new", "mine")
    text = Path("mine.attn").read_text()
    assert len(text.splitlines()) < 20
    assert all(len(line) <= 120 for line in text.splitlines())
    commands = re.findall(r"^#     attnc (\w+) (mine\.attn)", text, re.M)
    assert [command for command, _ in commands] == ["check", "show", "report"]
    for command in (*commands, ("show", "mine.attn", "-p", "w=16"), ("compile", "mine.attn")):
        assert attnc(*command).exit_code == 0
    (forms,) = re.findall(r"build with: (.*)\.$", text, re.M)
    for form in (*re.split(r", (?=\w+\()", forms), *re.findall(r"the head: (.*\})", text)):
        attnlang.loads(f"pattern p(w = 8) = causal & {form}").multiplicity(128, heads=2)


@pytest.mark.parametrize("like", library_names())
def test_every_library_pattern_can_be_copied(like: str) -> None:
    done = attnc("new", "mine", "--like", like)
    assert done.exit_code == 0, done.output
    assert_clean("mine.attn", but=", 1 warning" if like == "sda" else "")  # a shifted head's first queries have no key
    copy, original = attnlang.load("mine.attn"), attnlang.load(like)
    assert (copy.name, copy.relation, copy.parameters) == ("mine", original.relation, original.parameters)
    assert copy.doc == f"{original.doc}\nMade from `{like}` of attnlang's library."
    assert len(Path("mine.attn").read_text().splitlines()) == len(read(library_path(like)).text.splitlines()) + 1


@pytest.mark.parametrize("given", ["folder/mine", "folder/mine.attn", "./folder/../folder/mine.attn"])
def test_names_may_be_paths(given: str) -> None:
    Path("folder").mkdir()
    assert attnc("new", given).exit_code == 0
    assert attnlang.load("folder/mine.attn").name == "mine"


def test_a_file_is_never_overwritten() -> None:
    Path("mine.attn").write_text("precious")
    for arguments in (["mine"], ["mine.attn"], ["mine", "--like", "longnet"]):
        done = attnc("new", *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "mine.attn exists, and is not overwritten: choose another name" in done.stderr
    assert Path("mine.attn").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["my-pattern"],
            "`my-pattern` cannot name a pattern: a name is letters, digits and `_`, and does not begin with",
        ),
        (["my-pattern"], "as in `my_pattern`"),
        (["2d"], "as in `my_2d`"),
        ([""], "as in `my_pattern`"),
        (["é"], "as in `my_pattern`"),
        (["a b.attn"], "as in `a_b`"),
        ([" causal"], "as in `my_causal`"),
        (["mine.txt"], "`mine.txt` cannot name a pattern"),
        (["folder/.attn"], "`` cannot name a pattern"),
        (["no/such/mine.attn"], "cannot write no/such/mine.attn: make the folder no/such first"),
        (["mine", "--like", "longnett"], "did you mean `longnet`?"),
        (["mine", "--like", "mine.attn"], "no library pattern is called `mine.attn`"),
        (["s2attn", "--like", "s2attn_roll"], "`s2attn_roll` itself makes use of `s2attn`: choose another name"),
        ([], "Missing argument 'NAME'"),
        *[([word], f"`{word}` is a word of the language: choose another name") for word in reserved_words()],
        *[([word], f"`{word}` is built in: choose another name, as in `my_{word}`") for word in sorted(BUILT_IN)],
    ],
)
def test_what_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = attnc("new", *arguments)
    assert message in " ".join(done.stderr.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert not list(tmp_path.iterdir())
