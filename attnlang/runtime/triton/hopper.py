"""The forward pass on Hopper GPUs: one warp loads, and groups of four warps compute beside one another.

Triton overlaps the products of a tile with those of the next; what it does not arrange is a softmax under products.
Here that is written out, in Gluon, as FlashAttention 3 does it (Shah et al. 2024):

    loader      keeps tiles of K and V coming through a ring of shared memory, from one piece of work into the next
    consumer    owns 64 queries; issues the scores of a tile and the product of the tile before with V, and works out
                the softmax while the latter runs; or, with UNDER, half of it under each (`hopper_slots`)

A program is a loader and some consumers, which share tiles and drift apart by as many as the ring holds, so that one
computes exponentials while another multiplies. It stays on its multiprocessor and takes one piece of work after another.

A slot of the ring holds K of tile j and V of tile j - 1: what a consumer needs at once, and gives back at once.

The plan, the tables and the tile arithmetic are those of `kernels.attend`, for lattices alone: an own run in a band,
walked from its end to its beginning so that tiles which a consumer does not need come first, and the outer runs of
nested lattices. Block lists run in `hopper_lists`; what else there is (columns, pointers instead of descriptors) runs there.
"""

# ruff: noqa: E501 - calls keep one argument order, and gluon reads only plain statements
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    tma,
)

from attnlang.runtime.triton import hopper_slots as slots
from attnlang.runtime.triton.hopper_slots import BEGINNING, END, ROWS, advance, finish, skip

LOG2_E = gl.constexpr(1.4426950408889634)
LN_2 = gl.constexpr(0.6931471805599453)
COLUMNS = gl.constexpr(64)
"""Integers of a piece in the table: see `pieces`."""
INTEGERS = ["pieces", "n", "query_heads", "lo", "hi"]


# the loader ---------------------------------------------------------------------------------------------------------


@gluon.jit
def _fetch(matrices, part, row, column, bar, room, PARTS: gl.constexpr):
    """A tile of one of several matrices."""
    for number in gl.static_range(PARTS):
        if part == number:
            tma.async_copy_global_to_shared(matrices[number], [row, column], bar, room)


@gluon.jit
def fill(
    slot, xs, ys, log_m, x_part, x_row, x_column, weights, y_part, y_row, y_column, has_x, has_y, ring,
    STAGES: gl.constexpr, PARTS: gl.constexpr, BIASED: gl.constexpr,
):  # fmt: skip
    """K of one tile, its weights, and V of the tile before, as soon as the slot's last content is used up."""
    k_ring, v_ring, m_ring, full, empty = ring
    place = slot % STAGES
    bar = full.index(place)
    X_BYTES: gl.constexpr = xs[0].block_type.nbytes + (log_m.block_type.nbytes if BIASED else 0)
    mbarrier.wait(empty.index(place), (slot // STAGES & 1) ^ 1)
    if has_x & has_y:
        mbarrier.expect(bar, X_BYTES + ys[0].block_type.nbytes)
    elif has_x:
        mbarrier.expect(bar, X_BYTES)
    else:
        mbarrier.expect(bar, ys[0].block_type.nbytes)
    if has_x:
        _fetch(xs, x_part, x_row, x_column, bar, k_ring.index(place), PARTS)
        if BIASED:
            tma.async_copy_global_to_shared(log_m, [weights * k_ring.type.shape[1]], bar, m_ring.index(place))
    if has_y:
        _fetch(ys, y_part, y_row, y_column, bar, v_ring.index(place), PARTS)


@gluon.jit
def load(matrices, work, ring, S: gl.constexpr, STAGES: gl.constexpr, PARTS: gl.constexpr, BIASED: gl.constexpr):
    """Every tile that any consumer needs, in the order in which all of them walk."""
    xs, ys, log_m = matrices
    table, pieces = work
    slot = pieces * 0
    for number in range(gl.program_id(0), pieces, gl.num_programs(0)):
        piece = table + number * COLUMNS
        tiles = gl.load(piece + 7)
        x_row = gl.load(piece + 16) + (tiles - 1) * S
        x_column = gl.load(piece + 17)
        y_row = gl.load(piece + 18) + (tiles - 1) * S
        y_column = gl.load(piece + 19)
        weights = gl.load(piece + 20)
        y_part = slot * 0
        for i in range(tiles):
            fill(slot, xs, ys, log_m, 0, x_row - i * S, x_column, weights, 0, y_row - i * S + S, y_column,
                  True, i > 0, ring, STAGES, 1, BIASED)  # fmt: skip
            slot += 1
        before = y_row - (tiles - 1) * S
        before_column = y_column
        if PARTS > 1:
            for part in range(1, PARTS):
                outer = piece + 16 + 8 * part
                count = gl.load(outer + 6)
                x_row = gl.load(outer)
                x_column = gl.load(outer + 1)
                y_row = gl.load(outer + 2)
                y_column = gl.load(outer + 3)
                jump_at = gl.load(outer + 4)
                jump = gl.load(outer + 5)
                weights = gl.load(outer + 7)
                for i in range(count):
                    at = i * S + gl.where(i * S >= jump_at, jump, 0)
                    fill(slot, xs, ys, log_m, part, x_row + at, x_column, weights, y_part, before, before_column,
                          True, True, ring, STAGES, PARTS, BIASED)  # fmt: skip
                    y_part = part
                    before = y_row + at
                    before_column = y_column
                    slot += 1
        if tiles > 0:
            fill(slot, xs, ys, log_m, 0, 0, 0, 0, y_part, before, before_column,
                  False, True, ring, STAGES, PARTS, BIASED)  # fmt: skip
            slot += 1


# consumers ----------------------------------------------------------------------------------------------------------


@gluon.jit
def _reach(least, most, lo, hi, start, rate, limit, HAS_LO: gl.constexpr, HAS_HI: gl.constexpr):
    """Rows of a run that queries least..most meet: any of them from `begin` to `end`, all of them in full_from..full_to."""
    begin = limit * 0
    full_from = begin
    end = limit
    full_to = limit
    if HAS_LO:
        begin = gl.cdiv(gl.maximum(least + lo - start, 0), rate)
        full_from = gl.cdiv(gl.maximum(most + lo - start, 0), rate)
    if HAS_HI:
        end = gl.minimum(gl.maximum(most + hi - start + rate, 0) // rate, limit)
        full_to = gl.minimum(gl.maximum(least + hi - start + rate, 0) // rate, limit)
    return begin, end, full_from, full_to


@gluon.jit
def begin_queries(tensors, table, number, pieces, q_room, index, D: gl.constexpr):
    """Begin to copy a consumer's queries of a piece to shared memory; none if there is no such piece."""
    q, stride = tensors[0], tensors[4]
    memory: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    piece = table + gl.minimum(number, pieces - 1) * COLUMNS
    batch, head = gl.load(piece), gl.load(piece + 1)
    base, step, rows = gl.load(piece + 3), gl.load(piece + 4), gl.load(piece + 5)
    row = gl.load(piece + 6) + index * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, memory))
    column = gl.arange(0, D, gl.SliceLayout(0, memory))
    token = (base + row * step).to(gl.int64)
    place = batch.to(gl.int64) * stride[0] + head.to(gl.int64) * stride[1] + token * stride[2]
    inside = (row < rows)[:, None] & (column < D)[None, :]
    async_copy.async_copy_global_to_shared(
        q_room.index(index), q + place[:, None] + column[None, :], inside & (number < pieces)
    )
    async_copy.commit_group()


@gluon.jit
def _walk(
    queries, piece, row, slot, ring, lo, hi, scale, D: gl.constexpr, S: gl.constexpr, STAGES: gl.constexpr,
    BIASED: gl.constexpr, HAS_LO: gl.constexpr, HAS_HI: gl.constexpr, WIDE: gl.constexpr, UNDER: gl.constexpr,
):  # fmt: skip
    """Everything that a consumer's queries `row`.. of a piece meet: sums of p V, largest scores, sums of p, next slot.

    Of the tiles of the own run, first..to-1 are its own (counted from the beginning), full_from..full_to-1 unmasked.
    WIDE: no tile is at both ends of the band.
    """
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    s_rows: gl.constexpr = gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16]))
    base, step, rows = gl.load(piece + 3), gl.load(piece + 4), gl.load(piece + 5)
    tiles, begin = gl.load(piece + 7), gl.load(piece + 8)
    start, rate, limit = gl.load(piece + 9), gl.load(piece + 10), gl.load(piece + 11)
    weighted, plain = gl.load(piece + 12), gl.load(piece + 13)

    token = base + (row + gl.arange(0, ROWS, s_rows)) * step
    lower = gl.full([ROWS], 0, gl.int32, s_rows)
    upper = lower + limit
    if HAS_LO:
        lower = (gl.maximum(token + lo - start, 0) + rate - 1) // rate
    if HAS_HI:
        upper = gl.minimum(gl.maximum(token + hi - start + rate, 0) // rate, limit)
    least = base + gl.minimum(row, rows - 1) * step
    most = base + (gl.minimum(row + ROWS, rows) - 1) * step
    reach_from, reach_to, all_from, all_to = _reach(least, most, lo, hi, start, rate, limit, HAS_LO, HAS_HI)
    to = gl.maximum(gl.minimum(gl.cdiv(reach_to - begin, S), tiles), 1)
    first = gl.minimum(gl.maximum(reach_from - begin, 0) // S, to - 1)
    full_to = gl.maximum(gl.minimum((all_to - begin) // S, to - 1), first)
    full_from = gl.minimum(gl.maximum(gl.cdiv(all_from - begin, S), first), full_to)

    AFTER: gl.constexpr = END if WIDE else END + BEGINNING
    BEFORE: gl.constexpr = BEGINNING if WIDE else END + BEGINNING
    acc = gl.full([ROWS, D], 0.0, gl.float32, mma)
    largest, total = slots.nothing(S, UNDER)
    fixed = (queries, lower, upper, scale, ring)
    if tiles > 0:
        for _ in range(tiles - to):
            slot = skip(slot, ring, STAGES)
        none = (acc, 0, largest, total, slot)
        state = slots.start(none, begin + (to - 1) * S, fixed, S, D, STAGES, AFTER, BIASED, UNDER)
        for i in range(to - 1 - full_to):
            state = advance(state, begin + (to - 2 - i) * S, fixed, S, D, STAGES, AFTER, BIASED, UNDER)
        for _ in range(full_to - full_from + weighted):
            state = advance(state, 0, fixed, S, D, STAGES, 0, BIASED, UNDER)
        if BIASED:
            for _ in range(plain):
                state = advance(state, 0, fixed, S, D, STAGES, 0, False, UNDER)
        if HAS_LO:
            for i in range(full_from - first):
                state = advance(state, begin + (full_from - 1 - i) * S, fixed, S, D, STAGES, BEFORE, BIASED, UNDER)
        acc, largest, total, slot = finish(state, fixed, D, STAGES, UNDER)
        for _ in range(first):
            slot = skip(slot, ring, STAGES)
    largest, total = slots.together(largest, total, S, UNDER)
    return acc, largest, total, slot


@gluon.jit
def consume(
    tensors, work, ring, q_room, lo, hi, index, D: gl.constexpr, S: gl.constexpr, STAGES: gl.constexpr,
    BIASED: gl.constexpr, HAS_LO: gl.constexpr, HAS_HI: gl.constexpr, WIDE: gl.constexpr,
    Q_SHARED: gl.constexpr, UNDER: gl.constexpr,
):  # fmt: skip
    """A consumer: its 64 queries of every piece, all tiles that they meet, their results."""
    table, pieces = work
    s_mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    slot = pieces * 0
    begin_queries(tensors, table, gl.program_id(0), pieces, q_room, index, D)
    for number in range(gl.program_id(0), pieces, gl.num_programs(0)):
        piece = table + number * COLUMNS
        row = gl.load(piece + 6) + index * ROWS
        async_copy.wait_group(0)
        fence_async_shared()
        gl.thread_barrier()
        queries = q_room.index(index)
        if not Q_SHARED:
            queries = q_room.index(index).load(gl.DotOperandLayout(0, s_mma, 2))
        acc, largest, total, slot = _walk(
            queries, piece, row, slot, ring, lo, hi, tensors[8], D, S, STAGES, BIASED, HAS_LO, HAS_HI, WIDE, UNDER)  # fmt: skip
        gl.thread_barrier()
        begin_queries(tensors, table, number + gl.num_programs(0), pieces, q_room, index, D)
        put(tensors, piece, row, acc, largest, total, D, S)


@gluon.jit
def put(tensors, piece, row0, acc, largest, total, D: gl.constexpr, S: gl.constexpr):
    """The results of a consumer's queries: merged with earlier ones where there are any, final or to be merged."""
    _q, out, lse, acc0, _q_stride, out_stride, query_heads, n, _scale = tensors
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    s_rows: gl.constexpr = gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16]))
    memory: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    batch, head, flags = gl.load(piece).to(gl.int64), gl.load(piece + 1).to(gl.int64), gl.load(piece + 2)
    base, step, rows = gl.load(piece + 3), gl.load(piece + 4), gl.load(piece + 5)
    row = row0 + gl.arange(0, ROWS, s_rows)
    rows_before = (batch * query_heads + head) * n
    lse_place = lse + rows_before + base + row * step
    acc_row = row0 + gl.arange(0, ROWS, gl.SliceLayout(1, mma))
    acc_column = gl.arange(0, D, gl.SliceLayout(0, mma))
    accumulated = acc0 + (rows_before + base + acc_row * step)[:, None] * D + acc_column[None, :]
    acc_inside = (acc_row < rows)[:, None] & (acc_column < D)[None, :]
    nothing = total == 0.0
    total = gl.where(nothing, 1.0, total)
    here = gl.where(nothing, float("-inf"), largest + gl.log2(total))
    factor = 1.0 / total
    if (flags & 1) != 0:
        before = gl.load(lse_place, row < rows, other=float("-inf")) * LOG2_E
        greater = gl.maximum(here, before)
        greater = gl.where(greater == float("-inf"), 0.0, greater)
        w_here, w_before = gl.exp2(here - greater), gl.exp2(before - greater)
        both = w_here + w_before
        neither = both == 0.0
        both = gl.where(neither, 1.0, both)
        here = gl.where(neither, float("-inf"), greater + gl.log2(both))
        share = gl.convert_layout(w_before / both, gl.SliceLayout(1, mma))
        known = gl.convert_layout(before, gl.SliceLayout(1, mma)) > float("-inf")
        acc = acc * gl.convert_layout(factor * (w_here / both), gl.SliceLayout(1, mma))[:, None]
        acc += gl.load(accumulated, acc_inside & known[:, None], other=0.0) * share[:, None]
    else:
        acc = acc * gl.convert_layout(factor, gl.SliceLayout(1, mma))[:, None]
    gl.store(lse_place, here * LN_2, row < rows)
    if (flags & 2) != 0:
        out_row = row0 + gl.arange(0, ROWS, gl.SliceLayout(1, memory))
        out_column = gl.arange(0, D, gl.SliceLayout(0, memory))
        place = batch * out_stride[0] + head * out_stride[1] + (base + out_row * step).to(gl.int64) * out_stride[2]
        out_inside = (out_row < rows)[:, None] & (out_column < D)[None, :]
        gl.store(
            out + place[:, None] + out_column[None, :],
            gl.convert_layout(acc.to(out.dtype.element_ty), memory),
            out_inside,
        )
    else:
        gl.store(accumulated, acc, acc_inside)


# the kernel ---------------------------------------------------------------------------------------------------------


@gluon.jit(do_not_specialize=INTEGERS)
def attend(
    q, out, lse, acc0, q_stride, out_stride,
    xs0, xs1, xs2, xs3, xs4, xs5, ys0, ys1, ys2, ys3, ys4, ys5, log_m, table, pieces, n, query_heads, lo, hi, scale,
    D: gl.constexpr, CONSUMERS: gl.constexpr, S: gl.constexpr, STAGES: gl.constexpr, PARTS: gl.constexpr,
    BIASED: gl.constexpr, HAS_LO: gl.constexpr, HAS_HI: gl.constexpr, WIDE: gl.constexpr,
    Q_SHARED: gl.constexpr, UNDER: gl.constexpr,
    REGISTERS: gl.constexpr, LOADER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Pieces of work, each CONSUMERS times 64 queries of one head and everything that streams past them."""
    dtype: gl.constexpr = xs0.dtype
    gl.static_assert(gl.num_warps() == 4)
    k_ring = gl.allocate_shared_memory(dtype, [STAGES, S, D], xs0.layout)
    v_ring = gl.allocate_shared_memory(dtype, [STAGES, S, D], ys0.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=CONSUMERS)
    m_ring = full
    if BIASED:
        m_ring = gl.allocate_shared_memory(gl.float32, [STAGES, S], log_m.layout)
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, D], dtype)
    q_room = gl.allocate_shared_memory(dtype, [CONSUMERS, ROWS, D], q_layout)
    ring = (k_ring, v_ring, m_ring, full, empty)
    matrices = ((xs0, xs1, xs2, xs3, xs4, xs5), (ys0, ys1, ys2, ys3, ys4, ys5), log_m)
    work = (table, pieces)
    tensors = (q, out, lse, acc0, q_stride, out_stride, query_heads, n, scale)
    gl.static_assert(CONSUMERS >= 2 and CONSUMERS <= 4)
    if CONSUMERS == 2:
        gl.warp_specialize(
            [(consume, (tensors, work, ring, q_room, lo, hi, 0, D, S, STAGES, BIASED, HAS_LO, HAS_HI, WIDE, Q_SHARED, UNDER)),
             (consume, (tensors, work, ring, q_room, lo, hi, 1, D, S, STAGES, BIASED, HAS_LO, HAS_HI, WIDE, Q_SHARED, UNDER)),
             (load, (matrices, work, ring, S, STAGES, PARTS, BIASED))],
            [4, 1], [REGISTERS, LOADER_REGISTERS])  # fmt: skip
    elif CONSUMERS == 3:
        gl.warp_specialize(
            [(consume, (tensors, work, ring, q_room, lo, hi, 0, D, S, STAGES, BIASED, HAS_LO, HAS_HI, WIDE, Q_SHARED, UNDER)),
             (consume, (tensors, work, ring, q_room, lo, hi, 1, D, S, STAGES, BIASED, HAS_LO, HAS_HI, WIDE, Q_SHARED, UNDER)),
             (consume, (tensors, work, ring, q_room, lo, hi, 2, D, S, STAGES, BIASED, HAS_LO, HAS_HI, WIDE, Q_SHARED, UNDER)),
             (load, (matrices, work, ring, S, STAGES, PARTS, BIASED))],
            [4, 4, 1], [REGISTERS, REGISTERS, LOADER_REGISTERS])  # fmt: skip
    else:
        gl.warp_specialize(
            [(consume, (tensors, work, ring, q_room, lo, hi, 0, D, S, STAGES, BIASED, HAS_LO, HAS_HI, WIDE, Q_SHARED, UNDER)),
             (consume, (tensors, work, ring, q_room, lo, hi, 1, D, S, STAGES, BIASED, HAS_LO, HAS_HI, WIDE, Q_SHARED, UNDER)),
             (consume, (tensors, work, ring, q_room, lo, hi, 2, D, S, STAGES, BIASED, HAS_LO, HAS_HI, WIDE, Q_SHARED, UNDER)),
             (consume, (tensors, work, ring, q_room, lo, hi, 3, D, S, STAGES, BIASED, HAS_LO, HAS_HI, WIDE, Q_SHARED, UNDER)),
             (load, (matrices, work, ring, S, STAGES, PARTS, BIASED))],
            [4, 4, 4, 1], [REGISTERS, REGISTERS, REGISTERS, LOADER_REGISTERS])  # fmt: skip
