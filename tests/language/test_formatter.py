"""The formatter: one form, the same tree, every comment kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlang.pattern.files import library_folder, library_names
from attnlang.source import Source
from attnlang.syntax import parse
from attnlang.syntax.formatter import format_text
from attnlang.syntax.parser import tokens_of
from tests.strategies import examples, programs

UNTIDY = """#top


##  doc
pattern   a( w=4,doc :int = - 3 )   =causal&( window( w )|offset( - w .. 0 step 2 ) )  #trail
pattern b (segs=[ 1,2 ],
 rs = [3 , 4],   # inner
   # own line
) where len( segs )==len(rs)
= mix( segment( w ){dilate( r,shift = h )} for w,r in zip(segs , rs) if not w==2 ) - ~ self
   # about c
import   "x.attn"
from "y.attn"   import p,q
pattern c = offset(..0 step 2 ** 3) if h >= H//2 else heads( 0.. ){ key((pos+1)%3 == -1 and -pos<segs [0]) }



"""
TIDY = """#top

##  doc
pattern a(w = 4, doc: int = -3) = causal & (window(w) | offset(-w..0 step 2))  #trail
pattern b(segs = [1, 2],
    rs = [3, 4],  # inner
    # own line
) where len(segs) == len(rs)
    = mix(segment(w) { dilate(r, shift=h) } for w, r in zip(segs, rs) if not w == 2) - ~self
# about c
import "x.attn"
from "y.attn" import p, q
pattern c = offset(..0 step 2**3) if h >= H // 2 else heads(0..) { key((pos + 1) % 3 == -1 and -pos < segs[0]) }
"""


def test_an_untidy_text() -> None:
    assert format_text(Source("<text>", UNTIDY)) == TIDY


@pytest.mark.parametrize("text", [TIDY, "", "# only a comment\n", "pattern a = all\n"])
def test_tidy_texts_stay(text: str) -> None:
    assert format_text(Source("<text>", text)) == text


@pytest.mark.parametrize("name", library_names())
def test_the_library_is_formatted(name: str) -> None:
    text = (library_folder() / f"{name}.attn").read_text(encoding="utf-8")
    assert format_text(Source(name, text)) == text


def test_the_documentation_is_formatted() -> None:
    root = Path(__file__).parents[2]
    for page in ("README.md", "docs/language.md"):
        for name, text in re.findall(r"^```attn file=(\S+)\n(.*?)^```$", (root / page).read_text(), re.M | re.S):
            if not name.startswith("wrong"):
                assert format_text(Source(name, text)) == text


blanks = st.sampled_from(["", " ", "  ", "\n", "\n\n\n", "\t", "  # a comment\n", "\n## another\n"])


@given(programs, st.lists(blanks, min_size=1, max_size=8))
@examples(200)
def test_the_tree_and_the_comments_stay_and_formatting_again_changes_nothing(text: str, gaps: list[str]) -> None:
    tokens = [str(token) for token in tokens_of(text) if token.type != "COMMENT"]
    spaced = "".join(
        token + (gaps[i % len(gaps)] or (" " if token[-1].isalnum() or token[-1] in "/*=" else ""))
        for i, token in enumerate(tokens)
    )
    source = Source("<text>", spaced)
    formatted = Source("<text>", format_text(source))
    (before, faults), (after, _) = parse(source), parse(formatted)
    assert before.items == after.items
    assert not faults
    assert [str(token).rstrip() for token in tokens_of(source.text)] == [str(t) for t in tokens_of(formatted.text)]
    assert format_text(formatted) == formatted.text
