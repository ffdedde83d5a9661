"""What streams past a fixed tile, and the step that each streamed tile takes: the loops of `kernels.attend`.

Arguments keep one order everywhere: the state (a0, a1, a2), the fixed tile, the streamed tensors as matrices and as
pointers, what is known of each streamed row, which rows, the mask, and what is compiled in. See `kernels` for names.
"""

# ruff: noqa: E501 - calls keep one argument order in all files, and triton reads only plain statements
import triton
import triton.language as tl

FORWARD = tl.constexpr(0)
QUERY_GRADIENT = tl.constexpr(1)
KEY_GRADIENT = tl.constexpr(2)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
NEVER = tl.constexpr(2147483647)
MOST_PARTS = tl.constexpr(6)
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


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
def band(
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
def wide(number):
    """An integer argument as int64, also where it was specialised to the constant 1."""
    return tl.zeros([], tl.int64) + number


@triton.jit
def corner(token, head, batch, rate, stride, by_batch, by_head, column_by_batch, column_by_head):
    """Row and column, in the matrix that a tensor descriptor sees, of a token of a head."""
    place = token + head * by_head + batch * by_batch
    return place // rate, place % rate * stride + head * column_by_head + batch * column_by_batch


@triton.jit
def plane_place(part, token, head, batch, heads, rate, n, plane):
    """Where a token of a head is in the planes of `lse` and `delta`: see `planes`."""
    row = ((batch.to(tl.int64) * heads + head) * rate + token % rate) * (tl.cdiv(n, 4 * rate) * 4) + token // rate
    return part * wide(plane) + row


@triton.jit
def weights(log_m, rate, phase, S: tl.constexpr, RESIDUES: tl.constexpr):
    """Log2 m of S rows of a lattice; it repeats after RESIDUES tokens, a divisor of S rows, so every tile has these."""
    residue = (tl.arange(0, S) * rate + phase % rate - phase + RESIDUES * 65536) % RESIDUES
    return tl.load(log_m + residue)


@triton.jit
def outer(
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
    x_row, x_column = corner(start, other, batch, rate, x_n, *x_place)
    y_row, y_column = corner(start, other, batch, rate, y_n, *y_place)
    x_step = wide(x_n) * rate
    y_step = wide(y_n) * rate
    lower = tl.zeros([F], tl.int32)
    return _sweep(
        a0, a1, a2, f0, f1, row_lse, row_delta, xs, ys, x_row, x_column, y_row, y_column,
        x_head + start64 * x_n, y_head + start64 * y_n, x_step, y_step, x_step, y_step, lse, delta,
        plane_place(part, start, other, batch, query_heads, rate, n, plane), weights(log_m, rate, phase, S, RESIDUES),
        first, last, lower, lower + limit, own, length, limit, scale, 1, D, PADDED, S, MODE, not EVEN, True, TMA, VECTORS, PRECISION)  # fmt: skip


@triton.jit
def _held(s_FS, words, shift, BLOCK: tl.constexpr, F: tl.constexpr, S: tl.constexpr):
    """The products s with -inf where a mask holds no pair: row f's are the bits from `shift` on of the word  words + f.

    A row's words are BLOCK apart, so that those of all fixed rows are read at once: F for every 32 streamed rows.
    Written as a comparison, LLVM makes a vector of all of a thread's, and takes it apart again bit by bit: twice as
    many instructions. As PTX it is one to test a pair and one to choose, as few as any predicate takes.
    """
    row = tl.arange(0, F)
    column = tl.arange(0, S)
    place = column % 32  # (the same for every tile, so that bits are computed once)
    if S < 32:
        place += shift
    bit_FS = (tl.full([S], 1, tl.int32) << place)[None, :]
    word_FS = tl.load(words + row)[:, None]
    for number in tl.static_range(1, S // 32):
        here = tl.load(words + number * BLOCK + row)[:, None]
        word_FS = tl.where((column < number * 32)[None, :], word_FS, here)
    if INTERPRETED:
        kept_FS = tl.where((word_FS & bit_FS) != 0, s_FS, float("-inf"))
    else:
        kept_FS = tl.inline_asm_elementwise(
            """{
            .reg .pred held;
            .reg .b32 bit;
            and.b32 bit, $2, $3;
            setp.ne.b32 held, bit, 0;
            selp.f32 $0, $1, 0fFF800000, held;
            }""",
            "=r,r,r,r", [s_FS, word_FS, bit_FS], tl.float32, is_pure=True, pack=1)  # fmt: skip
    return kept_FS


@triton.jit
def listed(
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
            words = bits + tl.load(masks + entry).to(tl.int64) * (BLOCK * BLOCK // 32)
            words += (inside // 32) * BLOCK + tl.multiple_of(offset, F)
            s_FS = _held(s_FS, words, inside % 32, BLOCK, F, S)
        a0, a1, a2 = _step(s_FS, a0, a1, a2, f1, row_lse, row_delta, x_SD, y_SD, column, column_delta, scale,
                           MODE, False, PRECISION)  # fmt: skip
    return a0, a1, a2
