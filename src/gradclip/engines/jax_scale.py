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
from gradclip.engines.jax_numbers import BITS, FLOAT32, NORMAL, narrowed, sliced, upper_half, widened


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

    def at(self, place: Array, x: Array, kept: Kept | None, narrow: bool) -> Factor:
        """The number at `place`, or one for each row from there on, shaped to multiply the array."""
        rows = around(x.shape, kept)[1]
        return Factor(*(sliced(part, place, rows, narrow) for part in self)).beside(x, kept)

    def beside(self, x: Array, kept: Kept | None) -> Factor:
        """The only number, or one for each row, shaped to multiply the array."""
        shape = along(x.shape, kept) if kept else ()
        return Factor(*(part.reshape(shape) for part in self))


@partial(jax.jit, static_argnames=("zeroes", "enlarges", "kept", "narrow"), inline=True)
def scaled(
    arrays: list[Array],
    coefficient: Array,
    zeroes: bool = True,
    enlarges: bool = True,
    kept: tuple[Kept | None, ...] = (),
    narrow: bool = False,
) -> list[Array]:
    """Each array times a coefficient; where it is 1 the bits stay.

    One for all arrays [1], or where `kept` has the axes of the rows of each, one for each row of each. `zeroes` is
    false where no coefficient is 0, `enlarges` where none is above 1; `narrow` is `is_narrow()`.
    """
    factor = Factor.of(coefficient)
    if not kept:
        one = Factor(*(part[0] for part in factor))
        return [_product(x, one, zeroes, enlarges) for x in arrays]
    if len(arrays) == 1:
        return [_product(arrays[0], factor.beside(arrays[0], kept[0]), zeroes, enlarges)]
    places = accumulate((around(x.shape, axes)[1] for x, axes in zip(arrays, kept, strict=True)), initial=0)
    first = _first(coefficient)
    return [
        _product_at(x, factor, np.array([place, place + 1], np.int32), first, zeroes, enlarges, axes, narrow)
        for x, place, axes in zip(arrays, places, kept, strict=False)
    ]


def _first(coefficient: Array) -> Array:
    """0, which XLA does not know.

    A number that it knows is made a part of the program that multiplies an array: another program for each array, and
    each takes longer to compile than to be found again.
    """
    return jnp.minimum(jnp.any(jnp.isnan(coefficient)).astype(jnp.int32), 0)


@partial(jax.jit, static_argnames=("zeroes", "enlarges", "kept", "narrow"))
def _product_at(
    x: Array,
    factor: Factor,
    places: Array,
    which: Array,
    zeroes: bool,
    enlarges: bool,
    kept: Kept | None,
    narrow: bool,
) -> Array:
    """An array times its part of the factors, which begins at `places[which]`."""
    place = lax.dynamic_index_in_dim(places, which, keepdims=False)
    product: Array = _product(x, factor.at(place, x, kept, narrow), zeroes, enlarges)
    return product


@partial(jax.jit, static_argnames=("zeroes", "enlarges"))
def _product(x: Array, factor: Factor, zeroes: bool, enlarges: bool) -> Array:
    """One array times its factor; looked through once for all arrays of a shape."""
    if x.dtype not in FLOAT32 or enlarges:
        wide, product = x, _exact(x, factor.whole)
    else:
        wide = upper_half(x) if x.dtype == jnp.bfloat16 else x.astype(jnp.float32)
        product = wide * factor.first * factor.second
    product = _or_zero(product, factor.whole) if zeroes else product
    return jnp.where(factor.whole == 1.0, wide, product).astype(x.dtype)


def _exact(x: Array, factor: Array) -> Array:
    """The product in float64, right for denormal numbers that become normal ones."""
    wide = widened(x)
    product = lax.complex(wide.real * factor, wide.imag * factor) if jnp.iscomplexobj(x) else wide * factor
    return product.astype(x.dtype)


def _or_zero(product: Array, factor: Array) -> Array:
    return jnp.where(factor == 0.0, jnp.zeros_like(product), product)  # 0 * inf is NaN


class Between(NamedTuple):
    """The bounds of elements of a float type, each as a number from 0, and the same as bits."""

    below: Array
    above: Array
    least: Array
    most: Array

    @classmethod
    def of(cls, low: ArrayLike, high: ArrayLike, dtype: jnp.dtype) -> Between:
        """The bounds `low` and `high`, which 0 is between."""
        sides = [narrowed(jnp.asarray(bound), dtype) for bound in (-jnp.asarray(low), high)]
        return cls(*sides, *(lax.bitcast_convert_type(side, BITS[dtype].integer) for side in sides))

    def where(self, outside: Array) -> Between:
        """The same where elements lie outside of them; else no number does."""
        none = BITS[self.below.dtype].exponent
        least, most = (jnp.where(outside, bits, none) for bits in (self.least, self.most))
        return self._replace(least=least, most=most)


@jax.jit
def clamped(arrays: list[Array], low: ArrayLike, high: ArrayLike, outside: Array) -> list[Array]:
    """Each array with its elements in [low, high]; `outside` is false where that changes none.

    The bounds depend on it, so that XLA has read all of an array before it writes to the same memory.
    """
    bounds = {dtype: Between.of(low, high, dtype).where(outside) for dtype in {x.dtype for x in arrays}}
    return [_between(x, bounds[x.dtype]) for x in arrays]


def bounded(x: Array, low: ArrayLike, high: ArrayLike) -> Array:
    """`x` with its elements in [low, high]; NaN stays."""
    found: Array = _between(x, Between.of(low, high, x.dtype))
    return found


@jax.jit
def _between(x: Array, bounds: Between) -> Array:
    """Bits are compared, which know denormal numbers: see `jax_numbers`."""
    layout = BITS[x.dtype]
    bits = lax.bitcast_convert_type(x, layout.integer)
    negative, size = bits < 0, bits & np.iinfo(layout.integer).max
    outside = (size > jnp.where(negative, bounds.least, bounds.most)) & (size <= layout.exponent)
    return jnp.where(outside, jnp.where(negative, -bounds.below, bounds.above), x)
