"""A head as a small picture inside the page."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO

import numpy as np

from attnc.emit.html.cells import first_head
from attnc.emit.html.views import View
from attnc.emit.picture import COLOURS


def first_head_image(view: View, heads: int) -> str:
    """Head 0 of a view as the URL of a PNG, one pixel a pair, in the colours of the branches on clear ground."""
    from matplotlib.image import imsave

    m, owner = first_head(view, heads)
    palette = np.array(
        [[0, 0, 0], *([int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in COLOURS)]
    )
    pixels = np.zeros((*m.shape, 4), np.uint8)
    pixels[..., :3] = palette[np.minimum(owner, len(COLOURS))]
    pixels[..., 3] = 255 * (m > 0)
    file = BytesIO()
    imsave(file, pixels, format="png")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode('ascii')}"
