"""Gradients of queries on Hopper GPUs, made of the dS that `hopper_gradients` has left: dq += dS k, one product a pair.

A program owns 128 queries and walks past the squares that they are in, 64 keys a step. There is little to compute: what
bounds it is reading dS, 8 KiB a square.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from attnlang.runtime.triton.hopper_gradients import COLUMNS, ENTRY, SQUARE, fetch, put

INTEGERS = ["pieces"]


@gluon.jit
def _load_squares(matrices, squares, work, stride, rings, bars, STAGES: gl.constexpr, RATES: gl.constexpr):
    """64 keys and the dS of each consumer's queries, step by step."""
    table, entries, pieces = work
    k_ring, ds_ring = rings
    full, empty = bars
    KEY_BYTES: gl.constexpr = matrices[0].block_type.nbytes
    slot = pieces * 0
    for number in range(gl.program_id(0), pieces, gl.num_programs(0)):
        piece = table + number * COLUMNS
        steps, first = gl.load(piece), gl.load(piece + 3)
        token, column, square = gl.load(piece + 9), gl.load(piece + 10), gl.load(piece + 19) * 2
        for step in range(steps):
            entry = entries + (first + step) * ENTRY
            rate, shift = gl.load(entry), gl.load(entry + 1)
            row, residue = gl.load(entry + 2), gl.load(entry + 3)
            stage = slot % STAGES
            bar = full.index(stage)
            mbarrier.wait(empty.index(stage), (slot // STAGES & 1) ^ 1)
            mbarrier.expect(bar, KEY_BYTES + 2 * squares.block_type.nbytes)
            for consumer in gl.static_range(2):
                # where a consumer has no square, another one comes to nobody
                at = gl.maximum(gl.load(entry + 4 + consumer), 0)
                tma.async_copy_global_to_shared(
                    squares, [(square + at) * SQUARE, 0], bar, ds_ring.index(2 * stage + consumer)
                )
            fetch(matrices, rate, (token >> shift) + row, column + residue * stride, bar, k_ring.index(stage), RATES)
            slot += 1


@gluon.jit
def _consume_squares(result, work, rings, bars, scale, index, D: gl.constexpr, STAGES: gl.constexpr):
    """A consumer: dq of its 64 queries of every piece."""
    table, entries, pieces = work
    out, stride = result
    k_ring, ds_ring = rings
    full, empty = bars
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    slot = pieces * 0
    for number in range(gl.program_id(0), pieces, gl.num_programs(0)):
        piece = table + number * COLUMNS
        steps, first = gl.load(piece), gl.load(piece + 3)
        dq = gl.full([SQUARE, D], 0.0, gl.float32, mma)
        for step in range(steps):
            stage = slot % STAGES
            mbarrier.wait(full.index(stage), slot // STAGES & 1)
            if gl.load(entries + (first + step) * ENTRY + 4 + index) >= 0:
                dq = warpgroup_mma(
                    ds_ring.index(2 * stage + index).permute((1, 0)), k_ring.index(stage), dq, is_async=True
                )
                dq = warpgroup_mma_wait(1, [dq])
            else:
                dq = warpgroup_mma_wait(0, [dq])
            if step > 0:
                mbarrier.arrive(empty.index((slot - 1) % STAGES))
            slot += 1
        if steps > 0:
            dq = warpgroup_mma_wait(0, [dq])
            mbarrier.arrive(empty.index((slot - 1) % STAGES))
            apart = gl.load(piece + 18)
            put(out, stride, piece, dq * scale, gl.load(piece + 17) + index * SQUARE * apart, apart, D)


@gluon.jit(do_not_specialize=INTEGERS)
def query_gradients(
    k0, k1, k2, k3, k4, squares, dq_out, dq_stride, k_stride, table, entries, pieces, scale,
    D: gl.constexpr, STAGES: gl.constexpr, RATES: gl.constexpr, REGISTERS: gl.constexpr, LOADER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Compute dq of pieces of work, each 128 queries of one head and all squares that they are in."""
    dtype: gl.constexpr = k0.dtype
    gl.static_assert(gl.num_warps() == 4)
    k_ring = gl.allocate_shared_memory(dtype, [STAGES, SQUARE, D], k0.layout)
    ds_ring = gl.allocate_shared_memory(dtype, [2 * STAGES, SQUARE, SQUARE], squares.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    rings = (k_ring, ds_ring)
    bars = (full, empty)
    work = (table, entries, pieces)
    result = (dq_out, dq_stride)
    gl.warp_specialize(
        [(_consume_squares, (result, work, rings, bars, scale, 0, D, STAGES)),
         (_consume_squares, (result, work, rings, bars, scale, 1, D, STAGES)),
         (_load_squares, ((k0, k1, k2, k3, k4), squares, work, k_stride, rings, bars, STAGES, RATES))],
        [4, 1], [REGISTERS, LOADER_REGISTERS])  # fmt: skip
