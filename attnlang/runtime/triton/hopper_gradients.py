"""Gradients of keys and values on Hopper GPUs; they can leave dS behind, of which `hopper_queries` makes that of queries.

Then P and dS are computed once: five products a pair, not seven. As in `hopper`, a program is a warp that loads and two
groups of four warps, the consumers. It owns 128 keys of a head and walks past all queries that they meet, 64 a step;
each consumer has 64 of the keys (`hopper_squares`):

    P^T = exp2(k q^T - lse),  dv += P^T d_out,  dS^T = P^T (v d_out^T - delta),  dk += dS^T q

and if it is to STORE them, dS^T goes to memory, 8 KiB a square of 64 x 64, by the copy engine, while it goes on. Each program
alone writes its rows, and adds in one order: no atomics, and two runs agree bit by bit.

Who meets whom is enumerated on the host (`squares`, `square_steps`). Rows of a tile are all in the same of some nested
lattices, so all pairs of a square count as often, and log2 of that is added to its scores.
"""

# ruff: noqa: E501 - calls keep one argument order, and gluon reads only plain statements
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from attnlang.runtime.triton.hopper_squares import BUFFERS, COLUMNS, ENTRY, KEYS, SQUARE, past

INTEGERS = ["pieces"]


@gluon.jit
def fetch(matrices, rate, row, column, bar, room, RATES: gl.constexpr):
    """A tile of the matrix of one of several rates."""
    for number in gl.static_range(RATES):
        if rate == number:
            tma.async_copy_global_to_shared(matrices[number], [row, column], bar, room)


@gluon.jit
def _load_keys(
    matrices, work, strides, apart, rooms, bars, STAGES: gl.constexpr, RATES: gl.constexpr, GROUP: gl.constexpr
):
    """K and V of every piece, and what its steps past each head of queries need, in order."""
    ks, vs = matrices[0], matrices[1]
    table, _entries, _bits, pieces = work
    k_room, v_room = rooms[0], rooms[1]
    keys_full, keys_empty = bars[2], bars[3]
    slot = pieces * 0
    turn = pieces * 0
    for number in range(gl.program_id(0), pieces, gl.num_programs(0)):
        piece = table + number * COLUMNS
        rate = gl.load(piece + 8)
        if gl.load(piece) > 0:
            mbarrier.wait(keys_empty.index(0), (turn & 1) ^ 1)
            mbarrier.expect(keys_full.index(0), ks[0].block_type.nbytes + vs[0].block_type.nbytes)
            fetch(ks, rate, gl.load(piece + 4), gl.load(piece + 5), keys_full.index(0), k_room, RATES)
            fetch(vs, rate, gl.load(piece + 6), gl.load(piece + 7), keys_full.index(0), v_room, RATES)
            turn += 1
        for member in range(GROUP):
            slot = _load_queries(slot, member, piece, matrices, work, strides, apart, rooms, bars, STAGES, RATES)


@gluon.jit
def _load_queries(
    slot, member, piece, matrices, work, strides, apart, rooms, bars, STAGES: gl.constexpr, RATES: gl.constexpr
):
    """What the steps of a piece past one head of queries need; and the next slot."""
    _ks, _vs, qs, douts, lses, deltas = matrices
    q_ring, dout_ring, lse_ring, delta_ring = rooms[2], rooms[3], rooms[4], rooms[5]
    full, empty = bars[0], bars[1]
    q_stride, dout_stride = strides
    BYTES: gl.constexpr = (
        qs[0].block_type.nbytes + douts[0].block_type.nbytes + lses.block_type.nbytes + deltas.block_type.nbytes
    )
    q_token, q_column = gl.load(piece + 9) + member * apart[2], gl.load(piece + 10) + member * apart[3]
    dout_token, dout_column = gl.load(piece + 11) + member * apart[4], gl.load(piece + 12) + member * apart[5]
    plane, start = gl.load(piece + 13) + member * apart[1], gl.load(piece + 14)
    steps, first = gl.load(piece), work[1] + gl.load(piece + 3) * ENTRY
    for step in range(steps):
        entry = first + step * ENTRY
        rate, shift = gl.load(entry), gl.load(entry + 1)
        row, residue, place = gl.load(entry + 2), gl.load(entry + 3), gl.load(entry + 4)
        place += plane + (start >> shift)
        stage = slot % STAGES
        bar = full.index(stage)
        mbarrier.wait(empty.index(stage), (slot // STAGES & 1) ^ 1)
        mbarrier.expect(bar, BYTES)
        fetch(qs, rate, (q_token >> shift) + row, q_column + residue * q_stride, bar, q_ring.index(stage), RATES)
        tma.async_copy_global_to_shared(lses, [place], bar, lse_ring.index(stage))
        column = dout_column + residue * dout_stride
        fetch(douts, rate, (dout_token >> shift) + row, column, bar, dout_ring.index(stage), RATES)
        tma.async_copy_global_to_shared(deltas, [place], bar, delta_ring.index(stage))
        slot += 1
    return slot


@gluon.jit
def _consume_keys(
    results, work, apart, rooms, bars, squares, ds_ring, scale, gradient_scale, lo, hi, index, D: gl.constexpr,
    STAGES: gl.constexpr, HAS_LO: gl.constexpr, HAS_HI: gl.constexpr, LISTED: gl.constexpr, STORE: gl.constexpr, AHEAD: gl.constexpr,
    OWN: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """A consumer: its 64 keys of every piece, past all squares of the piece, head of queries after head."""
    table, pieces = work[0], work[3]
    dk_out, dv_out, dk_stride, dv_stride = results
    keys_full, keys_empty = bars[2], bars[3]
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    left: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, SQUARE, 16]), 2)
    rooms = (rooms[0], rooms[1], rooms[2], rooms[3], rooms[4], rooms[5], ds_ring)
    slot = pieces * 0
    stored = pieces * 0
    turn = pieces * 0
    for number in range(gl.program_id(0), pieces, gl.num_programs(0)):
        piece = table + number * COLUMNS
        blob = gl.load(piece + 19)
        if gl.load(piece) > 0:
            mbarrier.wait(keys_full.index(0), turn & 1)
            if OWN:
                own_k = rooms[0].slice(SQUARE * index, SQUARE, 0).load(left)
                own_v = rooms[1].slice(SQUARE * index, SQUARE, 0).load(left)
                gl.thread_barrier()
                mbarrier.arrive(keys_empty.index(0))
            else:
                own_k = rooms[0].slice(SQUARE * index, SQUARE, 0)
                own_v = rooms[1].slice(SQUARE * index, SQUARE, 0)
            own = (own_k, own_v)
            dk = gl.full([SQUARE, D], 0.0, gl.float32, mma)
            dv = gl.full([SQUARE, D], 0.0, gl.float32, mma)
            for member in range(GROUP):
                dk, dv, slot, stored = past(
                    (dk, dv, slot, stored), piece, blob + member * apart[0], work, own, rooms, bars, squares, index, scale, lo, hi, D,
                    STAGES, HAS_LO, HAS_HI, LISTED, STORE, AHEAD)  # fmt: skip
            if not OWN:
                mbarrier.arrive(keys_empty.index(0))
            turn += 1
            k_step = gl.load(piece + 18)
            first_key = gl.load(piece + 17) + index * SQUARE * k_step
            put(dk_out, dk_stride, piece, dk * gradient_scale, first_key, k_step, D)
            put(dv_out, dv_stride, piece, dv, first_key, k_step, D)
    if STORE:
        tma.store_wait(0)


@gluon.jit
def put(out, stride, piece, acc, first, step, D: gl.constexpr):
    """64 rows of a result, from token `first`, `step` tokens from one to the next."""
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    batch, head = gl.load(piece + 15).to(gl.int64), gl.load(piece + 16).to(gl.int64)
    token = (first + gl.arange(0, SQUARE, gl.SliceLayout(1, mma)) * step).to(gl.int64)
    column = gl.arange(0, D, gl.SliceLayout(0, mma))
    place = (batch * stride[0] + head * stride[1] + token * stride[2])[:, None] + column[None, :]
    gl.store(out + place, acc.to(out.dtype.element_ty))


@gluon.jit(do_not_specialize=INTEGERS)
def key_gradients(
    k0, k1, k2, k3, k4, v0, v1, v2, v3, v4, q0, q1, q2, q3, q4, d0, d1, d2, d3, d4, lses, deltas, squares,
    dk_out, dv_out, dk_stride, dv_stride, q_stride, dout_stride, table, entries, bits, pieces, apart,
    scale, gradient_scale, lo, hi,
    D: gl.constexpr, STAGES: gl.constexpr, RATES: gl.constexpr, HAS_LO: gl.constexpr, HAS_HI: gl.constexpr, LISTED: gl.constexpr,
    STORE: gl.constexpr, AHEAD: gl.constexpr, OWN: gl.constexpr, GROUP: gl.constexpr, REGISTERS: gl.constexpr, LOADER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Compute dk and dv of pieces of work, each 128 keys of one head and all squares that they are in; dS of those.

    GROUP heads of queries share one of keys. `apart` is how far these lie from one another: steps of dS, numbers of a
    plane, tokens and columns of q, and of d_out.
    """
    dtype: gl.constexpr = k0.dtype
    gl.static_assert(gl.num_warps() == 4)
    k_room = gl.allocate_shared_memory(dtype, [KEYS, D], k0.layout)
    v_room = gl.allocate_shared_memory(dtype, [KEYS, D], v0.layout)
    q_ring = gl.allocate_shared_memory(dtype, [STAGES, SQUARE, D], q0.layout)
    dout_ring = gl.allocate_shared_memory(dtype, [STAGES, SQUARE, D], d0.layout)
    lse_ring = gl.allocate_shared_memory(gl.float32, [STAGES, SQUARE], lses.layout)
    delta_ring = gl.allocate_shared_memory(gl.float32, [STAGES, SQUARE], deltas.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    keys_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    keys_empty = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    mbarrier.init(keys_full.index(0), count=1)
    mbarrier.init(keys_empty.index(0), count=2)
    ds0 = lse_ring
    ds1 = lse_ring
    if STORE:
        ds_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([SQUARE, SQUARE], dtype)
        ds0 = gl.allocate_shared_memory(dtype, [BUFFERS, SQUARE, SQUARE], ds_layout)
        ds1 = gl.allocate_shared_memory(dtype, [BUFFERS, SQUARE, SQUARE], ds_layout)
    rooms = (k_room, v_room, q_ring, dout_ring, lse_ring, delta_ring)
    bars = (full, empty, keys_full, keys_empty)
    matrices = ((k0, k1, k2, k3, k4), (v0, v1, v2, v3, v4), (q0, q1, q2, q3, q4), (d0, d1, d2, d3, d4), lses, deltas)
    work = (table, entries, bits, pieces)
    results = (dk_out, dv_out, dk_stride, dv_stride)
    gl.warp_specialize(
        [(_consume_keys, (results, work, apart, rooms, bars, squares, ds0, scale, gradient_scale, lo, hi, 0, D, STAGES, HAS_LO, HAS_HI, LISTED, STORE, AHEAD, OWN, GROUP)),
         (_consume_keys, (results, work, apart, rooms, bars, squares, ds1, scale, gradient_scale, lo, hi, 1, D, STAGES, HAS_LO, HAS_HI, LISTED, STORE, AHEAD, OWN, GROUP)),
         (_load_keys, (matrices, work, (q_stride, dout_stride), apart, rooms, bars, STAGES, RATES, GROUP))],
        [4, 1], [REGISTERS, LOADER_REGISTERS])  # fmt: skip
