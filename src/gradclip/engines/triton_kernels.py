# Triton types these functions, by rules of its own.
# mypy: ignore-errors

"""The kernels of the Triton engine. Each program takes chunks of a table in turn; see `triton_table`.

A chunk is a line of the table: the place of its tensor's address, its segment, the slot of its partial result, its
first element and how many it has. Rows have chunks of their own: see `triton_rows`.

Partial results are added up in the order of their slots by whichever program finishes the last chunk of a segment, so
that the same gradients give the same bits however the programs were scheduled.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gradclip.engines.base import LARGEST, LEAST

TENSOR, SEGMENT, SLOT, START, SIZE, MANY, RUN, PERIOD, FIELDS = (tl.constexpr(place) for place in range(9))
"""The fields of a chunk; the last three are of rows."""

ZERO_SCALE = tl.constexpr(LEAST)
BROKEN_SCALE = tl.constexpr(LARGEST)
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def chunk_of(table, chunk, addresses, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """The pointer to the tensor of a chunk, where the chunk starts there, and how many elements it has."""
    row = table + chunk * FIELDS
    first = tl.load(addresses + tl.load(row + TENSOR)).to(tl.pointer_type(DTYPE))
    start, size = tl.load(row + START), tl.load(row + SIZE)
    if ALIGNED:
        first, start = tl.multiple_of(first, 16), tl.multiple_of(start, 16)
    return first, start, size


@triton.jit
def read(first, numbers, left, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """A block of elements of which so many are `left`, zeros behind them, in the type that is calculated in."""
    return tl.load(first + numbers, mask=tl.arange(0, BLOCK) < left, other=0.0).to(ACC)


@triton.jit
def narrowed(x, DTYPE: tl.constexpr):
    """Numbers of float64 in the dtype of the tensor, by way of float32, for bfloat16 is not made of float64 at once."""
    if tl.float64 == DTYPE:
        return x
    else:
        return x.to(tl.float32).to(DTYPE)


@triton.jit
def power(x, ORDER: tl.constexpr):
    """x of 0 and above to the power of the order."""
    if ORDER == 1.0:
        return x
    elif ORDER == 2.0:
        return x * x
    else:
        return tl.where(x > 0.0, tl.exp2(ORDER * tl.log2(tl.where(x > 0.0, x, 1.0))), 0.0)


@triton.jit
def added(x, sums, peaks, ORDER: tl.constexpr):
    """The sums of magnitudes, or of their squares, and the largest ones, with those of a block."""
    return sums + (x if ORDER == 1.0 else x * x), tl.maximum(peaks, x)


@triton.jit
def measure_carefully(first, start, size, ORDER: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr):
    """The power sum of a chunk in float64, its scale and its non-finite elements, in two reads.

    In units of the largest element if `SCALED`; an order of 0 asks for the largest. With a non-finite element the sum
    is that of the magnitudes, which is not finite either.
    """
    lanes = tl.arange(0, BLOCK)
    peaks, counts, sums = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.float64)
    for done in range(0, size, BLOCK):
        x = tl.abs(read(first, start + done + lanes, size - done, tl.float64, BLOCK))
        finite = x < INFINITY
        peaks = tl.maximum(peaks, tl.where(finite, x, 0.0))
        counts += tl.where(finite, 0, 1)
        sums += tl.where(finite, 0.0, x)
    peak, count = tl.max(peaks), tl.sum(counts)
    scale, total = tl.full((), 1.0, tl.float64), peak
    if count > 0:
        total = tl.sum(sums)
        scale = tl.full((), BROKEN_SCALE, tl.float64)
    elif ORDER > 0.0:
        if SCALED:
            scale = tl.where(peak > 0.0, peak, ZERO_SCALE)
        sums = tl.zeros([BLOCK], tl.float64)
        for done in range(0, size, BLOCK):
            x = tl.abs(read(first, start + done + lanes, size - done, tl.float64, BLOCK))
            sums += power(x / scale, ORDER)
        total = tl.sum(sums)
    return total, scale, count


@triton.jit
def finish(
    totals, scales, counts, firsts, segment, out, ORDER: tl.constexpr, SCALED: tl.constexpr, LANES: tl.constexpr
):
    """Write the total, the scale and the count of a segment from those of its chunks."""
    lanes = tl.arange(0, LANES)
    start, end = tl.load(firsts + segment), tl.load(firsts + segment + 1)
    scale = tl.full((), 1.0, tl.float64)
    if SCALED:
        largest = tl.zeros([LANES], tl.float64)
        for place in range(start, end, LANES):
            largest = tl.maximum(largest, tl.load(scales + place + lanes, mask=place + lanes < end, other=0.0))
        scale = tl.max(largest)
    sums, peaks = tl.zeros([LANES], tl.float64), tl.zeros([LANES], tl.float64)
    broken = tl.zeros([LANES], tl.float64)
    for place in range(start, end, LANES):
        mask = place + lanes < end
        total = tl.load(totals + place + lanes, mask=mask, other=0.0)
        count = tl.load(counts + place + lanes, mask=mask, other=0).to(tl.float64)
        broken += count
        peaks = tl.maximum(peaks, tl.where(count > 0.0, 0.0, total))
        if SCALED:
            part = tl.load(scales + place + lanes, mask=mask, other=ZERO_SCALE) / scale
            total = tl.where(count > 0.0, total, total * power(part, ORDER))
        sums += total if ORDER > 0.0 else tl.where(count > 0.0, total, 0.0)
    count, total = tl.sum(broken), tl.sum(sums)
    if ORDER == 0.0:
        total = tl.where(count > 0.0, total, tl.max(peaks))
    tl.store(out + segment * 3, total)
    tl.store(out + segment * 3 + 1, scale)
    tl.store(out + segment * 3 + 2, count)


@triton.jit
def is_last_of(tickets, segment, firsts):
    """Whether a chunk that was written is the last of its segment to be; the tickets are new again after it."""
    tl.debug_barrier()
    wanted = tl.load(firsts + segment + 1) - tl.load(firsts + segment)
    is_last = tl.atomic_add(tickets + segment, 1) == wanted - 1
    if is_last:
        tl.store(tickets + segment, 0)
    return is_last


@triton.jit(do_not_specialize=["begin", "end"])
def measure(
    table,
    begin,
    end,
    addresses,
    firsts,
    tickets,
    totals,
    scales,
    counts,
    out,
    ORDER: tl.constexpr,
    DTYPE: tl.constexpr,
    ACC: tl.constexpr,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    SCALED: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    """Measure the chunks from `begin` to `end`: sums of the powers of this order (1, 2, other; 0: the largest).

    They are taken in `ACC`, and again in float64 where elements are non-finite or their powers would leave it: where
    the largest is not between `LOW` and `HIGH`. `out` gets the total, the scale and the non-finite elements [S, 3].
    """
    lanes = tl.arange(0, BLOCK)
    for chunk in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        first, start, size = chunk_of(table, chunk, addresses, DTYPE, ALIGNED)
        sums, peaks = tl.zeros([BLOCK], ACC), tl.zeros([BLOCK], ACC)
        whole = size // BLOCK * BLOCK
        for done in tl.range(0, whole, BLOCK, num_stages=3):
            x = tl.abs(tl.load(first + (start + done + lanes), eviction_policy="evict_first").to(ACC))
            sums, peaks = added(x, sums, peaks, ORDER)
        if whole < size:
            x = tl.abs(read(first, start + whole + lanes, size - whole, ACC, BLOCK))
            sums, peaks = added(x, sums, peaks, ORDER)
        peak = tl.max(peaks).to(tl.float64)
        total = tl.sum(sums.to(tl.float64))
        scale, count = tl.full((), 1.0, tl.float64), 0
        if (peak == 0.0) & (total == 0.0):
            if SCALED:
                scale = tl.full((), ZERO_SCALE, tl.float64)
        elif (peak > LOW) & (peak < HIGH) & (total < INFINITY):
            if ORDER == 0.0:
                total = peak
        else:
            total, scale, count = measure_carefully(first, start, size, ORDER, SCALED, LANES)
        row = table + chunk * FIELDS
        slot, segment = tl.load(row + SLOT), tl.load(row + SEGMENT)
        tl.store(totals + slot, total)
        tl.store(scales + slot, scale)
        tl.store(counts + slot, count)
        if is_last_of(tickets, segment, firsts):
            finish(totals, scales, counts, firsts, segment, out, ORDER, SCALED, LANES)


@triton.jit(do_not_specialize=["begin", "end"])
def scale(
    table,
    begin,
    end,
    addresses,
    coefficients,
    DTYPE: tl.constexpr,
    ACC: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    """Multiply the chunks from `begin` to `end`, the last first, by the coefficients of their segments.

    Where it is 1 nothing is read or written, where it is 0 zeros are written. What float32 cannot hold as a factor is
    applied in float64.
    """
    lanes = tl.arange(0, BLOCK)
    for turn in range(tl.program_id(0), end - begin, tl.num_programs(0)):
        chunk = end - 1 - turn
        factor = tl.load(coefficients + tl.load(table + chunk * FIELDS + SEGMENT))
        if factor != 1.0:
            first, start, size = chunk_of(table, chunk, addresses, DTYPE, ALIGNED)
            whole = size // BLOCK * BLOCK
            if (tl.abs(factor) > 1e-30) & (tl.abs(factor) < 1e30):
                near = factor.to(ACC)
                for done in tl.range(0, whole, BLOCK):
                    pointers = first + (start + done + lanes)
                    tl.store(pointers, (tl.load(pointers).to(ACC) * near).to(DTYPE))
                if whole < size:
                    pointers = first + (start + whole + lanes)
                    mask = lanes < size - whole
                    tl.store(pointers, (tl.load(pointers, mask=mask, other=0.0).to(ACC) * near).to(DTYPE), mask=mask)
            else:
                few = tl.arange(0, LANES)
                for done in range(0, size, LANES):
                    pointers = first + (start + done + few)
                    mask = few < size - done
                    x = tl.load(pointers, mask=mask, other=0.0).to(tl.float64)
                    tl.store(pointers, narrowed(tl.where(factor == 0.0, 0.0, x * factor), DTYPE), mask=mask)


@triton.jit
def seen(x, above, below, broken):
    """The largest numbers on each side of zero and the count of non-finite ones, with those of a block."""
    finite = tl.abs(x) < INFINITY
    kept = tl.where(finite, x, 0.0)
    return tl.maximum(above, kept), tl.maximum(below, -kept), broken + tl.where(finite, 0, 1)


@triton.jit
def between(x, low, high):
    """Each element, or the bound that it is beyond; NaN stays."""
    return tl.where(x < low, low, tl.where(x > high, high, x))


@triton.jit(do_not_specialize=["begin", "end", "step"])
def clamp(
    table,
    begin,
    end,
    addresses,
    bounds,
    step,
    firsts,
    tickets,
    totals,
    scales,
    counts,
    out,
    DTYPE: tl.constexpr,
    ACC: tl.constexpr,
    MEASURES: tl.constexpr,
    WRITES: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    """Clamp each element of the chunks between the bounds of its tensor; NaN stays.

    The bounds of tensor i are at `bounds[i * step]` and `bounds[i * step + 1]`. If it `MEASURES`, `out` gets the
    largest positive and the largest negative magnitude of the finite elements before, and the others' number [T, 3].
    """
    lanes = tl.arange(0, BLOCK)
    for chunk in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        first, start, size = chunk_of(table, chunk, addresses, DTYPE, ALIGNED)
        row = table + chunk * FIELDS
        tensor, slot = tl.load(row + SEGMENT), tl.load(row + SLOT)
        if WRITES:
            low = tl.load(bounds + tensor * step).to(ACC)
            high = tl.load(bounds + tensor * step + 1).to(ACC)
        above, below, broken = tl.zeros([BLOCK], ACC), tl.zeros([BLOCK], ACC), tl.zeros([BLOCK], tl.int32)
        whole = size // BLOCK * BLOCK
        for done in tl.range(0, whole, BLOCK):
            pointers = first + (start + done + lanes)
            x = tl.load(pointers).to(ACC)
            if MEASURES:
                above, below, broken = seen(x, above, below, broken)
            if WRITES:
                tl.store(pointers, between(x, low, high).to(DTYPE))
        if whole < size:
            pointers, mask = first + (start + whole + lanes), lanes < size - whole
            x = tl.load(pointers, mask=mask, other=0.0).to(ACC)
            if MEASURES:
                above, below, broken = seen(x, above, below, broken)
            if WRITES:
                tl.store(pointers, between(x, low, high).to(DTYPE), mask=mask)
        if MEASURES:
            tl.store(totals + slot, tl.max(above).to(tl.float64))
            tl.store(scales + slot, tl.max(below).to(tl.float64))
            tl.store(counts + slot, tl.sum(broken))
            if is_last_of(tickets, tensor, firsts):
                finish_peaks(totals, scales, counts, firsts, tensor, out, LANES)


@triton.jit
def finish_peaks(totals, scales, counts, firsts, segment, out, LANES: tl.constexpr):
    """Write the largest numbers of a tensor and its count from those of its chunks."""
    lanes = tl.arange(0, LANES)
    start, end = tl.load(firsts + segment), tl.load(firsts + segment + 1)
    above, below = tl.zeros([LANES], tl.float64), tl.zeros([LANES], tl.float64)
    broken = tl.zeros([LANES], tl.float64)
    for place in range(start, end, LANES):
        mask = place + lanes < end
        above = tl.maximum(above, tl.load(totals + place + lanes, mask=mask, other=0.0))
        below = tl.maximum(below, tl.load(scales + place + lanes, mask=mask, other=0.0))
        broken += tl.load(counts + place + lanes, mask=mask, other=0).to(tl.float64)
    tl.store(out + segment * 3, tl.max(above))
    tl.store(out + segment * 3 + 1, tl.max(below))
    tl.store(out + segment * 3 + 2, tl.sum(broken))


@triton.jit(do_not_specialize=["begin", "end"])
def zero_nonfinite(table, begin, end, addresses, DTYPE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    """Write zeros to the non-finite elements of the chunks."""
    lanes = tl.arange(0, BLOCK)
    for chunk in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        first, start, size = chunk_of(table, chunk, addresses, DTYPE, ALIGNED)
        for done in range(0, size, BLOCK):
            mask = lanes < size - done
            pointers = first + (start + done + lanes)
            x = tl.load(pointers, mask=mask, other=0.0)
            finite = tl.abs(x.to(tl.float64)) < INFINITY
            tl.store(pointers, tl.zeros([BLOCK], DTYPE), mask=mask & (finite == 0))
