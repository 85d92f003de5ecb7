"""Power sums of JAX arrays: on a CPU one read in float32, and one in float64 only where the first lost numbers.

On other devices the sums are taken in float64 at once: there a branch would wait for the device, and the reading of
the memory takes longer than the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gradclip.engines.base import LARGEST, SMALLEST, Kept
from gradclip.engines.jax_numbers import BITS, FLOAT32, NORMAL, magnitude, power, widened
from gradclip.engines.jax_pieces import Piece, in_order, on_mesh, pieces_of, singly

QUICK = (1.0, 2.0, math.inf)
"""The orders of norms that are taken in float32 first."""

PLAIN = 6.0
"""Up to this order powers of what float32 holds, 2^-149 to 2^128, and their sums are normal numbers of float64."""

LOST = 2.0**-100
"""Where n elements have a sum of n times this, the squares that float32 lost are below 2e-8 of it: 2^-126 / 2^-100."""

Numbers = tuple[Array, Array]

Rows = tuple[Kept | None, ...]
"""The axes of the rows of each array; () where none has rows."""


@partial(jax.jit, static_argnames="p")
def whole(arrays: list[Array], p: float) -> Numbers:
    """The sum of |x|^p (or maximum of |x|) over all arrays [1], and the number of arrays that are not finite [1]."""

    def exact(pieces: list[Piece]) -> Numbers:
        found = _exact_totals(pieces, p)
        return _over(found, p), jnp.sum(~jnp.isfinite(found), keepdims=True).astype(jnp.float64)

    def quick(arrays: list[Array]) -> Numbers:
        pieces = pieces_of(arrays)
        if not _branches(arrays, p):
            return exact(pieces)
        first = _over(jnp.concatenate([_quick(piece.array, p, piece.axes) for piece in pieces]), p)

        def again(read: list[Array]) -> Numbers:
            return exact([piece._replace(array=x) for piece, x in zip(pieces, read, strict=True)])

        fine = jnp.all(_kept(first, sum(x.size for x in arrays), p))
        read = [piece.array for piece in pieces]
        found: Numbers = lax.cond(fine, lambda read: (first, jnp.zeros_like(first)), again, read)
        return found

    total, broken = _on_each_platform(arrays, quick, lambda arrays: exact(singly(arrays)))
    return total, broken


@partial(jax.jit, static_argnames=("p", "kept"))
def totals(arrays: list[Array], p: float, kept: Rows = ()) -> Array:
    """The sums of |x|^p (or maxima of |x|) in float64, in a vector: for each array, or each row of it."""

    def exact(arrays: list[Array]) -> Array:
        return _exact_totals(singly(arrays, kept), p)

    def quick(arrays: list[Array]) -> Array:
        pieces = pieces_of(arrays, kept)
        if not _branches(arrays, p):
            return _exact_totals(pieces, p)
        return in_order([_quick_or_exact(piece, p) for piece in pieces], pieces)

    found: Array = _on_each_platform(arrays, quick, exact)
    return found


def _branches(arrays: list[Array], p: float) -> bool:
    """Whether float32 is tried first; on a mesh all devices would have to agree on whether it was enough."""
    return p in QUICK and not any(map(on_mesh, arrays))


def _on_each_platform(arrays: list[Array], quick: Callable[..., Any], exact: Callable[..., Any]) -> Any:
    """What both functions of the arrays give, by the quick one where that is right and faster: on a CPU."""
    if any(x.dtype not in FLOAT32 for x in arrays):
        return exact(arrays)
    return lax.platform_dependent(arrays, cpu=quick, default=exact)


@partial(jax.jit, static_argnames=("p", "kept", "together"))
def scaled_totals(arrays: list[Array], p: float, kept: Rows = (), together: bool = False) -> Numbers:
    """The sums of (|x| / s)^p and s, for any p: s is the largest |x|, so that no power leaves the range of float64.

    Where it is 0 or not finite, s is `SMALLEST` or `LARGEST`. One s for all arrays that are measured `together`.
    """
    pieces = pieces_of(arrays, kept)
    largest = [_total(magnitude(piece.array), math.inf, piece.axes) for piece in pieces]
    if together:
        most = jnp.max(jnp.concatenate(largest), keepdims=True)
        largest = [jnp.broadcast_to(most, peaks.shape) for peaks in largest]
    scales = [_scale_of(peak) for peak in largest]
    sums = [_scaled(piece, scale, p) for piece, scale in zip(pieces, scales, strict=True)]
    return in_order(sums, pieces), scales[0][:1] if together else in_order(scales, pieces)


def _scale_of(peak: Array) -> Array:
    return lax.stop_gradient(jnp.where(jnp.isfinite(peak), jnp.maximum(peak, SMALLEST), LARGEST))


def _scaled(piece: Piece, scale: Array, p: float) -> Array:
    """The sums of (|x| / scale)^p.

    XLA multiplies by the inverse, and that of the largest numbers would be denormal, which it takes for zero.
    """
    down = jnp.where(scale > 1.0, 1.0 / 16.0, 1.0)
    sizes = magnitude(piece.array) * piece.beside(down) / piece.beside(scale * down)
    return _total(power(sizes, p), 1.0, piece.axes)


@jax.jit
def peaks(arrays: list[Array]) -> Numbers:
    """Of each array the largest positive and the largest negative magnitude of its finite elements [2T].

    And whether others are there [2T]: said beside the first of the two. Both have no gradient.
    """
    pieces = pieces_of([lax.stop_gradient(x) for x in arrays])
    found = [_peaks(piece.array, piece.axes) for piece in pieces]
    return in_order([sides for sides, _ in found], pieces), in_order([broken for _, broken in found], pieces)


@partial(jax.jit, static_argnames="axes")
def _peaks(x: Array, axes: tuple[int, ...]) -> Numbers:
    """Compared as integers, which know no denormal and no non-finite numbers; one read for all three maxima."""
    layout = BITS[x.dtype]
    bits = lax.bitcast_convert_type(x, layout.integer)
    sizes = bits & np.iinfo(layout.integer).max
    finite = jnp.where(sizes < layout.exponent, sizes, 0)
    above, below = jnp.where(bits < 0, 0, finite), jnp.where(bits < 0, finite, 0)
    if on_mesh(x):  # one reduction of three would be three gatherings
        above, below, most = (jnp.max(part, axes, initial=0) for part in (above, below, sizes))
    else:
        zeros = (np.zeros((), layout.integer),) * 3
        above, below, most = lax.reduce((above, below, sizes), zeros, lambda a, b: tuple(map(lax.max, a, b)), axes)
    sides = lax.bitcast_convert_type(jnp.stack([above, below], -1).reshape(-1), x.dtype)
    broken = jnp.stack([most >= layout.exponent, jnp.zeros_like(most, bool)], -1)
    return widened(sides), broken.reshape(-1).astype(jnp.float64)


def _exact_totals(pieces: list[Piece], p: float) -> Array:
    return in_order([_exact(piece.array, p, piece.axes) for piece in pieces], pieces)


@partial(jax.jit, static_argnames=("p", "axes"))
def _exact(x: Array, p: float, axes: tuple[int, ...]) -> Array:
    """The totals of an array in float64; looked through once for all arrays of a shape, as those below."""
    return _total(magnitude(x), p, axes)


@partial(jax.jit, static_argnames=("p", "axes"))
def _quick(x: Array, p: float, axes: tuple[int, ...]) -> Array:
    total: Array = _total(_narrow(x), p, axes).astype(jnp.float64)
    return total


def _quick_or_exact(piece: Piece, p: float) -> Array:
    first: Array = _quick(piece.array, p, piece.axes)
    if piece.array.dtype == jnp.float16 and not math.isinf(p):  # its squares lie well inside float32
        return first
    exact = partial(_exact, p=p, axes=piece.axes)
    found: Array = lax.cond(jnp.all(_kept(first, piece.size, p)), lambda x: first, exact, piece.array)
    return found


def _narrow(x: Array) -> Array:
    """`|x|` in float32."""
    return jnp.abs(x.astype(jnp.float32))


def _total(sizes: Array, p: float, axes: tuple[int, ...]) -> Array:
    """The totals over these axes, in a vector."""
    if math.isinf(p):
        total = _largest(sizes, axes)
    else:
        total = jnp.sum(sizes if p == 1.0 else sizes * sizes if p == 2.0 else power(sizes, p), axis=axes)
    return total.reshape(-1)


def _largest(sizes: Array, axes: tuple[int, ...]) -> Array:
    """The maxima over these axes; where one of several devices has NaN, their maximum may lose it."""
    if not on_mesh(sizes):
        return jnp.max(sizes, axis=axes, initial=0.0)
    lost = jnp.isnan(sizes)
    total = jnp.max(jnp.where(lost, 0.0, sizes), axis=axes, initial=0.0)
    anywhere = jnp.max(lost.astype(sizes.dtype), axis=axes, initial=0.0)
    return jnp.where(anywhere > 0, jnp.nan, total)


def _kept(first: Array, size: float, p: float) -> Array:
    """Whether no total left the range of float32 on the way, to either side; empty arrays have nothing to lose."""
    least = NORMAL if math.isinf(p) else size * LOST
    fine: Array = (first >= least) & jnp.isfinite(first)
    return fine


def _over(totals: Array, p: float) -> Array:
    """One total [1] from those of the parts."""
    return jnp.max(totals, keepdims=True) if math.isinf(p) else jnp.sum(totals, keepdims=True)
