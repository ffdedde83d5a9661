"""What the compiler knows about a pattern: counts, formulas, cost."""
