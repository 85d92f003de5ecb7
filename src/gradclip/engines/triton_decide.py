# Triton types these functions, by rules of its own.
# mypy: ignore-errors

"""The decision of a hard clip in one launch, from what was measured: `step/decide.py` takes some twenty for it."""

from __future__ import annotations

import struct

import triton
import triton.language as tl

from gradclip.engines.triton_kernels import INFINITY

FAR = tl.constexpr(1e300)
"""Beyond this ratio of norm and threshold their quotient is taken apart: see `step/decide.py`."""
BLOCK = 256


@triton.jit
def root(total, ORDER: tl.constexpr):
    """The norm whose power sum of this order is `total`, or the maximum for an order of 0."""
    if ORDER == 2.0:
        return tl.sqrt(total)
    elif (ORDER == 0.0) | (ORDER == 1.0):
        return total
    else:
        return tl.where(total > 0.0, tl.exp2(tl.log2(tl.where(total > 0.0, total, 1.0)) / ORDER), total)


@triton.jit(do_not_specialize=["segments", "bits"])
def decide(
    measured,
    segments,
    bits,
    divisor,
    numbers,
    actions,
    ORDER: tl.constexpr,
    SCALED: tl.constexpr,
    DIVIDES: tl.constexpr,
    ACTION: tl.constexpr,
    BROKEN_COEFFICIENT: tl.constexpr,
    BROKEN_ACTION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write norm and coefficient [2, S] and the action [S] of segments, from their total, scale and count [S, 3].

    `bits` are those of the threshold, a float64, which a kernel takes no number of.
    """
    lanes = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = lanes < segments
    total = tl.load(measured + lanes * 3, mask=mask, other=0.0)
    count = tl.load(measured + lanes * 3 + 2, mask=mask, other=0.0)
    threshold = (tl.zeros([BLOCK], tl.int64) + bits).to(tl.float64, bitcast=True)
    unscaled = root(total, ORDER)
    if DIVIDES:
        unscaled = unscaled / tl.load(divisor).to(tl.float64)
    norm = unscaled
    if SCALED:
        scale = tl.load(measured + lanes * 3 + 1, mask=mask, other=1.0)
        norm = unscaled * scale
    ratio = norm / threshold
    if SCALED:
        ratio = tl.where(norm < INFINITY, ratio, unscaled / threshold * scale)
    coefficient = tl.where(ratio > 1.0, 1.0 / ratio, 1.0)
    if SCALED:
        coefficient = tl.where(ratio > FAR, threshold / unscaled / scale, coefficient)
    broken = (count > 0.0) | ((total < INFINITY) == 0)
    coefficient = tl.where(broken, BROKEN_COEFFICIENT, coefficient)
    action = tl.where(broken, BROKEN_ACTION, tl.where(coefficient != 1.0, ACTION, 0))
    tl.store(numbers + lanes, norm, mask=mask)
    tl.store(numbers + segments + lanes, coefficient, mask=mask)
    tl.store(actions + lanes, action.to(tl.int64), mask=mask)


def bits_of(number: float) -> int:
    """The 64 bits of a float, as a whole number."""
    return struct.unpack("<q", struct.pack("<d", number))[0]
