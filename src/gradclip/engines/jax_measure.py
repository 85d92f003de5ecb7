"""Power sums of JAX arrays: on a CPU one read in float32, and one in float64 only where the first lost numbers.

On other devices the sums are taken in float64 at once: there a branch would wait for the device, and the reading of
the memory takes longer than the arithmetic.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gradclip.engines.base import LARGEST, SMALLEST, Kept, along, around
from gradclip.engines.jax_numbers import BITS, NORMAL, magnitude, power, widened

QUICK = (jnp.bfloat16, jnp.float16, jnp.float32)
"""The types that are summed in float32 first."""

LOST = 2.0**-100
"""Where n elements have a sum of n times this, the squares that float32 lost are below 2e-8 of it: 2^-126 / 2^-100."""


SMALL = 4096
"""Arrays of up to this many elements are copied side by side: read, and compiled, as one array instead of thousands."""


@partial(jax.jit, static_argnames="p")
def whole(arrays: list[Array], p: float) -> tuple[Array, Array]:
    """The sum of |x|^p (or maximum of |x|) over all arrays [1], and the number of arrays that are not finite [1]."""

    def wide(arrays: list[Array]) -> tuple[Array, Array]:
        found = _joined([_total(magnitude(x), p) for x in arrays])
        return _over(found, p), jnp.sum(~jnp.isfinite(found), keepdims=True).astype(jnp.float64)

    def quick(arrays: list[Array]) -> tuple[Array, Array]:
        parts, owners = _side_by_side(arrays)
        first = _over(_joined([_total(_narrow(x), p) for x in parts]).astype(jnp.float64), p)
        fine = jnp.all(_kept(first, np.array([sum(x.size for x in arrays)]), p))

        def again(parts: list[Array]) -> tuple[Array, Array]:
            found = _over(_joined([_total(magnitude(x), p) for x in parts]), p)
            counts = [_broken(part, owner) for part, owner in zip(parts, owners, strict=True)]
            return found, jnp.sum(jnp.stack(counts), keepdims=True).astype(jnp.float64)

        found: tuple[Array, Array] = lax.cond(fine, lambda parts: (first, jnp.zeros_like(first)), again, parts)
        return found

    if any(x.dtype not in QUICK for x in arrays):
        return wide(arrays)
    found: tuple[Array, Array] = lax.platform_dependent(arrays, cpu=quick, default=wide)
    return found


@partial(jax.jit, static_argnames=("p", "kept"))
def totals(arrays: list[Array], p: float, kept: Kept | None = None) -> Array:
    """The sums of |x|^p (or maxima of |x|) in float64, in a vector: for each array, or each row of it."""

    def wide(arrays: list[Array]) -> Array:
        return _joined([_total(magnitude(x), p, kept) for x in arrays])

    def quick(arrays: list[Array]) -> Array:
        first = _joined([_total(_narrow(x), p, kept) for x in arrays]).astype(jnp.float64)
        chosen: Array = lax.cond(jnp.all(_kept(first, _sizes(arrays, kept), p)), lambda arrays: first, wide, arrays)
        return chosen

    if any(x.dtype not in QUICK for x in arrays):
        return wide(arrays)
    if all(x.dtype == jnp.float16 for x in arrays):  # its squares lie well inside float32
        return _joined([_total(_narrow(x), p, kept) for x in arrays]).astype(jnp.float64)
    found: Array = lax.platform_dependent(arrays, cpu=quick, default=wide)
    return found


@partial(jax.jit, static_argnames=("p", "kept", "together"))
def scaled_totals(
    arrays: list[Array], p: float, kept: Kept | None = None, together: bool = False
) -> tuple[Array, Array]:
    """The sums of (|x| / s)^p and s, for any p: s is the largest |x|, so that no power leaves the range of float64.

    Where it is 0 or not finite, s is `SMALLEST` or `LARGEST`.
    """
    sizes = [magnitude(x) for x in arrays]
    largest = [_total(size, math.inf, kept) for size in sizes]
    if together:
        largest = [jnp.max(_joined(largest), keepdims=True)] * len(largest)
    scales = [
        lax.stop_gradient(jnp.where(jnp.isfinite(peak), jnp.maximum(peak, SMALLEST), LARGEST)) for peak in largest
    ]
    # XLA multiplies by the inverse, and that of the largest numbers would be denormal, which it takes for zero
    downs = [jnp.where(scale > 1.0, 1.0 / 16.0, 1.0) for scale in scales]
    sums = [
        _total(power(size * _beside(down, size, kept) / _beside(scale * down, size, kept), p), 1.0, kept)
        for size, scale, down in zip(sizes, scales, downs, strict=True)
    ]
    return _joined(sums), scales[0] if together else _joined(scales)


@jax.jit
def peaks(array: Array) -> tuple[Array, Array]:
    """The largest positive and the largest negative magnitude of the finite elements [2]; whether others are there [2].

    Both have no gradient.
    """
    array = lax.stop_gradient(array)
    sides = jnp.stack([jnp.max(array, initial=0), -jnp.min(array, initial=0)]).astype(jnp.float64)
    kept = jnp.all(jnp.isfinite(sides) & (sides >= NORMAL))  # a side of 0 may hide denormal elements
    quick = (sides, jnp.zeros_like(sides))
    found: tuple[Array, Array] = lax.cond(~kept, _exact_peaks, lambda array: quick, array)
    return found


def _exact_peaks(array: Array) -> tuple[Array, Array]:
    """The same where elements are not finite or denormal: as integers, which know neither; slower."""
    layout = BITS[array.dtype]
    bits = lax.bitcast_convert_type(array, layout.integer)
    finite = (bits & layout.exponent) != layout.exponent
    sizes = bits & np.iinfo(layout.integer).max
    sides = [jnp.max(jnp.where(finite & side, sizes, 0), initial=0) for side in (bits >= 0, bits < 0)]
    broken = jnp.stack([~jnp.all(finite), jnp.zeros((), bool)])
    return widened(lax.bitcast_convert_type(jnp.stack(sides), array.dtype)), broken.astype(jnp.float64)


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _beside(scale: Array, sizes: Array, kept: Kept | None) -> Array:
    """`scale` [rows], or [1], shaped to divide the array."""
    return scale.reshape(along(sizes.shape, kept)) if kept else scale[0]


def _narrow(x: Array) -> Array:
    """`|x|` in float32."""
    return jnp.abs(x.astype(jnp.float32))


def _total(sizes: Array, p: float, kept: Kept | None = None) -> Array:
    """The total of each row [rows], or of all elements [1]."""
    axes = tuple(place for place in range(sizes.ndim) if place not in (kept or ()))
    if math.isinf(p):
        total = jnp.max(sizes, axis=axes, initial=0.0)
    else:
        total = jnp.sum(sizes if p == 1.0 else sizes * sizes, axis=axes)
    return total.reshape(-1)


def _sizes(arrays: list[Array], kept: Kept | None) -> np.ndarray:
    """The number of elements behind each total."""
    numbers = [around(x.shape, kept)[1] for x in arrays]
    return np.concatenate([np.full(n, x.size / max(n, 1)) for x, n in zip(arrays, numbers, strict=True)])


def _kept(first: Array, sizes: np.ndarray, p: float) -> Array:
    """Whether no total left the range of float32 on the way, to either side; empty arrays have nothing to lose."""
    if math.isinf(p):
        return (first >= NORMAL) & jnp.isfinite(first)
    return (first >= sizes * LOST) & jnp.isfinite(first)


def _over(totals: Array, p: float) -> Array:
    """One total [1] from those of the parts."""
    return jnp.max(totals, keepdims=True) if math.isinf(p) else jnp.sum(totals, keepdims=True)


def _side_by_side(arrays: list[Array]) -> tuple[list[Array], list[np.ndarray | None]]:
    """The arrays, the small ones of each type as one; for each element of such a one, which small array it is of."""
    parts = [x for x in arrays if x.size > SMALL]
    owners: list[np.ndarray | None] = [None] * len(parts)
    for dtype in dict.fromkeys(x.dtype for x in arrays if x.size <= SMALL):
        small = [x.reshape(-1) for x in arrays if x.size <= SMALL and x.dtype == dtype]
        parts.append(_joined(small))
        owners.append(np.repeat(np.arange(len(small)), [x.size for x in small]))
    return parts, owners


def _broken(part: Array, owners: np.ndarray | None) -> Array:
    """How many of the arrays in `part` are not finite."""
    bad = ~jnp.isfinite(part)
    if owners is None:
        return jnp.any(bad).astype(jnp.int32)
    return jnp.sum(jnp.zeros(max(owners, default=-1) + 1, jnp.int32).at[owners].max(bad.astype(jnp.int32)))
