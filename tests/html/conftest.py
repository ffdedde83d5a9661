"""A headless Chromium for the tests of pages, and pages opened in it with every request and message noted."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def chromium() -> str | None:
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass
class Opened:
    """A page in the browser, and what happened while it was open."""

    page: Any
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """What the mask shows, after it has drawn what was asked for."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return json.loads(self.page.get_attribute("#mask", "data-state"))

    def place(self, q: int, k: int) -> tuple[float, float]:
        """Where on the screen the middle of a cell is."""
        self.page.locator("#mask").scroll_into_view_if_needed()
        state, box = self.state(), self.page.locator("#mask").bounding_box()
        scale = state["side"] / state["span"]
        x = box["x"] + state["left"] + (k + 0.5 - state["x"]) * scale
        y = box["y"] + state["top"] + (q + 0.5 - state["y"]) * scale
        return x, y

    def click(self, q: int, k: int) -> None:
        before = self.page.get_attribute("#mask", "data-following")
        self.page.mouse.click(*self.place(q, k))
        self.followed(None if before == f"{q}, mixed" else q)

    def followed(self, q: int | None, how: str = "mixed") -> None:
        """Wait until the page has found what it says about a query."""
        self.page.wait_for_selector(f"#mask[data-following='{'none' if q is None else f'{q}, {how}'}']")

    def colour(self, q: int, k: int) -> tuple[int, int, int]:
        """The colour on the screen in the middle of a cell."""
        x, y = self.place(q, k)
        clip = {"x": math.floor(x), "y": math.floor(y), "width": 1, "height": 1}
        picture = Image.open(BytesIO(self.page.screenshot(clip=clip))).convert("RGB")
        return picture.getpixel((0, 0))

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = chromium()
    if path is None:
        if "CI" in os.environ:
            pytest.fail("there is no chromium, and CI must test pages in one: .ci/run installs it")
        pytest.skip("there is no chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    profile = tmp_path_factory.mktemp("chromium")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=path, headless=True, args=ARGUMENTS, viewport={"width": 1280, "height": 900},
            has_touch=True,
        )  # fmt: skip
        yield context
        context.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[[Path], Opened]]:
    """Opens a file; at the end no page may have asked for anything but itself, or have complained."""
    pages: list[tuple[Path, Opened]] = []

    def open_(path: Path) -> Opened:
        found = Opened(browser.new_page())
        found.page.set_default_timeout(10_000)
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("console", lambda message: found.messages.append(message.text))
        found.page.on("pageerror", lambda error: found.messages.append(str(error)))
        found.page.goto(path.as_uri())
        found.page.wait_for_selector("#mask[data-ready=yes]")
        pages.append((path, found))
        return found

    yield open_
    for path, found in pages:
        assert found.requests == [path.as_uri()], "a page loads nothing"
        assert found.messages == [], "a page has nothing to complain about"
        found.page.close()
