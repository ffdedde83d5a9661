"""Text to tree: the grammar, the node classes and the parser."""

from attnlang.syntax.parser import parse, parse_expression

__all__ = ["parse", "parse_expression"]
