"""Where gradients lie on automatic axes of a mesh, as the user says it: the types of arrays there do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from jax.sharding import NamedSharding, get_abstract_mesh
from jax.tree_util import tree_flatten_with_path

from gradclip.errors import shown
from gradclip.optax.leaves import Path, Tree, name_of

Said: TypeAlias = dict[Path, NamedSharding]
"""Where the leaf at each path lies."""

LIKE = "write shardings=jax.tree.map(lambda p: p.sharding, params)"


def checked_shardings(tree: Tree, axes: Sequence[str]) -> Said | None:
    """The shardings in `tree` by their paths, None where nothing is said; `axes` are those of `axis_name`."""
    if tree is None:
        return None
    said: Said = dict(tree_flatten_with_path(tree)[0])
    if not said:
        raise TypeError(f"shardings is a tree of NamedSharding like the gradients, got {shown(tree)}: {LIKE}")
    for path, sharding in said.items():
        _refuse_other(name_of(path), sharding)
    if axes:
        raise ValueError(
            f"shardings say where arrays lie under jit, and axis_name={axes[0]!r} is that of a shard_map, where each "
            "device has its own: give one of the two"
        )
    meshes = list(dict.fromkeys(sharding.mesh for sharding in said.values()))
    if len(meshes) > 1:
        raise ValueError(f"shardings are on one mesh, got {meshes[0]} and {meshes[1]}: leave them out")
    if meshes[0].explicit_axes:
        raise ValueError(
            f"the axes {meshes[0].explicit_axes} are explicit, so the types of arrays say where they lie: leave out "
            "shardings"
        )
    return said


def said_of(said: Said, leaves: Iterable[tuple[Path, Any]]) -> list[NamedSharding]:
    """What is said of each of these leaves, which are arrays under their paths."""
    if axes := get_abstract_mesh().manual_axes:
        raise ValueError(
            f"shardings say where arrays lie under jit, and update was called inside a shard_map over {axes}: leave "
            f"them out, and give axis_name={axes[0]!r} where the gradients are sharded"
        )
    found = []
    for path, array in leaves:
        if path not in said:
            raise ValueError(f"shardings has no leaf {name_of(path)!r}, and the gradients have: {LIKE}")
        _refuse_unequal(name_of(path), array.shape, said[path])
        found.append(said[path])
    return found


def _refuse_other(name: str, sharding: object) -> None:
    """Raise for what is no sharding that says of each axis how it is cut."""
    if not isinstance(sharding, NamedSharding):
        found = f"{shown(sharding)} for {name!r}" if name else shown(sharding)
        raise TypeError(f"shardings is a tree of NamedSharding like the gradients, got {found}: {LIKE}")
    for part in sharding.spec:
        if part is not None and not isinstance(part, str | tuple):
            raise ValueError(f"the sharding of {name!r} leaves {part} to the compiler: say how each axis is cut")


def _refuse_unequal(name: str, shape: tuple[int, ...], sharding: NamedSharding) -> None:
    """Raise where an array of this shape cannot be cut so into equal parts."""
    spec = sharding.spec
    parts = [() if part is None else (part,) if isinstance(part, str) else part for part in spec]
    pieces = [math.prod(sharding.mesh.shape[axis] for axis in part) for part in parts]
    if len(pieces) > len(shape) or any(size % count for size, count in zip(shape, pieces, strict=False)):
        raise ValueError(
            f"the gradient of {name!r} with shape {shape} cannot be cut by {spec} into equal parts: say "
            "PartitionSpec() of it, or leave out shardings"
        )
