"""Sets of processes, and the one message that all numbers of a step travel in to each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from gradclip.engines.torch_placement import members_of

Members = tuple[int, ...]
"""The ranks of a set of processes, from small to large."""

OPERATIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}

_made: dict[Members, tuple[Any, Any]] = {}
"""The groups that had to be made here, by their ranks, each with the world that it was made in."""


class Ranks:
    """A set of processes that reduce numbers together."""

    def __init__(self, members: Members, group: Any) -> None:
        self.members, self.group = members, group

    @cached_property
    def place(self) -> int:
        """The place of this process among the members."""
        return self.members.index(dist.get_rank())

    def reduce_(self, numbers: torch.Tensor, how: str) -> torch.Tensor:
        """The sum or the maximum over the members, in place where the group works where the numbers are."""
        device = self._device(numbers.device)
        moved = numbers if device == numbers.device else numbers.to(device)
        dist.all_reduce(moved, OPERATIONS[how], self.group)
        return moved if moved is numbers else moved.to(numbers.device)

    def gathered(self, found: object) -> list[Any]:
        """What each member has, for the words of an error."""
        every: list[Any] = [None] * len(self.members)
        dist.all_gather_object(every, found, self.group)
        return every

    @cached_property
    def _kinds(self) -> dict[str, str]:
        """The backend for each kind of device."""
        return dict(part.split(":") for part in str(dist.get_backend_config(self.group)).split(","))

    def _device(self, wanted: torch.device) -> torch.device:
        """A device that the group has a backend for: gradients that are offloaded to the CPU may have none there."""
        if wanted.type in self._kinds or not self._kinds:
            return wanted
        kind = next(iter(self._kinds))
        return torch.device(kind, torch.get_device_module(kind).current_device())


def ranks_of(mesh: DeviceMesh) -> Ranks | None:
    """The set of all processes of a mesh; None where that is this one alone, or this one is not in it."""
    members = members_of(mesh)
    if len(members) == 1 or mesh.get_coordinate() is None:
        return None
    wide = [dimension for dimension in range(mesh.ndim) if mesh.size(dimension) > 1]
    if len(wide) == 1:
        return Ranks(members, mesh.get_group(wide[0]))
    if len(members) == dist.get_world_size():
        return Ranks(members, dist.group.WORLD)
    return Ranks(members, _group_of(members))


def _group_of(members: Members) -> Any:
    """A group of these processes, made by them alone."""
    world = dist.group.WORLD
    known = _made.get(members)
    if known is None or known[1] is not world:
        group = dist.new_group(list(members), use_local_synchronization=True, group_desc="gradclip")
        known = _made[members] = group, world
    return known[0]


def ranks_of_group(group: Any) -> Ranks | None:
    """The set of the processes of a group; None where that is this one alone."""
    members = tuple(dist.get_process_group_ranks(group))
    return Ranks(tuple(sorted(members)), group) if len(members) > 1 else None


def sets_of(meshes: Iterable[DeviceMesh]) -> list[Ranks]:
    """The distinct sets of processes of these meshes."""
    found = {members_of(mesh): mesh for mesh in set(meshes)}
    return in_order([ranks for mesh in found.values() if (ranks := ranks_of(mesh)) is not None])


def in_order(found: Sequence[Ranks]) -> list[Ranks]:
    """Small sets first, and equal ones in the order of their ranks: alike on all processes."""
    return sorted(found, key=lambda ranks: (len(ranks.members), ranks.members))
