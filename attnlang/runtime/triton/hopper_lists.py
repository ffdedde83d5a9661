"""The forward pass on Hopper GPUs for block lists: as in `hopper`, but what streams past is named by a list.

A piece of work is a head and 64 consecutive queries for each consumer, a block of the lists each. Its slots are the
blocks of keys that any of its consumers meets (`listed`): first those in which all pairs count, then those in which
some pair of some consumer does not; for these each consumer has a mask of bits, none or all of them set where it meets
nothing or everything.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import async_copy, fence_async_shared, mbarrier

from attnlang.runtime.triton import hopper_slots as slots
from attnlang.runtime.triton import listed
from attnlang.runtime.triton.hopper import COLUMNS, begin_queries, fill, put
from attnlang.runtime.triton.hopper_slots import BITS, ROWS, advance, finish

BLOCK = gl.constexpr(listed.BLOCK)
"""Queries and keys of a block."""
INTEGERS = ["pieces", "n", "query_heads"]


@gluon.jit
def _load(matrices, lists, work, ring, STAGES: gl.constexpr):
    """Every block of keys that any consumer needs, in order."""
    xs, ys = matrices
    blocks, _masks, _bits = lists
    table, pieces = work
    slot = pieces * 0
    for number in range(gl.program_id(0), pieces, gl.num_programs(0)):
        piece = table + number * COLUMNS
        count, first = gl.load(piece + 7), blocks + gl.load(piece + 8)
        x_row, x_column = gl.load(piece + 16), gl.load(piece + 17)
        y_row, y_column = gl.load(piece + 18), gl.load(piece + 19)
        at = gl.load(first) * BLOCK
        for i in range(count):
            # (the block before is read again: a variable of the loop does not take over another's old value)
            before = gl.load(first + gl.maximum(i - 1, 0)) * BLOCK
            ahead = gl.load(first + i + 1) * BLOCK
            fill(slot, xs, ys, 0, 0, x_row + at, x_column, 0, 0, y_row + before, y_column,
                 True, i > 0, ring, STAGES, 1, False)  # fmt: skip
            at = ahead
            slot += 1
        if count > 0:
            before = gl.load(first + count - 1) * BLOCK
            fill(slot, xs, ys, 0, 0, 0, 0, 0, 0, y_row + before, y_column, False, True, ring, STAGES, 1, False)
            slot += 1


@gluon.jit
def _words(bits, number):
    """The words of a mask: of every query of a block, which of 32 keys it meets, and which of the 32 after them."""
    row = gl.arange(0, ROWS, gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK, 16])))
    words = bits + number.to(gl.int64) * (2 * BLOCK) + row
    return gl.load(words), gl.load(words + BLOCK)


@gluon.jit
def _walk(
    queries, piece, slot, lists, ring, scale, index, CONSUMERS: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr,
    UNDER: gl.constexpr,
):  # fmt: skip
    """Everything that a consumer's queries of a piece meet: sums of p V, largest scores, sums of p, next slot."""
    _blocks, masks, bits = lists
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    count, whole = gl.load(piece + 7), gl.load(piece + 12)
    mine = masks + gl.load(piece + 8) * CONSUMERS + index
    acc = gl.full([ROWS, D], 0.0, gl.float32, mma)
    largest, total = slots.nothing(BLOCK, UNDER)
    if count > 0:
        low, high = _words(bits, gl.load(mine))
        none = (acc, 0, largest, total, slot)
        state = slots.start(none, 0, (queries, low, high, scale, ring), BLOCK, D, STAGES, BITS, False, UNDER)
        fixed = (queries, low, high, scale, ring)
        for _ in range(1, whole):
            state = advance(state, 0, fixed, BLOCK, D, STAGES, 0, False, UNDER)
        whole = gl.maximum(whole, 1)
        number = gl.load(mine + whole * CONSUMERS)
        for i in range(whole, count):
            low, high = _words(bits, number)
            number = gl.load(mine + (i + 1) * CONSUMERS)
            state = advance(state, 0, (queries, low, high, scale, ring), BLOCK, D, STAGES, BITS, False, UNDER)
        acc, largest, total, slot = finish(state, fixed, D, STAGES, UNDER)
    largest, total = slots.together(largest, total, BLOCK, UNDER)
    return acc, largest, total, slot


@gluon.jit
def _consume(
    tensors, lists, work, ring, q_room, index, CONSUMERS: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr,
    UNDER: gl.constexpr,
):  # fmt: skip
    """A consumer: its 64 queries of every piece, all blocks that they meet, their results."""
    table, pieces = work
    slot = pieces * 0
    begin_queries(tensors, table, gl.program_id(0), pieces, q_room, index, D)
    for number in range(gl.program_id(0), pieces, gl.num_programs(0)):
        piece = table + number * COLUMNS
        row = gl.load(piece + 6) + index * ROWS
        async_copy.wait_group(0)
        fence_async_shared()
        gl.thread_barrier()
        acc, largest, total, slot = _walk(
            q_room.index(index), piece, slot, lists, ring, tensors[8], index, CONSUMERS, D, STAGES, UNDER)  # fmt: skip
        gl.thread_barrier()
        begin_queries(tensors, table, number + gl.num_programs(0), pieces, q_room, index, D)
        put(tensors, piece, row, acc, largest, total, D, BLOCK)


@gluon.jit(do_not_specialize=INTEGERS)
def attend(
    q, out, lse, acc0, q_stride, out_stride, xs, ys, blocks, masks, bits, table, pieces, n, query_heads, scale,
    D: gl.constexpr, CONSUMERS: gl.constexpr, STAGES: gl.constexpr, UNDER: gl.constexpr,
    REGISTERS: gl.constexpr, LOADER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Pieces of work, each CONSUMERS blocks of queries of one head and all blocks of keys that they meet."""
    dtype: gl.constexpr = xs.dtype
    gl.static_assert(gl.num_warps() == 4)
    gl.static_assert(xs.block_type.shape[0] == BLOCK)
    k_ring = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, D], xs.layout)
    v_ring = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, D], ys.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=CONSUMERS)
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, D], dtype)
    q_room = gl.allocate_shared_memory(dtype, [CONSUMERS, ROWS, D], q_layout)
    ring = (k_ring, v_ring, full, full, empty)
    lists = (blocks, masks, bits)
    work = (table, pieces)
    tensors = (q, out, lse, acc0, q_stride, out_stride, query_heads, n, scale)
    gl.static_assert(CONSUMERS >= 2 and CONSUMERS <= 4)
    if CONSUMERS == 2:
        gl.warp_specialize(
            [(_consume, (tensors, lists, work, ring, q_room, 0, CONSUMERS, D, STAGES, UNDER)),
             (_consume, (tensors, lists, work, ring, q_room, 1, CONSUMERS, D, STAGES, UNDER)),
             (_load, (((xs,), (ys,)), lists, work, ring, STAGES))],
            [4, 1], [REGISTERS, LOADER_REGISTERS])  # fmt: skip
    elif CONSUMERS == 3:
        gl.warp_specialize(
            [(_consume, (tensors, lists, work, ring, q_room, 0, CONSUMERS, D, STAGES, UNDER)),
             (_consume, (tensors, lists, work, ring, q_room, 1, CONSUMERS, D, STAGES, UNDER)),
             (_consume, (tensors, lists, work, ring, q_room, 2, CONSUMERS, D, STAGES, UNDER)),
             (_load, (((xs,), (ys,)), lists, work, ring, STAGES))],
            [4, 4, 1], [REGISTERS, REGISTERS, LOADER_REGISTERS])  # fmt: skip
    else:
        gl.warp_specialize(
            [(_consume, (tensors, lists, work, ring, q_room, 0, CONSUMERS, D, STAGES, UNDER)),
             (_consume, (tensors, lists, work, ring, q_room, 1, CONSUMERS, D, STAGES, UNDER)),
             (_consume, (tensors, lists, work, ring, q_room, 2, CONSUMERS, D, STAGES, UNDER)),
             (_consume, (tensors, lists, work, ring, q_room, 3, CONSUMERS, D, STAGES, UNDER)),
             (_load, (((xs,), (ys,)), lists, work, ring, STAGES))],
            [4, 4, 4, 1], [REGISTERS, REGISTERS, REGISTERS, LOADER_REGISTERS])  # fmt: skip
