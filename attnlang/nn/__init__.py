"""The modules a user plugs into a model."""

from attnlang.nn.attention import Backend, PatternAttention, backend_name
from attnlang.nn.multihead import MultiheadPatternAttention

__all__ = ["Backend", "MultiheadPatternAttention", "PatternAttention", "backend_name"]
