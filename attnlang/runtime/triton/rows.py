"""Small kernels around the large one: rows made ready for the gradients, chunks of long lists put together, and partial
results merged.
"""

import triton
import triton.language as tl

from attnlang.runtime.triton.streams import FORWARD, KEY_GRADIENT, LOG2_E


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
    D: tl.constexpr, PADDED: tl.constexpr, F: tl.constexpr, PLANES: tl.constexpr, RATES: tl.constexpr,
):  # fmt: skip
    """What the gradients need of every row: delta = <out, d_out>, which is also <P, dP>; and lse in log2.

    A row without keys gets lse inf, so that p = exp2(s - lse) is 0. Both come in planes, one for each rate (a divisor
    of n, the first is 1): rows of a residue class lie side by side there.
    """
    batch, head = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * F + tl.arange(0, F)
    row64 = row.to(tl.int64)
    d_D = tl.arange(0, PADDED)
    inside = (row < n)[:, None] & (d_D < D)[None, :]
    a = tl.load(out + batch * out_b + head * out_h + row64[:, None] * out_n + d_D[None, :], inside, other=0.0)
    b = tl.load(dout + batch * dout_b + head * dout_h + row64[:, None] * dout_n + d_D[None, :], inside, other=0.0)
    before = (batch * heads + head) * n
    natural = tl.load(lse + before + row, row < n, other=0.0)
    product = tl.sum(a.to(tl.float32) * b.to(tl.float32), 1)
    log2 = tl.where(natural == float("-inf"), float("inf"), natural * LOG2_E)
    plane = tl.num_programs(2).to(tl.int64) * heads * n
    for number in tl.static_range(PLANES):
        place = number * plane + before + row % RATES[number] * (n // RATES[number]) + row // RATES[number]
        tl.store(delta + place, product, row < n)
        tl.store(log2_lse + place, log2, row < n)


@triton.jit(do_not_specialize=["n"])
def merge_rows(
    out, lse, part, part_lse,
    out_x, out_y, out_n, lse_x, lse_y, lse_n, part_x, part_y, part_n, part_lse_x, part_lse_y, part_lse_n, n,
    D: tl.constexpr, PADDED: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """Merge partial results: see `attnlang.runtime.merge`. An lse of -inf is of a row without keys."""
    x = tl.program_id(2).to(tl.int64)
    y = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * F + tl.arange(0, F)
    inside = row < n
    d_D = tl.arange(0, PADDED)
    inside_FD = inside[:, None] & (d_D < D)[None, :]
    place = lse + x * lse_x + y * lse_y + row * lse_n
    mine = tl.load(place, inside, other=float("-inf"))
    theirs = tl.load(part_lse + x * part_lse_x + y * part_lse_y + row * part_lse_n, inside, other=float("-inf"))
    most = tl.maximum(mine, theirs)
    none = most == float("-inf")
    most = tl.where(none, 0.0, most)
    w_mine, w_theirs = tl.exp(mine - most), tl.exp(theirs - most)
    both = tl.where(none, 1.0, w_mine + w_theirs)
    out_place = out + x * out_x + y * out_y + row[:, None] * out_n + d_D[None, :]
    part_place = part + x * part_x + y * part_y + row[:, None] * part_n + d_D[None, :]
    mine_FD = tl.load(out_place, inside_FD, other=0.0).to(tl.float32)
    theirs_FD = tl.load(part_place, inside_FD, other=0.0).to(tl.float32)
    merged_FD = mine_FD * (w_mine / both)[:, None] + theirs_FD * (w_theirs / both)[:, None]
    tl.store(out_place, merged_FD.to(out.dtype.element_ty), inside_FD)
    tl.store(place, tl.where(none, float("-inf"), most + tl.log(both)), inside)
