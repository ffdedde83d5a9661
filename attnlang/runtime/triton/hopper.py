"""The forward pass on Hopper GPUs: one warp loads, and groups of four warps compute beside one another.

Triton overlaps the products of a tile with those of the next; what it does not arrange is a softmax under products.
Here that is written out, in Gluon, as FlashAttention 3 does it (Shah et al. 2024): the loader keeps tiles of K and V
coming through rings of shared memory, and a consumer, which owns 64 queries, issues the scores of a tile and the
product of the tile before with V, and works out its softmax while the latter runs. Consumers drift apart, so that one
computes exponentials while another multiplies.

The plan, the tables and the tile arithmetic are those of `kernels.attend`, for lattices alone: an own run in a band,
walked from its end to its beginning so that tiles which a consumer does not need come first, and the outer runs of
nested lattices. What else there is (columns, block lists, pointers instead of descriptors) runs there.
"""

# ruff: noqa: E501 - calls keep one argument order, and gluon reads only plain statements
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

LOG2_E = gl.constexpr(1.4426950408889634)
LN_2 = gl.constexpr(0.6931471805599453)
MOST_PARTS = gl.constexpr(6)
ROWS = gl.constexpr(64)
"""Queries of a consumer: rows of a warp group's product."""
INTEGERS = ["tile_count", "n", "query_heads", "run_first", "run_period", "run_width", "lo", "hi"]


@gluon.jit
def _corner(token, head, batch, rate, stride, place):
    """Row and column, in the matrix that a tensor descriptor sees, of a token of a head."""
    at = token + head * place[1] + batch * place[0]
    return at // rate, at % rate * stride + head * place[3] + batch * place[2]


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
def _chosen(chain, place, FROM: gl.constexpr, PARTS: gl.constexpr):
    """Width (FROM 0) or dilation (1) of the nested lattice with this number."""
    found = chain[FROM] + 0 * place
    for part in gl.static_range(1, PARTS):
        found = gl.where(place == part, chain[2 * part + FROM], found)
    return found


@gluon.jit
def _outer(part, run_start, phase, n, chain, HAS_HI: gl.constexpr, PARTS: gl.constexpr):
    """Of an outer run: its first token, its rate, rows before its inner run, rows of that run, and all other rows."""
    inner_width = _chosen(chain, part - 1, 0, PARTS)
    width = _chosen(chain, part, 0, PARTS)
    rate = _chosen(chain, part, 1, PARTS)
    outer_start = run_start // width * width
    start = outer_start + phase % rate
    limit = gl.cdiv(gl.minimum(outer_start + width, n) - start, rate)
    own = (run_start // inner_width * inner_width - outer_start) // rate
    length = inner_width // rate
    last = own
    if not HAS_HI:
        last = gl.maximum(limit - length, own)
    return start, rate, own, length, last


@gluon.jit
def _put(place, count, matrix, row, column, full, empty, ring, STAGES: gl.constexpr):
    """Load a tile into its place of a ring, as soon as the one before has left it."""
    mbarrier.wait(empty.index(place), (count // STAGES & 1) ^ 1)
    mbarrier.expect(full.index(place), matrix.block_type.nbytes)
    tma.async_copy_global_to_shared(matrix, [row, column], full.index(place), ring.index(place))


@gluon.jit
def load(
    loading, S: gl.constexpr, STAGES: gl.constexpr, PARTS: gl.constexpr, HAS_HI: gl.constexpr,
):  # fmt: skip
    """The loader: every tile that any consumer needs, in the order in which all of them walk."""
    xs, ys, rings, bars, x_n, y_n, x_place, y_place, other, batch, level, own, run_start, phase, n, chain = loading
    k_ring, v_ring = rings
    k_full, k_empty, v_full, v_empty = bars
    tiles, begin, start, rate = own
    count = tiles * 0
    x_row, x_column = _corner(start, other, batch, rate, x_n, x_place)
    y_row, y_column = _corner(start, other, batch, rate, y_n, y_place)
    for i in range(tiles):
        at = begin + (tiles - 1 - i) * S
        _put(count % STAGES, count, xs[0], x_row + at, x_column, k_full, k_empty, k_ring, STAGES)
        _put(count % STAGES, count, ys[0], y_row + at, y_column, v_full, v_empty, v_ring, STAGES)
        count += 1
    for part in gl.static_range(1, PARTS):
        if (level >= part) & (tiles > 0):
            start, rate, jump_at, jump, last = _outer(part + 0 * level, run_start, phase, n, chain, HAS_HI, PARTS)
            x_row, x_column = _corner(start, other, batch, rate, x_n, x_place)
            y_row, y_column = _corner(start, other, batch, rate, y_n, y_place)
            for tile in range(0, last, S):
                at = tile + gl.where(tile >= jump_at, jump, 0)
                _put(count % STAGES, count, xs[part], x_row + at, x_column, k_full, k_empty, k_ring, STAGES)
                _put(count % STAGES, count, ys[part], y_row + at, y_column, v_full, v_empty, v_ring, STAGES)
                count += 1


@gluon.jit
def _scores(q, count, rings, bars, S: gl.constexpr, STAGES: gl.constexpr):
    """Begin the scores of a tile."""
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    place = count % STAGES
    mbarrier.wait(bars[0].index(place), count // STAGES & 1)
    zero = gl.full([ROWS, S], 0.0, gl.float32, mma)
    return warpgroup_mma(q, rings[0].index(place).permute((1, 0)), zero, use_acc=False, is_async=True)


@gluon.jit
def _softmax(s, largest, total, at, lower, upper, bias, scale, MASKED: gl.constexpr, BIASED: gl.constexpr, dtype: gl.constexpr, D: gl.constexpr):
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
def _advance(
    q, acc, p, largest, total, count, behind, at, lower, upper, bias, scale, rings, bars,
    S: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr, BIASED: gl.constexpr,
):  # fmt: skip
    """One tile: its scores, and under its softmax the product of the tile before (number `behind`) with V."""
    rows: gl.constexpr = gl.SliceLayout(1, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16]))
    s = _scores(q, count, rings, bars, S, STAGES)
    place = behind % STAGES
    mbarrier.wait(bars[2].index(place), behind // STAGES & 1)
    out = warpgroup_mma(p, rings[1].index(place), acc, is_async=True)
    s = warpgroup_mma_wait(1, [s])
    p_next, largest, total, shrink = _softmax(s, largest, total, at, lower, upper, bias, scale, MASKED, BIASED, rings[1].dtype, D)
    total = _here(total)
    acc, p, p_next, total, largest, shrink = warpgroup_mma_wait(0, [out, p, p_next, total, largest, shrink])
    mbarrier.arrive(bars[1].index(count % STAGES))
    mbarrier.arrive(bars[3].index(place))
    acc = acc * gl.convert_layout(shrink, rows)[:, None]
    return acc, p_next, largest, total


@gluon.jit
def _bias(log_m, rate, phase, S: gl.constexpr, RESIDUES: gl.constexpr):
    """Log2 m of S rows of a lattice, which repeats from tile to tile."""
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    row = gl.arange(0, S, gl.SliceLayout(0, mma))
    if RESIDUES == 0:
        return gl.full([S], 0.0, gl.float32, gl.SliceLayout(0, mma))
    else:
        return gl.load(log_m + (row * rate + phase % rate - phase + RESIDUES * 65536) % RESIDUES)


@gluon.jit
def consume(
    tensors, run, index,
    D: gl.constexpr, S: gl.constexpr, STAGES: gl.constexpr, PARTS: gl.constexpr, RESIDUES: gl.constexpr,
    HAS_LO: gl.constexpr, HAS_HI: gl.constexpr,
):  # fmt: skip
    """A consumer: 64 queries, all tiles that they meet, their results."""
    q, out, lse, acc0, q_b, q_h, q_n, out_b, out_h, out_n, rings, bars, log_m, level, flags, own = tensors
    run_start, run_end, phase, n, chain, lo, hi, scale, sign, rows, row0, base, step, head, batch, query_heads = run
    dtype: gl.constexpr = rings[0].dtype
    s_mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, S, 16])
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    s_rows: gl.constexpr = gl.SliceLayout(1, s_mma)
    memory: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    BIASED: gl.constexpr = RESIDUES > 0
    tiles, begin, start, rate = own
    row0 += index * ROWS

    # queries
    q_row = row0 + gl.arange(0, ROWS, gl.SliceLayout(1, memory))
    q_token = base + q_row * step
    q_column = gl.arange(0, D, gl.SliceLayout(0, memory))
    q_inside = (q_row < rows)[:, None] & (q_column < D)[None, :]
    q_place = batch.to(gl.int64) * q_b + head.to(gl.int64) * q_h + q_token.to(gl.int64) * q_n
    q_FD = gl.load(q + q_place[:, None] + q_column[None, :], q_inside, other=0.0)
    q_FD = gl.convert_layout((q_FD * sign).to(dtype), gl.DotOperandLayout(0, s_mma, 2))

    # its part of the own run: tiles i of 0..tiles-1, from the end
    limit = gl.cdiv(gl.maximum(run_end - start, 0), rate)
    row = row0 + gl.arange(0, ROWS, s_rows)
    token = base + row * step
    least = base + gl.minimum(row0, rows - 1) * step
    most = base + (gl.minimum(row0 + ROWS, rows) - 1) * step
    lower = gl.full([ROWS], 0, gl.int32, s_rows)
    upper = lower + limit
    if HAS_LO:
        lower = (gl.maximum(token + lo - start, 0) + rate - 1) // rate
    if HAS_HI:
        upper = gl.minimum(gl.maximum(token + hi - start + rate, 0) // rate, limit)
    first, end, full_from, full_to = _reach(least, most, lo, hi, start, rate, limit, HAS_LO, HAS_HI)
    to = gl.maximum(gl.minimum(gl.cdiv(end - begin, S), tiles), 1)
    frm = gl.minimum(gl.maximum(first - begin, 0) // S, to - 1)
    full_end = gl.maximum(gl.minimum((full_to - begin) // S, to), frm)
    full_begin = gl.minimum(gl.maximum(gl.cdiv(full_from - begin, S), frm), full_end)

    acc = gl.full([ROWS, D], 0.0, gl.float32, mma)
    largest = gl.full([ROWS], float("-inf"), gl.float32, s_rows)
    total = gl.full([ROWS], 0.0, gl.float32, s_rows)
    if tiles > 0:
        bias = _bias(log_m + level * RESIDUES, rate, phase, S, RESIDUES)
        count = tiles * 0
        for _ in range(tiles - to):
            _skip(count, bars, STAGES)
            count += 1
        s = _scores(q_FD, count, rings, bars, S, STAGES)
        s = warpgroup_mma_wait(0, [s])
        mbarrier.arrive(bars[1].index(count % STAGES))
        p, largest, total, _shrink = _softmax(s, largest, total, begin + (to - 1) * S, lower, upper, bias, scale, True, BIASED, dtype, D)
        behind = count
        count += 1
        for i in range(gl.maximum(to - 1 - full_end, 0)):
            at = begin + (to - 2 - i) * S
            acc, p, largest, total = _advance(q_FD, acc, p, largest, total, count, behind, at, lower, upper, bias, scale, rings, bars, S, D, STAGES, True, BIASED)
            behind = count
            count += 1
        for i in range(gl.minimum(full_end, to - 1) - full_begin):
            acc, p, largest, total = _advance(q_FD, acc, p, largest, total, count, behind, 0, lower, upper, bias, scale, rings, bars, S, D, STAGES, False, BIASED)
            behind = count
            count += 1
        if HAS_LO:
            for i in range(gl.minimum(full_begin, to - 1) - frm):
                at = begin + (gl.minimum(full_begin, to - 1) - 1 - i) * S
                acc, p, largest, total = _advance(q_FD, acc, p, largest, total, count, behind, at, lower, upper, bias, scale, rings, bars, S, D, STAGES, True, BIASED)
                behind = count
                count += 1
        if PARTS > 1:
            for part in range(1, level + 1):
                o_start, o_rate, jump_at, jump, last = _outer(part, run_start, phase, n, chain, HAS_HI, PARTS)
                bias = _bias(log_m + (part * MOST_PARTS + level) * RESIDUES, o_rate, phase, S, RESIDUES)
                for i in range(gl.cdiv(last, S)):
                    acc, p, largest, total = _advance(q_FD, acc, p, largest, total, count, behind, 0, lower, upper, bias, scale, rings, bars, S, D, STAGES, False, BIASED)
                    behind = count
                    count += 1
        mbarrier.wait(bars[2].index(behind % STAGES), behind // STAGES & 1)
        acc = warpgroup_mma(p, rings[1].index(behind % STAGES), acc)
        mbarrier.arrive(bars[3].index(behind % STAGES))
        for _ in range(frm):
            _skip(count, bars, STAGES)
            count += 1

    # results: to the float32 accumulator, or final
    carried = (flags & 1) != 0
    rows_before = (batch.to(gl.int64) * query_heads + head) * n
    inside_F = row < rows
    acc_row = row0 + gl.arange(0, ROWS, gl.SliceLayout(1, mma))
    acc_column = gl.arange(0, D, gl.SliceLayout(0, mma))
    accumulated = acc0 + (rows_before + base + acc_row * step)[:, None] * D + acc_column[None, :]
    acc_inside = (acc_row < rows)[:, None] & (acc_column < D)[None, :]
    nothing = total == 0.0
    total = gl.where(nothing, 1.0, total)
    here = gl.where(nothing, float("-inf"), largest + gl.log2(total))
    factor = 1.0 / total
    if carried:
        before = gl.load(lse + rows_before + token, inside_F, other=float("-inf")) * LOG2_E
        greater = gl.maximum(here, before)
        greater = gl.where(greater == float("-inf"), 0.0, greater)
        w_here, w_before = gl.exp2(here - greater), gl.exp2(before - greater)
        both = w_here + w_before
        neither = both == 0.0
        both = gl.where(neither, 1.0, both)
        here = gl.where(neither, float("-inf"), greater + gl.log2(both))
        factor = factor * (w_here / both)
        share = gl.convert_layout(w_before / both, gl.SliceLayout(1, mma))
        acc = acc * gl.convert_layout(factor, gl.SliceLayout(1, mma))[:, None]
        known = gl.convert_layout(before, gl.SliceLayout(1, mma)) > float("-inf")
        acc += gl.load(accumulated, acc_inside & known[:, None], other=0.0) * share[:, None]
    else:
        acc = acc * gl.convert_layout(factor, gl.SliceLayout(1, mma))[:, None]
    gl.store(lse + rows_before + token, here * LN_2, inside_F)
    if (flags & 2) != 0:
        place = batch.to(gl.int64) * out_b + head.to(gl.int64) * out_h + q_token.to(gl.int64) * out_n
        result = gl.convert_layout(acc.to(dtype), memory)
        gl.store(out + place[:, None] + q_column[None, :], result, q_inside)
    else:
        gl.store(accumulated, acc, acc_inside)


@gluon.jit
def _skip(count, bars, STAGES: gl.constexpr):
    """Let a tile pass that only other consumers need."""
    place = count % STAGES
    phase = count // STAGES & 1
    mbarrier.wait(bars[0].index(place), phase)
    mbarrier.arrive(bars[1].index(place))
    mbarrier.wait(bars[2].index(place), phase)
    mbarrier.arrive(bars[3].index(place))


@gluon.jit(do_not_specialize=INTEGERS)
def attend(
    q, out, lse, acc0, q_b, q_h, q_n, out_b, out_h, out_n, x_n, y_n,
    xs0, xs1, xs2, xs3, xs4, xs5, ys0, ys1, ys2, ys3, ys4, ys5, x_place, y_place,
    heads, members, tiles, tile_count, log_m, n, query_heads, run_first, run_period, run_width, chain, lo, hi,
    scale, sign,
    D: gl.constexpr, CONSUMERS: gl.constexpr, S: gl.constexpr, STAGES: gl.constexpr, NESTED: gl.constexpr,
    PARTS: gl.constexpr, RESIDUES: gl.constexpr, HAS_LO: gl.constexpr, HAS_HI: gl.constexpr,
    REGISTERS: gl.constexpr,
):  # fmt: skip
    """CONSUMERS times 64 queries of one head, and everything that streams past them. See `kernels.attend`."""
    gl.static_assert(gl.num_warps() == 4)
    xs = (xs0, xs1, xs2, xs3, xs4, xs5)
    ys = (ys0, ys1, ys2, ys3, ys4, ys5)
    dtype: gl.constexpr = xs0.dtype
    batch = gl.program_id(2)
    entry = gl.program_id(1)
    tile = gl.program_id(0) % tile_count
    run = gl.program_id(0) // tile_count
    head = gl.load(heads + entry * 6)
    phase = gl.load(heads + entry * 6 + 1)
    flags = gl.load(heads + entry * 6 + 3)
    other = gl.load(members + gl.load(heads + entry * 6 + 4))
    level = gl.load(tiles + tile * 4)
    step = gl.load(tiles + tile * 4 + 1)
    row0 = gl.load(tiles + tile * 4 + 3)
    run_start = run_first + run * run_period
    run_end = gl.minimum(run_start + run_width, n)
    base = run_start + (phase + gl.load(tiles + tile * 4 + 2)) % step
    base += gl.where(base < 0, gl.cdiv(-gl.minimum(base, 0), step) * step, 0)
    rows = gl.cdiv(gl.maximum(run_end - base, 0), step)

    # the own run, in tiles that begin at multiples of S
    rate = step
    start = base
    if NESTED:
        rate = chain[1] + 0 * step
        start = run_start + phase % rate
    limit = gl.cdiv(gl.maximum(run_end - start, 0), rate)
    most = base + (gl.minimum(row0 + CONSUMERS * ROWS, rows) - 1) * step
    begin, end, _from, _to = _reach(base + row0 * step, most, lo, hi, start, rate, limit, HAS_LO, HAS_HI)
    begin = begin // S * S
    own = (gl.where(row0 < rows, gl.cdiv(gl.maximum(end - begin, 0), S), 0), begin, start, rate)

    k_ring = gl.allocate_shared_memory(dtype, [STAGES, S, D], xs0.layout)
    v_ring = gl.allocate_shared_memory(dtype, [STAGES, S, D], ys0.layout)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(k_empty.index(stage), count=CONSUMERS)
        mbarrier.init(v_empty.index(stage), count=CONSUMERS)
    rings = (k_ring, v_ring)
    bars = (k_full, k_empty, v_full, v_empty)
    loading = (xs, ys, rings, bars, x_n, y_n, x_place, y_place, other, batch, level, own, run_start, phase, n, chain)
    tensors = (q, out, lse, acc0, q_b, q_h, q_n, out_b, out_h, out_n, rings, bars, log_m, level, flags, own)
    run = (run_start, run_end, phase, n, chain, lo, hi, scale, sign, rows, row0, base, step, head, batch, query_heads)
    if CONSUMERS == 1:
        gl.warp_specialize(
            [(consume, (tensors, run, 0, D, S, STAGES, PARTS, RESIDUES, HAS_LO, HAS_HI)),
             (load, (loading, S, STAGES, PARTS, HAS_HI))], [1], [24])  # fmt: skip
    elif CONSUMERS == 2:
        gl.warp_specialize(
            [(consume, (tensors, run, 0, D, S, STAGES, PARTS, RESIDUES, HAS_LO, HAS_HI)),
             (consume, (tensors, run, 1, D, S, STAGES, PARTS, RESIDUES, HAS_LO, HAS_HI)),
             (load, (loading, S, STAGES, PARTS, HAS_HI))], [4, 1], [REGISTERS, 24])  # fmt: skip
    else:
        gl.warp_specialize(
            [(consume, (tensors, run, 0, D, S, STAGES, PARTS, RESIDUES, HAS_LO, HAS_HI)),
             (consume, (tensors, run, 1, D, S, STAGES, PARTS, RESIDUES, HAS_LO, HAS_HI)),
             (consume, (tensors, run, 2, D, S, STAGES, PARTS, RESIDUES, HAS_LO, HAS_HI)),
             (load, (loading, S, STAGES, PARTS, HAS_HI))], [4, 4, 1], [REGISTERS, REGISTERS, 24])  # fmt: skip
