"""Rectangles of a band of sums: where a relation says `lo <= f(q) + g(k) <= hi`, of classes by their f and their g.

q % c == k % c               f = q % c, g = -(k % c), 0..0     each class of queries has one of keys
abs(q % c - k % c) <= w      -w..w                             a range of them
k // b < q // b              1..                               a staircase

Where there are too many classes to ask every two of them, the range of each class of queries is found by bisection.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attnc.analysis.evaluation import Evaluator
from attnc.analysis.terms import Term, Terms

Array = NDArray[np.int64]


def banded(
    terms: Terms, evaluator: Evaluator, term: Term, q_first: Array, k_first: Array
) -> tuple[Array, Array] | None:
    """Rectangles (q0, q1, k0, k1) of classes, and how often they count; None for what is no band of sums.

    q_first, k_first  a row of each class, in the order of their f and of their g
    """
    band = _band(terms, term)
    if band is None:
        return None
    added, lo, hi = band
    constant, weighted = terms.parts(added)
    if any(atom.uses_q and atom.uses_k for atom, _ in weighted):
        return None
    f, g = (
        np.broadcast_to(evaluator.at(terms.total(0, part), first, first), len(first))
        for part, first in (
            ([(atom, c) for atom, c in weighted if not atom.uses_k], q_first),
            ([(atom, c) for atom, c in weighted if atom.uses_k], k_first),
        )
    )
    down = len(g) > 1 and g[0] > g[-1]
    ascending = g[::-1] if down else g
    if (ascending[1:] <= ascending[:-1]).any():
        return None
    low = np.searchsorted(ascending, lo - constant - f)
    high = np.full(len(f), len(g)) if hi is None else np.searchsorted(ascending, hi - constant - f, side="right")
    if down:
        low, high = len(g) - high, len(g) - low
    rows = np.arange(len(f))
    boxes = np.stack([rows, rows, low, high - 1], 1)
    boxes = boxes[boxes[:, 2] <= boxes[:, 3]].astype(np.int64)
    return boxes, np.ones(len(boxes), np.int64)


def _band(terms: Terms, term: Term) -> tuple[Term, int, int | None] | None:
    """A term that says that a sum is lo..hi, taken apart; hi is None without an end."""
    match term.kind:
        case "eq":
            return term.args[0], 0, 0
        case "ge":
            return _distance(terms, term.args[0]) or (term.args[0], 0, None)
        case "and" if term.args[0].kind == term.args[1].kind == "ge":
            a, b = (each.args[0] for each in term.args)
            most = terms.value(terms.add(a, b))  # a >= 0 and most - a >= 0
            return None if most is None else (a, 0, most)
        case _:
            return None


def _distance(terms: Terms, added: Term) -> tuple[Term, int, int] | None:
    """`c - max(a, b) >= 0` for a + b = v, which is v - c <= a <= c: what distances are asked by."""
    most, weighted = terms.parts(added)
    if len(weighted) != 1 or weighted[0][1] != -1 or weighted[0][0].kind != "max":
        return None
    a, b = weighted[0][0].args
    both = terms.value(terms.add(a, b))
    return None if both is None else (a, both - most, most)
