"""The numbers of JAX arrays, denormal ones too, and functions whose gradient is finite at zero.

XLA on a CPU takes a denormal number for zero in all arithmetic and writes zero for a denormal result; only bits, read
and chosen as integers, are left alone. So denormal gradients are measured, compared and left alone exactly, but one
that is multiplied there becomes zero, as in every other operation of the program.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_narrow: ContextVar[bool | None] = ContextVar("_narrow", default=None)
"""Whether the program around has no float64; None outside of `in_float64`."""


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of trees of arrays, run where JAX makes float64 scalars; the arrays keep their types.

    A program is differentiated after it was traced, so its derivative asks for float64 again.
    """

    def wide(*given: Any) -> Any:
        with _float64():
            return function(*given)

    def derivative(given: Any, tangents: Any) -> Any:
        with _float64():
            return jax.jvp(wide, given, tangents)

    traced = jax.custom_jvp(wide)
    traced.defjvp(derivative)
    return traced


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    """While JAX makes float64, and lets arrays of other ranks meet, which a program may have forbidden."""
    known = _narrow.get()
    token = _narrow.set(jax.dtypes.canonicalize_dtype(jnp.float64) == jnp.float32 if known is None else known)
    try:
        with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
            yield
    finally:
        _narrow.reset(token)


def is_narrow() -> bool:
    """Whether the program around has no float64, though it is made here."""
    return bool(_narrow.get())


def taken(a: Array, index: Any) -> Array:
    """The elements of the last axis at `index`."""
    return _picked(is_narrow(), lambda a: a[..., index], lambda a: lambda tangent: tangent[..., index], a)


def sliced(a: Array, start: Array, size: int, narrow: bool) -> Array:
    """So many elements of a vector, from `start` on; `narrow` is `is_narrow()`, asked outside of what JAX keeps."""

    def cut(a: Array, start: Array) -> Array:
        return lax.dynamic_slice(a, (start,), (size,))

    return _picked(narrow, cut, lambda a, start: partial(cut, start=start), a, start)


def ordered(a: Array) -> Array:
    """`a` sorted along its first axis."""

    def along(a: Array) -> Callable[[Array], Array]:
        order = jnp.argsort(a, axis=0)
        return lambda tangent: jnp.take_along_axis(tangent, order, axis=0)

    return _picked(is_narrow(), lambda a: jnp.sort(a, axis=0), along, a)


def _picked(
    narrow: bool, pick: Callable[..., Array], pick_as: Callable[..., Callable[[Array], Array]], a: Array, *at: Array
) -> Array:
    """`pick(a, *at)`, elements of `a`; `pick_as(a, *at)` picks those of another array.

    The derivative is transposed when nobody asks for float64 any more, and JAX then makes the zeros that it adds to of
    float32. So the tangent is float32 where the program around is `narrow` and has nothing wider.
    """
    if not narrow:
        return pick(a, *at)
    narrowly = jax.custom_jvp(pick)

    @narrowly.defjvp
    def derivative(given: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
        a, *at = given
        return pick(a, *at), pick_as(a, *at)(tangents[0].astype(jnp.float32)).astype(a.dtype)

    found: Array = narrowly(a, *at)
    return found


class Bits(NamedTuple):
    """How a float type lies in an integer of its width: the bits of its exponent, and the number of its lowest bit."""

    integer: Any
    exponent: int
    smallest: float


BITS = {
    jnp.dtype(jnp.float16): Bits(np.int16, 0x7C00, 2.0**-24),
    jnp.dtype(jnp.bfloat16): Bits(np.int16, 0x7F80, 2.0**-133),
    jnp.dtype(jnp.float32): Bits(np.int32, 0x7F800000, 2.0**-149),
    jnp.dtype(jnp.float64): Bits(np.int64, 0x7FF << 52, 5e-324),
}
FLOAT32 = (jnp.bfloat16, jnp.float16, jnp.float32)
"""The types that are multiplied in float32, and on a CPU summed in it first."""
FLUSHED = (jnp.bfloat16, jnp.float32)
"""The types whose denormal numbers a CPU loses and float64 can hold."""

NORMAL = 2.0**-126
"""The smallest normal number of float32 and bfloat16."""


def widened(x: Array) -> Array:
    """`x` as float64 (complex128), each denormal number with its value."""
    if jnp.iscomplexobj(x):
        return lax.complex(widened(x.real), widened(x.imag))
    if x.dtype not in FLUSHED:
        return x.astype(jnp.float64)
    layout = BITS[x.dtype]
    bits = lax.bitcast_convert_type(x, layout.integer)
    steps = bits & (layout.exponent ^ np.iinfo(layout.integer).max)
    denormal = ((bits & layout.exponent) == 0) & (steps != 0)
    magnitude = steps.astype(jnp.float64) * layout.smallest
    return jnp.where(denormal, jnp.where(bits < 0, -magnitude, magnitude), x.astype(jnp.float64))


def narrowed(bound: Array, dtype: Any) -> Array:
    """A number from 0 in a float type; a denormal one is counted in steps, which are its bits."""
    plain, layout = bound.astype(dtype), BITS[jnp.dtype(dtype)]
    if dtype not in FLUSHED:
        return plain
    steps = (jnp.minimum(bound, NORMAL) / layout.smallest).astype(layout.integer)
    return jnp.where(bound < NORMAL, lax.bitcast_convert_type(steps, dtype), plain)


def magnitude(x: Array) -> Array:
    """`|x|` in float64; infinite where either part of a complex number is."""
    wide = widened(x)
    if not jnp.iscomplexobj(x):
        return jnp.abs(wide)
    return jnp.where(jnp.isinf(wide.real) | jnp.isinf(wide.imag), jnp.inf, jnp.abs(wide))


@jax.custom_jvp
def upper_half(x: Array) -> Array:
    """bfloat16 as float32, by its bits.

    XLA would make one cast of this and of that in a measure, and write its result to memory for both.
    """
    bits = lax.bitcast_convert_type(x, jnp.int16).astype(jnp.int32)
    return lax.bitcast_convert_type(bits << 16, jnp.float32)


@upper_half.defjvp
def _slope(given: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return upper_half(*given), tangents[0].astype(jnp.float32)


def root(a: Array) -> Array:
    """The square root; its gradient at 0 is 0."""
    above = a > 0
    return jnp.where(above, jnp.sqrt(jnp.where(above, a, 1.0)), a)


def power(a: Array, exponent: float) -> Array:
    """`a` to a positive power; its gradient at 0 is 0."""
    above = a > 0
    return jnp.where(above, jnp.power(jnp.where(above, a, 1.0), exponent), a)
