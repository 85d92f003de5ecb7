"""What JAX arrays are measured in: large ones each by itself, small ones of a size side by side, as one array.

A model has thousands of small arrays, and a program that reads each by itself takes minutes to compile. On a mesh only
those of one shape are put side by side, as they are: the compiler would send around one that is cut along another axis
than its neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradclip.engines.base import Kept, around

SMALL = 4096
"""Arrays of up to this many elements are copied side by side."""


class Piece(NamedTuple):
    """An array, or several along its first axis; the axes that each of its numbers is measured over.

    `places` are those of the arrays in their list, and each has so many `rows`.
    """

    array: Array
    axes: tuple[int, ...]
    places: tuple[int, ...]
    rows: int

    @property
    def size(self) -> float:
        """The elements behind each number."""
        return float(self.array.size / max(self.rows * len(self.places), 1))

    def beside(self, numbers: Array) -> Array:
        """One number for each row, shaped to divide the array."""
        shape = [1 if axis in self.axes else size for axis, size in enumerate(self.array.shape)]
        return numbers.reshape(shape)


def on_mesh(x: Array) -> bool:
    """Whether `x` lies on a mesh of several devices, among which the compiler may have cut it."""
    mesh: Any = jax.typeof(x).sharding.mesh
    return any(mesh.shape[axis] > 1 for axis in mesh.auto_axes)


def singly(arrays: Sequence[Array], kept: Sequence[Kept | None] = ()) -> list[Piece]:
    """Each array by itself, as it lies; `kept` are the axes of the rows of each, or nothing."""
    return [_single(x, axes, place) for place, (x, axes) in enumerate(zip(arrays, _each(kept, arrays), strict=True))]


def pieces_of(arrays: Sequence[Array], kept: Sequence[Kept | None] = ()) -> list[Piece]:
    """The arrays in pieces, the large ones first."""
    pieces: list[Piece] = []
    groups: dict[tuple[object, tuple[int, ...], Kept], list[int]] = {}
    whole = any(map(on_mesh, arrays))
    for place, (x, axes) in enumerate(zip(arrays, _each(kept, arrays), strict=True)):
        if x.size > SMALL:
            pieces.append(_single(x, axes, place))
        elif whole:
            groups.setdefault((x.dtype, x.shape, axes or ()), []).append(place)
        else:
            groups.setdefault((x.dtype, around(x.shape, axes), (1,)), []).append(place)
    for (_, shape, axes), places in groups.items():
        stacked = jnp.stack([arrays[place].reshape(shape) for place in places])
        over = tuple(axis + 1 for axis in range(len(shape)) if axis not in axes)
        pieces.append(Piece(stacked, over, tuple(places), around(shape, axes)[1]))
    return pieces


def in_order(found: Sequence[Array], pieces: Sequence[Piece]) -> Array:
    """What was found of the pieces, as many numbers for each array of one, in the order of the arrays."""
    if not found:
        return jnp.zeros(0)
    joined = found[0] if len(found) == 1 else jnp.concatenate(found)
    many = {
        place: part.size // len(piece.places)
        for part, piece in zip(found, pieces, strict=True)
        for place in piece.places
    }
    if list(many) == sorted(many):
        return joined
    starts = dict(zip(many, accumulate(many.values(), initial=0), strict=False))
    wanted = chain.from_iterable(range(starts[place], starts[place] + many[place]) for place in sorted(many))
    return joined[np.fromiter(wanted, np.int32)]


def _single(x: Array, kept: Kept | None, place: int) -> Piece:
    axes = tuple(axis for axis in range(x.ndim) if axis not in (kept or ()))
    return Piece(x, axes, (place,), around(x.shape, kept)[1])


def _each(kept: Sequence[Kept | None], arrays: Sequence[Array]) -> Sequence[Kept | None]:
    return kept or (None,) * len(arrays)
