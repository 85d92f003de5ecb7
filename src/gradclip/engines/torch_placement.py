"""Where the elements of a tensor are among processes: what a DTensor says of itself, without a message to anybody.

A gradient comes to the engine as a `Portion`: what this process has of it, and how the whole lies. How it lies follows
from its mesh and its placements alone, so every process of the mesh knows it of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import repeat
from typing import NamedTuple

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Partial, Placement, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from gradclip.engines.base import Kept
from gradclip.rules.segments import Shape

Placements = tuple[Placement, ...]

SUMS = ("sum", "avg")
"""Of what is not reduced yet, what a factor passes through: the factor of a sum is that of its parts."""

BITS = 12
WORDS = {"sum": 2, "avg": 3}
SHARDS, STRIDED, FACTORS, AXES = 16, 128, 480, 8
"""A placement in 12 bits: copies are 1, sums 2 and 3, shards 16 and their axis, strided ones 128 and both numbers."""


@lru_cache(maxsize=64)
def members_of(mesh: DeviceMesh) -> tuple[int, ...]:
    """The ranks of a mesh, from small to large."""
    return tuple(sorted(mesh.mesh.flatten().tolist()))


class Placed:
    """How one tensor of `shape` and `dtype` lies: on every process alike, or on a `mesh` by its `placements`.

    `speaker` is the rank that speaks for it among those that have it or know of it; None for the first of a set. `own`
    says that other processes have another tensor in its place.
    """

    def __init__(
        self,
        shape: Shape,
        dtype: torch.dtype,
        mesh: DeviceMesh | None = None,
        placements: Placements = (),
        speaker: int | None = None,
        own: bool = False,
    ) -> None:
        self.shape, self.dtype, self.mesh, self.placements = shape, dtype, mesh, placements
        self.speaker, self.own = speaker, own

    @cached_property
    def members(self) -> tuple[int, ...]:
        """The ranks that have a part or a copy by its mesh, from small to large; none where all are alike."""
        return () if self.mesh is None else members_of(self.mesh)

    @cached_property
    def coordinate(self) -> list[int] | None:
        """Where this process is in the mesh; None where it is not in it."""
        found: Sequence[int] | None = [] if self.mesh is None else self.mesh.get_coordinate()
        return None if found is None else list(found)

    @cached_property
    def counts(self) -> bool:
        """Whether this process counts what it has: of copies the first one does."""
        if self.coordinate is None:
            return False
        along = zip(self.placements, self.coordinate, strict=True)
        return all(isinstance(placement, Shard | _StridedShard) or place == 0 for placement, place in along)

    @cached_property
    def unsummed(self) -> list[int]:
        """The dimensions of the mesh over which the gradient is still to be summed up."""
        return [i for i, placement in enumerate(self.placements) if isinstance(placement, Partial)]

    def cuts(self, kept: Kept | None) -> bool:
        """Whether an axis is cut that is none of the axes `kept`."""
        sharded = [p.dim for p in self.placements if isinstance(p, Shard | _StridedShard)]
        return any(axis % len(self.shape) not in (kept or ()) for axis in sharded)

    def indices(self, axis: int) -> torch.Tensor:
        """The indices of an axis of the whole tensor that this process has, in the order in which it has them."""
        found = torch.arange(self.shape[axis])
        if self.mesh is None:
            return found
        if self.coordinate is None:
            return found[:0]
        for dimension, placement in enumerate(self.placements):
            if isinstance(placement, Shard | _StridedShard) and placement.dim % len(self.shape) == axis:
                factor = int(placement.split_factor) if isinstance(placement, _StridedShard) else 1
                size, place = self.mesh.size(dimension), self.coordinate[dimension]
                found = torch.cat([_chunks(part, size)[place] for part in _chunks(found, factor)])
        return found

    def rows(self, kept: Kept | None) -> torch.Tensor:
        """The numbers of the rows that this process has a part of; one row where the whole tensor is one."""
        found = torch.zeros(1, dtype=torch.int64)
        for axis in kept or ():
            found = (found[:, None] * self.shape[axis] + self.indices(axis)).reshape(-1)
        return found

    @cached_property
    def local_shape(self) -> Shape:
        """The shape of what this process has."""
        return tuple(len(self.indices(axis)) for axis in range(len(self.shape)))


def _chunks(indices: torch.Tensor, number: int) -> Sequence[torch.Tensor]:
    """`indices` in so many parts as even as PyTorch makes them; the last ones may be empty."""
    size = max(1, math.ceil(len(indices) / number))
    return [indices[start * size : (start + 1) * size] for start in range(number)]


class Portion(NamedTuple):
    """What this process has of a gradient, None where it has none of it, and how the whole lies.

    `moved` says that it lies otherwise here: then all processes have to hear of it.
    """

    local: torch.Tensor | None
    placed: Placed
    moved: bool = False


def portions_of(local: Sequence[torch.Tensor], placed: Sequence[Placed]) -> list[Portion]:
    """Portions of which none is missing and none has moved, in a third of the time of making one after another."""
    return list(map(tuple.__new__, repeat(Portion), zip(local, placed, repeat(False))))


def code_of(placements: Placements) -> int:
    """Placements as a number above 0 that all processes understand; 0 for what gradclip cannot serve."""
    code = 0
    for placement in placements:
        word = _word(placement)
        if not word or len(placements) > 5:
            return 0
        code = code << BITS | word
    return code


def _word(placement: Placement) -> int:
    if isinstance(placement, Replicate):
        return 1
    if type(placement) is Partial:
        return WORDS.get(placement.reduce_op, 0)
    if isinstance(placement, _StridedShard):
        factor = int(placement.split_factor)
        fits = placement.dim < AXES and factor < FACTORS
        return STRIDED + placement.dim * FACTORS + factor if fits else 0
    return SHARDS + placement.dim if isinstance(placement, Shard) and placement.dim < STRIDED - SHARDS else 0


def placements_of(code: int) -> Placements:
    """The placements that became `code`."""
    found = []
    while code:
        code, word = code >> BITS, code & ((1 << BITS) - 1)
        found.append(_placement(word))
    return tuple(reversed(found))


def _placement(word: int) -> Placement:
    if word == 1:
        return Replicate()
    if word < SHARDS:
        return Partial(SUMS[word - WORDS["sum"]])
    if word < STRIDED:
        return Shard(word - SHARDS)
    axis, factor = divmod(word - STRIDED, FACTORS)
    return _StridedShard(axis, split_factor=factor)
