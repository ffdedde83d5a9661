"""The mask explorer in a browser: what a reader does, and what the oracle says they must see."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import attnc
import numpy as np
import pytest
from attnc.analysis.comparison import compare
from attnc.emit.html import compare_page, report_page
from attnc.emit.picture import COLOURS

import attnlang
from tests.html.conftest import Opened

SMALL: dict[str, Any] = {"segments": [8, 16, 32], "dilations": [1, 2, 4]}
N, HEADS = 64, 4
Open = Callable[[Path], Opened]


@pytest.fixture(scope="module")
def longnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "longnet.html"
    path.write_text(report_page(attnc.report("longnet", n=N, heads=HEADS, head_dim=8, **SMALL)))
    return path


@pytest.fixture(scope="module")
def m() -> np.ndarray:
    return attnlang.load("longnet", **SMALL).multiplicity(N, HEADS)


def positions(text: str) -> list[int]:
    """0–3, 8  -->  0, 1, 2, 3, 8"""
    found: list[int] = []
    for part in re.findall(r"\d+(?:–\d+)?", text):
        first, _, last = part.partition("–")
        found += range(int(first), int(last or first) + 1)
    return found


def reached(layer: np.ndarray, query: int, layers: int) -> list[int]:
    """The receptive field by brute force: row `query` of (1 + A)^layers."""
    step = np.eye(len(layer), dtype=bool) | layer
    row = np.eye(len(layer), dtype=bool)[query]
    for _ in range(layers):
        row = (row[:, None] & step).any(0)
    return np.flatnonzero(row).tolist()


def set_layers(opened: Opened, layers: int) -> None:
    if opened.page.is_disabled("#layers"):
        assert layers == 1, "where one layer says it all, there is nothing to slide"
        return
    opened.page.locator("#layers").fill(str(layers))


def test_a_click_on_a_query_shows_its_keys(longnet: Path, m: np.ndarray, open_page: Open) -> None:
    opened = open_page(longnet)
    for query in (0, 17, 40, 63):
        opened.click(query, 5)
        assert opened.state()["query"] == query
        assert positions(opened.text("#keys")) == np.flatnonzero(m[0, query]).tolist()
        assert opened.text("#key-count").startswith(f"{np.count_nonzero(m[0, query])} key")
    opened.click(63, 5)
    assert opened.state()["query"] is None, "a second click lets go"
    assert not opened.page.is_visible("#following")


def test_another_head_has_its_own_keys(longnet: Path, m: np.ndarray, open_page: Open) -> None:
    opened = open_page(longnet)
    opened.click(45, 0)
    for head in (3, 1):
        opened.page.select_option("#head", str(head))
        opened.page.wait_for_selector(f"#mask[data-head='{head}']")
        assert positions(opened.text("#keys")) == np.flatnonzero(m[head, 45]).tolist()
    opened.page.click("#head-next")
    opened.page.wait_for_selector("#mask[data-head='2']")
    assert positions(opened.text("#keys")) == np.flatnonzero(m[2, 45]).tolist()
    opened.page.locator("#mask").press("PageDown")
    opened.page.wait_for_selector("#mask[data-head='3']")
    assert opened.page.is_disabled("#head-next")


@pytest.mark.parametrize("query", [9, 39, 63])
def test_the_receptive_field_is_the_closure(longnet: Path, m: np.ndarray, open_page: Open, query: int) -> None:
    opened = open_page(longnet)
    opened.page.select_option("#head", "1")
    opened.page.wait_for_selector("#mask[data-head='1']")
    opened.page.locator("#query").fill(str(query))
    opened.page.locator("#query").press("Enter")
    for choice, layer in (("#alone", m[1] > 0), ("#mixed", m.max(0) > 0)):
        opened.page.check(choice)
        opened.followed(query, choice[1:])
        most = int(opened.page.get_attribute("#layers", "max"))
        for layers in range(1, most + 1):
            set_layers(opened, layers)
            expected = reached(layer, query, layers)
            assert positions(opened.text("#field")) == expected
            assert opened.text("#field-count").startswith(f"{len(expected)} position")
        assert reached(layer, query, most) == reached(layer, query, N), "the slider ends where nothing is added"
        never = set(range(N)) - set(reached(layer, query, N))
        earlier = sum(key < query for key in never)
        assert f"never: {earlier} earlier, {len(never) - earlier} later" in opened.text("#hops")


def test_zoom_by_buttons_wheel_and_keys(longnet: Path, open_page: Open) -> None:
    opened = open_page(longnet)
    assert opened.state()["span"] == N
    opened.page.click("#zoom-in")
    assert opened.state()["span"] == pytest.approx(N / 1.5)
    opened.page.click("#zoom-fit")
    assert opened.state()["span"] == N
    x, y = opened.place(48, 16)
    opened.page.mouse.move(x, y)
    opened.page.mouse.wheel(0, -240)
    state = opened.state()
    assert state["span"] < N / 1.5
    assert opened.place(48, 16) == pytest.approx((x, y), abs=1.0), "the cell under the pointer stays there"
    opened.page.locator("#mask").press("0")
    assert opened.state()["span"] == N
    for _ in range(12):
        opened.page.locator("#mask").press("+")
    assert opened.state()["span"] == 8, "a window of 8 is the smallest"
    opened.page.locator("#mask").press("-")
    assert opened.state()["span"] == pytest.approx(12)


def test_the_page_scrolls_where_there_is_nothing_to_zoom_out_of(longnet: Path, open_page: Open) -> None:
    opened = open_page(longnet)
    opened.page.mouse.move(*opened.place(30, 30))
    before = opened.page.evaluate("scrollY")
    opened.page.mouse.wheel(0, 200)
    opened.page.wait_for_function(f"() => scrollY > {before}")
    assert opened.state()["span"] == N


def test_pan_by_dragging(longnet: Path, open_page: Open) -> None:
    opened = open_page(longnet)
    for _ in range(3):
        opened.page.click("#zoom-in")
    before = opened.state()
    x, y = opened.place(32, 32)
    opened.page.mouse.move(x, y)
    opened.page.mouse.down()
    opened.page.mouse.move(x - 60, y - 90, steps=4)
    opened.page.mouse.up()
    after = opened.state()
    scale = after["side"] / after["span"]
    assert after["x"] - before["x"] == pytest.approx(60 / scale, abs=0.2)
    assert after["y"] - before["y"] == pytest.approx(90 / scale, abs=0.2)
    assert after["query"] is None, "a drag is no click"
    opened.page.mouse.move(x, y)
    opened.page.mouse.down()
    opened.page.mouse.move(x + 4000, y + 4000, steps=4)
    opened.page.mouse.up()
    assert (opened.state()["x"], opened.state()["y"]) == (0, 0), "nothing lies beyond the border"


def test_pinch(longnet: Path, open_page: Open) -> None:
    opened = open_page(longnet)
    x, y = opened.place(32, 32)
    session = opened.page.context.new_cdp_session(opened.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        touches = [{"x": px, "y": py, "id": i} for i, (px, py) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    touch("touchStart", (x - 30, y), (x + 30, y))
    for apart in (40, 50, 60):
        touch("touchMove", (x - apart, y), (x + apart, y))
    touch("touchEnd")
    state = opened.state()
    assert state["span"] == pytest.approx(N / 2, rel=0.02)
    assert opened.place(32, 32) == pytest.approx((x, y), abs=4)
    assert state["query"] is None


def test_a_tap_follows_a_query(longnet: Path, m: np.ndarray, open_page: Open) -> None:
    opened = open_page(longnet)
    opened.page.touchscreen.tap(*opened.place(50, 3))
    opened.followed(50)
    assert positions(opened.text("#keys")) == np.flatnonzero(m[0, 50]).tolist()


def test_tooltips_name_the_cell_and_its_owners(longnet: Path, m: np.ndarray, open_page: Open) -> None:
    opened = open_page(longnet)
    labels = opened.page.eval_on_selector_all("#legend code", "all => all.map((each) => each.textContent)")
    assert labels[0] == "segment(8) { dilate(1, shift=h) }"
    for q, k in ((40, 40), (12, 0), (31, 28), (3, 40)):
        opened.page.mouse.move(*opened.place(q, k))
        opened.page.wait_for_function(f"() => tooltip.innerText.startsWith('query {q}, key {k}')")
        lines = opened.text("#tooltip").splitlines()
        count = int(m[0, q, k])
        assert lines[1] == {0: "no pair", 1: "counts once"}.get(count, f"counts {count} times")
        assert len(lines) == 2 + count, "in a sum, as many branches as the pair counts"
        assert set(lines[2:]) <= set(labels)
    opened.click(40, 0)
    opened.page.mouse.move(*opened.place(40, 33))
    opened.page.wait_for_function("() => tooltip.innerText.includes('heard of after')")
    path = [int(each) for each in re.findall(r"\d+", opened.text("#tooltip").split("layer")[1])]
    assert (path[0], path[-1]) == (40, 33)
    assert all(m[:, a, b].any() for a, b in pairwise(path)), "every step is a pair of some head"
    assert len(path) - 1 == next(i for i in range(N) if 33 in reached(m.max(0) > 0, 40, i))


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def test_cells_have_the_colours_of_their_branches_and_branches_can_be_hidden(longnet: Path, open_page: Open) -> None:
    opened = open_page(longnet)
    assert opened.colour(5, 3) == rgb(COLOURS[0])
    assert opened.colour(12, 2) == rgb(COLOURS[1])
    assert opened.colour(28, 12) == rgb(COLOURS[2])
    nothing = opened.colour(3, 5)
    assert nothing not in {rgb(colour) for colour in COLOURS}
    opened.page.click("#legend button >> nth=0")
    opened.state()
    assert opened.colour(5, 3) == nothing
    assert opened.colour(12, 2) == rgb(COLOURS[1])
    assert opened.page.get_attribute("#legend button >> nth=0", "aria-pressed") == "false"
    opened.page.click("#legend button >> nth=0")
    opened.state()
    assert opened.colour(5, 3) == rgb(COLOURS[0])


def test_everything_works_by_keyboard(longnet: Path, m: np.ndarray, open_page: Open) -> None:
    opened = open_page(longnet)
    opened.page.focus("#zoom-fit")
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.id") == "mask"
    opened.page.keyboard.press("ArrowDown")  # the first arrow puts the cursor into the middle
    for key in ("ArrowUp", "ArrowRight", "ArrowRight"):
        opened.page.keyboard.press(key)
    assert opened.text("#readout").startswith("query 31, key 34")
    assert opened.page.text_content("#announcer").startswith("query 31, key 34")
    opened.page.keyboard.press("Enter")
    opened.followed(31)
    before = positions(opened.text("#field"))
    opened.page.keyboard.press("]")
    assert positions(opened.text("#field")) == reached(m.max(0) > 0, 31, 2) != before
    opened.page.keyboard.press("[")
    assert positions(opened.text("#field")) == before
    opened.page.keyboard.press("Escape")
    opened.followed(None)
    assert opened.state()["query"] is None


def test_dark_and_light(longnet: Path, open_page: Open) -> None:
    opened = open_page(longnet)
    ground = "getComputedStyle(document.body).backgroundColor"
    opened.page.emulate_media(color_scheme="dark")
    dark = opened.page.evaluate(ground)
    opened.state()
    assert max(opened.colour(3, 5)) < 60
    opened.page.emulate_media(color_scheme="light")
    light = opened.page.evaluate(ground)
    opened.state()
    assert min(opened.colour(3, 5)) > 200
    assert dark != light
    opened.page.click("#theme")
    opened.page.click("#theme")
    assert opened.text("#theme") == "Dark"
    assert opened.page.evaluate(ground) == dark
    opened.page.emulate_media(media="print")
    assert min(int(part) for part in re.findall(r"\d+", opened.page.evaluate(ground))) > 240, "paper is white"
    opened.page.emulate_media(media="screen")
    opened.page.click("#theme")
    assert opened.text("#theme") == "Auto"


@pytest.mark.parametrize("width", [360, 768, 1280, 1920])
def test_fits_any_width(longnet: Path, open_page: Open, width: int) -> None:
    opened = open_page(longnet)
    opened.page.set_viewport_size({"width": width, "height": 800})
    opened.state()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    state, box = opened.state(), opened.page.locator("#mask").bounding_box()
    assert state["left"] + state["side"] <= box["width"]
    opened.page.set_viewport_size({"width": 1280, "height": 900})


def test_every_control_has_a_name(longnet: Path, open_page: Open) -> None:
    opened = open_page(longnet)
    opened.click(20, 0)
    nameless = opened.page.evaluate("""() => [...document.querySelectorAll("button, select, input, canvas, svg[role]")]
        .filter((each) => !(each.getAttribute("aria-label") || each.textContent.trim() || each.labels?.length))
        .map((each) => each.outerHTML)""")
    assert nameless == []


def test_a_scaled_view_and_the_pattern_itself(tmp_path: Path, open_page: Open) -> None:
    path = tmp_path / "sliding.html"
    path.write_text(report_page(attnc.report("sliding", n=32768, heads=1, head_dim=8, dependency=False), explorer=128))
    opened = open_page(path)
    assert opened.text("#view-note").startswith("With w = 32, at N = 128.")
    opened.click(100, 0)
    assert positions(opened.text("#keys")) == list(range(69, 101))
    opened.page.select_option("#view", "1")
    opened.page.wait_for_function("() => document.getElementById('view-note').textContent.startsWith('The same')")
    opened.click(100, 0)
    assert positions(opened.text("#keys")) == list(range(101))


def test_patterns_side_by_side(tmp_path: Path, open_page: Open) -> None:
    names, given = ("longnet", "sliding", "strided"), (SMALL, {"w": 5}, {"l": 8})
    reports = [attnc.report(name, n=N, heads=2, head_dim=8, **each) for name, each in zip(names, given, strict=True)]
    path = tmp_path / "several.html"
    path.write_text(compare_page(compare(names, reports)))
    opened = open_page(path)
    assert opened.page.locator(".comparison thead th").all_inner_texts()[1:4] == list(names)
    for number, (name, each) in enumerate(zip(names, given, strict=True)):
        opened.page.select_option("#view", str(number))
        opened.page.wait_for_function("() => document.getElementById('view-note').textContent.startsWith('The whole')")
        opened.page.locator("#query").fill("33")
        opened.page.locator("#query").press("Enter")
        opened.followed(33)
        m = attnlang.load(name, **each).multiplicity(N, 2)
        assert positions(opened.text("#keys")) == np.flatnonzero(m[0, 33]).tolist()
    sizes = opened.page.eval_on_selector_all(".thumbnails img", "all => all.map((each) => each.naturalWidth)")
    assert sizes == [N, N, N]
