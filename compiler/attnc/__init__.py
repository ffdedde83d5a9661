"""attnc: the compiler of attnlang. Analysis, lowering to plans, emitted modules, and the command line."""

from __future__ import annotations

from attnc.api import compile, dependency, plan, report  # noqa: A004 - the field's word for it

__all__ = ["compile", "dependency", "plan", "report"]
