"""Sizes and table contents at which a pattern shows what it is, within some hundreds of tokens.

With the parameters of their papers most library patterns are wider than a test can be. A specimen is a pattern with
small parameters, the lengths to try, and the content of its tables at a length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attnlang.diagnostics import AttnError
from attnlang.pattern import Pattern, load
from attnlang.pattern.algebra import Grid
from attnlang.pattern.library import library_names
from attnlang.pattern.walk import nodes, require_layer
from attnlang.syntax.tree import Int

Tables: TypeAlias = dict[str, NDArray[np.int64]]
Filling: TypeAlias = Callable[[int, int, np.random.Generator], Tables]
"""(n, heads, generator) to the content of the tables."""

LENGTHS = (1, 7, 64, 129, 384)
LARGEST = 4096
"""Lengths above this are not tried: the formula holds N x N numbers."""


@dataclass(frozen=True, slots=True)
class Specimen:
    """A pattern, and how to try it.

    lengths  the lengths to try
    filling  the content of the tables, at a length and for a number of heads
    """

    pattern: Pattern
    lengths: tuple[int, ...] = LENGTHS
    filling: Filling | None = field(default=None, compare=False)

    def tables(self, n: int, heads: int) -> Tables:
        """The content of the pattern's tables: the same in every run."""
        if not self.pattern.tables:
            return {}
        generator = np.random.default_rng(n)
        fill = self.filling or FILLINGS.get(self.pattern.name) or _any(self.pattern)
        return fill(n, heads, generator)


def specimen(pattern: Pattern) -> Specimen:
    """The pattern with its own parameters, at lengths that it has a meaning at.

    Raises ValueError where it has none at any length of at most 4096, AttnError where it wants to know the layer.
    """
    require_layer(pattern.relation)
    grids = {_positions(node) for node in nodes(pattern.relation) if isinstance(node, Grid)} - {None}
    tried = (*LENGTHS, *sorted(n for n in grids if n is not None and n <= LARGEST))
    lengths = tuple(n for n in tried if _has_meaning(pattern, n))
    if not lengths:
        sizes = f"; its grid has {', '.join(f'{n:,}' for n in sorted(filter(None, grids)))} positions" if grids else ""
        raise ValueError(
            f"pattern {pattern.name} has no meaning at any length tried ({', '.join(map(str, tried))}){sizes}: "
            "give smaller parameters by -p, or a length by --n"
        )
    return Specimen(pattern, lengths)


def library_specimens() -> Iterator[Specimen]:
    """Every pattern of the library with small parameters, one that differs by layer once for each kind of layer."""
    for name in library_names():
        for parameters in SMALL.get(name, ({},)):
            yield specimen(load(name, **parameters))


def _positions(grid: Grid) -> int | None:
    """The positions of a grid of literal sizes; None for any other."""
    sizes = [size.value for size in grid.sizes if isinstance(size, Int)]
    return prod(sizes) if len(sizes) == len(grid.sizes) else None


def _has_meaning(pattern: Pattern, n: int) -> bool:
    """Whether the oracle, or a want of tables, does not object."""
    if pattern.tables:
        return True
    try:
        pattern.multiplicity(n, 1)
    except AttnError:
        return False
    return True


LONGNET = {"segments": [16, 32, 64, 128], "dilations": [1, 2, 4, 8]}
IMAGE: dict[str, Any] = {"rows": 12, "cols": 16}
VIDEO: dict[str, Any] = {"frames": 4, "rows": 6, "cols": 8}
SMALL: dict[str, tuple[dict[str, Any], ...]] = {
    "axial": (IMAGE,),
    "bigbird": ({"b": 16},),
    "block_table": ({"b": 16},),
    "chunked": ({"b": 50},),
    "deepspeed_bigbird": ({"block": 8, "r": 2, "g": 2},),
    "deepspeed_fixed": ({"block": 8, "verticals": 2, "patterns": 2},),
    "deepspeed_fixed_causal": ({"block": 8, "verticals": 2, "patterns": 2},),
    "deepspeed_variable": ({"block": 8, "windows": [2, 1, 3], "globals": [0, 4], "r": 1},),
    "dilated2d": ({**IMAGE, "r": 3},),
    "dilated_gym": ({"w": 40, "d": 3},),
    "dilated_sliding": ({"w": 20, "d": 3},),
    "etc": ({"g": 20, "r": 30},),
    "fixed": ({"l": 16, "c": 3},),
    "fixed_heads": ({"block": 4, "stride": 3, "num_verts": 3},),
    "gemma2": ({"w": 48, "layer": 0, "L": 4}, {"w": 48, "layer": 1, "L": 4}),
    "gemma3": ({"w": 48, "layer": 0, "L": 12}, {"w": 48, "layer": 5, "L": 12}),
    "global_tokens": ({"tokens": [0, 7, 50]},),
    "llama4": ({"b": 50, "layer": 0, "L": 8}, {"b": 50, "layer": 3, "L": 8}),
    "logsparse": ({"steps": 6},),
    "logsparse_local": ({"w": 8, "steps": 6},),
    "logsparse_restart": ({"l": 40},),
    "longformer": ({"w": 24, "g": 3},),
    "longformer_heads": ({"w": 12, "d": 3},),
    "longformer_local": ({"w": 20, "d": 2},),
    "longformer_mask": ({"w": 12},),
    "longnet": (LONGNET, {"segments": [16, 48, 96], "dilations": [1, 5, 7]}),
    "longnet_bidirectional": (LONGNET,),
    "longnet_torchscale": (LONGNET,),
    "mixed_heads": ({"w": 30, "stride": 9},),
    "moba": ({"b": 16},),
    "natten1d": ({"w": 9, "d": 2, "stride": 3},),
    "natten1d_causal": ({"w": 9, "d": 2, "stride": 3},),
    "natten2d": ({**IMAGE, "w": 5, "d": 2},),
    "natten3d": ({**VIDEO, "w": [3, 3, 5]},),
    "natten_video": ({**VIDEO, "w": [2, 3, 3]},),
    "packed_sliding": ({"w": 24},),
    "phi3_small": ({"block": 8, "local": 2, "stride": 4},),
    "phi3_small_layers": ({"every": 3, "layer": 0, "L": 6}, {"every": 3, "layer": 2, "L": 6}),
    "power_attention": ({"w": 16, "sinks": 2, "steps": 6},),
    "prefix_lm": ({"p": 30},),
    "random_blocks": ({"b": 16},),
    "s2attn": ({"g": 32},),
    "s2attn_roll": ({"g": 32},),
    "scca_fixed": ({"g": 32},),
    "scca_flow": ({"g": 32},),
    "sda": ({"w": 96, "r": 3},),
    "shared_prefix": ({"p": 20},),
    "sliding": ({"w": 48},),
    "sliding_bidirectional": ({"w": 20},),
    "sliding_flash": ({"left": 30, "right": 7},),
    "sliding_gym": ({"w": 48},),
    "sta": ({**VIDEO, "tile": [2, 2, 4], "w": [1, 3, 1]},),
    "star_attention": ({"b": 40, "last": 20},),
    "streaming": ({"sinks": 3, "w": 40},),
    "streaming_gym": ({"w": 40, "sinks": 3},),
    "stride_slash": ({"w": 16, "l": 24, "sinks": 2},),
    "strided": ({"l": 16},),
    "strided_heads": ({"l": 16},),
    "svg_spatial": ({"frame": 30, "radius": 1},),
    "svg_spatial_gym": ({"prompt": 5, "frame": 30, "width": 2, "rounded": 16, "sink": True},),
    "svg_temporal": ({"frame": 30, "w": 4},),
    "svg_temporal_gym": ({"prompt": 5, "frames": 4, "frame": 30, "width": 2},),
    "swin": ({**IMAGE, "w": 4, "shift": 1},),
    "tree": ({"p": 24},),
    "tri_shape": ({"sinks": 3, "w": 40, "last": 20},),
}
"""Small parameters of library patterns whose own are large, or which need some."""


def _documents(n: int, heads: int, generator: np.random.Generator) -> Tables:
    return {"doc": np.cumsum(generator.random(n) < 0.04, dtype=np.int64)}


def _blocks(rows: int) -> Filling:
    def fill(n: int, heads: int, generator: np.random.Generator) -> Tables:
        return {"chosen": generator.integers(0, 2, (heads, -(-n // rows), -(-n // 16)))}

    return fill


def _image_and_text(n: int, heads: int, generator: np.random.Generator) -> Tables:
    return {"image": np.sort(generator.integers(0, 4, n)), "text": np.sort(generator.integers(-1, 4, n))}


def _ancestors(n: int, heads: int, generator: np.random.Generator) -> Tables:
    nodes = max(1, n - 24)
    found = np.eye(nodes, dtype=np.int64)
    for node in range(1, nodes):
        found[node] |= found[generator.integers(0, node)]
    return {"ancestor": found}


FILLINGS: dict[str, Filling] = {
    "block_table": _blocks(16),
    "flamingo": _image_and_text,
    "longformer_mask": lambda n, heads, generator: {"is_global": (generator.random(n) < 0.02).astype(np.int64)},
    "moba": _blocks(1),
    "packed": _documents,
    "packed_bidirectional": _documents,
    "packed_sliding": _documents,
    "prefix_lm_runtime": lambda n, heads, generator: {"prefix": np.array([n // 3])},
    "shared_prefix": _documents,
    "tree": _ancestors,
    "vertical_slash": lambda n, heads, generator: {
        name: (generator.random((heads, n)) < 0.1).astype(np.int64) for name in ("slash", "vertical")
    },
}
"""Contents of the library's tables; of `block_table` and `moba` for blocks of 16."""


def _any(pattern: Pattern) -> Filling:
    """Contents for tables that no one knows: 0, 0, .. 1, 1, .. 2, 2, .. along the last axis, as large as any index."""

    def fill(n: int, heads: int, generator: np.random.Generator) -> Tables:
        size = max(n, heads) + 1
        return {
            name: (np.arange(size) * 3 // size + generator.integers(0, 3, (size,) * (axes - 1) + (1,))).reshape(
                (size,) * axes
            )
            % 3
            for name, axes in pattern.tables
        }

    return fill
