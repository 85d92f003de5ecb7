# numba types these functions, by rules of its own.
# mypy: ignore-errors

"""CPU kernels: what is done to one run of elements. They know nothing of tensors, tables or threads.

A kernel is `f(elements, count, out, parameter)`. It is compiled for a pointer type, which stands for an element type:

    float64*  fp64        float32*  fp32        int16*  fp16        uint16*  bf16

(the 16-bit types have no arithmetic of their own here: they are read to fp32 and rounded back). `out` is a row of four
fp64 numbers: total, second total, number of non-finite elements, number of elements changed.

Rows along an axis that is not the first lie side by side in memory, as the columns of a matrix do. For them there is
`f(elements, lines, columns, pitch, width, out, parameter)`: so many `lines`, `pitch` elements from one to the next, of
`columns` neighbours, of which each `width` are of one row. `out` has a total for each row, and from out[columns] on the
number of its non-finite elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gradclip.engines.cpu_compile import (
    Code,
    Elements,
    Numbers,
    ObjectFile,
    Signature,
    Target,
    Type,
    Typing,
    njit,
    object_of,
)
from gradclip.engines.cpu_layout import NORMALIZE, RECIPROCAL, SQRT, TANH

POINTEES = (types.int16, types.uint16, types.float32, types.float64)
"""The element types, by their codes."""


# Reordering and fusing are allowed; nnan and ninf are not, because a NaN or inf must come out as one.
LANES = {"reassoc", "contract", "nsz"}
STREAM = 32  # 8 streams in 1 KB: wider apart, they outrun the prefetcher (docs/decisions/0012)
BLOCK = 8 * STREAM
PART = 16384
"""Bytes that are tested, and then written only if something in them changes."""

TINY = 1e-30
"""Below this mean square, squares in fp32 may have been lost to underflow."""

SAFE = 1e30
"""Coefficients in [1/SAFE, SAFE] are rounded to fp32 with full precision and room to spare."""


# -- Words: loads, stores and integers of exact width; numba's own operators would widen to 64 bits and lose the lanes


def _narrow(builder: ir.IRBuilder, value: ir.Value, element: Type) -> ir.Value:
    """`value` (fp32 or fp64) rounded to nearest even, in the form in which `element` is stored."""
    single, i32 = ir.FloatType(), ir.IntType(32)
    if element == types.float64:
        return value if value.type == ir.DoubleType() else builder.fpext(value, ir.DoubleType())
    if value.type == ir.DoubleType():
        value = builder.fptrunc(value, single)
    if element == types.float32:
        return value
    if element == types.int16:
        return builder.bitcast(builder.fptrunc(value, ir.HalfType()), ir.IntType(16))
    # Not LLVM's own fptrunc to bfloat: on AVX512-BF16 it becomes an instruction that flushes denormals to zero.
    bits = builder.bitcast(value, i32)
    high = builder.lshr(bits, i32(16))
    even = builder.add(builder.and_(high, i32(1)), i32(0x7FFF))
    rounded = builder.lshr(builder.add(bits, even), i32(16))
    quiet = builder.or_(high, i32(0x40))
    return builder.trunc(builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded), ir.IntType(16))


def _widen(builder: ir.IRBuilder, stored: ir.Value, element: Type) -> ir.Value:
    """The value of what is `stored`: fp64 for fp64, fp32 for all others."""
    if element == types.int16:
        return builder.fpext(builder.bitcast(stored, ir.HalfType()), ir.FloatType())
    if element == types.uint16:
        bits = builder.shl(builder.zext(stored, ir.IntType(32)), ir.IntType(32)(16))
        return builder.bitcast(bits, ir.FloatType())
    return stored


def _wide(element: Type) -> Type:
    return types.float64 if element == types.float64 else types.float32


def _word(element: Type) -> Type:
    return {types.float32: types.int32, types.float64: types.int64}.get(element, types.int16)


@intrinsic
def read(typing: Typing, p: Type, i: Type) -> Code:
    """Element `i`, as fp64 for fp64 and as fp32 for all others."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        # align=1: a tensor made from foreign memory may lie anywhere
        return _widen(builder, builder.load(builder.gep(args[0], [args[1]]), align=1), p.dtype)

    return _wide(p.dtype)(p, i), generate


@intrinsic
def write(typing: Typing, p: Type, i: Type, value: Type) -> Code:
    """Element `i` becomes `value`, rounded to nearest even."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        builder.store(_narrow(builder, args[2], p.dtype), builder.gep(args[0], [args[1]]), align=1)
        return context.get_dummy_value()

    return types.void(p, i, value), generate


@intrinsic
def word(typing: Typing, p: Type, i: Type) -> Code:
    """The bits of element `i` as a signed integer of their own width."""
    result = _word(p.dtype)

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        stored = builder.load(builder.gep(args[0], [args[1]]), align=1)
        return builder.bitcast(stored, context.get_value_type(result))

    return result(p, i), generate


@intrinsic
def value(typing: Typing, p: Type, bits: Type) -> Code:
    """The fp64 value of the element of `p` that has these `bits`."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        stored = builder.bitcast(args[1], args[0].type.pointee)
        wide = _widen(builder, stored, p.dtype)
        return wide if p.dtype == types.float64 else builder.fpext(wide, ir.DoubleType())

    return types.float64(p, bits), generate


@intrinsic
def rounded(typing: Typing, p: Type, number: Type) -> Code:
    """The fp64 `number` rounded to the element type of `p`, as fp64 for fp64 and as fp32 for all others."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        return _widen(builder, _narrow(builder, args[1], p.dtype), p.dtype)

    return _wide(p.dtype)(p, number), generate


def _pick(name: str) -> Callable[..., ir.Value]:
    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        a, b = args
        compare = builder.icmp_signed if name == "smax" else builder.icmp_unsigned
        return builder.or_(a, b) if name == "either" else builder.select(compare(">", a, b), a, b)

    return generate


@intrinsic
def wide(typing: Typing, p: Type, number: Type) -> Code:
    """The fp64 `number` in the type that elements of `p` are computed in."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        return args[1] if p.dtype == types.float64 else builder.fptrunc(args[1], ir.FloatType())

    return _wide(p.dtype)(p, number), generate


@intrinsic
def elements_in(typing: Typing, p: Type, size: Type) -> Code:
    """The number of elements of `p` in `size` bytes."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        return builder.udiv(args[1], ir.IntType(64)(p.dtype.bitwidth // 8))

    return types.int64(p, types.int64), generate


@intrinsic
def room(typing: Typing, p: Type, out: Type, columns: Type) -> Code:
    """The second half of `out` as numbers of the type that elements of `p` are computed in."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        return builder.bitcast(builder.gep(args[1], [args[2]]), context.get_value_type(signature.return_type))

    return types.CPointer(_wide(p.dtype))(p, out, columns), generate


@intrinsic
def signed_max(typing: Typing, a: Type, b: Type) -> Code:
    """The larger of two integers, at their own width."""
    return a(a, a), _pick("smax")


@intrinsic
def unsigned_max(typing: Typing, a: Type, b: Type) -> Code:
    """The larger of two integers read as unsigned, at their own width."""
    return a(a, a), _pick("umax")


@intrinsic
def either(typing: Typing, a: Type, b: Type) -> Code:
    """Bitwise or, at the integers' own width."""
    return a(a, a), _pick("either")


# -- Reading


@njit
def exact(p: Elements, count: int) -> tuple[float, float, float]:
    """Slow: sum of squares and sum of magnitudes in fp64, and the number of non-finite elements."""
    squares, magnitudes, nonfinite = 0.0, 0.0, 0.0
    for i in range(count):
        x = abs(np.float64(read(p, i)))
        squares += x * x
        magnitudes += x
        if not x < math.inf:
            nonfinite += 1.0
    return squares, magnitudes, nonfinite


@njit
def has_bits(p: Elements, count: int) -> bool:
    """Whether any bit is set, the sign of a zero included."""
    bits = word(p, 0)
    for i in range(count):
        bits = either(bits, word(p, i))
    return bool(bits != 0)


@njit
def term(x: float, order: int) -> float:
    return x * x if order == 2 else abs(x)


@njit(fastmath=LANES)
def sum_blocks(p: Elements, blocks: int, order: int) -> float:
    """The sum of |x|^order, order 1 or 2, over whole blocks: eight streams are added in fp32, their sums in fp64.

    An fp32 sum has 8 terms, so at most 8 roundings in whatever order, product included: its relative error is at most
    8 x 2^-24 = 4.8e-7, which is 2.4e-7 of an L2 norm, for tensors of any length.
    """
    total = 0.0
    for b in range(blocks):
        for i in range(b * BLOCK, b * BLOCK + STREAM):
            a0, a1 = term(read(p, i), order), term(read(p, i + STREAM), order)
            a2, a3 = term(read(p, i + 2 * STREAM), order), term(read(p, i + 3 * STREAM), order)
            a4, a5 = term(read(p, i + 4 * STREAM), order), term(read(p, i + 5 * STREAM), order)
            a6, a7 = term(read(p, i + 6 * STREAM), order), term(read(p, i + 7 * STREAM), order)
            total += np.float64(a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7)
    return total


@njit(fastmath=LANES)
def sum_tail(p: Elements, begin: int, end: int, order: int) -> float:
    """The sum of |x|^order over what is no whole block, in fp64."""
    total = 0.0
    for i in range(begin, end):
        total += term(np.float64(read(p, i)), order)
    return total


@njit
def sum_all(p: Elements, count: int, order: int) -> float:
    blocks = count // BLOCK
    return sum_blocks(p, blocks, order) + sum_tail(p, blocks * BLOCK, count, order)


@njit
def squares(p: Elements, count: int, out: Numbers, parameter: Numbers) -> None:
    """out[0] = sum x^2. Where fp32 may have overflowed or underflowed it is done again in fp64."""
    total, nonfinite = sum_all(p, count, 2), 0.0
    if not (total >= TINY * count and total < math.inf) and (total != 0.0 or has_bits(p, count)):
        total, _, nonfinite = exact(p, count)
    out[0], out[1], out[2], out[3] = total, 0.0, nonfinite, 0.0


@njit
def magnitudes(p: Elements, count: int, out: Numbers, parameter: Numbers) -> None:
    """out[0] = sum |x|."""
    total, nonfinite = sum_all(p, count, 1), 0.0
    if not total < math.inf:
        _, total, nonfinite = exact(p, count)
    out[0], out[1], out[2], out[3] = total, 0.0, nonfinite, 0.0


@njit
def powers(p: Elements, count: int, out: Numbers, parameter: Numbers) -> None:
    """out[0] = sum (|x| / s)^q, with parameter = (s, q)."""
    scale, order = parameter[0], parameter[1]
    total = 0.0
    for i in range(count):
        total += (abs(np.float64(read(p, i))) / scale) ** order
    out[0], out[1], out[2], out[3] = total, 0.0, 0.0, 0.0


@njit
def finite_peaks(p: Elements, begin: int, end: int) -> tuple[float, float, float]:
    """Slow: largest positive value, largest negative magnitude, both of finite elements, and the number of others."""
    positive, negative, nonfinite = 0.0, 0.0, 0.0
    for i in range(begin, end):
        x = np.float64(read(p, i))
        if not abs(x) < math.inf:
            nonfinite += 1.0
        elif x > positive:
            positive = x
        elif -x > negative:
            negative = -x
    return positive, negative, nonfinite


@njit
def peaks(p: Elements, begin: int, end: int) -> tuple[float, float, float]:
    """As `finite_peaks`, by integer maxima: the bits of floats are ordered as their magnitudes are."""
    top = word(p, begin)
    low = top
    for i in range(begin, end):
        bits = word(p, i)
        top = signed_max(top, bits)
        low = unsigned_max(low, bits)
    return peaks_from(p, begin, end, top, low)


@njit
def peaks_from(p: Elements, begin: int, end: int, top: int, low: int) -> tuple[float, float, float]:
    """The same from the largest bits, read as signed and as unsigned integers."""
    positive = value(p, top) if top > 0 else 0.0
    negative = -value(p, low) if low < 0 else 0.0
    if positive < math.inf and negative < math.inf:
        return positive, negative, 0.0
    return finite_peaks(p, begin, end)


@njit
def extremes(p: Elements, count: int, out: Numbers, parameter: Numbers) -> None:
    """out[0] = the largest positive value, out[1] = the largest magnitude of the negative ones."""
    out[0], out[1], out[2] = peaks(p, 0, count)
    out[3] = 0.0


@njit
def peak(p: Elements, count: int, out: Numbers, parameter: Numbers) -> None:
    """out[0] = max |x|; of a segment with non-finite elements NaN or infinity, which adding up finds out."""
    positive, negative, nonfinite = peaks(p, 0, count)
    top = max(positive, negative)
    if nonfinite > 0.0:
        _, top, _ = exact(p, count)
    out[0], out[1], out[2], out[3] = top, 0.0, nonfinite, 0.0


# -- Writing


@intrinsic
def is_pairs(typing: Typing, p: Type) -> Code:
    """Whether elements of `p` are multiplied two at a time."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        return ir.IntType(1)(int(p.dtype == types.uint16))

    return types.boolean(p), generate


@intrinsic
def multiply_pair(typing: Typing, p: Type, i: Type, factor: Type) -> Code:
    """Elements 2 i and 2 i + 1 of bfloat16 times `factor`, in one word: the halves of it are taken apart and together
    by masks, where narrowing 32 bits to 16 moves them between lanes.

    A NaN needs no care here: that of a bfloat16 has no bits below it that rounding could carry from.
    """

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        i32, single = ir.IntType(32), ir.FloatType()
        factor = args[2] if args[2].type == single else builder.fptrunc(args[2], single)  # of other types, never run
        place = builder.gep(builder.bitcast(args[0], i32.as_pointer()), [args[1]])
        both = builder.load(place, align=1)

        def times(bits: ir.Value) -> ir.Value:
            found = builder.bitcast(builder.fmul(builder.bitcast(bits, single), factor, flags=["nsz"]), i32)
            even = builder.and_(builder.lshr(found, i32(16)), i32(1))
            return builder.add(found, builder.add(even, i32(0x7FFF)))

        upper, lower = times(builder.and_(both, i32(0xFFFF0000))), times(builder.shl(both, i32(16)))
        kept = builder.or_(builder.and_(upper, i32(0xFFFF0000)), builder.lshr(lower, i32(16)))
        builder.store(kept, place, align=1)
        return context.get_dummy_value()

    return types.void(p, i, factor), generate


@njit(fastmath=LANES)
def multiply(p: Elements, begin: int, end: int, factor: float) -> None:
    for i in range(begin, end):
        write(p, i, read(p, i) * factor)


@njit(fastmath=LANES)
def multiply_pairs(p: Elements, pairs: int, factor: float) -> None:
    for i in range(pairs):
        multiply_pair(p, i, factor)


@njit
def scale(p: Elements, count: int, out: Numbers, parameter: Numbers) -> None:
    """x becomes x c: in fp32 if c is comfortably normal there, else in fp64, so that c does not underflow."""
    coefficient = parameter[0]
    if coefficient == 1.0:
        return
    if coefficient == 0.0:
        for i in range(count):
            write(p, i, 0.0)
    elif 1.0 / SAFE <= coefficient <= SAFE:
        pairs = count // 2 if is_pairs(p) else 0
        multiply_pairs(p, pairs, wide(p, coefficient))
        multiply(p, 2 * pairs, count, wide(p, coefficient))
    else:
        multiply(p, 0, count, coefficient)


@njit
def outside(p: Elements, begin: int, end: int, low: float, high: float) -> bool:
    for i in range(begin, end):
        x = read(p, i)
        if x > high or x < low:
            return True
    return False


@intrinsic
def put_word(typing: Typing, p: Type, i: Type, bits: Type) -> Code:
    """Element `i` gets these bits."""

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        builder.store(builder.bitcast(args[2], args[0].type.pointee), builder.gep(args[0], [args[1]]), align=1)
        return context.get_dummy_value()

    return types.void(p, i, bits), generate


@intrinsic
def word_of(typing: Typing, p: Type, number: Type) -> Code:
    """The bits of the fp64 `number` rounded to the element type of `p`."""
    result = _word(p.dtype)

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        return builder.bitcast(_narrow(builder, args[1], p.dtype), context.get_value_type(result))

    return result(p, number), generate


@intrinsic
def clamped(typing: Typing, p: Type, bits: Type, low: Type, high: Type) -> Code:
    """The bits of an element of `p`, or those of the bound that it is beyond; the bounds are on both sides of zero, and
    the element is no NaN.

    Floats are ordered as integers are: above zero as signed ones, and below it as unsigned ones. So the types without
    an arithmetic of their own are compared without one.
    """

    def generate(context: Target, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        _, x, low, high = args
        if p.dtype in (types.float32, types.float64):
            x, low, high = (builder.bitcast(one, args[0].type.pointee) for one in (x, low, high))
            x = builder.select(builder.fcmp_ordered(">", x, high), high, x)
            return builder.bitcast(builder.select(builder.fcmp_ordered("<", x, low), low, x), args[1].type)
        x = builder.select(builder.icmp_signed("<", x, high), x, high)
        return builder.select(builder.icmp_unsigned("<", x, low), x, low)

    return bits(p, bits, low, high), generate


@njit
def clamp_numbers(p: Elements, begin: int, end: int, low: int, high: int) -> None:
    for i in range(begin, end):
        put_word(p, i, clamped(p, word(p, i), low, high))


@njit
def clamp_run(p: Elements, begin: int, end: int, low: float, high: float) -> None:
    for i in range(begin, end):
        x = read(p, i)
        x = high if x > high else x
        write(p, i, low if x < low else x)


@njit
def peaks_while_clamping(
    p: Elements, begin: int, end: int, before: int, low: int, high: int
) -> tuple[float, float, float]:
    """`peaks`, and `clamp_numbers` of as many elements from `before` on: memory is read while the cache is written."""
    top = word(p, begin)
    least = top
    back = begin - before
    for i in range(begin, end):
        bits = word(p, i)
        top = signed_max(top, bits)
        least = unsigned_max(least, bits)
        put_word(p, i - back, clamped(p, word(p, i - back), low, high))
    return peaks_from(p, begin, end, top, least)


@njit
def clamp(p: Elements, count: int, out: Numbers, parameter: Numbers) -> None:
    """x becomes min(max(x, low), high) with parameter = (low, high), and `out` is what `extremes` gave before.

    A part of 16 KB is written only if an element of it changes; it is still in the first-level cache then.
    """
    # A bound rounded to nearest separates the representable numbers as the bound itself does.
    low, high = rounded(p, parameter[0]), rounded(p, parameter[1])
    first, last = word_of(p, parameter[0]), word_of(p, parameter[1])
    part, waits = elements_in(p, PART), -1
    out[0], out[1], out[2], out[3] = 0.0, 0.0, 0.0, 0.0
    for begin in range(0, count, part):
        end = min(begin + part, count)
        if waits >= 0:
            positive, negative, nonfinite = peaks_while_clamping(p, begin, end, waits, first, last)
            clamp_numbers(p, waits + end - begin, begin, first, last)
            waits = -1
        else:
            positive, negative, nonfinite = peaks(p, begin, end)
        out[0], out[1], out[2] = max(out[0], positive), max(out[1], negative), out[2] + nonfinite
        if positive > high or -negative < low or (nonfinite > 0.0 and outside(p, begin, end, low, high)):
            if nonfinite == 0.0 and low < 0.0 < high:
                waits = begin
            else:
                clamp_run(p, begin, end, low, high)
            out[3] += 1.0
    if waits >= 0:
        clamp_numbers(p, waits, count, first, last)


@njit
def phi(kind: int, ratio: float, epsilon: float) -> float:
    """`gradclip.rules.response`, one element at a time."""
    if kind == RECIPROCAL:
        return 1.0 / (1.0 + ratio)
    if kind == SQRT:
        return 1.0 / max(math.sqrt(1.0 + ratio * ratio), 1.0)
    if kind == TANH:
        return math.tanh(ratio) / ratio if ratio > 1e-150 else 1.0
    if kind == NORMALIZE:
        return 1.0 / max(ratio + epsilon, 1e-300) if ratio > 0.0 else 1.0
    return 0.0 if ratio > 1.0 else 1.0


@njit
def answer(p: Elements, i: int, parameter: Numbers) -> float:
    """What element `i` becomes, in fp64; a non-finite one stays."""
    x = np.float64(read(p, i))
    if not abs(x) < math.inf:
        return x
    threshold = parameter[2] if x > 0.0 else -parameter[1]
    return phi(int(parameter[0]), abs(x) / threshold, parameter[3]) * x


@njit
def any_answer(p: Elements, begin: int, end: int, parameter: Numbers) -> bool:
    for i in range(begin, end):
        x = read(p, i)
        if rounded(p, answer(p, i, parameter)) != x and x == x:
            return True
    return False


@njit
def respond(p: Elements, count: int, out: Numbers, parameter: Numbers) -> None:
    """x becomes phi(|x| / t) x with parameter = (kind, low, high, epsilon), written by parts as in `clamp`."""
    part = elements_in(p, PART)
    out[0], out[1], out[2], out[3] = 0.0, 0.0, 0.0, 0.0
    for begin in range(0, count, part):
        end = min(begin + part, count)
        if any_answer(p, begin, end, parameter):
            for i in range(begin, end):
                write(p, i, answer(p, i, parameter))
            out[3] += 1.0


@njit
def zero_nonfinite(p: Elements, count: int, out: Numbers, parameter: Numbers) -> None:
    """Non-finite numbers become zero; a number is parameter[0] elements, two for a complex one."""
    group, part = int(parameter[0]), elements_in(p, PART)
    out[0], out[1], out[2], out[3] = 0.0, 0.0, 0.0, 0.0
    for begin in range(0, count, part):
        end = min(begin + part, count)
        if peaks(p, begin, end)[2] == 0.0:
            continue
        for i in range(begin, end, group):
            bad = not abs(read(p, i)) < math.inf or not abs(read(p, i + group - 1)) < math.inf
            for k in range(i, i + group * bad):
                write(p, k, 0.0)
        out[3] += 1.0


# -- Columns


@njit(fastmath=LANES)
def add_line(p: Elements, at: int, columns: int, order: int, sums: Numbers) -> None:
    """Add |x|^order of one line, order 1 or 2, in the type of `sums`."""
    for c in range(columns):
        sums[c] += term(read(p, at + c), order)


@njit(fastmath=LANES)
def spill(sums: Numbers, columns: int, out: Numbers) -> None:
    """Add `sums` to fp64 and begin them anew."""
    for c in range(columns):
        out[c] += np.float64(sums[c])
        sums[c] = 0.0


@njit
def clear(out: Numbers, columns: int) -> None:
    for c in range(2 * columns):
        out[c] = 0.0


@njit
def all_between(out: Numbers, columns: int, least: float) -> bool:
    fine = True
    for c in range(columns):
        fine &= (out[c] >= least) & (out[c] < math.inf)
    return fine


@njit
def add_exactly(p: Elements, lines: int, columns: int, pitch: int, order: int, out: Numbers) -> None:
    """Slow: the sum of |x|^order in fp64, order 1 or 2, and the number of non-finite elements of each column."""
    clear(out, columns)
    for line in range(lines):
        for c in range(columns):
            x = abs(np.float64(read(p, line * pitch + c)))
            out[c] += term(x, order)
            out[columns + c] += 0.0 if x < math.inf else 1.0


@njit
def sum_columns(p: Elements, lines: int, columns: int, pitch: int, order: int, out: Numbers, least: float) -> None:
    """The sum of |x|^order, order 1 or 2: in fp32 over eight lines, so that the bound of `sum_blocks` holds.

    Where fp32 may have overflowed or underflowed it is done again in fp64. Lines are read one after another: eight at a
    time would be as many streams far apart (docs/decisions/0012).
    """
    clear(out, columns)
    sums = room(p, out, columns)
    for line in range(lines):
        add_line(p, line * pitch, columns, order, sums)
        if line % 8 == 7 or line == lines - 1:
            spill(sums, columns, out)
    if not all_between(out, columns, least):
        add_exactly(p, lines, columns, pitch, order, out)


@njit
def fold(out: Numbers, columns: int, width: int) -> None:
    """Sums of columns become sums of rows, in place."""
    for row in range(columns // width if width > 1 else 0):
        total, nonfinite = 0.0, 0.0
        for c in range(row * width, (row + 1) * width):
            total, nonfinite = total + out[c], nonfinite + out[columns + c]
        out[row], out[columns + row] = total, nonfinite


@njit
def squares_of_columns(
    p: Elements, lines: int, columns: int, pitch: int, width: int, out: Numbers, parameter: Numbers
) -> None:
    """sum x^2 of each row."""
    sum_columns(p, lines, columns, pitch, 2, out, TINY * lines)
    fold(out, columns, width)


@njit
def magnitudes_of_columns(
    p: Elements, lines: int, columns: int, pitch: int, width: int, out: Numbers, parameter: Numbers
) -> None:
    """sum |x| of each row."""
    sum_columns(p, lines, columns, pitch, 1, out, 0.0)
    fold(out, columns, width)


@njit
def powers_of_columns(
    p: Elements, lines: int, columns: int, pitch: int, width: int, out: Numbers, parameter: Numbers
) -> None:
    """sum (|x| / s)^q of each row, with parameter = (s, q) for each."""
    clear(out, columns)
    for line in range(lines):
        for c in range(columns):
            row = c // width
            out[row] += (abs(np.float64(read(p, line * pitch + c))) / parameter[2 * row]) ** parameter[2 * row + 1]


@njit
def raise_to_line(p: Elements, at: int, columns: int, tops: Numbers) -> bool:
    """Each of `tops` becomes the larger of it and |x|; whether all of the line is finite."""
    finite = True
    for c in range(columns):
        x = abs(read(p, at + c))
        tops[c] = x if x > tops[c] else tops[c]
        finite &= x < math.inf
    return finite


@njit
def peak_of_columns(
    p: Elements, lines: int, columns: int, pitch: int, width: int, out: Numbers, parameter: Numbers
) -> None:
    """max |x| of each row, in which a NaN stays."""
    clear(out, columns)
    tops, finite = room(p, out, columns), True
    for line in range(lines):
        finite &= raise_to_line(p, line * pitch, columns, tops)
    for row in range(columns // width):
        top = 0.0
        for c in range(row * width, (row + 1) * width):
            top = max(top, np.float64(tops[c]))
        out[row] = top
    for c in range(columns, 2 * columns):
        out[c] = 0.0
    if not finite:
        find_nonfinite(p, lines, columns, pitch, width, out)


@njit
def find_nonfinite(p: Elements, lines: int, columns: int, pitch: int, width: int, out: Numbers) -> None:
    """Slow: count the non-finite elements of each row, whose peak then is NaN or infinity."""
    for line in range(lines):
        for c in range(columns):
            row, x = c // width, abs(np.float64(read(p, line * pitch + c)))
            if not x < math.inf:
                out[row] += x
                out[columns + row] += 1.0


@njit
def spread(out: Numbers, columns: int, width: int, parameter: Numbers) -> tuple[bool, bool]:
    """out[c] = the coefficient for column c. Whether any is not 1, and whether fp32 holds all of them."""
    changes, ordinary = False, True
    for row in range(columns // width):
        coefficient = parameter[row]
        changes |= coefficient != 1.0
        ordinary &= coefficient == 0.0 or 1.0 / SAFE <= coefficient <= SAFE
        for c in range(row * width, (row + 1) * width):
            out[c] = coefficient
    return changes, ordinary


@njit(fastmath=LANES)
def multiply_line(p: Elements, at: int, columns: int, factors: Numbers) -> None:
    for c in range(columns):
        if factors[c] != 1.0:
            write(p, at + c, read(p, at + c) * wide(p, factors[c]) if factors[c] != 0.0 else wide(p, 0.0))


@njit(fastmath=LANES)
def multiply_line_in_fp64(p: Elements, at: int, columns: int, factors: Numbers) -> None:
    for c in range(columns):
        if factors[c] != 1.0:
            write(p, at + c, read(p, at + c) * factors[c] if factors[c] != 0.0 else 0.0)


@njit
def scale_columns(
    p: Elements, lines: int, columns: int, pitch: int, width: int, out: Numbers, parameter: Numbers
) -> None:
    """x becomes x c with a coefficient c for each row, as in `scale`."""
    changes, ordinary = spread(out, columns, width, parameter)
    for line in range(lines if changes else 0):
        if ordinary:
            multiply_line(p, line * pitch, columns, out)
        else:
            multiply_line_in_fp64(p, line * pitch, columns, out)


# -- Compiling

IN_COLUMNS = {
    squares: squares_of_columns,
    magnitudes: magnitudes_of_columns,
    powers: powers_of_columns,
    peak: peak_of_columns,
    scale: scale_columns,
}
"""What does for columns what a kernel does for a run."""


def compiled(name: str, code: int) -> ObjectFile:
    """The kernel with this name for one element type, as a C function.

    A code of the second four is for columns of the type of the first four.
    """
    kernel, elements, numbers = globals()[name], types.CPointer(POINTEES[code % 4]), types.CPointer(types.float64)
    if code < 4:
        return object_of(types.void(elements, types.int64, numbers, numbers), kernel.py_func)
    signature = types.void(elements, *[types.int64] * 4, numbers, numbers)
    return object_of(signature, IN_COLUMNS[kernel].py_func)
