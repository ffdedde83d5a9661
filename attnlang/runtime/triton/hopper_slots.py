"""One slot of the Hopper kernel's ring, as a consumer works on it: see `hopper`.

A consumer's state is (acc, p, largest, total, slot): sums of p V without the last tile, the last tile's p, the score
of each query that its exponentials are relative to, the sum of p, and the slot that comes next. What stays the same for
a piece of work is (queries, lower, upper, scale, ring): query i meets rows lower[i]..upper[i]-1 of its own run.

Without UNDER the softmax of a tile runs under the product of the tile before with V. With it exponentials run under the
scores of the next tile, and maxima under the product with V, so that a consumer keeps tensor cores busy during both:

    the state has the scores of the last tile in place of p, and `largest` covers them
    a row's four threads add up their own columns, and meet once a piece instead of once a tile: `largest` and `total`
    are (ROWS, 4)
    `largest` stays what it is until a score exceeds it by more than MOST_OVER: any reference is exact as long as
    nothing overflows (2^8 times a tile's keys is far from it), sums need not shrink with every new maximum, and most
    tiles need not exchange maxima
    weights are in units of scores before they are scaled, so that scores are scaled once

A branch that a whole warp takes together is what the language has no word for; hence texts of assembler (PTX), in which
$i are results and then operands.
"""

import struct

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

ROWS = gl.constexpr(64)
"""Queries of a consumer: rows of a warp group's product."""
END = gl.constexpr(1)
BEGINNING = gl.constexpr(2)
BITS = gl.constexpr(4)
"""What of a tile is masked: keys after a band, keys before it; or what a mask of bits does not hold.

With BITS `lower` and `upper` are a mask's words: of each query, whether it meets keys 0..31 and 32..63 of the tile.
"""
LEAST = gl.constexpr(-3.4028234663852886e38)
"""Below every score: the first reference. It is finite, so that -inf less it is -inf."""
MOST_OVER = 8.0


def _settle() -> str:
    """References of a thread's two rows ($0, $1), and by how much sums shrink ($2, $3).

    $4 and $5 are the largest scores that the thread has seen, $6 and $7 the references. A row's four threads are in one
    warp, which goes the long way together if any of its threads has to.
    """
    lines = ["{ .reg .pred a, b; .reg .f32 x, y, z;"]
    lines += [f"add.f32 x, $6, 0f{_bits(MOST_OVER)}; add.f32 y, $7, 0f{_bits(MOST_OVER)};"]
    lines += ["setp.gt.f32 a, $4, x; setp.gt.or.f32 a, $5, y, a; vote.sync.any.pred b, a, 0xffffffff;"]
    lines += ["mov.f32 $0, $6; mov.f32 $1, $7; mov.f32 $2, 0f3F800000; mov.f32 $3, 0f3F800000;", "@!b bra.uni settled;"]
    for largest, before, after, shrink in (("$4", "$6", "$0", "$2"), ("$5", "$7", "$1", "$3")):
        lines += [f"max.f32 x, {largest}, {before};"]
        for distance in (2, 1):
            lines += [f"shfl.sync.bfly.b32 y, x, {distance}, 31, 0xffffffff; max.f32 x, x, y;"]
        lines += [f"sub.f32 z, {before}, x; mov.f32 {after}, x; ex2.approx.ftz.f32 {shrink}, z;"]
    return " ".join([*lines, "settled: }"])


def _shrunk(values: int) -> str:
    """Values $0.. times what they shrink by, $2n..; untouched if no thread of a warp has any that shrinks.

    A thread's values are of two rows, two by two.
    """
    of = range(values)
    lines = ["{ .reg .pred a, b;", f"setp.neu.f32 a, ${2 * values}, 0f3F800000;"]
    lines += [f"setp.neu.or.f32 a, ${2 * values + 2}, 0f3F800000, a; vote.sync.any.pred b, a, 0xffffffff;"]
    lines += ["@!b bra.uni same;", *(f"mul.f32 ${i}, ${i}, ${2 * values + i};" for i in of)]
    return " ".join([*lines, "same: }"])


def _in_place(values: int) -> str:
    """Constraints of a text that changes values where they are, by as many others."""
    return ",".join(["=&f"] * values + [str(i) for i in range(values)] + ["f"] * values)


def _bits(x: float) -> str:
    return f"{struct.unpack('<I', struct.pack('<f', x))[0]:08X}"


def _held(values: int) -> str:
    """Values $0.. where a mask holds them, else -inf: a thread's of two rows and 8 n columns, two by two.

    Words of columns 0..31 are $2n (first row) and $2n + 2 (second), of columns 32..63 $3n and $3n + 2, shifted so that
    the thread's first column is bit 0.
    """
    lines = ["{ .reg .pred held; .reg .b32 bit;"]
    for i in range(values):
        group, row, column = i // 4, i // 2 % 2, i % 2
        word = 2 * values + (0 if group < 4 else values) + 2 * row
        lines += [f"and.b32 bit, ${word}, {1 << group % 4 * 8 + column:#x}; setp.ne.b32 held, bit, 0;"]
        lines += [f"selp.f32 ${i}, ${i}, 0fFF800000, held;"]
    return " ".join([*lines, "}"])


SETTLE, OF_FOUR = gl.constexpr(_settle()), gl.constexpr(",".join(["=&f"] * 4 + ["f"] * 4))
SHRINK_32, OF_32 = gl.constexpr(_shrunk(32)), gl.constexpr(_in_place(32))
SHRINK_64, OF_64 = gl.constexpr(_shrunk(64)), gl.constexpr(_in_place(64))
HELD_32 = gl.constexpr(_held(32))
OF_MASKED = gl.constexpr(",".join(["=&f"] * 32 + [str(i) for i in range(32)] + ["r"] * 64))


@gluon.jit
def start(
    state, at, fixed, S: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr,
    BIASED: gl.constexpr, UNDER: gl.constexpr,
):  # fmt: skip
    """The first slot of a piece: the scores of its tile alone."""
    acc, _p, largest, total, slot = state
    queries, lower, upper, scale, ring = fixed
    k_ring, _v_ring, m_ring, full, empty = ring
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    place = slot % STAGES
    _await(slot, full, STAGES)
    zero = gl.full([ROWS, S], 0.0, gl.float32, mma)
    s = warpgroup_mma(queries, k_ring.index(place).permute((1, 0)), zero, use_acc=False)
    s = _masked(s, at, lower, upper, MASKED)
    bias = _bias(m_ring, place, S, BIASED)
    if UNDER:
        made, largest, _by = _maxima(s, largest, bias, scale, BIASED)
        _await(slot + 1, full, STAGES)
    else:
        made, largest, total, _by = _softmax(s, largest, total, bias, scale, BIASED, k_ring.dtype, D)
    mbarrier.arrive(empty.index(place))
    return acc, made, largest, total, slot + 1


@gluon.jit
def advance(
    state, at, fixed, S: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr,
    BIASED: gl.constexpr, UNDER: gl.constexpr,
):  # fmt: skip
    """A slot: the scores of its tile, the product of the tile before with its V, and what of a softmax runs under them.

    With UNDER a consumer waits for slot i + 1 before it gives back slot i. That cannot last: take the consumer that is
    furthest behind, with slot i. The loader fills slot i + 1 once all have given back slot i + 1 - STAGES, and as
    STAGES > 1, all have. So slot i + 1 is filled whatever the others do. There is such a slot for every one with a
    tile: a piece ends with one that holds V alone, after which nothing is waited for.
    """
    acc, p, largest, total, slot = state
    queries, lower, upper, scale, ring = fixed
    k_ring, v_ring, m_ring, full, empty = ring
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    place = slot % STAGES
    if UNDER:
        gl.static_assert(STAGES > 1)
    else:
        _await(slot, full, STAGES)
    zero = gl.full([ROWS, S], 0.0, gl.float32, mma)
    s = warpgroup_mma(queries, k_ring.index(place).permute((1, 0)), zero, use_acc=False, is_async=True)
    if UNDER:
        p, total = _exponentials(p, largest, total, scale, k_ring.dtype, D)
        bias = _bias(m_ring, place, S, BIASED)
        s = warpgroup_mma_wait(0, [s])
        sums = warpgroup_mma(p, v_ring.index(place), acc, is_async=True)
        s = _masked(s, at, lower, upper, MASKED)
        made, largest, shrink = _maxima(s, largest, bias, scale, BIASED)
        _await(slot + 1, full, STAGES)
        acc, p = warpgroup_mma_wait(0, [sums, p])
    else:
        sums = warpgroup_mma(p, v_ring.index(place), acc, is_async=True)
        bias = _bias(m_ring, place, S, BIASED)
        s = warpgroup_mma_wait(1, [s])
        s = _masked(s, at, lower, upper, MASKED)
        made, largest, total, shrink = _softmax(s, largest, total, bias, scale, BIASED, k_ring.dtype, D)
        total = _here(total)
        acc, p, made = warpgroup_mma_wait(0, [sums, p, made])
    mbarrier.arrive(empty.index(place))
    if UNDER:
        total = total * shrink
        acc = _shrink_seldom(acc, shrink)
    else:
        acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, acc.type.layout))[:, None]
    return acc, made, largest, total, slot + 1


@gluon.jit
def finish(state, fixed, D: gl.constexpr, STAGES: gl.constexpr, UNDER: gl.constexpr):
    """The last slot of a piece: the product of the last tile with its V."""
    acc, p, largest, total, slot = state
    _queries, _lower, _upper, scale, ring = fixed
    _k_ring, v_ring, _m_ring, full, empty = ring
    if UNDER:
        p, total = _exponentials(p, largest, total, scale, v_ring.dtype, D)
    else:
        _await(slot, full, STAGES)
    acc = warpgroup_mma(p, v_ring.index(slot % STAGES), acc)
    mbarrier.arrive(empty.index(slot % STAGES))
    return acc, largest, total, slot + 1


@gluon.jit
def skip(slot, ring, STAGES: gl.constexpr):
    """A slot that only other consumers need."""
    _k_ring, _v_ring, _m_ring, full, empty = ring
    _await(slot, full, STAGES)
    mbarrier.arrive(empty.index(slot % STAGES))
    return slot + 1


@gluon.jit
def nothing(S: gl.constexpr, UNDER: gl.constexpr):
    """`largest` and `total` before the first tile."""
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    if UNDER:
        total = gl.sum(gl.sum(_apart(gl.full([ROWS, S], 0.0, gl.float32, mma)), 1), 2)
        largest = total + LEAST
    else:
        total = gl.full([ROWS], 0.0, gl.float32, gl.SliceLayout(1, mma))
        largest = total + float("-inf")
    return largest, total


@gluon.jit
def together(largest, total, S: gl.constexpr, UNDER: gl.constexpr):
    """`largest` and `total` of each query after the last tile."""
    rows: gl.constexpr = gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16]))
    if UNDER:
        largest = gl.convert_layout(gl.max(largest, 1), rows)
        total = gl.convert_layout(gl.sum(total, 1), rows)
    return largest, total


@gluon.jit
def _await(slot, full, STAGES: gl.constexpr):
    """Wait until a slot has been filled."""
    mbarrier.wait(full.index(slot % STAGES), slot // STAGES & 1)


@gluon.jit
def _masked(s, at, lower, upper, MASKED: gl.constexpr):
    """Scores of a tile at row `at` of the run, -inf outside of rows lower..upper-1, on the sides that it can be at."""
    if MASKED & BITS:
        s = held(s, lower, upper)
    row = gl.arange(0, s.shape[1], gl.SliceLayout(0, s.type.layout))
    if MASKED & END:
        s = gl.where(row[None, :] < (upper - at)[:, None], s, float("-inf"))
    if MASKED & BEGINNING:
        s = gl.where(row[None, :] >= (lower - at)[:, None], s, float("-inf"))
    return s


@gluon.jit
def held(s, low, high):
    """Scores (ROWS, 64), -inf where the words of a row (columns 0..31, 32..63) have no bit."""
    x = _apart(s)
    column: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, x.type.layout)))
    shift = gl.arange(0, 4, column) * 2
    words: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, x.type.layout)))
    low = gl.convert_layout(low, words, assert_trivial=True)[:, None, None, None]
    high = gl.convert_layout(high, words, assert_trivial=True)[:, None, None, None]
    low = gl.broadcast(x, low >> shift[None, None, :, None])[1]
    high = gl.broadcast(x, high >> shift[None, None, :, None])[1]
    x = gl.inline_asm_elementwise(HELD_32, OF_MASKED, [x, low, high], dtype=gl.float32, is_pure=True, pack=32)
    return gl.convert_layout(x.reshape(s.shape), s.type.layout, assert_trivial=True)


@gluon.jit
def _bias(m_ring, place, S: gl.constexpr, BIASED: gl.constexpr):
    """Log2 m of the rows of a tile."""
    columns: gl.constexpr = gl.SliceLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16]))
    if BIASED:
        return m_ring.index(place).load(columns)
    return gl.full([S], 0.0, gl.float32, columns)


# a softmax at once --------------------------------------------------------------------------------------------------


@gluon.jit
def _softmax(s, largest, total, bias, scale, BIASED: gl.constexpr, dtype: gl.constexpr, D: gl.constexpr):
    """Exponentials of a tile's scores, as the left side of a product; and the state: maximum, sum, and what shrinks."""
    left: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16]), 2)
    factor = scale
    if BIASED:
        s = s * scale + bias[None, :]
        factor = 1.0
    before = largest
    largest = gl.maximum(before, gl.max(s, 1) * factor)
    shift = gl.where(largest == float("-inf"), 0.0, largest)
    p = gl.exp2(s * factor - shift[:, None])
    shrink = gl.exp2(before - shift)
    total = total * shrink + gl.sum(p, 1)
    return gl.convert_layout(p.to(dtype), left), largest, total, shrink


@gluon.jit
def _here(total):
    """The same sums (never negative), and a place that the assembler does not move a wait across.

    Without it the wait for a product goes up to where the product begins, above all the exponentials. (The assembler
    knows that an exponential is not below 0, but not that its bits are not those of a small negative number.)
    """
    return gl.inline_asm_elementwise(
        "{ .reg .pred p; setp.eq.s32 p, $1, 0x80000001; @p exit; mov.b32 $0, $1; }", "=r,r", [total],
        dtype=gl.float32, is_pure=False, pack=1)  # fmt: skip


# a softmax in halves ------------------------------------------------------------------------------------------------


@gluon.jit
def _maxima(s, largest, bias, scale, BIASED: gl.constexpr):
    """A tile's scores with their weights; references that hold for them too; and what sums shrink by."""
    if BIASED:
        s = s + bias[None, :]
    most = gl.max(gl.max(_apart(s), 1), 2) * scale
    largest, shrink = gl.inline_asm_elementwise(
        SETTLE, OF_FOUR, [most, largest], dtype=(gl.float32, gl.float32), is_pure=False, pack=2
    )
    return s, largest, shrink


@gluon.jit
def _exponentials(s, largest, total, scale, dtype: gl.constexpr, D: gl.constexpr):
    """Exponentials of scores relative to references, as the left side of a product; and their sums added to others."""
    left: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16]), 2)
    p = gl.exp2(_apart(s) * scale - gl.expand_dims(gl.expand_dims(largest, 2), 1))
    total = total + gl.sum(gl.sum(p, 1), 2)
    return gl.convert_layout(p.to(dtype).reshape([ROWS, s.shape[1]]), left), total


@gluon.jit
def _shrink_seldom(acc, shrink):
    """Sums of p V, relative to new references where a warp has any."""
    D: gl.constexpr = acc.shape[1]
    x = _apart(acc)
    by = gl.convert_layout(shrink, gl.SliceLayout(2, gl.SliceLayout(1, x.type.layout)), assert_trivial=True)
    by = gl.broadcast(x, gl.expand_dims(gl.expand_dims(by, 2), 1))[1]
    if D == 64:
        x = gl.inline_asm_elementwise(SHRINK_32, OF_32, [x, by], dtype=gl.float32, is_pure=False, pack=32)
    else:
        x = gl.inline_asm_elementwise(SHRINK_64, OF_64, [x, by], dtype=gl.float32, is_pure=False, pack=64)
    return gl.convert_layout(x.reshape([ROWS, D]), acc.type.layout, assert_trivial=True)


@gluon.jit
def _apart(x):
    """(ROWS, 8 n) as (ROWS, n, 4, 2): a thread has the columns of one of four, and rows i and i + 8."""
    return x.reshape([ROWS, x.shape[1] // 8, 4, 2])
