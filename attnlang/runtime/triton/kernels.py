"""One kernel for attention and for its gradients: a fixed tile, a stream of tiles, and a step.

    forward          fixed: queries        stream: keys, values       out = softmax(q k^T) v, online
    query gradient   fixed: queries, d_out stream: keys, values       dq += dS k
    key gradient     fixed: keys, values   stream: queries, d_out     dk += dS^T q,  dv += P^T d_out

A program owns the rows of its fixed tile: it alone writes them, so there are no atomics and two runs agree bit by bit.
It streams past them whatever its pattern asks for, in up to four parts, all through `_step`:

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

FORWARD = tl.constexpr(0)
QUERY_GRADIENT = tl.constexpr(1)
KEY_GRADIENT = tl.constexpr(2)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
NEVER = tl.constexpr(2147483647)
MOST_PARTS = tl.constexpr(6)
INTEGERS = [
    *("plane", "tile_count", "n", "fixed_heads", "query_heads", "run_first", "run_period", "run_width", "lo", "hi"),
    *("columns_period", "columns_first", "columns_lo", "columns_hi", "columns_rows"),
]
"""Arguments whose value must not be compiled in: one kernel for all lengths and widths."""


@triton.jit
def _step(
    s_FS, a0, a1, a2, f1, row_lse, row_delta, x, y, column, column_delta, scale,
    MODE: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One streamed tile (x, y), whose products with the fixed tile are s (-inf: not a pair): the idea of the file.

    forward: a0 = sum p v, a1 = row maximum, a2 = sum p; query gradient: a0 = dq; key gradient: a0 = dk, a1 = dv.
    `column` is log2 m of each streamed row, or in the key gradient its lse less log2 m.
    """
    if MODE == FORWARD:
        factor = scale
        if BIASED:
            s_FS = s_FS * scale + column[None, :]
            factor = 1.0
        largest = tl.maximum(a1, tl.max(s_FS, 1) * factor)
        shift = tl.where(largest == float("-inf"), 0.0, largest)
        p_FS = tl.exp2(s_FS * factor - shift[:, None])
        shrink = tl.exp2(a1 - shift)
        a2 = a2 * shrink + tl.sum(p_FS, 1)
        a0 = tl.dot(p_FS.to(y.dtype), y, a0 * shrink[:, None], input_precision=PRECISION)
        a1 = largest
    else:
        if MODE == KEY_GRADIENT:
            p_FS = tl.exp2(s_FS * scale - column[None, :])
        elif BIASED:
            p_FS = tl.exp2(s_FS * scale + (column[None, :] - row_lse[:, None]))
        else:
            p_FS = tl.exp2(s_FS * scale - row_lse[:, None])
        dp_FS = tl.dot(f1, tl.trans(y), input_precision=PRECISION)
        if MODE == KEY_GRADIENT:
            a1 = tl.dot(p_FS.to(y.dtype), y, a1, input_precision=PRECISION)
            ds_FS = p_FS * (dp_FS - column_delta[None, :])
        else:
            ds_FS = p_FS * (dp_FS - row_delta[:, None])
        a0 = tl.dot(ds_FS.to(x.dtype), x, a0, input_precision=PRECISION)
    return a0, a1, a2


@triton.jit
def _load(
    matrix, first_row, first_column, start, at, limit, step, inner,
    C: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, S: tl.constexpr, EDGES: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Rows at..at+S of a stream, (S, PADDED): by tensor descriptor, or by pointers."""
    if TMA:
        tile = matrix.load([first_row + at, first_column])
    else:
        row = tl.arange(0, S)
        column = tl.arange(0, PADDED)
        if C == 1:
            place = start + at.to(tl.int64) * step + row.to(tl.int64) * step
        else:
            place = start + ((at + row) // C).to(tl.int64) * step + ((at + row) % C).to(tl.int64) * inner
        pointers = place[:, None] + column[None, :]
        if EDGES or D != PADDED:
            tile = tl.load(pointers, mask=(at + row < limit)[:, None] & (column < D)[None, :], other=0.0)
        else:
            tile = tl.load(pointers)
    return tile


@triton.jit
def _vectors(lse, delta, place, at, limit, S: tl.constexpr, EDGES: tl.constexpr, TMA: tl.constexpr):
    """Lse (in log2) and delta of streamed queries, from a plane of their rate in which they lie side by side."""
    row = at + tl.arange(0, S)
    if TMA:
        column = lse.load([(place + at).to(tl.int32)])
        column_delta = delta.load([(place + at).to(tl.int32)])
        if EDGES:
            column = tl.where(row < limit, column, float("inf"))
    elif EDGES:
        column = tl.load(lse + place + row, mask=row < limit, other=float("inf"))
        column_delta = tl.load(delta + place + row, mask=row < limit, other=0.0)
    else:
        column = tl.load(lse + place + row)
        column_delta = tl.load(delta + place + row)
    return column, column_delta


@triton.jit
def _sweep(
    a0, a1, a2, f0, f1, row_lse, row_delta, xs, ys, x_row, x_column, y_row, y_column, x, y, x_step, y_step,
    x_inner, y_inner, lse, delta, place, bias, first, last, lower, upper, jump_at, jump, limit, scale,
    C: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, S: tl.constexpr, MODE: tl.constexpr, EDGES: tl.constexpr,
    BIASED: tl.constexpr, TMA: tl.constexpr, VECTORS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Stream rows first..last-1, S at a time; from `jump_at` on they are those `jump` further.

    With EDGES, fixed row i meets only streamed rows lower[i]..upper[i]-1; without, every row meets all of them.
    """
    for tile in tl.range(first, last, S):
        at = tile + tl.where(tile >= jump_at, jump, 0)
        x_SD = _load(xs, x_row, x_column, x, at, limit, x_step, x_inner, C, D, PADDED, S, EDGES, TMA)
        y_SD = _load(ys, y_row, y_column, y, at, limit, y_step, y_inner, C, D, PADDED, S, EDGES, TMA)
        column = bias
        column_delta = bias
        if MODE == KEY_GRADIENT:
            column, column_delta = _vectors(lse, delta, place, at, limit, S, EDGES, VECTORS)
            if BIASED:
                column -= bias
        s_FS = tl.dot(f0, tl.trans(x_SD), input_precision=PRECISION)
        if EDGES:
            row = tl.arange(0, S)
            keep = (row[None, :] < (upper - at)[:, None]) & (row[None, :] >= (lower - at)[:, None])
            s_FS = tl.where(keep, s_FS, float("-inf"))
        a0, a1, a2 = _step(s_FS, a0, a1, a2, f1, row_lse, row_delta, x_SD, y_SD, column, column_delta, scale,
                           MODE, BIASED, PRECISION)  # fmt: skip
    return a0, a1, a2


@triton.jit
def _band(
    a0, a1, a2, f0, f1, row_lse, row_delta, xs, ys, x_row, x_column, y_row, y_column, x, y, x_step, y_step,
    x_inner, y_inner, lse, delta, place, bias, units, least, most, lo, hi, unit, unit_step, limit, U, scale,
    C: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, S: tl.constexpr, MODE: tl.constexpr, HAS_LO: tl.constexpr,
    HAS_HI: tl.constexpr, EVEN: tl.constexpr, BIASED: tl.constexpr, TMA: tl.constexpr, VECTORS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The part of a stream that a band leaves: first what every fixed row meets, then the edges.

    Row j of the stream has unit  unit + (j // U) * unit_step;  a pair counts if lo <= its unit - `units` <= hi. The
    units of the fixed rows lie in least..most.
    """
    lower = units * 0
    upper = lower + limit
    begin = least * 0
    full_from = begin
    end = begin + limit
    full_to = end
    if HAS_LO:
        lower = tl.cdiv(tl.maximum(units + lo - unit, 0), unit_step) * U
        begin = tl.cdiv(tl.maximum(least + lo - unit, 0), unit_step) * U
        full_from = tl.cdiv(tl.maximum(most + lo - unit, 0), unit_step) * U
        if BIASED or (EVEN and not HAS_HI):  # weights repeat from tile to tile; an even run has no rest at its end
            begin = begin // S * S
        elif VECTORS:
            begin = begin // 4 * 4  # descriptors of vectors begin at multiples of 16 bytes
    if HAS_HI:
        upper = tl.minimum(tl.maximum(units + hi - unit + unit_step, 0) // unit_step * U, limit)
        end = tl.minimum(tl.maximum(most + hi - unit + unit_step, 0) // unit_step * U, limit)
        full_to = tl.minimum(tl.maximum(least + hi - unit + unit_step, 0) // unit_step * U, limit)
    middle = begin + tl.cdiv(tl.maximum(full_from - begin, 0), S) * S
    after = middle + tl.maximum(full_to - middle, 0) // S * S
    a0, a1, a2 = _sweep(
        a0, a1, a2, f0, f1, row_lse, row_delta, xs, ys, x_row, x_column, y_row, y_column, x, y, x_step, y_step,
        x_inner, y_inner, lse, delta, place, bias, middle, after, lower, upper, NEVER, 0, limit, scale,
        C, D, PADDED, S, MODE, False, BIASED, TMA, VECTORS, PRECISION)  # fmt: skip
    if HAS_LO or HAS_HI or not EVEN:
        a0, a1, a2 = _sweep(
            a0, a1, a2, f0, f1, row_lse, row_delta, xs, ys, x_row, x_column, y_row, y_column, x, y, x_step, y_step,
            x_inner, y_inner, lse, delta, place, bias, begin, end - (after - middle), lower, upper, middle,
            after - middle, limit, scale, C, D, PADDED, S, MODE, True, BIASED, TMA, VECTORS, PRECISION)  # fmt: skip
    return a0, a1, a2


@triton.jit
def _wide(number):
    """An integer argument as int64, also where it was specialised to the constant 1."""
    return tl.zeros([], tl.int64) + number


@triton.jit
def _corner(token, head, batch, rate, stride, by_batch, by_head, column_by_batch, column_by_head):
    """Row and column, in the matrix that a tensor descriptor sees, of a token of a head."""
    place = token + head * by_head + batch * by_batch
    return place // rate, place % rate * stride + head * column_by_head + batch * column_by_batch


@triton.jit
def _plane(part, token, head, batch, heads, rate, n, plane):
    """Where a token of a head is in the planes of `lse` and `delta`: see `planes`."""
    row = ((batch.to(tl.int64) * heads + head) * rate + token % rate) * (tl.cdiv(n, 4 * rate) * 4) + token // rate
    return part * _wide(plane) + row


@triton.jit
def _weights(log_m, rate, phase, S: tl.constexpr, RESIDUES: tl.constexpr):
    """Log2 m of S rows of a lattice; it repeats after RESIDUES tokens, a divisor of S rows, so every tile has these."""
    residue = (tl.arange(0, S) * rate + phase % rate - phase + RESIDUES * 65536) % RESIDUES
    return tl.load(log_m + residue)


@triton.jit
def _outer(
    a0, a1, a2, f0, f1, row_lse, row_delta, xs, ys, x_head, y_head, x_n, y_n, x_place, y_place, other, batch,
    lse, delta, query_heads, part, plane, log_m, run_start, phase, n, inner_width, width, rate, scale,
    RESIDUES: tl.constexpr, F: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, S: tl.constexpr,
    MODE: tl.constexpr, HAS_LO: tl.constexpr, HAS_HI: tl.constexpr, EVEN: tl.constexpr, TMA: tl.constexpr,
    VECTORS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """An outer run of nested lattices, less the part that the run inside it covers: all before it, all after it."""
    outer_start = run_start // width * width
    start = outer_start + phase % rate
    limit = tl.cdiv(tl.minimum(outer_start + width, n) - start, rate)
    own = (run_start // inner_width * inner_width - outer_start) // rate
    length = inner_width // rate
    first = own * 0
    last = tl.maximum(limit - length, own)
    if HAS_HI:
        last = own
    if HAS_LO:
        first = own
    start64 = start.to(tl.int64)
    x_row, x_column = _corner(start, other, batch, rate, x_n, *x_place)
    y_row, y_column = _corner(start, other, batch, rate, y_n, *y_place)
    x_step = _wide(x_n) * rate
    y_step = _wide(y_n) * rate
    lower = tl.zeros([F], tl.int32)
    return _sweep(
        a0, a1, a2, f0, f1, row_lse, row_delta, xs, ys, x_row, x_column, y_row, y_column,
        x_head + start64 * x_n, y_head + start64 * y_n, x_step, y_step, x_step, y_step, lse, delta,
        _plane(part, start, other, batch, query_heads, rate, n, plane), _weights(log_m, rate, phase, S, RESIDUES),
        first, last, lower, lower + limit, own, length, limit, scale, 1, D, PADDED, S, MODE, not EVEN, True, TMA, VECTORS, PRECISION)  # fmt: skip


@triton.jit
def _listed(
    a0, a1, a2, f0, f1, row_lse, row_delta, xs, ys, x_row, x_column, y_row, y_column, x, y, x_step, y_step, lse, delta,
    place, blocks, masks, bits, first, last, offset, limit, scale,
    BLOCK: tl.constexpr, F: tl.constexpr, S: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, MODE: tl.constexpr,
    MASKED: tl.constexpr, TMA: tl.constexpr, VECTORS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Entries first..last-1 of a block list, with or without masks; a tile is BLOCK x BLOCK, streamed S rows at once."""
    PIECES: tl.constexpr = BLOCK // S
    for piece in tl.range(first * PIECES, last * PIECES):
        entry = piece // PIECES
        inside = piece % PIECES * S
        at = tl.load(blocks + entry) * BLOCK + inside
        x_SD = _load(xs, x_row, x_column, x, at, limit, x_step, x_step, 1, D, PADDED, S, MASKED, TMA)
        y_SD = _load(ys, y_row, y_column, y, at, limit, y_step, y_step, 1, D, PADDED, S, MASKED, TMA)
        column = row_lse
        column_delta = row_lse
        if MODE == KEY_GRADIENT:
            column, column_delta = _vectors(lse, delta, place, at, limit, S, MASKED, VECTORS)
        s_FS = tl.dot(f0, tl.trans(x_SD), input_precision=PRECISION)
        if MASKED:
            f = offset + tl.arange(0, F)
            s = inside + tl.arange(0, S)
            words = bits + tl.load(masks + entry).to(tl.int64) * (BLOCK * BLOCK // 32)
            if MODE == KEY_GRADIENT:  # masks are (query, key)
                word = tl.load(words + s[None, :] * (BLOCK // 32) + f[:, None] // 32)
                keep = ((word >> (f[:, None] % 32)) & 1) != 0
            else:
                word = tl.load(words + f[:, None] * (BLOCK // 32) + s[None, :] // 32)
                keep = ((word >> (s[None, :] % 32)) & 1) != 0
            s_FS = tl.where(keep, s_FS, float("-inf"))
        a0, a1, a2 = _step(s_FS, a0, a1, a2, f1, row_lse, row_delta, x_SD, y_SD, column, column_delta, scale,
                           MODE, False, PRECISION)  # fmt: skip
    return a0, a1, a2


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
        vectors = _plane(0, member * 0, other, batch, query_heads, 1, n, plane)
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
                bias = _weights(log_m + level * RESIDUES, rate, phase, S, RESIDUES)
            start64 = start.to(tl.int64)
            x_row, x_column = _corner(start, other, batch, rate, x_n, *x_place)
            y_row, y_column = _corner(start, other, batch, rate, y_n, *y_place)
            x_step = _wide(x_n) * rate
            y_step = _wide(y_n) * rate
            a0, a1, a2 = _band(
                a0, a1, a2, f0_FD, f1_FD, row_lse, row_delta, xs[0], ys[0], x_row, x_column, y_row, y_column,
                x_head + start64 * x_n, y_head + start64 * y_n, x_step, y_step, x_step, y_step,
                lse, delta, _plane(0, start, other, batch, query_heads, rate, n, plane), bias,
                token, base + row0 * step, base + last_row * step, lo, hi, start, rate, limit, 1, scale,
                1, D, PADDED, S, MODE, HAS_LO, HAS_HI, EVEN, BIASED, TMA, VECTORS, PRECISION)  # fmt: skip
            for part in tl.static_range(1, PARTS):
                if level >= part:
                    a0, a1, a2 = _outer(
                        a0, a1, a2, f0_FD, f1_FD, row_lse, row_delta, xs[part], ys[part], x_head, y_head, x_n, y_n,
                        x_place, y_place, other, batch, lse, delta, query_heads, part, plane,
                        log_m + (part * MOST_PARTS + level) * RESIDUES, run_start, phase, n,
                        chain[2 * part - 2], chain[2 * part], chain[2 * part + 1], scale,
                        RESIDUES, F, D, PADDED, S, MODE, HAS_LO, HAS_HI, EVEN, TMA, VECTORS, PRECISION)  # fmt: skip

        if COLUMNS > 0:
            if MODE == KEY_GRADIENT:
                a0, a1, a2 = _band(
                    a0, a1, a2, f0_FD, f1_FD, row_lse, row_delta, x_head, y_head, 0, 0, 0, 0, x_head, y_head,
                    _wide(x_n), _wide(y_n), 0, 0, lse, delta, vectors, bias,
                    row // COLUMNS, row0 // COLUMNS, last_row // COLUMNS, columns_lo, columns_hi, 0, 1, n,
                    columns_period, scale,
                    1, D, PADDED, S, MODE, COLUMNS_LO, COLUMNS_HI, False, False, False, VECTORS, PRECISION)  # fmt: skip
            else:
                a0, a1, a2 = _band(
                    a0, a1, a2, f0_FD, f1_FD, row_lse, row_delta, x_head, y_head, 0, 0, 0, 0,
                    x_head + _wide(columns_first) * x_n, y_head + _wide(columns_first) * y_n,
                    _wide(x_n) * columns_period, _wide(y_n) * columns_period, x_n, y_n, lse, delta, 0, bias,
                    token // columns_period, (base + row0) // columns_period, (base + last_row) // columns_period,
                    columns_lo, columns_hi, 0, 1, columns_rows, COLUMNS, scale,
                    COLUMNS, D, PADDED, S, MODE, COLUMNS_LO, COLUMNS_HI, False, False, False, VECTORS, PRECISION)  # fmt: skip

        if LISTS:
            place = chunk + 2
            if not CHUNKED:
                place = ranges + (list_base + (base + row0) // BLOCK) * 3
            first_masked = tl.load(place + 1)
            x_row, x_column = _corner(0, other, batch, 1, x_n, *x_place)
            y_row, y_column = _corner(0, other, batch, 1, y_n, *y_place)
            a0, a1, a2 = _listed(
                a0, a1, a2, f0_FD, f1_FD, row_lse, row_delta, xs[0], ys[0], x_row, x_column, y_row, y_column,
                x_head, y_head, _wide(x_n), _wide(y_n), lse, delta, vectors, blocks, masks, bits,
                tl.load(place), first_masked, (base + row0) % BLOCK, n, scale,
                BLOCK, F, S, D, PADDED, MODE, False, TMA, VECTORS, PRECISION)  # fmt: skip
            a0, a1, a2 = _listed(
                a0, a1, a2, f0_FD, f1_FD, row_lse, row_delta, xs[0], ys[0], x_row, x_column, y_row, y_column,
                x_head, y_head, _wide(x_n), _wide(y_n), lse, delta, vectors, blocks, masks, bits,
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


@triton.jit(do_not_specialize=["n", "heads", "chunk_count"])
def collect(
    work0, work1, work_lse, acc0, acc1, lse, blocks, n, heads, chunk_count,
    MODE: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Put the chunks of one block together, and add them to what its rows hold already."""
    pieces: tl.constexpr = BLOCK // F
    batch = tl.program_id(1).to(tl.int64)
    block = blocks + tl.program_id(0) // pieces * 4
    first_row = tl.program_id(0) % pieces * F
    token = tl.load(block + 1) * BLOCK + first_row + tl.arange(0, F)
    first = tl.load(block + 2)
    inside = token < n
    d_D = tl.arange(0, PADDED)
    inside_FD = inside[:, None] & (d_D < D)[None, :]
    row = (batch * heads + tl.load(block)) * n + token
    place = row[:, None] * D + d_D[None, :]
    if MODE == FORWARD:
        largest = tl.load(lse + row, inside, other=float("-inf"))
        known = largest > float("-inf")
        total = tl.where(known, 1.0, 0.0)
        a0 = tl.load(acc0 + place, inside_FD & known[:, None], other=0.0)
    else:
        a0 = tl.load(acc0 + place, inside_FD, other=0.0)
    if MODE == KEY_GRADIENT:
        a1 = tl.load(acc1 + place, inside_FD, other=0.0)
    for chunk in range(first, first + tl.load(block + 3)):
        from_row = (batch * chunk_count + chunk) * BLOCK + first_row + tl.arange(0, F)
        from_place = from_row[:, None] * D + d_D[None, :]
        part = tl.load(work0 + from_place, inside_FD, other=0.0)
        if MODE == FORWARD:
            here = tl.load(work_lse + from_row, inside, other=float("-inf"))
            most = tl.maximum(largest, here)
            shift = tl.where(most == float("-inf"), 0.0, most)
            w_before, w_here = tl.exp(largest - shift), tl.exp(here - shift)
            total = total * w_before + w_here
            a0 = a0 * w_before[:, None] + part * w_here[:, None]
            largest = most
        else:
            a0 += part
        if MODE == KEY_GRADIENT:
            a1 += tl.load(work1 + from_place, inside_FD, other=0.0)
    if MODE == FORWARD:
        empty = total == 0.0
        total = tl.where(empty, 1.0, total)
        a0 = a0 / total[:, None]
        tl.store(lse + row, tl.where(empty, float("-inf"), largest + tl.log(total)), inside)
    tl.store(acc0 + place, a0, inside_FD)
    if MODE == KEY_GRADIENT:
        tl.store(acc1 + place, a1, inside_FD)


@triton.jit(do_not_specialize=["n", "heads"])
def row_products(
    out, dout, lse, delta, log2_lse, out_b, out_h, out_n, dout_b, dout_h, dout_n, n, heads,
    D: tl.constexpr, PADDED: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """What the gradients need of every row: delta = <out, d_out>, which is also <P, dP>; and lse in log2.

    A row without keys gets lse inf, so that p = exp2(s - lse) is 0.
    """
    batch, head = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * F + tl.arange(0, F)
    d_D = tl.arange(0, PADDED)
    inside = (row < n)[:, None] & (d_D < D)[None, :]
    a = tl.load(out + batch * out_b + head * out_h + row[:, None] * out_n + d_D[None, :], inside, other=0.0)
    b = tl.load(dout + batch * dout_b + head * dout_h + row[:, None] * dout_n + d_D[None, :], inside, other=0.0)
    place = (batch * heads + head) * n + row
    tl.store(delta + place, tl.sum(a.to(tl.float32) * b.to(tl.float32), 1), row < n)
    natural = tl.load(lse + place, row < n, other=0.0)
    tl.store(log2_lse + place, tl.where(natural == float("-inf"), float("inf"), natural * LOG2_E), row < n)
