"""Images and videos in row-major order; their sizes are those of the first frame that is tested, N = 96."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.language.zoo.frame import Definition, Frame
from tests.language.zoo.sequences import neighborhood

ROWS, COLS = 8, 12
VIDEO = (4, 4, 6)


def places(f: Frame, sizes: tuple[int, ...]) -> list[tuple[Any, Any]]:
    """(query, key) coordinates on every axis."""
    return list(zip(np.unravel_index(f.q, sizes), np.unravel_index(f.k, sizes), strict=True))


def natten(f: Frame, sizes: tuple[int, ...], widths: tuple[int, ...], d: int = 1) -> Any:
    axes = zip(places(f, sizes), sizes, widths, strict=True)
    return np.logical_and.reduce([neighborhood(a, b, size, w, d) for (a, b), size, w in axes])


def video(f: Frame) -> Any:
    (t, s), *space = places(f, VIDEO)
    axes = zip(space, VIDEO[1:], (3, 3), strict=True)
    inside = np.logical_and.reduce([neighborhood(a, b, size, w) for (a, b), size, w in axes])
    return inside & (s <= t) & (t - s < 2)


def sliding_tiles(f: Frame) -> Any:
    """attn_gym/masks/sta.py: the window's centre is clamped so that it stays inside, in tiles."""
    tiles, window, result = (2, 2, 3), (1, 1, 1), True
    for (a, b), size, tile, w in zip(places(f, VIDEO), VIDEO, tiles, window, strict=True):
        count = size // tile
        center = np.clip(a // tile, w // 2, count - 1 - w // 2)
        result = result & (abs(center - b // tile) <= w // 2)
    return result


def axial(f: Frame) -> Any:
    (row_q, row_k), (col_q, col_k) = places(f, (ROWS, COLS))
    return (row_q == row_k) | (col_q == col_k)


def swin(f: Frame, w: int = 4, shift: int = 1) -> Any:
    """The image rolled by -shift and cut into windows; the mask keeps apart what the roll joined."""
    rolled = [((a - shift) % n, (b - shift) % n, (a < shift) == (b < shift))
              for (a, b), n in zip(places(f, (ROWS, COLS)), (ROWS, COLS), strict=True)]  # fmt: skip
    return np.logical_and.reduce([(a // w == b // w) & together for a, b, together in rolled])


def dilated(f: Frame, r: int = 3) -> Any:
    return np.logical_and.reduce([a % r == b % r for a, b in places(f, (ROWS, COLS))])


SIZE = {"rows": ROWS, "cols": COLS}
DEFINITIONS: dict[str, Definition] = {
    "natten2d": ({**SIZE, "w": 3, "d": 2}, lambda f: natten(f, (ROWS, COLS), (3, 3), 2)),
    "natten3d": (
        dict(zip(("frames", "rows", "cols"), VIDEO, strict=True)) | {"w": [3, 3, 5]},
        lambda f: natten(f, VIDEO, (3, 3, 5)),
    ),
    "natten_video": (dict(zip(("frames", "rows", "cols"), VIDEO, strict=True)) | {"w": [2, 3, 3]}, video),
    "sta": (
        dict(zip(("frames", "rows", "cols"), VIDEO, strict=True)) | {"tile": [2, 2, 3], "w": [1, 1, 1]},
        sliding_tiles,
    ),
    "axial": (SIZE, axial),
    "swin": ({**SIZE, "w": 4, "shift": 1}, swin),
    "dilated2d": ({**SIZE, "r": 3}, dilated),
}  # fmt: skip
