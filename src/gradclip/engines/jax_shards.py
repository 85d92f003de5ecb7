"""The measure of JAX arrays that lie in shards: each device reads its own, and one sum over the devices joins them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from gradclip.engines.base import Slot
from gradclip.engines.jax_measure import totals

INFINITE = 1.0
"""What stands for an array with infinite elements; more for one with NaN, and 0 for one of numbers."""


class ShardedSlot(Slot):
    """A slot whose array lies so on a mesh, which an array does not know where the axes are automatic."""

    __slots__ = ("sharding",)

    def __init__(self, value: Array, sharding: NamedSharding) -> None:
        super().__init__(value)
        self.sharding = sharding


def varying(array: Array) -> frozenset[str]:
    """The axes of a `shard_map` along which `array` differs between devices."""
    kind: Any = jax.typeof(array)
    axes: frozenset[str] = kind.mat.varying if hasattr(kind, "mat") else kind.vma
    return axes


def shardings_of(slots: Sequence[Slot]) -> tuple[NamedSharding, ...]:
    """Where the arrays of `slots` lie; nothing where that is not known of all."""
    known = tuple(slot.sharding for slot in slots if isinstance(slot, ShardedSlot))
    return known if len(known) == len(slots) else ()


@partial(jax.jit, static_argnames=("shardings", "p"))
def whole_of_shards(arrays: list[Array], shardings: tuple[NamedSharding, ...], p: float) -> tuple[Array, Array]:
    """As `jax_measure.whole`, of arrays that lie so: one all-reduce, and none inside a branch.

    An array that lies otherwise is brought there first, so where that was only said, the numbers are right as well.
    """
    mesh = shardings[0].mesh
    axes = mesh.explicit_axes or mesh.axis_names
    groups: dict[frozenset[str], list[int]] = {}
    for place, sharding in enumerate(shardings):
        groups.setdefault(_axes_of(sharding), []).append(place)

    def joined(arrays: list[Array]) -> tuple[Array, Array]:
        found = []
        for along, places in groups.items():
            own = totals([arrays[place] for place in places], p)
            broken = (~jnp.isfinite(own)).astype(own.dtype) + jnp.isnan(own).astype(own.dtype)
            found.append(
                jnp.where(_counts([axis for axis in axes if axis not in along]), jnp.stack([own, broken]), 0.0)
            )
        own, broken = jnp.concatenate(found, axis=1)
        if math.isinf(p):
            together = lax.pmax(jnp.concatenate([jnp.max(own, keepdims=True), broken]), axes)
            total = jnp.where(jnp.any(together[1:] > INFINITE), jnp.nan, together[:1])  # a maximum may lose a NaN
        else:
            together = lax.psum(jnp.concatenate([jnp.sum(own, keepdims=True), broken]), axes)
            total = together[:1]
        return total, jnp.sum(jnp.minimum(together[1:], INFINITE), keepdims=True)

    specs = [sharding.spec for sharding in shardings]
    region = None if mesh.explicit_axes else mesh  # of explicit axes it is the mesh in force, where they are automatic
    found: tuple[Array, Array] = jax.shard_map(
        joined, mesh=region, in_specs=(specs,), out_specs=PartitionSpec(), axis_names=set(axes)
    )(arrays)
    return found


def _axes_of(sharding: NamedSharding) -> frozenset[str]:
    """The axes of the mesh along which an array that lies so is cut."""
    return frozenset(jax.tree.leaves(tuple(sharding.spec)))


def _counts(axes: Sequence[str]) -> Array:
    """Whether this device counts what all along `axes` have a copy of: the first one does."""
    counted = jnp.ones((), bool)
    for axis in axes:
        counted = counted & (lax.axis_index(axis) == 0)
    return counted
