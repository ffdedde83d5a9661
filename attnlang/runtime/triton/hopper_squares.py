"""Keys past queries, as a consumer of `hopper_gradients` computes it: a square of 64 x 64 a step, square after square.

P^T = exp2(k q^T - lse),  dv += P^T d_out,  dS^T = P^T (v d_out^T - delta),  dk += dS^T q
"""

# ruff: noqa: E501 - calls keep one argument order, and gluon reads only plain statements
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from attnlang.runtime.triton import square_steps, squares
from attnlang.runtime.triton.hopper_slots import held

KEYS = gl.constexpr(squares.TILE)
"""Keys of a program."""
SQUARE = gl.constexpr(squares.SQUARE)
"""Rows of a consumer, and of what streams past it."""
COLUMNS = gl.constexpr(square_steps.COLUMNS)
"""Integers of a piece of work: see `square_steps`, as for the next three."""
ENTRY = gl.constexpr(square_steps.ENTRY)
GROUPS = gl.constexpr(square_steps.GROUPS)
ENDS = gl.constexpr(square_steps.ENDS)
BUFFERS = gl.constexpr(3)
"""Squares of dS in shared memory, for each consumer."""


@gluon.jit
def _products(slot, more, own, rooms, bars, STAGES: gl.constexpr):
    """Begin K q^T and V d_out^T of a slot. Without `more` there is no such slot, and what comes out is nobody's result."""
    stage = slot % STAGES
    if more:
        mbarrier.wait(bars[0].index(stage), slot // STAGES & 1)
    zero = gl.full([SQUARE, SQUARE], 0.0, gl.float32, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, SQUARE, 16]))
    s = warpgroup_mma(own[0], rooms[2].index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
    dp = warpgroup_mma(own[1], rooms[3].index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
    return s, dp


@gluon.jit
def _begin(slot, more, own, rooms, bars, STAGES: gl.constexpr, AHEAD: gl.constexpr):
    """The products with which the first step of a piece begins, if they are begun ahead; anything else if not."""
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, SQUARE, 16])
    if AHEAD:
        s, dp = _products(slot, more, own, rooms, bars, STAGES)
        s, dp = warpgroup_mma_wait(0, [s, dp])
    else:
        s = gl.full([SQUARE, SQUARE], 0.0, gl.float32, mma)
        dp = s
    return s, dp


@gluon.jit
def _step(
    state, more, blob, mask, log_m, own, rooms, bars, squares, index, scale, lo, hi, D: gl.constexpr,
    STAGES: gl.constexpr, MASKED: gl.constexpr, HAS_LO: gl.constexpr, HAS_HI: gl.constexpr, LISTED: gl.constexpr, STORE: gl.constexpr, AHEAD: gl.constexpr,
):  # fmt: skip
    """64 queries past 64 keys.

    If it is MASKED, `mask` is the first query's position less the first key's, and tokens from query to query and from
    key to key; or, of LISTED squares, words of bits: of each key, which of queries 0..31 and 32..63 it meets.
    """
    s, dp, dk, dv, slot, stored = state
    q_ring, dout_ring, lse_ring, delta_ring, ds_ring = rooms[2], rooms[3], rooms[4], rooms[5], rooms[6]
    dtype: gl.constexpr = q_ring.dtype
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, SQUARE, 16])
    left: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16]), 2)
    by_query: gl.constexpr = gl.SliceLayout(0, mma)
    stage = slot % STAGES
    zero = gl.full([SQUARE, SQUARE], 0.0, gl.float32, mma)
    if not AHEAD:
        mbarrier.wait(bars[0].index(stage), slot // STAGES & 1)
        s = warpgroup_mma(own[0], q_ring.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
    lse = lse_ring.index(stage).load(by_query) - log_m
    if not AHEAD:
        s = warpgroup_mma_wait(0, [s])
    if MASKED and LISTED:
        s = held(s, mask[0], mask[1])
    p = gl.exp2(s * scale - lse[None, :])
    if MASKED and not LISTED:
        offset, q_step, k_step = mask
        key = gl.arange(0, SQUARE, gl.SliceLayout(1, mma)) * k_step
        query = gl.arange(0, SQUARE, by_query) * q_step + offset
        apart = key[:, None] - query[None, :]
        if HAS_LO:
            p = gl.where(apart >= lo, p, 0.0)
        if HAS_HI:
            p = gl.where(apart <= hi, p, 0.0)
    if not AHEAD:
        dp = warpgroup_mma(own[1], dout_ring.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
    p16 = gl.convert_layout(p.to(dtype), left)
    dv = warpgroup_mma(p16, dout_ring.index(stage), dv, is_async=True)
    delta = delta_ring.index(stage).load(by_query)
    if not AHEAD:
        dp = warpgroup_mma_wait(1, [dp])
    ds = (p * (dp - delta[None, :])).to(dtype)
    ds16 = gl.convert_layout(ds, left)
    dk = warpgroup_mma(ds16, q_ring.index(stage), dk, is_async=True)
    if AHEAD:
        s, dp = _products(slot + 1, more, own, rooms, bars, STAGES)
    if STORE:
        # what this room held is read: before the last barrier the copy engine was waited for, but for its last square
        room = ds_ring.index(stored % BUFFERS)
        room.store(ds)
        fence_async_shared()
        tma.store_wait(1)
        gl.thread_barrier()
        tma.async_copy_shared_to_global(squares, [blob * KEYS + index * SQUARE, 0], room)
    if AHEAD:
        dk, dv, p16, ds16, s, dp = warpgroup_mma_wait(0, [dk, dv, p16, ds16, s, dp])
    else:
        dk, dv, p16, ds16 = warpgroup_mma_wait(0, [dk, dv, p16, ds16])
        s = zero
        dp = zero
    mbarrier.arrive(bars[1].index(stage))
    return s, dp, dk, dv, slot + 1, stored + 1


@gluon.jit
def _skip(slot, bars, STAGES: gl.constexpr):
    """A step whose square only the other consumer has."""
    mbarrier.wait(bars[0].index(slot % STAGES), slot // STAGES & 1)
    mbarrier.arrive(bars[1].index(slot % STAGES))
    return slot + 1


@gluon.jit
def _masked(
    state, count, begin, end, piece, blob, work, own, rooms, bars, squares, index, scale, lo, hi, D: gl.constexpr,
    STAGES: gl.constexpr, HAS_LO: gl.constexpr, HAS_HI: gl.constexpr, LISTED: gl.constexpr, STORE: gl.constexpr, AHEAD: gl.constexpr,
):  # fmt: skip
    """So many steps in which some pair does not count; `begin` is the piece's first slot, `end` the last that this consumer has, and one."""
    _table, entries, bits, _pieces = work
    first, start = gl.load(piece + 3), gl.load(piece + 14)
    first_key, k_step = gl.load(piece + 17), gl.load(piece + 18)
    for _ in range(count):
        step = state[4] - begin
        entry = entries + (first + step) * ENTRY
        if LISTED:
            words = bits + gl.load(entry + 5 + 2 * index).to(gl.int64) * (2 * SQUARE)
            words += gl.arange(
                0, SQUARE, gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, SQUARE, 16]))
            )
            mask = (gl.load(words), gl.load(words + SQUARE))
        else:
            offset = gl.load(entry + 5) + start - first_key - index * SQUARE * k_step
            mask = (offset, 1 << gl.load(entry + 1), k_step)
        log_m = gl.load(entry + 6).to(gl.float32, bitcast=True)
        state = _step(
            state, state[4] + 1 < end, blob + step, mask, log_m, own, rooms, bars, squares, index, scale, lo, hi, D,
            STAGES, True, HAS_LO, HAS_HI, LISTED, STORE, AHEAD)  # fmt: skip
    return state


@gluon.jit
def past(
    sums, piece, blob, work, own, rooms, bars, squares, index, scale, lo, hi, D: gl.constexpr,
    STAGES: gl.constexpr, HAS_LO: gl.constexpr, HAS_HI: gl.constexpr, LISTED: gl.constexpr, STORE: gl.constexpr, AHEAD: gl.constexpr,
):  # fmt: skip
    """A consumer's keys of a piece, past all queries of one head that they meet. `blob`: where dS of the first step lies.

    Steps come in this order: those of the second consumer alone, those without a mask, those of both with one, those of
    the first alone. So a consumer's own steps follow one another. Of LISTED squares no consumer has any alone.
    """
    dk, dv, slot, stored = sums
    steps, groups, masked = gl.load(piece), gl.load(piece + 1), gl.load(piece + 2)
    before, after = gl.load(piece + ENDS), gl.load(piece + ENDS + 1)
    begin = slot
    end = begin + steps
    if index == 0:
        if HAS_LO:
            for _ in range(before):
                slot = _skip(slot, bars, STAGES)
        before *= 0
        masked += after
        after *= 0
    else:
        end -= after
    s, dp = _begin(slot, slot < end, own, rooms, bars, STAGES, AHEAD)
    state = (s, dp, dk, dv, slot, stored)
    if HAS_LO:
        state = _masked(
            state, before, begin, end, piece, blob, work, own, rooms, bars, squares, index, scale, lo, hi, D,
            STAGES, HAS_LO, HAS_HI, LISTED, STORE, AHEAD)  # fmt: skip
    for group in range(groups):
        count = gl.load(piece + GROUPS + 2 * group)
        log_m = gl.load(piece + GROUPS + 2 * group + 1).to(gl.float32, bitcast=True)
        for _ in range(count):
            state = _step(
                state, state[4] + 1 < end, blob + state[4] - begin, 0, log_m, own, rooms, bars, squares, index, scale, lo, hi, D,
                STAGES, False, HAS_LO, HAS_HI, LISTED, STORE, AHEAD)  # fmt: skip
    if HAS_LO or HAS_HI or LISTED:
        state = _masked(
            state, masked, begin, end, piece, blob, work, own, rooms, bars, squares, index, scale, lo, hi, D,
            STAGES, HAS_LO, HAS_HI, LISTED, STORE, AHEAD)  # fmt: skip
    s, dp, dk, dv, slot, stored = state
    if HAS_LO or HAS_HI:
        for _ in range(after):
            slot = _skip(slot, bars, STAGES)
    return dk, dv, slot, stored
