"""Multiplying JAX arrays by a coefficient in float64 that may be 1, 0, or outside the range of the arrays' type.

What is written is an expression of the array and a few scalars, which XLA fuses with whatever reads it next: a branch
would make it a pass of its own, and on other devices than a CPU would wait for them.
"""

from __future__ import annotations

from functools import partial
from itertools import accumulate
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from gradclip.engines.base import Kept, along, around
from gradclip.engines.jax_numbers import BITS, NORMAL, narrowed, widened

FLOAT32 = (jnp.bfloat16, jnp.float16, jnp.float32)
"""The types that are multiplied in float32."""


class Factor(NamedTuple):
    """A coefficient, and two numbers of float32 whose product it is: far from 1 it is no normal number of that type."""

    whole: Array
    first: Array
    second: Array

    @classmethod
    def of(cls, whole: Array) -> Factor:
        """The factor of a coefficient in float64."""
        size = jnp.abs(whole)
        low, high = size < NORMAL, size > 1.0 / NORMAL
        first = jnp.where(low, NORMAL, jnp.where(high, 1.0 / NORMAL, whole))
        second = jnp.where(low, whole / NORMAL, jnp.where(high, whole * NORMAL, 1.0))
        return cls(whole, first.astype(jnp.float32), second.astype(jnp.float32))

    def beside(self, x: Array, place: int, kept: Kept | None) -> Factor:
        """The number at `place`, or one for each row from there on, shaped to multiply the array."""
        if not kept:
            return Factor(*(part[place] for part in self))
        end = place + around(x.shape, kept)[1]
        return Factor(*(part[place:end].reshape(along(x.shape, kept)) for part in self))


@partial(jax.jit, static_argnames=("zeroes", "enlarges", "kept"), inline=True)
def scaled(
    arrays: list[Array],
    coefficient: Array,
    zeroes: bool = True,
    enlarges: bool = True,
    kept: tuple[Kept | None, ...] = (),
) -> list[Array]:
    """Each array times a coefficient; where it is 1 the bits stay.

    One for all arrays [1], or where `kept` has the axes of the rows of each, one for each row of each. `zeroes` is
    false where no coefficient is 0, `enlarges` where none is above 1.
    """
    factor = Factor.of(coefficient)
    if not kept:
        return [_product(x, factor.beside(x, 0, None), zeroes, enlarges) for x in arrays]
    rows = [around(x.shape, axes)[1] for x, axes in zip(arrays, kept, strict=True)]
    places = accumulate(rows, initial=0)
    return [
        _product(x, factor.beside(x, place, axes), zeroes, enlarges)
        for x, place, axes in zip(arrays, places, kept, strict=False)
    ]


@partial(jax.jit, static_argnames=("zeroes", "enlarges"))
def _product(x: Array, factor: Factor, zeroes: bool, enlarges: bool) -> Array:
    """One array times its factor; compiled, and looked through, once for all of a shape."""
    if x.dtype not in FLOAT32 or enlarges:
        product = _exact(x, factor.whole)
    else:
        product = (x.astype(jnp.float32) * factor.first * factor.second).astype(x.dtype)
    product = _or_zero(product, factor.whole) if zeroes else product
    return jnp.where(factor.whole == 1.0, x, product)


def _exact(x: Array, factor: Array) -> Array:
    """The product in float64, right for denormal numbers that become normal ones."""
    wide = widened(x)
    product = lax.complex(wide.real * factor, wide.imag * factor) if jnp.iscomplexobj(x) else wide * factor
    return product.astype(x.dtype)


def _or_zero(product: Array, factor: Array) -> Array:
    return jnp.where(factor == 0.0, jnp.zeros_like(product), product)  # 0 * inf is NaN


@jax.jit
def clamped(arrays: list[Array], low: Array, high: Array, outside: Array) -> list[Array]:
    """Each array with its elements in [low, high]; `outside` is false where that changes none.

    It is asked for each element, so that XLA reads all of an array before it writes to the same memory.
    """
    return [_clamped(x, low, high, outside) for x in arrays]


@jax.jit
def _clamped(x: Array, low: Array, high: Array, outside: Array) -> Array:
    return jnp.where(outside, bounded(x, low, high), x)


def bounded(x: Array, low: ArrayLike, high: ArrayLike) -> Array:
    """`x` with its elements in [low, high], which 0 is between; NaN stays. Bits are compared: see `jax_numbers`."""
    layout = BITS[x.dtype]
    below, above = (narrowed(jnp.asarray(bound), x.dtype) for bound in (-jnp.asarray(low), high))
    bits, least, most = (lax.bitcast_convert_type(one, layout.integer) for one in (x, below, above))
    negative, size = bits < 0, bits & np.iinfo(layout.integer).max
    outside = (size > jnp.where(negative, least, most)) & (size <= layout.exponent)
    return jnp.where(outside, jnp.where(negative, -below, above), x)
