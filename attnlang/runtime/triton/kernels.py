"""One kernel for attention and for its gradients: a fixed tile, a stream of tiles, and a step.

    forward          fixed: queries        stream: keys, values       out = softmax(q k^T) v, online
    query gradient   fixed: queries, d_out stream: keys, values       dq += dS k
    key gradient     fixed: keys, values   stream: queries, d_out     dk += dS^T q,  dv += P^T d_out

A program owns the rows of its fixed tile: it alone writes them, so there are no atomics and two runs agree bit by bit.
It streams past them whatever its pattern asks for, in up to four parts, all through `streams._step`:

    own run     rows of the tile's own run of a lattice, within a band: masked at the edges of the band only
    outer runs  where lattices are nested (LongNet), rows of the larger runs that no smaller run has
    columns     the same few rows of every period
    lists       full and partial tiles from block lists, the partial ones with bit masks

Nested lattices hold many pairs several times. Such a pair is computed once, by the finest part that has it, and its
multiplicity m is added to the score as log2 m: a query in `a` of the finer lattices and a key in `b` of them meet
1 + min(a, b) times. Queries are tiled by `a` (the level), so that m depends on the key alone.

Row r of a lattice is token  base + r * step.  A tensor descriptor sees a tensor as a matrix whose row r holds tokens
r * step .. r * step + step - 1, all heads side by side: a tile of strided rows is then a plain rectangle of it.
Scores are in units of log2. Names: F rows of the fixed tile, S rows of a streamed tile, D head dimension.
"""

# ruff: noqa: E501, PIE808, SIM108 - calls keep one argument order in all files, and triton reads only plain statements
import triton
import triton.language as tl

from attnlang.runtime.triton.streams import (
    FORWARD,
    KEY_GRADIENT,
    LN_2,
    LOG2_E,
    MOST_PARTS,
    QUERY_GRADIENT,
    band,
    corner,
    listed,
    outer,
    plane_place,
    weights,
    wide,
)

INTEGERS = [
    *("plane", "tile_count", "n", "fixed_heads", "query_heads", "run_first", "run_period", "run_width", "lo", "hi"),
    *("columns_period", "columns_first", "columns_lo", "columns_hi", "columns_rows"),
]
"""Arguments whose value must not be compiled in: one kernel for all lengths and widths."""


@triton.jit(do_not_specialize=INTEGERS)
def attend(
    f0, f1, x, y, lse, delta, out0, out1, acc0, acc1,
    f0_b, f0_h, f0_n, f1_b, f1_h, f1_n, x_b, x_h, x_n, y_b, y_h, y_n, out0_b, out0_h, out0_n, out1_b, out1_h, out1_n,
    xs0, xs1, xs2, xs3, xs4, xs5, ys0, ys1, ys2, ys3, ys4, ys5, x_place, y_place, plane,
    heads, members, tiles, tile_count, log_m, n, fixed_heads, query_heads,
    run_first, run_period, run_width, chain, lo, hi,
    columns_period, columns_first, columns_lo, columns_hi, columns_rows,
    ranges, blocks, masks, bits, chunks,
    scale, sign, gradient_scale,
    MODE: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, F: tl.constexpr, S: tl.constexpr,
    BAND: tl.constexpr, NESTED: tl.constexpr, PARTS: tl.constexpr, RESIDUES: tl.constexpr, HAS_LO: tl.constexpr,
    HAS_HI: tl.constexpr, COLUMNS: tl.constexpr, COLUMNS_LO: tl.constexpr, COLUMNS_HI: tl.constexpr,
    LISTS: tl.constexpr, BLOCK: tl.constexpr, CHUNKED: tl.constexpr,
    EVEN: tl.constexpr, TMA: tl.constexpr, VECTORS: tl.constexpr, GROUPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One fixed tile of one head, and everything that streams past it. See the top of the file, and `Launch`."""
    BIASED: tl.constexpr = RESIDUES > 0
    FIXED_COLUMNS: tl.constexpr = COLUMNS if MODE == KEY_GRADIENT else 0
    xs = (xs0, xs1, xs2, xs3, xs4, xs5)
    ys = (ys0, ys1, ys2, ys3, ys4, ys5)
    batch = tl.program_id(2)
    batch64 = batch.to(tl.int64)
    d_D = tl.arange(0, PADDED)

    # which head, and which rows
    entry = tl.program_id(1)
    tile = tl.program_id(0) % tile_count
    run = tl.program_id(0) // tile_count
    chunk = chunks
    if CHUNKED:
        tile = tl.program_id(0) % (BLOCK // F)
        chunk = chunks + tl.program_id(0) // (BLOCK // F) * 5
        entry = tl.load(chunk)
    head = tl.load(heads + entry * 6)
    phase = tl.load(heads + entry * 6 + 1)
    list_base = tl.load(heads + entry * 6 + 2)
    flags = tl.load(heads + entry * 6 + 3)
    member = tl.load(heads + entry * 6 + 4)
    member_count = tl.load(heads + entry * 6 + 5)
    if CHUNKED:
        level = 0
        step = 1
        base = 0
        row0 = tl.load(chunk + 1) * BLOCK + tile * F
        run_start = 0
        run_end = n
    else:
        level = tl.load(tiles + tile * 4)
        step = tl.load(tiles + tile * 4 + 1)
        row0 = tl.load(tiles + tile * 4 + 3)
        run_start = run_first + run * run_period
        run_end = tl.minimum(run_start + run_width, n)
        base = run_start + (phase + tl.load(tiles + tile * 4 + 2)) % step
        base += tl.where(base < 0, tl.cdiv(-tl.minimum(base, 0), step) * step, 0)
    rows = columns_rows if FIXED_COLUMNS > 0 else tl.cdiv(tl.maximum(run_end - base, 0), step)
    if row0 >= rows:
        return
    row = row0 + tl.arange(0, F)
    last_row = tl.minimum(row0 + F, rows) - 1
    if FIXED_COLUMNS > 0:
        token = columns_first + row // COLUMNS * columns_period + row % COLUMNS
    else:
        token = base + row * step
    inside_F = row < rows
    inside_FD = inside_F[:, None] & (d_D < D)[None, :]
    token64 = token.to(tl.int64)

    # the fixed tile
    head64 = head.to(tl.int64)
    f0_FD = tl.load(f0 + batch64 * f0_b + head64 * f0_h + token64[:, None] * f0_n + d_D[None, :], inside_FD, other=0.0)
    f0_FD = (f0_FD * sign).to(f0_FD.dtype)
    f1_FD = f0_FD
    row_lse = tl.zeros([F], tl.float32)
    row_delta = row_lse
    rows_before = (batch64 * fixed_heads + head64) * n
    if MODE != FORWARD:
        f1_FD = tl.load(
            f1 + batch64 * f1_b + head64 * f1_h + token64[:, None] * f1_n + d_D[None, :], inside_FD, other=0.0
        )
    if MODE == QUERY_GRADIENT:
        row_lse = tl.load(lse + rows_before + token64, inside_F, other=float("inf"))
        row_delta = tl.load(delta + rows_before + token64, inside_F, other=0.0)
    a0 = tl.zeros([F, PADDED], tl.float32)
    if MODE == FORWARD:
        a1 = tl.full([F], float("-inf"), tl.float32)
    elif MODE == KEY_GRADIENT:
        a1 = tl.zeros([F, PADDED], tl.float32)
    else:
        a1 = tl.zeros([F], tl.float32)
    a2 = tl.zeros([F], tl.float32)

    for g in range(0, member_count if GROUPED else 1):
        other = tl.load(members + member + g)
        x_head = x + batch64 * x_b + other.to(tl.int64) * x_h
        y_head = y + batch64 * y_b + other.to(tl.int64) * y_h
        vectors = plane_place(0, member * 0, other, batch, query_heads, 1, n, plane)
        bias = tl.zeros([S], tl.float32)

        if BAND:  # the own run: rows of the finest lattice, in order
            rate = step
            start = base
            limit = rows
            if NESTED:
                rate = chain[1]
                start = run_start + phase % rate
                limit = tl.cdiv(tl.maximum(run_end - start, 0), rate)
            if BIASED:
                bias = weights(log_m + level * RESIDUES, rate, phase, S, RESIDUES)
            start64 = start.to(tl.int64)
            x_row, x_column = corner(start, other, batch, rate, x_n, *x_place)
            y_row, y_column = corner(start, other, batch, rate, y_n, *y_place)
            x_step = wide(x_n) * rate
            y_step = wide(y_n) * rate
            a0, a1, a2 = band(
                a0, a1, a2, f0_FD, f1_FD, row_lse, row_delta, xs[0], ys[0], x_row, x_column, y_row, y_column,
                x_head + start64 * x_n, y_head + start64 * y_n, x_step, y_step, x_step, y_step,
                lse, delta, plane_place(0, start, other, batch, query_heads, rate, n, plane), bias,
                token, base + row0 * step, base + last_row * step, lo, hi, start, rate, limit, 1, scale,
                1, D, PADDED, S, MODE, HAS_LO, HAS_HI, EVEN, BIASED, TMA, VECTORS, PRECISION)  # fmt: skip
            for part in tl.static_range(1, PARTS):
                if level >= part:
                    a0, a1, a2 = outer(
                        a0, a1, a2, f0_FD, f1_FD, row_lse, row_delta, xs[part], ys[part], x_head, y_head, x_n, y_n,
                        x_place, y_place, other, batch, lse, delta, query_heads, part, plane,
                        log_m + (part * MOST_PARTS + level) * RESIDUES, run_start, phase, n,
                        chain[2 * part - 2], chain[2 * part], chain[2 * part + 1], scale,
                        RESIDUES, F, D, PADDED, S, MODE, HAS_LO, HAS_HI, EVEN, TMA, VECTORS, PRECISION)  # fmt: skip

        if COLUMNS > 0:
            if MODE == KEY_GRADIENT:
                a0, a1, a2 = band(
                    a0, a1, a2, f0_FD, f1_FD, row_lse, row_delta, x_head, y_head, 0, 0, 0, 0, x_head, y_head,
                    wide(x_n), wide(y_n), 0, 0, lse, delta, vectors, bias,
                    row // COLUMNS, row0 // COLUMNS, last_row // COLUMNS, columns_lo, columns_hi, 0, 1, n,
                    columns_period, scale,
                    1, D, PADDED, S, MODE, COLUMNS_LO, COLUMNS_HI, False, False, False, VECTORS, PRECISION)  # fmt: skip
            else:
                a0, a1, a2 = band(
                    a0, a1, a2, f0_FD, f1_FD, row_lse, row_delta, x_head, y_head, 0, 0, 0, 0,
                    x_head + wide(columns_first) * x_n, y_head + wide(columns_first) * y_n,
                    wide(x_n) * columns_period, wide(y_n) * columns_period, x_n, y_n, lse, delta, 0, bias,
                    token // columns_period, (base + row0) // columns_period, (base + last_row) // columns_period,
                    columns_lo, columns_hi, 0, 1, columns_rows, COLUMNS, scale,
                    COLUMNS, D, PADDED, S, MODE, COLUMNS_LO, COLUMNS_HI, False, False, False, VECTORS, PRECISION)  # fmt: skip

        if LISTS:
            place = chunk + 2
            if not CHUNKED:
                place = ranges + (list_base + (base + row0) // BLOCK) * 3
            first_masked = tl.load(place + 1)
            x_row, x_column = corner(0, other, batch, 1, x_n, *x_place)
            y_row, y_column = corner(0, other, batch, 1, y_n, *y_place)
            a0, a1, a2 = listed(
                a0, a1, a2, f0_FD, f1_FD, row_lse, row_delta, xs[0], ys[0], x_row, x_column, y_row, y_column,
                x_head, y_head, wide(x_n), wide(y_n), lse, delta, vectors, blocks, masks, bits,
                tl.load(place), first_masked, (base + row0) % BLOCK, n, scale,
                BLOCK, F, S, D, PADDED, MODE, False, TMA, VECTORS, PRECISION)  # fmt: skip
            a0, a1, a2 = listed(
                a0, a1, a2, f0_FD, f1_FD, row_lse, row_delta, xs[0], ys[0], x_row, x_column, y_row, y_column,
                x_head, y_head, wide(x_n), wide(y_n), lse, delta, vectors, blocks, masks, bits,
                first_masked, tl.load(place + 2), (base + row0) % BLOCK, n, scale,
                BLOCK, F, S, D, PADDED, MODE, True, TMA, VECTORS, PRECISION)  # fmt: skip

    # results: to a chunk's own place, to the float32 accumulator, or final
    carried = (flags & 1) != 0
    final = (flags & 2) != 0
    if CHUNKED:
        rows_before = (batch64 * tl.num_programs(0) + tl.program_id(0)) * F
        token64 = tl.arange(0, F).to(tl.int64)
        carried = False
        final = False
    accumulated = (rows_before + token64[:, None]) * D + d_D[None, :]
    if MODE == FORWARD:
        empty = a2 == 0.0
        total = tl.where(empty, 1.0, a2)
        a0 = a0 / total[:, None]
        here = tl.where(empty, float("-inf"), a1 + tl.log2(total))
        if carried:
            before = tl.load(lse + rows_before + token64, inside_F, other=float("-inf")) * LOG2_E
            known = before > float("-inf")
            o_FD = tl.load(acc0 + accumulated, inside_FD & known[:, None], other=0.0)
            largest = tl.maximum(here, before)
            largest = tl.where(largest == float("-inf"), 0.0, largest)
            w_here, w_before = tl.exp2(here - largest), tl.exp2(before - largest)
            both = w_here + w_before
            nothing = both == 0.0
            both = tl.where(nothing, 1.0, both)
            a0 = a0 * (w_here / both)[:, None] + o_FD * (w_before / both)[:, None]
            here = tl.where(nothing, float("-inf"), largest + tl.log2(both))
        tl.store(lse + rows_before + token64, here * LN_2, inside_F)
    else:
        a0 = a0 * gradient_scale
        if carried:
            a0 += tl.load(acc0 + accumulated, inside_FD, other=0.0)
    if final:
        place0 = batch64 * out0_b + head64 * out0_h + token64[:, None] * out0_n + d_D[None, :]
        tl.store(out0 + place0, a0.to(out0.dtype.element_ty), inside_FD)
    else:
        tl.store(acc0 + accumulated, a0, inside_FD)
    if MODE == KEY_GRADIENT:
        if carried:
            a1 += tl.load(acc1 + accumulated, inside_FD, other=0.0)
        if final:
            place1 = batch64 * out1_b + head64 * out1_h + token64[:, None] * out1_n + d_D[None, :]
            tl.store(out1 + place1, a1.to(out1.dtype.element_ty), inside_FD)
        else:
            tl.store(acc1 + accumulated, a1, inside_FD)
