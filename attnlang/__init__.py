"""attnlang: a small language for sparse attention patterns.

>>> import attnlang
>>> pattern = attnlang.loads("pattern local(w = 2) = causal & offset(-w..0)")
>>> pattern.multiplicity(4, heads=1)[0].tolist()
[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1]]

This package is the language and what a model needs at run time; importing it does not import torch. The compiler is
the package `attnc`, which comes with it.
"""

from attnlang.diagnostics import AttnError, Diagnostic
from attnlang.pattern import Pattern, load, loads
from attnlang.source import Source, Span

__version__ = "0.1.0"

__all__ = ["AttnError", "Diagnostic", "Pattern", "Source", "Span", "__version__", "load", "loads"]
