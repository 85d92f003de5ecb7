"""Multiplying JAX arrays by a coefficient in float64 that may be 1, 0, or outside the range of the arrays' type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from gradclip.engines.base import Kept, along
from gradclip.engines.jax_numbers import BITS, narrowed, widened

FLOAT32 = (jnp.bfloat16, jnp.float16, jnp.float32)
"""The types that are multiplied in float32."""

ORDINARY = 2.0**64
"""Coefficients between this and its inverse are far from the ends of float32."""


@partial(jax.jit, static_argnames=("zeroes", "kept"), inline=True)
def scaled(arrays: list[Array], factor: Array, zeroes: bool, kept: Kept | None = None) -> list[Array]:
    """Each array times `factor`, a scalar or one number for each row; where it is 1 the bits stay.

    On a CPU nothing is computed or written where it is 1 throughout. Other devices select, because there a branch
    would wait for the device. `zeroes` is false where no factor is 0.
    """
    exact = partial(_each, partial(_exact, zeroes=zeroes), kept)
    branched = partial(_branched, zeroes, kept)
    products: list[Array] = lax.platform_dependent(arrays, factor, cpu=branched, default=exact)
    return products


def _branched(zeroes: bool, kept: Kept | None, arrays: list[Array], factor: Array) -> list[Array]:
    """Two branches one after the other, each with nothing on its other side: XLA copies every array in other forms."""
    size = jnp.abs(factor)
    ordinary = jnp.all(((size <= ORDINARY) & (size >= 1 / ORDINARY)) | (size == 0.0))
    changes = jnp.any(factor != 1.0)
    for needed, way in ((changes & ordinary, _quick), (changes & ~ordinary, _exact)):
        written, same = partial(_each, partial(way, zeroes=zeroes), kept), partial(_each, _untouched, kept)
        arrays = lax.cond(needed, written, same, arrays, factor)
    return arrays


@jax.jit
def clamped(arrays: list[Array], low: Array, high: Array, outside: Array) -> list[Array]:
    """Each array with its elements in [low, high]; `outside` is false where that changes none."""

    def written(arrays: list[Array]) -> list[Array]:
        return [bounded(x, low, high) for x in arrays]

    def branched(arrays: list[Array]) -> list[Array]:
        chosen: list[Array] = lax.cond(outside, written, lambda arrays: arrays, arrays)
        return chosen

    found: list[Array] = lax.platform_dependent(arrays, cpu=branched, default=written)
    return found


def bounded(x: Array, low: ArrayLike, high: ArrayLike) -> Array:
    """`x` with its elements in [low, high], which 0 is between; NaN stays. Bits are compared: see `jax_numbers`."""
    layout = BITS[x.dtype]
    below, above = (narrowed(jnp.asarray(bound), x.dtype) for bound in (-jnp.asarray(low), high))
    bits, least, most = (lax.bitcast_convert_type(one, layout.integer) for one in (x, below, above))
    negative, size = bits < 0, bits & np.iinfo(layout.integer).max
    outside = (size > jnp.where(negative, least, most)) & (size <= layout.exponent)
    return jnp.where(outside, jnp.where(negative, -below, above), x)


def _each(way: Callable[[Array, Array], Array], kept: Kept | None, arrays: list[Array], factor: Array) -> list[Array]:
    return [way(x, factor.reshape(along(x.shape, kept)) if kept else factor) for x in arrays]


def _untouched(x: Array, factor: Array) -> Array:
    return x


def _quick(x: Array, factor: Array, zeroes: bool) -> Array:
    """The product in float32; a scalar factor is known not to be 1 here."""
    if x.dtype not in FLOAT32:
        return _exact(x, factor, zeroes)
    narrow = factor.astype(jnp.float32)
    product = (x.astype(jnp.float32) * narrow).astype(x.dtype)
    product = _or_zero(product, narrow) if zeroes else product
    return jnp.where(narrow == 1.0, x, product) if factor.ndim else product


def _exact(x: Array, factor: Array, zeroes: bool) -> Array:
    """The product in float64, right for denormal numbers and for factors of any size."""
    wide = widened(x)
    product = lax.complex(wide.real * factor, wide.imag * factor) if jnp.iscomplexobj(x) else wide * factor
    product = product.astype(x.dtype)
    product = _or_zero(product, factor) if zeroes else product
    return jnp.where(factor == 1.0, x, product)


def _or_zero(product: Array, factor: Array) -> Array:
    return jnp.where(factor == 0.0, jnp.zeros_like(product), product)  # 0 * inf is NaN
