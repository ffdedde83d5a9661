"""What the Hopper kernel's consumers do in assembler (PTX), as texts: see `hopper_slots`.

A branch that a whole warp takes together is what the language above has no word for; $i are results and then operands.
"""

from __future__ import annotations

import struct

CUBIC = (0.9999280733003433, 0.6932609857037652, 0.24261112621210412, 0.05517166962634829)
"""Coefficients of 1, x, x^2 and x^3 of the polynomial next to 2^x on -1/2..1/2."""


def settle(most_over: float = 8.0) -> str:
    """References of a thread's two rows ($0, $1), and by how much sums shrink ($2, $3).

    $4 and $5 are the largest scores that the thread has seen, $6 and $7 the references. A row's four threads are in one
    warp, which goes the long way together if any of its threads has to.
    """
    lines = ["{ .reg .pred a, b; .reg .f32 x, y, z;"]
    lines += [f"add.f32 x, $6, 0f{_bits(most_over)}; add.f32 y, $7, 0f{_bits(most_over)};"]
    lines += ["setp.gt.f32 a, $4, x; setp.gt.or.f32 a, $5, y, a; vote.sync.any.pred b, a, 0xffffffff;"]
    lines += ["mov.f32 $0, $6; mov.f32 $1, $7; mov.f32 $2, 0f3F800000; mov.f32 $3, 0f3F800000;", "@!b bra.uni settled;"]
    for largest, before, after, shrink in (("$4", "$6", "$0", "$2"), ("$5", "$7", "$1", "$3")):
        lines += [f"max.f32 x, {largest}, {before};"]
        for distance in (2, 1):
            lines += [f"shfl.sync.bfly.b32 y, x, {distance}, 31, 0xffffffff; max.f32 x, x, y;"]
        lines += [f"sub.f32 z, {before}, x; mov.f32 {after}, x; ex2.approx.ftz.f32 {shrink}, z;"]
    return " ".join([*lines, "settled: }"])


def shrunk(values: int) -> str:
    """Values $0.. times what they shrink by, $2n..; untouched if no thread of a warp has any that shrinks.

    A thread's values are of two rows, two by two.
    """
    of = range(values)
    lines = ["{ .reg .pred a, b;", f"setp.neu.f32 a, ${2 * values}, 0f3F800000;"]
    lines += [f"setp.neu.or.f32 a, ${2 * values + 2}, 0f3F800000, a; vote.sync.any.pred b, a, 0xffffffff;"]
    lines += ["@!b bra.uni same;", *(f"mul.f32 ${i}, ${i}, ${2 * values + i};" for i in of)]
    return " ".join([*lines, "same: }"])


def powers(polynomials: int) -> str:
    """2^x of eight values, the last ones of them by a polynomial: 2^(x - n) of degree 3, n the integer next to x.

    Adding 1.5 2^23 leaves n in the lowest bits; they are added to the exponent. The polynomial is the best one in
    relative error on -1/2..1/2, 7.5e-5.
    """
    lines = ["{ .reg .f32 x, n, y;"]
    lines += [f"ex2.approx.ftz.f32 ${i}, ${8 + i};" for i in range(8 - polynomials)]
    for i in range(8 - polynomials, 8):
        lines += [f"max.f32 x, ${8 + i}, 0f{_bits(-126.0)}; add.rn.f32 n, x, 0f{_bits(1.5 * 2**23)};"]
        lines += [f"sub.rn.f32 y, n, 0f{_bits(1.5 * 2**23)}; sub.rn.f32 x, x, y;", f"mov.f32 y, 0f{_bits(CUBIC[3])};"]
        lines += [f"fma.rn.f32 y, y, x, 0f{_bits(c)};" for c in reversed(CUBIC[:3])]
        lines += ["{ .reg .b32 a, b; mov.b32 a, n; mov.b32 b, y; shl.b32 a, a, 23;"]
        lines += [f"add.s32 a, a, b; mov.b32 ${i}, a; }}"]
    return " ".join([*lines, "}"])


def operands(results: int, given: int) -> str:
    """Constraints of an assembler text on floats whose results are written before all that is given has been read."""
    return ",".join(["=&f"] * results + ["f"] * given)


def in_place(values: int) -> str:
    """Constraints of an assembler text that changes values where they are, by as many others."""
    return ",".join(["=&f"] * values + [str(i) for i in range(values)] + ["f"] * values)


def _bits(x: float) -> str:
    return f"{struct.unpack('<I', struct.pack('<f', x))[0]:08X}"
