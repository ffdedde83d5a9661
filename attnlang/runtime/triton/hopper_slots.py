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
    UNIT   where the rows of the own run are consecutive tokens, nothing is divided by their rate
    EIGHTH, QUARTER  (with APART) that part of the exponentials as polynomials, beside the unit for exponentials
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from attnlang.runtime.triton import hopper_texts as texts

ROWS = gl.constexpr(64)
"""Queries of a consumer: rows of a warp group's product."""
APART = gl.constexpr(1)
LAZY = gl.constexpr(2)
TWICE = gl.constexpr(4)
BARE = gl.constexpr(8)
UNDER = gl.constexpr(16)
UNIT = gl.constexpr(32)
EIGHTH = gl.constexpr(64)
QUARTER = gl.constexpr(128)
END = gl.constexpr(1)
BEGINNING = gl.constexpr(2)
"""What of a tile is masked: keys after a band, keys before it."""
LEAST = gl.constexpr(-3.4028234663852886e38)
"""Below every score: the first reference. It is finite, so that -inf less it is -inf."""


EIGHT_SEVEN, EIGHT_SIX = gl.constexpr(texts.powers(1)), gl.constexpr(texts.powers(2))
OF_EIGHT = gl.constexpr(texts.operands(8, 8))
SETTLE, OF_FOUR = gl.constexpr(texts.settle()), gl.constexpr(texts.operands(4, 4))
SHRINK_32, OF_32 = gl.constexpr(texts.shrunk(32)), gl.constexpr(texts.in_place(32))
SHRINK_64, OF_64 = gl.constexpr(texts.shrunk(64)), gl.constexpr(texts.in_place(64))


@gluon.jit
def start(
    state, at, fixed, S: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr,
    BIASED: gl.constexpr, HOW: gl.constexpr,
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
        made, largest, _by = _maxima(s, largest, at, lower, upper, bias, scale, MASKED, BIASED, HOW)
        _await(slot + 1, full, STAGES)
    else:
        made, largest, total, _by = _softmax(
            s, largest, total, at, lower, upper, bias, scale, MASKED, BIASED, k_ring.dtype, D, HOW
        )
    mbarrier.arrive(empty.index(place))
    return acc, made, largest, total, slot + 1


@gluon.jit
def advance(
    state, at, fixed, S: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr,
    BIASED: gl.constexpr, HOW: gl.constexpr,
):  # fmt: skip
    """A slot: the scores of its tile, and under their softmax the product of the tile before with its V."""
    acc, p, largest, total, slot = state
    queries, lower, upper, scale, ring = fixed
    k_ring, v_ring, m_ring, full, empty = ring
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    place = slot % STAGES
    if (HOW & UNDER) == 0:
        _await(slot, full, STAGES)
    zero = gl.full([ROWS, S], 0.0, gl.float32, mma)
    s = warpgroup_mma(queries, k_ring.index(place).permute((1, 0)), zero, use_acc=False, is_async=True)
    if HOW & UNDER:
        p, total = _exponentials(p, largest, total, scale, k_ring.dtype, D, HOW)
        bias = _bias(m_ring, place, S, BIASED)
        s = warpgroup_mma_wait(0, [s])
        sums = warpgroup_mma(p, v_ring.index(place), acc, is_async=True)
        made, largest, shrink = _maxima(s, largest, at, lower, upper, bias, scale, MASKED, BIASED, HOW)
        if (HOW & LAZY) == 0:
            shrink = _here(shrink)
        _await(slot + 1, full, STAGES)
        acc, p = warpgroup_mma_wait(0, [sums, p])
        total = total * shrink
    else:
        sums = warpgroup_mma(p, v_ring.index(place), acc, is_async=True)
        bias = _bias(m_ring, place, S, BIASED)
        s = warpgroup_mma_wait(1, [s])
        made, largest, total, shrink = _softmax(
            s, largest, total, at, lower, upper, bias, scale, MASKED, BIASED, k_ring.dtype, D, HOW
        )
        total = _here(total)
        acc, p, made = warpgroup_mma_wait(0, [sums, p, made])
    mbarrier.arrive(empty.index(place))
    return _shrink(acc, shrink, HOW), made, largest, total, slot + 1


@gluon.jit
def finish(state, fixed, D: gl.constexpr, STAGES: gl.constexpr, HOW: gl.constexpr):
    """The last slot of a piece: the product of the last tile with its V."""
    acc, p, largest, total, slot = state
    _queries, _lower, _upper, scale, ring = fixed
    _k_ring, v_ring, _m_ring, full, empty = ring
    if HOW & UNDER:
        p, total = _exponentials(p, largest, total, scale, v_ring.dtype, D, HOW)
    else:
        _await(slot, full, STAGES)
    acc = warpgroup_mma(p, v_ring.index(slot % STAGES), acc)
    mbarrier.arrive(empty.index(slot % STAGES))
    return acc, largest, total, slot + 1


@gluon.jit
def _await(slot, full, STAGES: gl.constexpr):
    """Wait until a slot has been filled.

    With UNDER a consumer waits for slot i + 1 before it gives back slot i. That cannot last: take the consumer that is
    furthest behind, with slot i. The loader fills slot i + 1 once all have given back slot i + 1 - STAGES, and as
    STAGES > 1, all have. So slot i + 1 is filled whatever the others do. There is such a slot for every one with a
    tile: a piece ends with one that holds V alone, after which nothing is waited for.
    """
    gl.static_assert(STAGES > 1)
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
        p = _exp2(x * factor - gl.expand_dims(gl.expand_dims(largest, 2), 1), HOW)
        total = total * shrink + gl.sum(gl.sum(p, 1), 2)
        p = p.to(dtype).reshape([ROWS, S])
    else:
        before = largest
        largest = gl.maximum(before, gl.max(s, 1) * factor)
        shift = gl.where(largest == float("-inf"), 0.0, largest)
        p = gl.exp2(s * factor - shift[:, None])
        shrink = gl.exp2(before - shift)
        total = total * shrink + gl.sum(p, 1)
        p = p.to(dtype)
    return gl.convert_layout(p, left), largest, total, shrink


@gluon.jit
def _masked(s, at, lower, upper, MASKED: gl.constexpr):
    """Scores of a tile at row `at` of the run, -inf outside of rows lower..upper-1, on the sides that it can be at."""
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
def _exponentials(s, largest, total, scale, dtype: gl.constexpr, D: gl.constexpr, HOW: gl.constexpr):
    """Exponentials of scores relative to references, as the left side of a product; and their sums added to others."""
    left: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16]), 2)
    p = _exp2(_apart(s) * scale - gl.expand_dims(gl.expand_dims(largest, 2), 1), HOW)
    total = total + gl.sum(gl.sum(p, 1), 2)
    return gl.convert_layout(p.to(dtype).reshape([ROWS, s.shape[1]]), left), total


@gluon.jit
def _exp2(x, HOW: gl.constexpr):
    """2^x, all by the unit for it or some by polynomials."""
    if HOW & QUARTER:
        y = gl.inline_asm_elementwise(EIGHT_SIX, OF_EIGHT, [x], dtype=gl.float32, is_pure=True, pack=8)
    elif HOW & EIGHTH:
        y = gl.inline_asm_elementwise(EIGHT_SEVEN, OF_EIGHT, [x], dtype=gl.float32, is_pure=True, pack=8)
    else:
        y = gl.exp2(x)
    return y


@gluon.jit
def _apart(x):
    """(ROWS, 8 n) as (ROWS, n, 4, 2): a thread has the columns of one of four, and rows i and i + 8."""
    return x.reshape([ROWS, x.shape[1] // 8, 4, 2])


@gluon.jit
def nothing(S: gl.constexpr, HOW: gl.constexpr):
    """`largest` and `total` before the first tile."""
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    if HOW & APART:
        total = gl.sum(gl.sum(_apart(gl.full([ROWS, S], 0.0, gl.float32, mma)), 1), 2)
        largest = total + LEAST
    else:
        total = gl.full([ROWS], 0.0, gl.float32, gl.SliceLayout(1, mma))
        largest = total + float("-inf")
    return largest, total


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
        acc = gl.convert_layout(x.reshape([ROWS, D]), mma, assert_trivial=True)
    else:
        acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, mma))[:, None]
    return acc


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
