"""One slot of the Hopper kernel's ring, as a consumer works on it: see `hopper`.

A consumer's state is (acc, p, largest, total, slot): sums of p V without the last tile, the last tile's p, the largest
score of each query, the sum of p, and the slot that comes next. What stays the same for a piece of work is
(queries, lower, upper, scale, ring): query i meets rows lower[i]..upper[i]-1 of its own run.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

ROWS = gl.constexpr(64)
"""Queries of a consumer: rows of a warp group's product."""


@gluon.jit
def start(state, at, fixed, S: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, BIASED: gl.constexpr):
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
    p, largest, total, _shrink = _softmax(
        s, largest, total, at, lower, upper, bias, scale, True, BIASED, k_ring.dtype, D
    )
    mbarrier.arrive(empty.index(place))
    return acc, p, largest, total, slot + 1


@gluon.jit
def advance(
    state, at, fixed, S: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr, BIASED: gl.constexpr
):  # fmt: skip
    """A slot: the scores of its tile, and under their softmax the product of the tile before with its V."""
    acc, p, largest, total, slot = state
    queries, lower, upper, scale, ring = fixed
    k_ring, v_ring, m_ring, full, empty = ring
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    rows: gl.constexpr = gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16]))
    place = slot % STAGES
    mbarrier.wait(full.index(place), slot // STAGES & 1)
    zero = gl.full([ROWS, S], 0.0, gl.float32, mma)
    s = warpgroup_mma(queries, k_ring.index(place).permute((1, 0)), zero, use_acc=False, is_async=True)
    sums = warpgroup_mma(p, v_ring.index(place), acc, is_async=True)
    bias = _bias(m_ring, place, S, BIASED)
    s = warpgroup_mma_wait(1, [s])
    p_next, largest, total, shrink = _softmax(
        s, largest, total, at, lower, upper, bias, scale, MASKED, BIASED, k_ring.dtype, D
    )
    total = _here(total)
    acc, p, p_next = warpgroup_mma_wait(0, [sums, p, p_next])
    mbarrier.arrive(empty.index(place))
    acc = acc * gl.convert_layout(shrink, rows)[:, None]
    return acc, p_next, largest, total, slot + 1


@gluon.jit
def finish(state, fixed, STAGES: gl.constexpr):
    """The last slot of a piece: the product of the last tile with its V."""
    acc, p, largest, total, slot = state
    _queries, _lower, _upper, _scale, ring = fixed
    _k_ring, v_ring, _m_ring, full, empty = ring
    mbarrier.wait(full.index(slot % STAGES), slot // STAGES & 1)
    acc = warpgroup_mma(p, v_ring.index(slot % STAGES), acc)
    mbarrier.arrive(empty.index(slot % STAGES))
    return acc, p, largest, total, slot + 1


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
):
    """Exponentials of a tile's scores, as the left side of a product; and the state: maximum, sum, and what shrinks."""
    S: gl.constexpr = s.shape[1]
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    left: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16]), 2)
    if MASKED:
        row = gl.arange(0, S, gl.SliceLayout(0, mma))
        keep = (row[None, :] < (upper - at)[:, None]) & (row[None, :] >= (lower - at)[:, None])
        s = gl.where(keep, s, float("-inf"))
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

    Without it the wait for a product goes up to where the product begins, above all the exponentials.
    """
    return gl.inline_asm_elementwise(
        "{ .reg .pred p; setp.lt.f32 p, $1, 0f00000000; @p exit; mov.b32 $0, $1; }", "=r,r", [total],
        dtype=gl.float32, is_pure=False, pack=1)  # fmt: skip


@gluon.jit
def _bias(m_ring, place, S: gl.constexpr, BIASED: gl.constexpr):
    """Log2 m of the rows of a tile."""
    columns: gl.constexpr = gl.SliceLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16]))
    if BIASED:
        return m_ring.index(place).load(columns)
    return gl.full([S], 0.0, gl.float32, columns)
