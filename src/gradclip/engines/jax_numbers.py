"""The numbers of JAX arrays, denormal ones too, and functions whose gradient is finite at zero.

XLA on a CPU takes a denormal number for zero in all arithmetic and writes zero for a denormal result; only bits, read
and chosen as integers, are left alone. So denormal gradients are measured, compared and left alone exactly, but one
that is multiplied there becomes zero, as in every other operation of the program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of trees of arrays, run where JAX makes float64 scalars; the arrays keep their types.

    A program is differentiated after it was traced, so its derivative asks for float64 again.
    """

    def wide(*given: Any) -> Any:
        with jax.enable_x64(True):
            return function(*given)

    def derivative(given: Any, tangents: Any) -> Any:
        with jax.enable_x64(True):
            return jax.jvp(wide, given, tangents)

    traced = jax.custom_jvp(wide)
    traced.defjvp(derivative)
    return traced


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


def root(a: Array) -> Array:
    """The square root; its gradient at 0 is 0."""
    above = a > 0
    return jnp.where(above, jnp.sqrt(jnp.where(above, a, 1.0)), a)


def power(a: Array, exponent: float) -> Array:
    """`a` to a positive power; its gradient at 0 is 0."""
    above = a > 0
    return jnp.where(above, jnp.power(jnp.where(above, a, 1.0), exponent), a)
