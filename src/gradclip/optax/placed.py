"""Where arrays lie on a mesh: by their types on explicit axes, and on automatic ones as it was said.

On explicit axes the step runs where the compiler places arrays, and what it gives lies as it came.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec, auto_axes, get_abstract_mesh

from gradclip.engines.base import Slot
from gradclip.engines.jax_shards import ShardedSlot
from gradclip.optax.state import ClipState

Step: TypeAlias = Callable[..., tuple[list[Array], dict[str, Array], ClipState]]
"""What of lists of arrays makes others, what is carried over by name, and a state without that."""


def explicit(array: Array) -> bool:
    """Whether where `array` lies is a part of its type."""
    return bool(jax.typeof(array).sharding.mesh.explicit_axes)


def mesh_in_force(arrays: list[Array]) -> AbstractContextManager[Any]:
    """The mesh of `arrays`, where they lie on explicit axes of one and are no part of a program, nor is a mesh set."""
    held = [array for array in arrays if isinstance(array, Array) and not isinstance(array, jax.core.Tracer)]
    shardings: list[Any] = [array.sharding for array in held if explicit(array)]
    return jax.set_mesh(shardings[0].mesh) if shardings and get_abstract_mesh().empty else nullcontext()


class Places:
    """Where the arrays of a step lie: on the explicit axes of a mesh, which their types say, or as it was `said`."""

    def __init__(self, arrays: list[Array], names: list[str], said: list[NamedSharding] | None = None) -> None:
        shardings: list[Any] = [jax.typeof(array).sharding for array in arrays]
        for name, sharding in zip(names, shardings, strict=True):
            _refuse_unreduced(name, sharding.spec)
        meshes = [sharding.mesh for sharding in shardings if sharding.mesh.explicit_axes]
        self.axes: tuple[str, ...] = tuple(meshes[0].explicit_axes) if meshes else ()
        self._copied = NamedSharding(meshes[0], PartitionSpec()) if meshes else None
        self.each: list[Any] = [sharding if sharding.mesh.explicit_axes else self._copied for sharding in shardings]
        if said is not None and self.axes:
            raise ValueError(
                f"the gradients lie on the explicit axes {self.axes}, which their types say: leave out shardings"
            )
        self._said = said

    def slots(self, arrays: list[Array]) -> list[Slot]:
        """The slots of these arrays, which know where they lie."""
        known = self.each if self.axes else self._said
        if known is None:
            return [Slot(array) for array in arrays]
        return [ShardedSlot(array, sharding) for array, sharding in zip(arrays, known, strict=True)]

    def region(self, step: Step, carried: dict[str, Any]) -> Step:
        """`step` in a region where these axes are automatic; `carried` says where each array lies that is carried."""
        if not self.axes:
            return step
        inside: Step = auto_axes(step, axes=self.axes, out_sharding=(self.each, carried, self._copied))
        return inside


def _refuse_unreduced(name: str, spec: PartitionSpec) -> None:
    """Raise for a gradient whose devices have parts of a sum."""
    if spec.unreduced:
        raise ValueError(
            f"the gradient of {name!r} is not summed up yet over the axes {sorted(spec.unreduced)}: "
            f"sum it first, jax.reshard(gradient, {PartitionSpec(*spec.partitions)})"
        )
