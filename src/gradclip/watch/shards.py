"""What a process has of a DTensor, without a message to anybody: any operation on the DTensor itself may send one."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import torch

SHARDED = "DTensor"
Ranks = tuple[int, ...]


def is_sharded(tensor: object) -> bool:
    """Whether it is a DTensor, whose module may not be imported."""
    return type(tensor).__name__ == SHARDED


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process has of a tensor, which is all of it unless it is a DTensor."""
    if not is_sharded(tensor):
        return tensor
    from gradclip.torch.sharding import local_of

    return local_of(tensor)


def as_whole(value: Any) -> Any:
    """A number or a tensor as it is, of a DTensor that every process has whole that; None where it has a part."""
    if not is_sharded(value):
        return value
    return local_part(value) if all(placement.is_replicate() for placement in value.placements) else None


def tellers_of(gradient: Any) -> Ranks:
    """The ranks whose parts are together the whole of a DTensor; none where parts are still to be summed up."""
    return _tellers(gradient.device_mesh, tuple(gradient.placements))


@lru_cache(maxsize=256)
def _tellers(mesh: Any, placements: tuple[Any, ...]) -> Ranks:
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    if not all(isinstance(placement, Replicate | Shard | _StridedShard) for placement in placements):
        return ()
    first = tuple(0 if isinstance(placement, Replicate) else slice(None) for placement in placements)
    return tuple(sorted(mesh.mesh[first].flatten().tolist()))


def rank() -> int:
    """The number of this process among those that train together."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else int(os.environ.get("RANK", 0))
