"""One slot of the Hopper kernel's ring, as a consumer works on it: see `hopper`.

A consumer's state is (acc, p, largest, total, slot): sums of p V without the last tile, the last tile's p, the score
of each query that its exponentials are relative to, the sum of p, and the slot that comes next. What stays the same for
a piece of work is (queries, lower, upper, scale, ring): query i meets rows lower[i]..upper[i]-1 of its own run.

`HOW` says how the softmax is worked out, a sum of

    APART  a row's four threads add up their own columns, and meet once a piece instead of once a tile; `largest` and
           `total` are then (ROWS, 4)
    LAZY   (with APART) `largest` stays what it is until a score exceeds it by more than MOST_OVER: any reference is
           exact, sums need not shrink with every new maximum, and most tiles need not exchange maxima
    TWICE  slots in twos, so that p of one and p of the next stay in registers of their own
    BARE   the first slot of a piece is masked only where its tile needs it
    UNDER  (with APART) exponentials of a tile run under the scores of the next, and maxima under the product with V; a
           state then has the scores of the last tile in place of p, and `largest` covers them
"""

import struct


from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

ROWS = gl.constexpr(64)
"""Queries of a consumer: rows of a warp group's product."""
APART = gl.constexpr(1)
LAZY = gl.constexpr(2)
TWICE = gl.constexpr(4)
BARE = gl.constexpr(8)
UNDER = gl.constexpr(16)
END = gl.constexpr(1)
BEGINNING = gl.constexpr(2)
"""What of a tile is masked: keys after a band, keys before it."""
LEAST = gl.constexpr(-3.4028234663852886e38)
"""Below every score: the first reference. It is finite, so that -inf less it is -inf."""


def _settle(most_over: float = 8.0) -> str:
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


def _shrunk(values: int) -> str:
    """Values $0.. times what they shrink by, $2n..; untouched if no thread of a warp has any that shrinks.

    A thread's values are of two rows, two by two.
    """
    of = range(values)
    lines = ["{ .reg .pred a, b;", f"setp.neu.f32 a, ${2 * values}, 0f3F800000;"]
    lines += [f"setp.neu.or.f32 a, ${2 * values + 2}, 0f3F800000, a; vote.sync.any.pred b, a, 0xffffffff;"]
    lines += ["@!b bra.uni same;", *(f"mul.f32 ${i}, ${i}, ${2 * values + i};" for i in of)]
    return " ".join([*lines, "same: }"])


def _operands(results: int, given: int) -> str:
    """Constraints of an assembler text on floats whose results are written before all that is given has been read."""
    return ",".join(["=&f"] * results + ["f"] * given)


def _in_place(values: int) -> str:
    """Constraints of an assembler text that changes values where they are, by as many others."""
    return ",".join(["=&f"] * values + [str(i) for i in range(values)] + ["f"] * values)


def _bits(x: float) -> str:
    return f"{struct.unpack('<I', struct.pack('<f', x))[0]:08X}"


SETTLE, OF_FOUR = gl.constexpr(_settle()), gl.constexpr(_operands(4, 4))
SHRINK_32, OF_32 = gl.constexpr(_shrunk(32)), gl.constexpr(_in_place(32))
SHRINK_64, OF_64 = gl.constexpr(_shrunk(64)), gl.constexpr(_in_place(64))


@gluon.jit
def start(
    state, at, fixed, S: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr, BIASED: gl.constexpr,
    HOW: gl.constexpr,
):  # fmt: skip
    """The first slot of a piece: the scores of its tile alone."""
    acc, _p, largest, total, slot = state
    queries, lower, upper, scale, ring = fixed
    k_ring, _v_ring, m_ring, full, empty = ring
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    place = slot % STAGES
    mbarrier.wait(full.index(place), slot // STAGES & 1)
    zero = gl.full([ROWS, S], 0.0, gl.float32, mma)
    s = warpgroup_mma(queries, k_ring.index(place).permute((1, 0)), zero, use_acc=False)
    bias = _bias(m_ring, place, S, BIASED)
    if HOW & UNDER:
        s, largest, _by = _maxima(s, largest, at, lower, upper, bias, scale, MASKED, BIASED, HOW)
        _await(slot + 1, full, STAGES)
        mbarrier.arrive(empty.index(place))
        return acc, s, largest, total, slot + 1
    else:
        p, largest, total, _by = _softmax(
            s, largest, total, at, lower, upper, bias, scale, MASKED, BIASED, k_ring.dtype, D, HOW
        )
        mbarrier.arrive(empty.index(place))
        return acc, p, largest, total, slot + 1


@gluon.jit
def advance(
    state, at, fixed, S: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr, BIASED: gl.constexpr,
    HOW: gl.constexpr,
):  # fmt: skip
    """A slot: the scores of its tile, and under their softmax the product of the tile before with its V."""
    acc, p, largest, total, slot = state
    queries, lower, upper, scale, ring = fixed
    k_ring, v_ring, m_ring, full, empty = ring
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    place = slot % STAGES
    if (HOW & UNDER) == 0:
        mbarrier.wait(full.index(place), slot // STAGES & 1)
    zero = gl.full([ROWS, S], 0.0, gl.float32, mma)
    if HOW & UNDER:
        after = warpgroup_mma(queries, k_ring.index(place).permute((1, 0)), zero, use_acc=False, is_async=True)
        p, total = _exponentials(p, largest, total, scale, k_ring.dtype, D)
        bias = _bias(m_ring, place, S, BIASED)
        after = warpgroup_mma_wait(0, [after])
        sums = warpgroup_mma(p, v_ring.index(place), acc, is_async=True)
        after, largest, shrink = _maxima(after, largest, at, lower, upper, bias, scale, MASKED, BIASED, HOW)
        if (HOW & LAZY) == 0:
            shrink = _here(shrink)
        _await(slot + 1, full, STAGES)
        acc, p = warpgroup_mma_wait(0, [sums, p])
        mbarrier.arrive(empty.index(place))
        return _shrink(acc, shrink, HOW), after, largest, total * shrink, slot + 1
    else:
        s = warpgroup_mma(queries, k_ring.index(place).permute((1, 0)), zero, use_acc=False, is_async=True)
        sums = warpgroup_mma(p, v_ring.index(place), acc, is_async=True)
        bias = _bias(m_ring, place, S, BIASED)
        s = warpgroup_mma_wait(1, [s])
        p_next, largest, total, shrink = _softmax(
            s, largest, total, at, lower, upper, bias, scale, MASKED, BIASED, k_ring.dtype, D, HOW
        )
        total = _here(total)
        acc, p, p_next = warpgroup_mma_wait(0, [sums, p, p_next])
        mbarrier.arrive(empty.index(place))
        acc = _shrink(acc, shrink, HOW)
        return acc, p_next, largest, total, slot + 1


@gluon.jit
def finish(state, fixed, D: gl.constexpr, STAGES: gl.constexpr, HOW: gl.constexpr):
    """The last slot of a piece: the product of the last tile with its V."""
    acc, p, largest, total, slot = state
    _queries, _lower, _upper, scale, ring = fixed
    _k_ring, v_ring, _m_ring, full, empty = ring
    if HOW & UNDER:
        p, total = _exponentials(p, largest, total, scale, v_ring.dtype, D)
    else:
        _await(slot, full, STAGES)
    acc = warpgroup_mma(p, v_ring.index(slot % STAGES), acc)
    mbarrier.arrive(empty.index(slot % STAGES))
    return acc, largest, total, slot + 1


@gluon.jit
def _await(slot, full, STAGES: gl.constexpr):
    """Wait until a slot has been filled."""
    mbarrier.wait(full.index(slot % STAGES), slot // STAGES & 1)


@gluon.jit
def skip(slot, ring, STAGES: gl.constexpr):
    """A slot that only other consumers need."""
    _k_ring, _v_ring, _m_ring, full, empty = ring
    mbarrier.wait(full.index(slot % STAGES), slot // STAGES & 1)
    mbarrier.arrive(empty.index(slot % STAGES))
    return slot + 1


@gluon.jit
def _softmax(
    s,
    largest,
    total,
    at,
    lower,
    upper,
    bias,
    scale,
    MASKED: gl.constexpr,
    BIASED: gl.constexpr,
    dtype: gl.constexpr,
    D: gl.constexpr,
    HOW: gl.constexpr,
):
    """Exponentials of a tile's scores, as the left side of a product; and the state: maximum, sum, and what shrinks."""
    S: gl.constexpr = s.shape[1]
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    left: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16]), 2)
    s = _masked(s, at, lower, upper, MASKED)
    factor = scale
    if BIASED:
        s = s * scale + bias[None, :]
        factor = 1.0
    if HOW & APART:
        x = _apart(s)
        if HOW & LAZY:
            largest, shrink = _settled(gl.max(gl.max(x, 1), 2) * factor, largest)
        else:
            before = largest
            most = gl.max(gl.max(gl.max(x, 1), 2), 1)
            largest = gl.maximum(before, gl.expand_dims(most, 1) * factor)
            shrink = gl.exp2(before - largest)
        p = gl.exp2(x * factor - gl.expand_dims(gl.expand_dims(largest, 2), 1))
        total = total * shrink + gl.sum(gl.sum(p, 1), 2)
        p = p.to(dtype).reshape([ROWS, S])
        return gl.convert_layout(p, left), largest, total, shrink
    else:
        before = largest
        largest = gl.maximum(before, gl.max(s, 1) * factor)
        shift = gl.where(largest == float("-inf"), 0.0, largest)
        p = gl.exp2(s * factor - shift[:, None])
        shrink = gl.exp2(before - shift)
        total = total * shrink + gl.sum(p, 1)
        return gl.convert_layout(p.to(dtype), left), largest, total, shrink


@gluon.jit
def _masked(s, at, lower, upper, MASKED: gl.constexpr):
    """Scores of a tile at row `at` of the run, -inf outside of rows lower..upper-1: of the sides that a tile can reach."""
    row = gl.arange(0, s.shape[1], gl.SliceLayout(0, s.type.layout))
    if MASKED & END:
        s = gl.where(row[None, :] < (upper - at)[:, None], s, float("-inf"))
    if MASKED & BEGINNING:
        s = gl.where(row[None, :] >= (lower - at)[:, None], s, float("-inf"))
    return s


@gluon.jit
def _maxima(
    s, largest, at, lower, upper, bias, scale, MASKED: gl.constexpr, BIASED: gl.constexpr, HOW: gl.constexpr
):  # fmt: skip
    """A tile's scores, -inf where masked; references that hold for them too; and what sums shrink by.

    Weights are in units of scores before they are scaled.
    """
    S: gl.constexpr = s.shape[1]
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    s = _masked(s, at, lower, upper, MASKED)
    if BIASED:
        s = s + bias[None, :]
    most = gl.max(gl.max(_apart(s), 1), 2)
    if HOW & LAZY:
        largest, shrink = _settled(most * scale, largest)
    else:
        before = largest
        largest = gl.maximum(before, gl.expand_dims(gl.max(most, 1), 1) * scale)
        shrink = gl.exp2(before - largest)
    return s, largest, shrink


@gluon.jit
def _exponentials(s, largest, total, scale, dtype: gl.constexpr, D: gl.constexpr):
    """Exponentials of scores relative to references, as the left side of a product; and their sums added to others."""
    left: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16]), 2)
    p = gl.exp2(_apart(s) * scale - gl.expand_dims(gl.expand_dims(largest, 2), 1))
    total = total + gl.sum(gl.sum(p, 1), 2)
    return gl.convert_layout(p.to(dtype).reshape([ROWS, s.shape[1]]), left), total


@gluon.jit
def _apart(x):
    """(ROWS, 8 n) as (ROWS, n, 4, 2): a thread has the columns of one of four, and rows i and i + 8."""
    return x.reshape([ROWS, x.shape[1] // 8, 4, 2])


@gluon.jit
def nothing(S: gl.constexpr, HOW: gl.constexpr):
    """`largest` and `total` before the first tile."""
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    if HOW & APART:
        none = gl.sum(gl.sum(_apart(gl.full([ROWS, S], 0.0, gl.float32, mma)), 1), 2)
        return none + LEAST, none
    else:
        rows: gl.constexpr = gl.SliceLayout(1, mma)
        return gl.full([ROWS], float("-inf"), gl.float32, rows), gl.full([ROWS], 0.0, gl.float32, rows)


@gluon.jit
def together(largest, total, S: gl.constexpr, HOW: gl.constexpr):
    """`largest` and `total` of each query after the last tile."""
    rows: gl.constexpr = gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16]))
    if HOW & APART:
        largest = gl.convert_layout(gl.max(largest, 1), rows)
        total = gl.convert_layout(gl.sum(total, 1), rows)
    return largest, total


@gluon.jit
def _settled(seen, largest):
    """References that no score of a tile exceeds by more than 2^8, and what sums shrink by where they are new ones."""
    return gl.inline_asm_elementwise(
        SETTLE, OF_FOUR, [seen, largest], dtype=(gl.float32, gl.float32), is_pure=False, pack=2
    )


@gluon.jit
def _shrink(acc, shrink, HOW: gl.constexpr):
    """Sums of p V that are relative to new references."""
    D: gl.constexpr = acc.shape[1]
    mma: gl.constexpr = acc.type.layout
    if HOW & APART:
        x = _apart(acc)
        by = gl.convert_layout(shrink, gl.SliceLayout(2, gl.SliceLayout(1, x.type.layout)), assert_trivial=True)
        by = gl.expand_dims(gl.expand_dims(by, 2), 1)
        if HOW & LAZY:
            by = gl.broadcast(x, by)[1]
            if D == 64:
                x = gl.inline_asm_elementwise(SHRINK_32, OF_32, [x, by], dtype=gl.float32, is_pure=False, pack=32)
            else:
                x = gl.inline_asm_elementwise(SHRINK_64, OF_64, [x, by], dtype=gl.float32, is_pure=False, pack=64)
        else:
            x = x * by
        return gl.convert_layout(x.reshape([ROWS, D]), mma, assert_trivial=True)
    else:
        return acc * gl.convert_layout(shrink, gl.SliceLayout(1, mma))[:, None]


@gluon.jit
def _here(total):
    """The same sums (never negative), and a place that the assembler does not move a wait across.

    Without it the wait for a product goes up to where the product begins, above all the exponentials. (The assembler
    knows that an exponential is not below 0, but not that its bits are not those of a small negative number.)
    """
    return gl.inline_asm_elementwise(
        "{ .reg .pred p; setp.eq.s32 p, $1, 0x80000001; @p exit; mov.b32 $0, $1; }", "=r,r", [total],
        dtype=gl.float32, is_pure=False, pack=1)  # fmt: skip


@gluon.jit
def _bias(m_ring, place, S: gl.constexpr, BIASED: gl.constexpr):
    """Log2 m of the rows of a tile."""
    columns: gl.constexpr = gl.SliceLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16]))
    if BIASED:
        return m_ring.index(place).load(columns)
    return gl.full([S], 0.0, gl.float32, columns)
