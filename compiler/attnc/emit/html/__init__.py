"""Self-contained pages: the report of one pattern, and several patterns side by side.

A page is one file: styles, scripts, data and pictures are inside, and its content security policy forbids every load.
`views` chooses what the mask explorer shows, `cells` packs it, `plots` draws, `pages` puts everything together with the
templates of `assets/`.
"""

from attnc.emit.html.pages import compare_page, report_page

__all__ = ["compare_page", "report_page"]
