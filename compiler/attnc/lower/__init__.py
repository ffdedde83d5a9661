"""Pattern to Plan: relations become pieces (lattices and columns) and tiles; those of all heads become branches."""

from attnc.lower.split import lower

__all__ = ["lower"]
