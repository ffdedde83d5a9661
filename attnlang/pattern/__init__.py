"""Patterns: the algebra of relations, their meaning, the checker, and the library of pattern files."""

from attnlang.pattern.library import load, loads
from attnlang.pattern.pattern import Pattern

__all__ = ["Pattern", "load", "loads"]
