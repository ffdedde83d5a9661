"""Pattern to Plan: relations become pieces (lattices and columns), pieces of all heads become branches."""

from attnc.lower.lowering import lower

__all__ = ["lower"]
