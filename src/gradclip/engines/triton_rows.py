# Triton types these functions, by rules of its own.
# mypy: ignore-errors

"""The kernels of the Triton engine for rows. A chunk is some rows of one tensor, which a program measures whole.

It starts at a row and has so `MANY`, each of which has `SIZE` elements: element k of row r lies at
`k // run * period + r * run + k % run`, so that rows of every axis are read in the order of memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gradclip.engines.triton_kernels import (
    BROKEN_SCALE,
    FIELDS,
    INFINITY,
    MANY,
    PERIOD,
    RUN,
    SEGMENT,
    ZERO_SCALE,
    added,
    chunk_of,
    narrowed,
    power,
)


@triton.jit
def tile(table, chunk, start, size, done, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Where the next elements of some rows lie [ROWS, COLUMNS], and which of them are there."""
    row = table + chunk * FIELDS
    run, period = tl.load(row + RUN), tl.load(row + PERIOD)
    rows, numbers = tl.arange(0, ROWS), done + tl.arange(0, COLUMNS)
    there = (rows < tl.load(row + MANY))[:, None] & (numbers < size)[None, :]
    return ((start + rows) * run)[:, None] + (numbers // run * period + numbers % run)[None, :], there


@triton.jit
def measure_rows_carefully(
    table,
    chunk,
    first,
    start,
    size,
    ORDER: tl.constexpr,
    SCALED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The power sum of each row in float64, its scale and its non-finite elements, in two reads."""
    peaks, sums = tl.zeros([ROWS, COLUMNS], tl.float64), tl.zeros([ROWS, COLUMNS], tl.float64)
    counts = tl.zeros([ROWS, COLUMNS], tl.int32)
    for done in range(0, size, COLUMNS):
        place, there = tile(table, chunk, start, size, done, ROWS, COLUMNS)
        x = tl.abs(tl.load(first + place, mask=there, other=0.0).to(tl.float64))
        finite = x < INFINITY
        peaks = tl.maximum(peaks, tl.where(finite, x, 0.0))
        sums += tl.where(finite, 0.0, x)
        counts += tl.where(finite, 0, 1)
    total, peak, count = tl.sum(sums, 1), tl.max(peaks, 1), tl.sum(counts, 1)
    if ORDER == 0.0:
        return tl.where(count > 0, total, peak), tl.full([ROWS], 1.0, tl.float64), count
    scale = tl.where(peak > 0.0, peak, ZERO_SCALE) if SCALED else tl.full([ROWS], 1.0, tl.float64)
    sums = tl.zeros([ROWS, COLUMNS], tl.float64)
    for done in range(0, size, COLUMNS):
        place, there = tile(table, chunk, start, size, done, ROWS, COLUMNS)
        x = tl.abs(tl.load(first + place, mask=there, other=0.0).to(tl.float64))
        sums += power(tl.where(x < INFINITY, x, 0.0) / scale[:, None], ORDER)
    return tl.where(count > 0, total, tl.sum(sums, 1)), tl.where(count > 0, BROKEN_SCALE, scale), count


@triton.jit(do_not_specialize=["begin", "end"])
def measure_rows(
    table,
    begin,
    end,
    addresses,
    out,
    ORDER: tl.constexpr,
    DTYPE: tl.constexpr,
    ACC: tl.constexpr,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    SCALED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Measure the rows of the chunks from `begin` to `end` as `triton_kernels.measure` does other segments."""
    rows = tl.arange(0, ROWS)
    for chunk in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        first, start, size = chunk_of(table, chunk, addresses, DTYPE, False)
        sums, peaks = tl.zeros([ROWS, COLUMNS], ACC), tl.zeros([ROWS, COLUMNS], ACC)
        for done in range(0, size, COLUMNS):
            place, there = tile(table, chunk, start, size, done, ROWS, COLUMNS)
            x = tl.abs(tl.load(first + place, mask=there, other=0.0).to(ACC))
            sums, peaks = added(x, sums, peaks, ORDER)
        peak, total = tl.max(peaks, 1).to(tl.float64), tl.sum(sums.to(tl.float64), 1)
        zero = (peak == 0.0) & (total == 0.0)
        sure = zero | ((peak > LOW) & (peak < HIGH) & (total < INFINITY))
        count = tl.zeros([ROWS], tl.int32)
        scale = tl.where(zero, ZERO_SCALE, 1.0).to(tl.float64) if SCALED else tl.full([ROWS], 1.0, tl.float64)
        if ORDER == 0.0:
            total = peak
        if tl.min(sure.to(tl.int32)) == 0:
            total, scale, count = measure_rows_carefully(table, chunk, first, start, size, ORDER, SCALED, ROWS, COLUMNS)
        row = table + chunk * FIELDS
        result, there = out + (tl.load(row + SEGMENT) + rows) * 3, rows < tl.load(row + MANY)
        tl.store(result, total, mask=there)
        tl.store(result + 1, scale, mask=there)
        tl.store(result + 2, count.to(tl.float64), mask=there)


@triton.jit(do_not_specialize=["begin", "end"])
def scale_rows(
    table,
    begin,
    end,
    addresses,
    coefficients,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Multiply the rows of the chunks by their coefficients; where all are 1 nothing is read or written."""
    rows = tl.arange(0, ROWS)
    for turn in range(tl.program_id(0), end - begin, tl.num_programs(0)):
        chunk = end - 1 - turn
        row = table + chunk * FIELDS
        factor = tl.load(coefficients + tl.load(row + SEGMENT) + rows, mask=rows < tl.load(row + MANY), other=1.0)
        if tl.max((factor != 1.0).to(tl.int32)) > 0:
            first, start, size = chunk_of(table, chunk, addresses, DTYPE, False)
            for done in range(0, size, COLUMNS):
                place, there = tile(table, chunk, start, size, done, ROWS, COLUMNS)
                x = tl.load(first + place, mask=there, other=0.0).to(tl.float64)
                x = tl.where(factor[:, None] == 0.0, 0.0, x * factor[:, None])
                tl.store(first + place, narrowed(x, DTYPE), mask=there)
