"""The library with numbers so small that all there is to it happens below N = 200."""

from __future__ import annotations

from typing import Any

import attnlang
from attnlang.pattern.library import library_names

SMALL: dict[str, dict[str, Any]] = {
    "axial": {"rows": 5, "cols": 8}, "bigbird": {"b": 4}, "block_diffusion": {"b": 3},
    "bslongformer": {"block": 4, "globals": [0, 3]}, "chunked": {"b": 12}, "deepspeed_bigbird": {"block": 3},
    "deepspeed_fixed": {"block": 2, "patterns": 2}, "deepspeed_fixed_causal": {"block": 2, "verticals": 2},
    "deepspeed_sliding": {"block": 4}, "deepspeed_variable": {"block": 2, "windows": [2, 5, 3], "globals": [1]},
    "dilated2d": {"rows": 5, "cols": 8, "r": 2}, "dilated_gym": {"w": 9, "d": 2}, "dilated_sliding": {"w": 5, "d": 3},
    "etc": {"g": 3, "r": 4}, "fixed": {"l": 8, "c": 2}, "fixed_heads": {"block": 2, "stride": 3, "num_verts": 3},
    "gemma2": {"w": 9, "layer": 0, "L": 4}, "gemma3": {"w": 9, "layer": 5, "L": 6},
    "llama4": {"b": 9, "layer": 2, "L": 4},
    "logsparse_local": {"w": 5}, "logsparse_restart": {"l": 20}, "longformer": {"w": 5, "g": 2},
    "longformer_heads": {"w": 5}, "longformer_local": {"w": 5, "d": 2},
    "longnet": {"segments": [8, 16, 48], "dilations": [1, 2, 6]},
    "longnet_bidirectional": {"segments": [6, 16, 40], "dilations": [1, 3, 4]},
    "longnet_torchscale": {"segments": [8, 24, 48], "dilations": [2, 3, 6]}, "mixed_heads": {"w": 7, "stride": 5},
    "natten1d": {"w": 5, "d": 3, "stride": 2}, "natten1d_causal": {"w": 5, "d": 2, "stride": 3},
    "natten2d": {"rows": 5, "cols": 8, "w": 3}, "natten3d": {"frames": 3, "rows": 4, "cols": 5, "w": [2, 3, 3]},
    "natten_video": {"frames": 4, "rows": 4, "cols": 5, "w": [2, 3, 3]}, "phi3_small": {"block": 3, "local": 2},
    "phi3_small_layers": {"layer": 0, "L": 2},
    "power_attention": {"w": 6, "sinks": 2}, "prefix_lm": {"p": 9}, "s2attn": {"g": 14}, "s2attn_roll": {"g": 8},
    "scca_fixed": {"g": 14}, "scca_flow": {"g": 12}, "sda": {"w": 24, "r": 3},
    "sliding": {"w": 7}, "sliding_bidirectional": {"w": 5}, "sliding_flash": {"left": 6, "right": 2},
    "sliding_gym": {"w": 6}, "sta": {"frames": 4, "rows": 4, "cols": 6, "tile": [2, 2, 3], "w": [1, 1, 1]},
    "star_attention": {"b": 12, "last": 5}, "streaming": {"sinks": 2, "w": 6},
    "stride_slash": {"w": 5, "l": 7, "sinks": 2},
    "strided": {"l": 7}, "strided_heads": {"l": 7}, "svg_spatial": {"frame": 9}, "svg_temporal": {"frame": 9, "w": 2},
    "svg_spatial_gym": {"prompt": 5, "frame": 9, "rounded": 4},
    "svg_temporal_gym": {"prompt": 5, "frames": 4, "frame": 9},
    "swin": {"rows": 5, "cols": 8, "w": 3, "shift": 1}, "tri_shape": {"sinks": 3, "w": 6, "last": 4},
}  # fmt: skip
GRIDS = {"axial": 40, "dilated2d": 40, "natten2d": 40, "natten3d": 60, "natten_video": 80, "sta": 96, "swin": 40}
"""The lengths of those that have one length only."""


def small_library() -> list[attnlang.Pattern]:
    """Every pattern of the library without tables."""
    found = [attnlang.load(name, **SMALL.get(name, {})) for name in library_names()]
    return [pattern for pattern in found if not pattern.tables]
