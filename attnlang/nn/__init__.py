"""The modules a user plugs into a model."""

from attnlang.nn.attention import Backend, PatternAttention, backend_name

__all__ = ["Backend", "PatternAttention", "backend_name"]
