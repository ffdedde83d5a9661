"""What runs a Plan: one file a backend, the launches they share, and the arithmetic that merges partial results."""
