"""The diagnostics at length: one page a code, with an example that is wrong and one that is right.

To add a page, add a file `A....md` here: a title, a few sentences, `Wrong:` and `Right:` with a block each. The tests
check that the wrong one gives this code and no other, and that the right one gives none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Page:
    """`text` is Markdown, the title among it."""

    code: str
    title: str
    text: str

    @property
    def body(self) -> str:
        """The text without its title."""
        return self.text.split("\n", 1)[1].strip()


@cache
def pages() -> dict[str, Page]:
    """All pages by code, in order."""
    found = sorted(files("attnlang.catalogue").iterdir(), key=lambda item: item.name)
    texts = [item.read_text("utf-8") for item in found if item.name.endswith(".md")]
    return {page.code: page for page in map(_page, texts)}


def _page(text: str) -> Page:
    code, _, title = text.split("\n", 1)[0].removeprefix("# ").partition(": ")
    return Page(code, title, text)
