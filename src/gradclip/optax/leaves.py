"""The leaves of a tree of gradients: which are clipped, what they are called, and the tree again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import keystr, tree_flatten_with_path, tree_map_with_path

from gradclip.step.gradients import is_needed
from gradclip.step.respond import report_nothing

Tree: TypeAlias = Any
"""A pytree of arrays."""

Path: TypeAlias = Any
"""The keys from the root of a tree to a leaf."""

NeedClip: TypeAlias = Callable[[str], bool]
"""Whether the leaf of this name is clipped."""


def name_of(path: Path) -> str:
    """The keys of a path joined by dots."""
    return keystr(path, simple=True, separator=".")


def chosen_leaves(tree: Tree, need_clip: NeedClip | None) -> dict[Path, Array]:
    """The leaves of `tree` that are clipped; one that was not differentiated (float0) has no numbers."""
    leaves, _ = tree_flatten_with_path(tree)
    chosen = {
        path: jnp.asarray(leaf)
        for path, leaf in leaves
        if getattr(leaf, "dtype", None) != jax.dtypes.float0 and is_needed(need_clip, name_of(path))
    }
    if not chosen:
        report_nothing(f"none of the {len(leaves)} leaves of the gradients needs clipping")
    return chosen


def replaced(tree: Tree, leaves: dict[Path, Array]) -> Tree:
    """`tree` with other `leaves` where there are some."""
    return tree_map_with_path(lambda path, leaf: leaves.get(path, leaf), tree)


def leaves_from(part: Tree, source: Tree) -> Tree:
    """`part` with its leaves from `whole`."""
    leaves = _by_path(source)
    _require(leaves, (path for path, _ in tree_flatten_with_path(part)[0]), "all_updates", "the gradients")
    return replaced(part, leaves)


def beside(tree: Tree, paths: Iterable[Path], argument: str = "params") -> list[Array]:
    """The leaves at `paths` of the tree that was given as `argument`."""
    paths, leaves = list(paths), _by_path(tree)
    _require(leaves, paths, argument, "the parameters" if argument == "params" else "them")
    return [jnp.asarray(leaves[path]) for path in paths]


def zeros_like(params: Tree) -> Tree:
    """Gradients of zeros for `params`; an integer has none."""
    return jax.tree.map(lambda p: jnp.zeros_like(p) if jnp.issubdtype(p.dtype, jnp.inexact) else None, params)


def zeros_of(shape: jax.ShapeDtypeStruct) -> Array:
    """Zeros of this shape and type, where it says that they lie; else no program has to be compiled for them."""
    if shape.sharding is not None:
        return jnp.zeros(shape.shape, shape.dtype, device=shape.sharding)
    return jnp.asarray(np.zeros(shape.shape, shape.dtype))


def _by_path(tree: Tree) -> dict[Path, Any]:
    return dict(tree_flatten_with_path(tree)[0])


def _require(leaves: dict[Path, Any], paths: Iterable[Path], argument: str, what: str) -> None:
    for path in paths:
        if path not in leaves:
            raise ValueError(f"{argument} has no leaf {name_of(path)!r}: give it the whole tree of {what}")
