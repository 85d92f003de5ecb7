"""Sums over the devices of a `shard_map`: each element of a gradient counts once, wherever it lies."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from gradclip.engines.base import Across
from gradclip.engines.jax_shards import varying

UNKNOWN = (
    "along the axis {!r} it is not known which gradients are shards and which are copies: use shard_map with "
    "check_vma=True, its default; where all devices have the same gradients, as after pmean, leave out axis_name"
)
UNBOUND = "there is no axis {!r} here: call update inside a shard_map that has it, or leave out axis_name"
MIXED = (
    "inside shard_map some gradients differ between the devices and others do not, so each device would clip by a norm "
    "of its own: give clip(..., axis_name={}), over which the norm is summed"
)


def refuse_mixed(arrays: list[Array]) -> None:
    """Raise where some of `arrays` are shards and others copies, and nobody said over which axis to sum."""
    kinds = {varying(array) for array in arrays}
    if len(kinds) > 1:
        axes = sorted(frozenset.union(*kinds))
        raise ValueError(MIXED.format(repr(axes[0] if len(axes) == 1 else tuple(axes))))


def across_axes(axes: tuple[str, ...], arrays: list[Array]) -> Across:
    """Sums over the mesh axes `axes`, for gradients of which these `arrays` are what one device has.

    An array that varies along an axis is a shard; one that does not is a copy, and counts on the first device.
    """
    for axis in axes:
        try:
            found = axis in varying(lax.axis_index(axis))
        except NameError:
            raise ValueError(UNBOUND.format(axis)) from None
        if not found:
            raise ValueError(UNKNOWN.format(axis))

    def counts(length: int) -> Array:
        """For each of `length` numbers, equally many for each array, whether this device adds its own."""
        counted = jnp.ones(len(arrays), bool)
        for axis in axes:
            shards = jnp.asarray([axis in varying(array) for array in arrays], bool)
            counted = counted & (shards | (lax.axis_index(axis) == 0))
        return jnp.repeat(counted, length // max(len(arrays), 1))

    def shards(array: Array, how: str) -> Array:
        if how == "max":
            return _largest(array, axes)
        total: Array = lax.psum(jnp.where(counts(len(array)), array, 0.0), axes)
        return total

    def some(indices: list[int]) -> Across:
        return across_axes(axes, [arrays[index] for index in indices])

    return Across(shards, lambda array, how: array, some=some, others=False)


def _largest(array: Array, axes: tuple[str, ...]) -> Array:
    """The maxima over the devices; where one of them has NaN, which a maximum of devices may lose, they are NaN."""
    lost = jnp.isnan(array)
    together = lax.pmax(jnp.concatenate([jnp.where(lost, 0.0, array), lost.astype(array.dtype)]), axes)
    largest, anywhere = jnp.split(together, 2)
    return jnp.where(anywhere > 0, jnp.nan, largest)
