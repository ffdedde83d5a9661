"""What a page says, without a browser: it is well-formed, loads nothing, and its data are the pattern."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attnc
import html5lib
import numpy as np
import pytest
from attnc.analysis.comparison import compare
from attnc.emit.html import compare_page, report_page
from attnc.emit.html.cells import unpacked, view_data
from attnc.emit.html.markup import prose
from attnc.emit.html.views import views

import attnlang

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "patterns").glob("*.attn"))
GRIDS = {"axial": 1024, "natten3d": 12544, "natten_video": 12544, "sta": 115200}
GRIDS |= dict.fromkeys(("dilated2d", "natten2d", "swin"), 3136)
SMALL = {"segments": [8, 16, 32], "dilations": [1, 2, 4]}
LOADED = re.compile(r"""(?:\b(?:src|href|action|data|poster|srcset)\s*=\s*["']?|url\(\s*["']?|@import\s)([^"'\s>)]*)""")


def decoded(data: dict[str, Any]) -> np.ndarray:
    """The multiplicities that a view carries, as (heads, n, n)."""
    n = data["n"]
    m = np.array([m for m, _ in data["cells"]])
    kind = np.uint8 if data["width"] == 1 else np.dtype("<u2")
    heads = [m[np.frombuffer(unpacked(text), kind).reshape(n, n)] for text in data["matrices"]]
    return np.stack([heads[place] for place in data["head_of"]])


def data_of(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="views">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def longnet() -> str:
    return report_page(attnc.report("longnet", n=64, heads=4, head_dim=8, dependency=True, **SMALL))


@pytest.fixture(scope="module")
def several() -> str:
    names = ("longnet", "sliding", "strided")
    parameters: tuple[dict[str, Any], ...] = (SMALL, {"w": 16}, {"l": 8})
    reports = [
        attnc.report(name, n=64, heads=4, head_dim=8, dependency=True, **given)
        for name, given in zip(names, parameters, strict=True)
    ]
    return compare_page(compare(names, reports))


@pytest.mark.parametrize("which", ["longnet", "several"])
def test_well_formed_and_self_contained(which: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(which)
    html5lib.HTMLParser(strict=True).parse(page)
    markup = re.sub(
        r"<script>.*?</script>", "", page, flags=re.DOTALL
    )  # the script loads nothing: see the browser's tests
    loaded = {target for target in LOADED.findall(markup) if not target.startswith(("#", "data:"))}
    assert not loaded
    assert "default-src 'none'" in page
    assert len(page) < 300_000
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:for|aria-describedby)="([^"]+)"', page) + re.findall(r'href="#([^"]+)"', page)
    assert set(referred) <= set(ids)


def test_the_page_says_what_the_report_says(longnet: str) -> None:
    report = attnc.report("longnet", n=64, heads=4, head_dim=8, dependency=True, **SMALL)
    assert f"<td>{report.bag:,}</td>" in longnet
    assert f"<td>{report.distinct:,}</td>" in longnet
    assert report.dependency is not None
    assert report.dependency.unreachable_pairs
    assert f"<b>{report.dependency.unreachable_pairs:,}</b><span>pairs never meet" in longnet
    assert "A0407" in longnet
    assert report.formula is not None
    assert f'<code class="copy">{report.to_dict()["formula"]["latex"]}</code>' in longnet
    assert '<span class="kd">pattern</span>' in longnet
    assert "H100" in longnet


def test_data_decode_to_the_pattern(longnet: str) -> None:
    (data,) = data_of(longnet)
    pattern = attnlang.load("longnet", **SMALL)
    assert np.array_equal(decoded(data), pattern.multiplicity(64, 4))
    union = np.unpackbits(np.frombuffer(unpacked(data["union"]), np.uint8).reshape(64, 8), axis=1, bitorder="little")
    assert np.array_equal(union, pattern.multiplicity(64, 4).max(0) > 0)
    assert data["members"][0] == "segment(8) { dilate(1, shift=h) }"


@pytest.mark.parametrize("name", NAMES)
def test_every_library_pattern_decodes(name: str) -> None:
    """The first view of each, at a size that the oracle is quick at."""
    layers = {"layer": 0, "L": 2} if name in ("gemma2", "gemma3", "llama4", "phi3_small_layers") else {}
    pattern = attnlang.load(name, **layers)
    if pattern.tables:
        pytest.skip("tables belong to one length; see the test of tables")
    shown = views(pattern, GRIDS.get(name, 4096), size=96)
    assert bool(shown) == (name != "sta"), "only its 115,200 positions cannot be made fewer"
    for view in shown:
        data = view_data(view, 3)
        expected = view.pattern.multiplicity(view.n, 3)[:, : view.shown, : view.shown]
        assert np.array_equal(decoded(data), expected), view.title
        held = [set(members) for m, members in data["cells"] if m]
        assert all(held), "a pair that counts has a member that holds it"


def test_tables_and_whole_lengths() -> None:
    pattern = attnlang.load("packed")
    doc = np.arange(40) // 7
    (view,) = views(pattern, 40, {"doc": doc})
    assert np.array_equal(decoded(view_data(view, 2)), pattern.multiplicity(40, 2, doc=doc))
    long = np.arange(2000) // 700
    (corner,) = views(pattern, 2000, {"doc": long}, size=64)
    assert corner.title == "The first positions"
    assert np.array_equal(decoded(view_data(corner, 1))[0], np.tril(np.ones((64, 64))))
    assert views(pattern, 5000, {"doc": np.zeros(5000, int)}) == ()


def test_views_say_what_they_show() -> None:
    scaled, own = views(attnlang.load("longnet"), 32768)
    assert (scaled.title, scaled.n) == ("Scaled by 1/64", 512)
    assert scaled.note == "With segments = [32, 64, 128, 256, 512], at N = 512."
    assert own.note == "The same pattern at N = 512."
    assert [view.title for view in views(attnlang.load("sliding", w=128), 32768)] == ["Its own parameters"]
    (whole,) = views(attnlang.load("longnet"), 1024)
    assert whole.title == "The whole pattern"
    far, _ = views(attnlang.load("sliding"), 10**9)
    assert far.note == "With w = 128, at N = 512. It stands for 16,384 of 1,000,000,000 positions."
    assert views(attnlang.load("causal"), 0) == ()
    seeded = attnlang.loads("pattern p(w = 4096, seed = 8192) = window(w) | random(2, seed=seed)")
    assert views(seeded, 32768)[0].note.startswith("With w = 128, at N")


def test_heads_that_are_too_much_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnc.emit.html.cells.MAX_BYTES", 2000)
    (view,) = views(attnlang.load("bigbird", b=4), 128)
    data = view_data(view, 6)
    assert data["head_of"][0] == 0
    assert data["head_of"][-1] == -1
    assert len(data["matrices"]) < 6
    union = np.unpackbits(np.frombuffer(unpacked(data["union"]), np.uint8).reshape(128, 16), axis=1, bitorder="little")
    assert np.array_equal(union, view.pattern.multiplicity(128, 6).max(0) > 0), "the union is of all heads all the same"


def test_many_different_cells_take_two_bytes() -> None:
    parts = " + ".join(f"key(pos // {2**i} % 2 == 1)" for i in range(9))
    (view,) = views(attnlang.loads(f"pattern p = {parts}"), 512)
    data = view_data(view, 1)
    assert data["width"] == 2
    assert np.array_equal(decoded(data), view.pattern.multiplicity(512, 1))


HOSTILE = """## </script><script>alert(1)</script> <img src=x onerror=alert(2)> & "quotes"
pattern p(w = 4) = causal & window(w) # </style><!-- ]]>
"""


def test_texts_stay_texts(tmp_path: Path) -> None:
    file = tmp_path / 'a"><b onload=x>.attn'
    file.write_text(HOSTILE)
    page = report_page(attnc.report(file, n=16, heads=1, head_dim=4))
    html5lib.HTMLParser(strict=True).parse(page)
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "<b onload" not in page
    assert page.count("<script") == 2
    assert str(prose("`a <b>` & c")) == "<code>a &lt;b&gt;</code> &amp; c"
    assert str(prose("it`s <b>")) == "it`s &lt;b&gt;"


def test_absent_parts_are_left_out() -> None:
    empty = report_page(attnc.report("causal", n=0, heads=1, head_dim=4, dependency=False))
    html5lib.HTMLParser(strict=True).parse(empty)
    assert "No mask is shown: there are no positions" in empty
    bare = report_page(attnc.report("bigbird", n=256, heads=2, head_dim=4, dependency=False))
    html5lib.HTMLParser(strict=True).parse(bare)
    assert "Not searched" in bare
    assert "never meet" not in bare


def test_plots_hold_every_point(several: str) -> None:
    plots = re.findall(r"<svg class=\"plot\".*?</svg>", several, re.DOTALL)
    assert [re.search(r'aria-label="([^"]*)"', plot)[1][:20] for plot in plots] == [  # type: ignore[index]
        "FLOPs of a forward o", "share of the pairs t", "the most layers that",
    ]  # fmt: skip
    report = attnc.report("sliding", n=1024, heads=4, head_dim=8, w=16)
    assert f"<title>sliding: N = 1,024: {report.forward_flops / 1e6:,.2f} MFLOP</title>" in plots[0]
    assert all("NaN" not in plot and "inf" not in plot for plot in plots)


def test_a_comparison_needs_patterns_that_differ_and_sizes_that_do_not() -> None:
    one, other = attnc.report("causal", n=8, heads=1), attnc.report("causal", n=9, heads=1)
    with pytest.raises(ValueError, match="given twice: causal, causal"):
        compare(["causal", "causal"], [one, one])
    with pytest.raises(ValueError, match="at one length"):
        compare(["a", "b"], [one, other])
